// Package storagetest is the suite that every [storage.Bucket] passes, which has
// to be a [storage.Lister] too.
//
// It tests what the contract promises to a caller: what is written is read back,
// what exists is never changed by Create, no Update is lost, and that for any
// number of writers and handles at once.
//
// The package never knows a backend.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"kiln/storage"
)

// Test runs the whole suite. open returns a new, empty bucket each time and
// registers what closes it with t.Cleanup.
func Test(t *testing.T, open func(t *testing.T) storage.Bucket) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, b storage.Bucket)
	}{
		{"RoundTrip", testRoundTrip},
		{"CreateTwice", testCreateTwice},
		{"Bytes", testBytesAreTheCallers},
		{"UpdateNew", testUpdateNew},
		{"UpdateFails", testUpdateFails},
		{"Delete", testDelete},
		{"NotFound", testNotFound},
		{"InvalidPaths", testInvalidPaths},
		{"FileAndFolder", testFileAndFolder},
		{"Cancelled", testCancelled},
		{"Large", testLarge},
		{"Sizes", testSizes},
		{"DeepFolders", testDeepFolders},
		{"List", testList},
		{"ListMany", testListMany},
		{"ListEnds", testListEnds},
		{"ListRace", testListRace},
		{"Race", func(t *testing.T, b storage.Bucket) { Race(t, b) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

func object(path, body string) storage.Object {
	return storage.Object{
		Path: path, Body: []byte(body),
		ContentType: "application/octet-stream", ContentEncoding: "gzip", CacheControl: "no-store",
	}
}

func mustCreate(t *testing.T, b storage.Bucket, path, body string) {
	t.Helper()
	if err := b.Create(t.Context(), object(path, body)); err != nil {
		t.Fatal(err)
	}
}

func wantBody(t *testing.T, b storage.Bucket, path, want string) {
	t.Helper()
	got, err := b.Get(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Fatalf("%s holds %.80q (%d bytes), want %.80q (%d bytes)", path, got, len(got), want, len(want))
	}
}

func wantNone(t *testing.T, b storage.Bucket, path string) {
	t.Helper()
	got, err := b.Get(t.Context(), path)
	wantError(t, "Get of "+path, err, storage.ErrNotFound, path)
	if got != nil {
		t.Errorf("%s: Get returned %d bytes beside its error", path, len(got))
	}
}

// wantError checks an error against a sentinel (nil: any error), and that it
// names the path.
func wantError(t *testing.T, what string, err, sentinel error, path string) {
	t.Helper()
	switch {
	case err == nil:
		t.Fatalf("%s: no error", what)
	case sentinel != nil && !errors.Is(err, sentinel):
		t.Fatalf("%s: error %q, want %q", what, err, sentinel)
	case !strings.Contains(err.Error(), path):
		t.Errorf("%s: error %q does not name %q", what, err, path)
	}
	if sentinel != nil {
		return
	}
	for _, s := range []error{storage.ErrNotFound, storage.ErrDifferent} {
		if errors.Is(err, s) {
			t.Errorf("%s: error %q must not be %q", what, err, s)
		}
	}
}

func testRoundTrip(t *testing.T, b storage.Bucket) {
	bodies := map[string]string{
		"checkpoint":             "text\n",
		"tile/0/x001/000.p/17":   strings.Repeat("\x00\xff", 272),
		"issuer/0123456789abcd":  "i",
		"empty":                  "",
		"A-Z_a.z/0.9":            "odd but valid",
		strings.Repeat("l", 255): "the longest name",
	}
	for path, body := range bodies {
		mustCreate(t, b, path, body)
	}
	for path, body := range bodies {
		wantBody(t, b, path, body)
	}
}

func testCreateTwice(t *testing.T, b storage.Bucket) {
	mustCreate(t, b, "d/a", "one")
	mustCreate(t, b, "d/a", "one")
	for _, other := range []string{"two", "on", "ones", ""} {
		err := b.Create(t.Context(), object("d/a", other))
		wantError(t, fmt.Sprintf("Create of %q over %q", other, "one"), err, storage.ErrDifferent, "d/a")
	}
	wantBody(t, b, "d/a", "one")
	mustCreate(t, b, "d/empty", "")
	wantError(t, "Create over an empty object", b.Create(t.Context(), object("d/empty", "x")), storage.ErrDifferent, "d/empty")
	wantBody(t, b, "d/empty", "")
}

func testBytesAreTheCallers(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	o := object("a", "body")
	if err := b.Create(ctx, o); err != nil {
		t.Fatal(err)
	}
	if string(o.Body) != "body" {
		t.Fatalf("Create changed the body to %q", o.Body)
	}
	o.Body[0] = 'X'
	wantBody(t, b, "a", "body")
	got, err := b.Get(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	got[0] = 'Y'
	wantBody(t, b, "a", "body")

	var seen, given []byte
	err = b.Update(ctx, storage.Object{Path: "a"}, func(current []byte) ([]byte, error) {
		seen, given = current, []byte("next")
		return given, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	seen[0], given[0] = 'Z', 'Z'
	wantBody(t, b, "a", "next")
}

func testUpdateNew(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	step := func(path, want string, wantNil bool, body string) {
		t.Helper()
		o := object(path, "this body is ignored")
		err := b.Update(ctx, o, func(current []byte) ([]byte, error) {
			if string(current) != want || (current == nil) != wantNil {
				t.Errorf("Update of %s saw %q (nil: %v), want %q (nil: %v)", path, current, current == nil, want, wantNil)
			}
			return []byte(body), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		wantBody(t, b, path, body)
	}
	step("d/e/new", "", true, "1")
	step("d/e/new", "1", false, "longer")
	step("d/e/new", "longer", false, "")
	step("d/e/new", "", false, "short") // an empty object is not a missing one
	step("d/e/new", "short", false, "short")
}

func testUpdateFails(t *testing.T, b storage.Bucket) {
	errNext := errors.New("next says no")
	fail := func([]byte) ([]byte, error) { return []byte("never to be seen"), errNext }
	wantError(t, "Update", b.Update(t.Context(), object("none", ""), fail), errNext, "none")
	wantNone(t, b, "none")
	mustCreate(t, b, "some", "old")
	wantError(t, "Update", b.Update(t.Context(), object("some", ""), fail), errNext, "some")
	wantBody(t, b, "some", "old")

	func() { // a panic of next must not leave the bucket locked
		defer func() { _ = recover() }()
		_ = b.Update(t.Context(), object("some", ""), func([]byte) ([]byte, error) { panic("next") })
	}()
	err := b.Update(t.Context(), object("some", ""), func([]byte) ([]byte, error) { return []byte("new"), nil })
	if err != nil {
		t.Fatal(err)
	}
	wantBody(t, b, "some", "new")
}

func testDelete(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	mustCreate(t, b, "d/a", "1")
	mustCreate(t, b, "d/b", "2")
	for _, path := range []string{"d/a", "d/a", "d/never", "nowhere/at/all", "d/b/below"} {
		if err := b.Delete(ctx, path); err != nil {
			t.Fatalf("Delete of %s: %v", path, err)
		}
	}
	wantNone(t, b, "d/a")
	wantBody(t, b, "d/b", "2")
	mustCreate(t, b, "d/a", "another")
	wantBody(t, b, "d/a", "another")
}

func testNotFound(t *testing.T, b storage.Bucket) {
	mustCreate(t, b, "d/e/f", "1")
	for _, path := range []string{"a", "d", "d/e", "d/x", "d/e/f/g", "x/y/z"} {
		wantNone(t, b, path)
	}
}

func testInvalidPaths(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	for _, path := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../b", ".hidden", "a/.b", "./a",
		"a b", "a\x00b", "a\\b", "ä", "a\n", "a:b", "a%2fb", "~/a", strings.Repeat("x", 256),
	} {
		called := false
		for what, err := range map[string]error{
			"Create": b.Create(ctx, object(path, "x")),
			"Update": b.Update(ctx, object(path, "x"), func([]byte) ([]byte, error) { called = true; return nil, nil }),
			"Delete": b.Delete(ctx, path),
		} {
			wantError(t, fmt.Sprintf("%s of %q", what, path), err, nil, fmt.Sprintf("%q", path))
		}
		if called {
			t.Errorf("Update of %q asked for its next content", path)
		}
		if body, err := b.Get(ctx, path); err == nil {
			t.Errorf("Get of %q: %d bytes and no error", path, len(body))
		}
	}
}

// testFileAndFolder allows a backend without folders to take both; what it may
// not do is to lose one, or to take it for the other.
func testFileAndFolder(t *testing.T, b storage.Bucket) {
	ctx := t.Context()
	mustCreate(t, b, "file", "file")
	mustCreate(t, b, "folder/object", "object")
	next := func([]byte) ([]byte, error) { return []byte("x"), nil }
	for path, write := range map[string]func(path string) error{
		"file/below":   func(p string) error { return b.Create(ctx, object(p, "x")) },
		"file/below/b": func(p string) error { return b.Update(ctx, object(p, ""), next) },
		"folder":       func(p string) error { return b.Create(ctx, object(p, "x")) },
	} {
		if err := write(path); err != nil {
			wantError(t, "writing "+path, err, nil, path)
			wantNone(t, b, path)
		} else {
			wantBody(t, b, path, "x")
		}
	}
	wantBody(t, b, "file", "file")
	wantBody(t, b, "folder/object", "object")
}

func testCancelled(t *testing.T, b storage.Bucket) {
	mustCreate(t, b, "a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := b.Get(ctx, "a")
	for what, err := range map[string]error{
		"Create": b.Create(ctx, object("b", "2")),
		"Update": b.Update(ctx, object("a", ""), func([]byte) ([]byte, error) { return []byte("2"), nil }),
		"Delete": b.Delete(ctx, "a"),
		"Get":    getErr,
	} {
		wantError(t, what+" with a cancelled context", err, context.Canceled, "")
	}
	wantBody(t, b, "a", "1")
	wantNone(t, b, "b")

	// Cancelled in the middle: the outcome is open, but it is the old or the new.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	err := b.Update(ctx, object("a", ""), func([]byte) ([]byte, error) { cancel(); return []byte("2"), nil })
	got, getErr := b.Get(t.Context(), "a")
	if getErr != nil || string(got) != "1" && string(got) != "2" || err == nil && string(got) != "2" {
		t.Errorf("after an Update cancelled in the middle (%v) the object is %q (%v)", err, got, getErr)
	}
}

func testLarge(t *testing.T, b storage.Bucket) {
	body := bytes.Repeat([]byte("0123456789abcdefghijk"), 1_000_003)
	mustCreate(t, b, "large", string(body))
	mustCreate(t, b, "large", string(body))
	wantBody(t, b, "large", string(body))
	body[len(body)-1]++
	err := b.Create(t.Context(), storage.Object{Path: "large", Body: body})
	wantError(t, "Create with one other byte at the end", err, storage.ErrDifferent, "large")
}

func testDeepFolders(t *testing.T, b storage.Bucket) {
	path := func(i int) string {
		return fmt.Sprintf("%stile/%d/x%03d/x%03d/%03d", strings.Repeat("deep/", i%40), i%3, i%7, i%11, i)
	}
	const n = 120
	concurrently(t, n, func(i int) error { return b.Create(t.Context(), object(path(i), path(i))) })
	for i := range n {
		wantBody(t, b, path(i), path(i))
	}
}
