// Package locktest is the suite that every [lock.Store] passes.
//
// It tests what the contract promises to a caller: a cell is created once, of
// all who hold a version one replaces it, and a version that is gone stays gone.
//
// The package never knows a backend.
package locktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kiln/lock"
)

// Test runs the whole suite. open returns a new, empty store each time and
// registers what closes it with t.Cleanup.
func Test(t *testing.T, open func(t *testing.T) lock.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s lock.Store)
	}{
		{"CreateLoadReplace", testCreateLoadReplace},
		{"CreateTwice", testCreateTwice},
		{"NotFound", testNotFound},
		{"Stale", testStale},
		{"SameBytes", testSameBytes},
		{"OtherBytesAtTheVersion", testOtherBytes},
		{"MadeUpVersions", testMadeUpVersions},
		{"CellsAreApart", testCellsAreApart},
		{"Bodies", testBodies},
		{"BodiesAreTheCallers", testBodiesAreTheCallers},
		{"Cancelled", testCancelled},
		{"Race", func(t *testing.T, s lock.Store) { Race(t, s) }},
		{"Ledger", func(t *testing.T, s lock.Store) { Ledger(t, func(await func(int)) { await(60) }, s) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

const cell = "log.example/2026h2"

func create(t *testing.T, s lock.Store, id, body string) lock.Held {
	t.Helper()
	if err := s.Create(t.Context(), id, []byte(body)); err != nil {
		t.Fatal(err)
	}
	return wantCell(t, s, id, body)
}

func replace(t *testing.T, s lock.Store, held lock.Held, body string) lock.Held {
	t.Helper()
	next, err := s.Replace(t.Context(), held, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	if next.ID != held.ID || string(next.Body) != body || next.Version == held.Version {
		t.Fatalf("Replace of %+v by %q returned %+v", held, body, next)
	}
	if now := wantCell(t, s, held.ID, body); now.Version != next.Version {
		t.Fatalf("Replace returned version %q, Load version %q", next.Version, now.Version)
	}
	return next
}

func wantCell(t *testing.T, s lock.Store, id, body string) lock.Held {
	t.Helper()
	held, err := s.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if held.ID != id || string(held.Body) != body || held.Body == nil {
		t.Fatalf("cell %q is %.80q (id %q), want %.80q", id, held.Body, held.ID, body)
	}
	return held
}

// wantError checks an error against one of the three sentinels (nil: neither),
// and that it names the cell.
func wantError(t *testing.T, what string, err, sentinel error, id string) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s: no error", what)
	}
	for _, s := range []error{lock.ErrNotFound, lock.ErrExists, lock.ErrConflict} {
		if errors.Is(err, s) != (s == sentinel) {
			t.Fatalf("%s: error %q, want %v", what, err, sentinel)
		}
	}
	if !strings.Contains(err.Error(), id) {
		t.Errorf("%s: error %q does not name %q", what, err, id)
	}
}

func wantReplaceError(t *testing.T, what string, s lock.Store, held lock.Held, sentinel error) {
	t.Helper()
	next, err := s.Replace(t.Context(), held, []byte("must not be written"))
	wantError(t, what, err, sentinel, held.ID)
	if next.Version != "" || next.Body != nil {
		t.Errorf("%s: Replace returned %+v beside its error", what, next)
	}
}

func testCreateLoadReplace(t *testing.T, s lock.Store) {
	held := create(t, s, cell, "0")
	seen := map[string]bool{held.Version: true}
	for i := range 20 {
		held = replace(t, s, held, fmt.Sprint(i+1))
		if seen[held.Version] {
			t.Fatalf("version %q came twice", held.Version)
		}
		seen[held.Version] = true
	}
}

func testCreateTwice(t *testing.T, s lock.Store) {
	held := create(t, s, cell, "first")
	for _, body := range []string{"second", "first", ""} {
		wantError(t, "second Create", s.Create(t.Context(), cell, []byte(body)), lock.ErrExists, cell)
	}
	wantCell(t, s, cell, "first")
	replace(t, s, held, "the Create that failed was no new version")
}

func testNotFound(t *testing.T, s lock.Store) {
	held, err := s.Load(t.Context(), cell)
	wantError(t, "Load", err, lock.ErrNotFound, cell)
	if held.ID != "" || held.Body != nil || held.Version != "" {
		t.Errorf("Load returned %+v beside its error", held)
	}
	other := create(t, s, "other", "x")
	other.ID = cell
	for _, h := range []lock.Held{other, {ID: cell}, {ID: cell, Version: "1"}} {
		wantReplaceError(t, "Replace of an unknown cell", s, h, lock.ErrNotFound)
	}
	_, err = s.Load(t.Context(), cell)
	wantError(t, "Load after a failed Replace", err, lock.ErrNotFound, cell)
}

func testStale(t *testing.T, s lock.Store) {
	first := create(t, s, cell, "1")
	second := replace(t, s, first, "2")
	wantReplaceError(t, "Replace of the first version", s, first, lock.ErrConflict)
	third := replace(t, s, second, "3")
	for _, h := range []lock.Held{first, second} {
		wantReplaceError(t, "Replace of an old version", s, h, lock.ErrConflict)
	}
	wantCell(t, s, cell, "3")
	replace(t, s, third, "4")
}

// testSameBytes is the ABA problem: bytes that come back are another version.
func testSameBytes(t *testing.T, s lock.Store) {
	a := create(t, s, cell, "A")
	b := replace(t, s, a, "B")
	a2 := replace(t, s, b, "A")
	wantReplaceError(t, "Replace by the first holder of A", s, a, lock.ErrConflict)
	a3 := replace(t, s, a2, "A") // not even replaced by itself is it the same
	wantReplaceError(t, "Replace by the second holder of A", s, a2, lock.ErrConflict)
	replace(t, s, a3, "C")
}

// testOtherBytes is a store that was rolled back and went on from there: it may
// be at the held version again, but with other bytes.
func testOtherBytes(t *testing.T, s lock.Store) {
	held := create(t, s, cell, "A")
	held.Body = []byte("B")
	wantReplaceError(t, "Replace with other bytes at the version", s, held, lock.ErrConflict)
	wantCell(t, s, cell, "A")
}

func testMadeUpVersions(t *testing.T, s lock.Store) {
	held := create(t, s, cell, "A")
	real := held.Version
	for _, v := range []string{"", "0", "-1", "+" + real, "0" + real, real + " ", real + "0", "nonsense", "9223372036854775808"} {
		held.Version = v
		wantReplaceError(t, fmt.Sprintf("Replace of version %q", v), s, held, lock.ErrConflict)
	}
	held.Version = real
	replace(t, s, held, "B")
}

func testCellsAreApart(t *testing.T, s lock.Store) {
	ids := []string{"a", "A", "a ", "a/b", "%", "_", "'; DROP TABLE cells; --", "ä", strings.Repeat("long", 100)}
	held := make(map[string]lock.Held)
	for _, id := range ids {
		held[id] = create(t, s, id, "body of "+id)
	}
	for i, id := range ids {
		replace(t, s, held[id], "new body of "+id)
		for _, later := range ids[i+1:] {
			wantCell(t, s, later, "body of "+later)
		}
	}
	wantError(t, "Create of a cell without a name", s.Create(t.Context(), "", []byte("x")), nil, "")
}

func testBodies(t *testing.T, s lock.Store) {
	largest := strings.Repeat("x", lock.MaxBody)
	for i, body := range []string{"", "\x00", "a\x00b", "\xff\xfe", largest} {
		id := fmt.Sprint("created ", i)
		held := create(t, s, id, body)
		held = replace(t, s, held, "between")
		held = replace(t, s, held, body)
		replace(t, s, held, "after")
	}
	wantError(t, "Create above the limit", s.Create(t.Context(), cell, []byte(largest+"x")), nil, cell)
	_, err := s.Load(t.Context(), cell)
	wantError(t, "Load of a cell that was too large", err, lock.ErrNotFound, cell)
	held := create(t, s, cell, "small")
	_, err = s.Replace(t.Context(), held, []byte(largest+"x"))
	wantError(t, "Replace above the limit", err, nil, cell)
	wantCell(t, s, cell, "small")

	// A nil body is an empty one.
	next, err := s.Replace(t.Context(), held, nil)
	if err != nil {
		t.Fatal(err)
	}
	next.Body = nil
	replace(t, s, next, "again")
}

func testBodiesAreTheCallers(t *testing.T, s lock.Store) {
	ctx := t.Context()
	scribble := func(b []byte) { copy(b, bytes.Repeat([]byte("!"), len(b))) }
	given := []byte("first")
	if err := s.Create(ctx, cell, given); err != nil {
		t.Fatal(err)
	}
	scribble(given)
	held := wantCell(t, s, cell, "first")
	scribble(wantCell(t, s, cell, "first").Body)
	wantCell(t, s, cell, "first")

	given = []byte("second")
	next, err := s.Replace(ctx, held, given)
	if err != nil {
		t.Fatal(err)
	}
	scribble(given)
	if string(next.Body) != "second" {
		t.Errorf("the body that Replace returned changed to %q with the one it was given", next.Body)
	}
	keep := next
	keep.Body = []byte("second")
	scribble(next.Body)
	wantCell(t, s, cell, "second")
	replace(t, s, keep, "third")
}

func testCancelled(t *testing.T, s lock.Store) {
	held := create(t, s, cell, "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, loadErr := s.Load(ctx, cell)
	_, replaceErr := s.Replace(ctx, held, []byte("2"))
	for what, err := range map[string]error{
		"Create":  s.Create(ctx, "new", []byte("x")),
		"Load":    loadErr,
		"Replace": replaceErr,
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want %v", what, err, context.Canceled)
		}
	}
	wantCell(t, s, cell, "1")
	_, err := s.Load(t.Context(), "new")
	wantError(t, "Load", err, lock.ErrNotFound, "new")

	// Cancelled at any moment, a call tells the truth: nil is written, a conflict
	// is one, and anything else may be written now, later as long as the cell is at
	// the held version, or never.
	var pending []string // what may yet be written in the place of held
	for i := range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		want := fmt.Sprint("round ", i)
		go cancel()
		next, err := s.Replace(ctx, held, []byte(want))
		now, loadErr := s.Load(t.Context(), cell)
		if loadErr != nil {
			t.Fatal(loadErr)
		}
		may := append(pending, want)
		switch {
		case errors.Is(err, lock.ErrConflict):
			may = pending
		case err == nil:
			may = []string{want}
		}
		written := now.Version != held.Version
		switch {
		case errors.Is(err, lock.ErrNotFound), errors.Is(err, lock.ErrConflict) && !written,
			err == nil && now.Version != next.Version, written && !slices.Contains(may, string(now.Body)):
			t.Fatalf("Replace of %+v by %q returned %+v (%v), and the cell is %+v; before, there was no answer for %q",
				held, want, next, err, now, pending)
		case written:
			held, pending = now, nil
		default:
			pending = may
		}
	}
}
