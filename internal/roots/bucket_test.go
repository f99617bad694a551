package roots

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"kiln/storage"
	"kiln/storage/mem"
)

// TestCopies keeps copies in a bucket, and gets the newest back on a machine
// that has lost its disk.
func TestCopies(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 5)
	bucket := mem.New()
	r := newRig(t)
	r.cfg.Buckets = []storage.Bucket{bucket}
	if _, err := Recover(t.Context(), bucket); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("an empty bucket: %v", err)
	}
	r.serveRoots(roots[:3]...)
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.serveRoots(roots[2:4]...) // two are gone, and stay
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	want := mustRead(t, r.cfg.File)
	if got, err := Recover(t.Context(), bucket); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("recovered %d bytes, %v; want the file", len(got), err)
	}
	if v := bucket.Violations(); len(v) > 0 || len(bucket.Paths()) != 3 {
		t.Errorf("the bucket has %q, violations %q", bucket.Paths(), v)
	}

	// A new machine, whose reports are out of reach.
	n := newRig(t)
	n.cfg.Buckets = []storage.Bucket{bucket.CrashClone()}
	n.serve([]byte("<html>"))
	mustWrite(t, n.cfg.File, []byte("# none as yet\n")) // as kiln init leaves it
	if from, err := n.manager().Restore(t.Context()); err != nil || from != CopyPath(want) {
		t.Fatalf("restored from %q, %v", from, err)
	}
	if got := mustRead(t, n.cfg.File); !bytes.Equal(got, want) {
		t.Error("what was restored differs")
	}
	if from, err := n.manager().Restore(t.Context()); err != nil || from != "" {
		t.Errorf("restored again from %q, %v", from, err)
	}

	// Buckets that do not agree: what any of them has is kept.
	other := mem.New()
	if err := Copy(t.Context(), other, NewSet(roots[4]).Render()); err != nil {
		t.Fatal(err)
	}
	n = newRig(t)
	n.cfg.Buckets = []storage.Bucket{mem.New(), other, bucket.CrashClone()}
	n.serveRoots(roots[0])
	if err := n.refresh(); err != nil {
		t.Fatal(err)
	}
	n.wantFile(append(slices.Clone(roots), monitor(t))...)

	// A new machine with its reports: what had left them is there again.
	n = newRig(t)
	n.cfg.Buckets = []storage.Bucket{bucket.CrashClone()}
	n.serveRoots(roots[2:5]...)
	if err := n.refresh(); err != nil {
		t.Fatal(err)
	}
	n.wantFile(append(slices.Clone(roots), monitor(t))...)
}

// TestDamagedCopies believes no copy that is not what its name says.
func TestDamagedCopies(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	for _, c := range []struct {
		name    string
		corrupt func(b *mem.Bucket, path string) error
		want    string
	}{
		{"copy", func(b *mem.Bucket, path string) error {
			return b.Corrupt(path, func(body []byte) []byte { return body[:len(body)/2] })
		}, "is damaged"},
		{"pointer", func(b *mem.Bucket, _ string) error {
			return b.Corrupt(latestPath, func([]byte) []byte { return []byte("../checkpoint") })
		}, "no SHA-256 fingerprint"},
		{"lost copy", func(b *mem.Bucket, path string) error { return b.Delete(context.Background(), path) }, "is not there"},
		{"out of reach", func(b *mem.Bucket, path string) error {
			b.SetFaults(func(mem.Op, string) mem.Fault { return mem.Fault{Before: errors.New("no route to host")} })
			return nil
		}, "no route to host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bucket := mem.New()
			r := newRig(t)
			r.cfg.Buckets = []storage.Bucket{bucket}
			r.serveRoots(roots...)
			if err := r.refresh(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.corrupt(bucket, CopyPath(mustRead(t, r.cfg.File))), os.Remove(r.cfg.File)); err != nil {
				t.Fatal(err)
			}
			// The copy may have held more than the reports do now.
			if err := r.refresh(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if _, err := os.Stat(r.cfg.File); err == nil {
				t.Error("a roots file was written")
			}
		})
	}
}

// TestCopyFails applies the roots nevertheless, and copies them the next time.
func TestCopyFails(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	for _, failed := range []mem.Op{mem.OpCreate, mem.OpUpdate} {
		for _, persisted := range []bool{false, true} {
			bucket := mem.New()
			r := newRig(t)
			r.cfg.Buckets = []storage.Bucket{bucket}
			r.serveRoots(roots...)
			bucket.SetFaults(func(op mem.Op, _ string) mem.Fault {
				switch {
				case op != failed:
					return mem.Fault{}
				case persisted:
					return mem.Fault{After: errors.New("lost answer")}
				}
				return mem.Fault{Before: errors.New("out of order")}
			})
			m := r.manager()
			if err := m.Refresh(t.Context()); !errors.Is(err, ErrCopy) {
				t.Errorf("%s: error is %v", failed, err)
			}
			r.wantFile(append(slices.Clone(roots), monitor(t))...)
			if len(r.log.told()) != 1 {
				t.Errorf("%s: the log was told %d times", failed, len(r.log.told()))
			}
			bucket.SetFaults(nil)
			if err := m.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, err := Recover(t.Context(), bucket); err != nil || !bytes.Equal(got, mustRead(t, r.cfg.File)) {
				t.Errorf("%s: recovered %d bytes, %v", failed, len(got), err)
			}
		}
	}
}

// TestLostFile falls back to the copy beside the file.
func TestLostFile(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 5)
	r := newRig(t)
	mustWrite(t, r.cfg.File+LastGoodSuffix, []byte(pemOf(roots[0])))
	r.serveRoots(roots[1])
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.wantFile(roots[0], roots[1], monitor(t))

	// The log remembers more than a file that was put back by hand.
	m := r.manager()
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, r.cfg.File, []byte(pemOf(roots[2])))
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantFile(roots[0], roots[1], roots[2], monitor(t))
}

// TestCrashes stops an apply between any two of its steps, and goes on after a
// restart: the file is readable at every moment, and nothing is lost.
func TestCrashes(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 4)
	old, next := NewSet(roots[:2]...).Render(), NewSet(roots[:3]...).Render()
	for _, c := range []struct {
		name  string
		files map[string][]byte
	}{
		{"nothing written", map[string][]byte{"roots.pem": old}},
		{"half a copy", map[string][]byte{"roots.pem": old, unfinished + "1": old[:len(old)/2]}},
		{"copy, no file", map[string][]byte{"roots.pem": old, "roots.pem" + LastGoodSuffix: old}},
		{"copy, half a file", map[string][]byte{"roots.pem": old, "roots.pem" + LastGoodSuffix: old, unfinished + "1": next[:len(next)/2]}},
		{"all, but no bucket", map[string][]byte{"roots.pem": next, "roots.pem" + LastGoodSuffix: old}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for name, data := range c.files {
				mustWrite(t, r.path(name), data)
			}
			r.serveRoots(roots[2], roots[3])
			bucket := mem.New()
			r.cfg.Buckets = []storage.Bucket{bucket}
			if err := r.refresh(); err != nil {
				t.Fatal(err)
			}
			r.wantFile(append(slices.Clone(roots), monitor(t))...)
			if got, err := Recover(t.Context(), bucket); err != nil || !bytes.Equal(got, mustRead(t, r.cfg.File)) {
				t.Errorf("recovered %d bytes, %v", len(got), err)
			}
		})
	}
}
