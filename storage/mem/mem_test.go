package mem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"kiln/storage"
	"kiln/storage/storagetest"
)

func TestSuite(t *testing.T) {
	storagetest.Test(t, func(t *testing.T) storage.Bucket {
		b := New()
		t.Cleanup(func() {
			for _, v := range b.Violations() {
				if t.Name() != "TestSuite/Delete" { // which makes another object of a deleted one
					t.Error(v)
				}
			}
		})
		return b
	})
}

var errFault = errors.New("fault")

func put(body string) func([]byte) ([]byte, error) {
	return func([]byte) ([]byte, error) { return []byte(body), nil }
}

// content describes all visible objects.
func content(t *testing.T, b *Bucket) string {
	t.Helper()
	m := make(map[string]string)
	for _, p := range b.Paths() {
		body, err := b.Get(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		m[p] = string(body)
	}
	return fmt.Sprint(m)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	const before = "map[cell:1 old:o]"
	for _, c := range []struct {
		op   Op
		do   func(ctx context.Context, b *Bucket) error
		then string // what a call with effect leaves
	}{
		{OpCreate, func(ctx context.Context, b *Bucket) error {
			return b.Create(ctx, storage.Object{Path: "new", Body: []byte("n")})
		}, "map[cell:1 new:n old:o]"},
		{OpUpdate, func(ctx context.Context, b *Bucket) error {
			return b.Update(ctx, storage.Object{Path: "cell"}, put("2"))
		}, "map[cell:2 old:o]"},
		{OpDelete, func(ctx context.Context, b *Bucket) error { return b.Delete(ctx, "old") }, "map[cell:1]"},
		{OpList, func(ctx context.Context, b *Bucket) error {
			return b.List(ctx, "", func(storage.Info) error { return nil })
		}, before},
		{OpGet, func(ctx context.Context, b *Bucket) error { _, err := b.Get(ctx, "old"); return err }, before},
	} {
		for _, f := range []struct {
			name             string
			fault            Fault
			visible, durable bool
		}{
			{"before", Fault{Before: errFault}, false, false},
			{"after", Fault{After: errFault}, true, true},
			{"volatile", Fault{After: errFault, Volatile: true}, true, false},
		} {
			t.Run(fmt.Sprintf("%s/%s", c.op, f.name), func(t *testing.T) {
				t.Parallel()
				b := New()
				for _, o := range []storage.Object{{Path: "cell", Body: []byte("1")}, {Path: "old", Body: []byte("o")}} {
					if err := b.Create(t.Context(), o); err != nil {
						t.Fatal(err)
					}
				}
				b.SetFaults(func(op Op, path string) Fault {
					if op == c.op {
						return f.fault
					}
					return Fault{}
				})
				if err := c.do(t.Context(), b); !errors.Is(err, errFault) {
					t.Fatalf("error %v, want the fault", err)
				}
				b.SetFaults(nil)
				want := map[bool]string{false: before, true: c.then}
				if got := content(t, b); got != want[f.visible] {
					t.Errorf("visible is %s, want %s", got, want[f.visible])
				}
				if got := content(t, b.CrashClone()); got != want[f.durable] {
					t.Errorf("durable is %s, want %s", got, want[f.durable])
				}
				if err := c.do(t.Context(), b); err != nil {
					t.Fatalf("second try: %v", err)
				}
				if got := content(t, b.CrashClone()); got != c.then {
					t.Errorf("after a second try durable is %s, want %s", got, c.then)
				}
			})
		}
	}
}

func TestVolatileNeedsAnError(t *testing.T) {
	t.Parallel()
	b := New()
	b.SetFaults(func(Op, string) Fault { return Fault{Volatile: true} })
	if err := b.Create(t.Context(), storage.Object{Path: "a"}); err == nil {
		t.Error("Create returned nil for an object that a crash would lose")
	}
	if got := b.Paths(); len(got) != 0 {
		t.Errorf("there is %q", got)
	}
}

func TestDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := New()
		before, after := make(chan struct{}), make(chan struct{})
		b.SetFaults(func(op Op, path string) Fault {
			if op != OpCreate {
				return Fault{}
			}
			return Fault{Delay: before, DelayAfter: after}
		})
		done := make(chan error)
		go func() { done <- b.Create(t.Context(), storage.Object{Path: "a"}) }()
		synctest.Wait()
		if got := b.Paths(); len(got) != 0 {
			t.Errorf("before the delay's end there is %q", got)
		}
		close(before)
		synctest.Wait()
		if got := b.CrashClone().Paths(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("after the effect there is %q", got)
		}
		select {
		case err := <-done:
			t.Errorf("the call returned (%v) before its delay's end", err)
		default:
		}
		close(after)
		if err := <-done; err != nil {
			t.Error(err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		before = make(chan struct{})
		go func() { done <- b.Create(ctx, storage.Object{Path: "b"}) }()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	})
}

func TestCrashCloneIsIndependent(t *testing.T) {
	t.Parallel()
	b := New()
	ctx := t.Context()
	write := func(b *Bucket, path, body string) {
		t.Helper()
		if err := b.Update(ctx, storage.Object{Path: path}, put(body)); err != nil {
			t.Fatal(err)
		}
	}
	write(b, "a", "1")
	c := b.CrashClone()
	write(b, "a", "2")
	write(c, "a", "three")
	write(c, "b", "new")
	if err := b.Corrupt("a", func(body []byte) []byte { body[0] = 'X'; return body }); err != nil {
		t.Fatal(err)
	}
	if got := content(t, b); got != "map[a:X]" {
		t.Errorf("the old bucket has %s", got)
	}
	if got := content(t, c); got != "map[a:three b:new]" {
		t.Errorf("the clone has %s", got)
	}
	if err := b.Corrupt("none", nil); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Corrupt of nothing: %v", err)
	}
	if got := fmt.Sprintf("%s", c.History("a")); got != "[1 three]" {
		t.Errorf("the clone's history is %s", got)
	}
}

func TestViolations(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	b := New()
	for range 2 { // the same again is none
		check("create", b.Create(ctx, storage.Object{Path: "a", Body: []byte("1")}))
		check("delete", b.Delete(ctx, "a"))
	}
	check("update", b.Update(ctx, storage.Object{Path: "cell"}, put("1")))
	check("update", b.Update(ctx, storage.Object{Path: "cell"}, put("2")))
	check("delete", b.Delete(ctx, "cell"))
	check("create", b.Create(ctx, storage.Object{Path: "cell", Body: []byte("3")}))
	if v := b.Violations(); len(v) != 0 {
		t.Errorf("violations %q, want none", v)
	}
	if got := fmt.Sprintf("%q", b.History("a")); got != `["1" "" "1" ""]` {
		t.Errorf("history %s", got)
	}
	c := b.CrashClone()
	check("create", c.Create(ctx, storage.Object{Path: "a", Body: []byte("another")}))
	if v := c.Violations(); len(v) != 1 {
		t.Errorf("violations %q, want one for a", v)
	}
}

func TestClock(t *testing.T) {
	t.Parallel()
	b := New()
	ctx := t.Context()
	now := time.Unix(100, 0)
	b.SetClock(func() time.Time { return now })
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
	}
	do(b.Create(ctx, storage.Object{Path: "a"}))
	do(b.Create(ctx, storage.Object{Path: "a"})) // leaves it
	do(b.Update(ctx, storage.Object{Path: "cell"}, put("1")))
	do(b.Update(ctx, storage.Object{Path: "cell"}, put("1")))
	do(b.Create(ctx, storage.Object{Path: "b"}))
	do(b.Delete(ctx, "b"))
	do(b.Create(ctx, storage.Object{Path: "b"}))
	for _, b := range []*Bucket{b, b.CrashClone()} {
		got := map[string]int64{}
		do(b.List(ctx, "", func(i storage.Info) error {
			got[i.Path] = i.Modified.Unix()
			return nil
		}))
		if want := "map[a:100 b:106 cell:103]"; fmt.Sprint(got) != want {
			t.Errorf("modified %v, want %v", got, want)
		}
	}
}
