package sequencer

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/fuzztest"
	"kiln/internal/logkey"
	lockmem "kiln/lock/mem"
	storagemem "kiln/storage/mem"
	"kiln/tiles"
)

// stopped is a log whose last round was committed and staged, and not published
// when the process died.
type stopped struct {
	cfg     Config
	bucket  *storagemem.Bucket
	lock    *lockmem.Store
	paths   []string           // of all objects
	whole   *storagemem.Bucket // when the round was published after all
	early   []byte             // what the lock held before the round
	tree    tlog.Tree
	entries []tiles.Entry
}

func newStopped(t testing.TB) *stopped {
	t.Helper()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	w := &stopped{bucket: storagemem.New(), lock: lockmem.New()}
	w.cfg = Config{Origin: testOrigin, Key: key, Bucket: w.bucket, Lock: w.lock, LockID: "log", Period: time.Millisecond}
	if err := Create(t.Context(), w.cfg); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sequence(t.Context(), batchOf("a", 0, 300)); err != nil {
		t.Fatal(err)
	}
	held, err := w.lock.Load(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	w.early = held.Body
	w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
		if op == storagemem.OpCreate && strings.HasPrefix(path, "tile/") {
			f.Before = errors.New("the process died")
		}
		return f
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Sequence(ctx, batchOf("b", 300, 260)); err == nil {
		t.Fatal("the round was published")
	}
	w.bucket.SetFaults(nil)
	dead, lock := w.bucket.CrashClone(), w.lock.CrashClone()
	w.cfg.Bucket, w.cfg.Lock = dead.CrashClone(), lock.CrashClone()
	_ = s.Close() // of what goes on without us

	// What the log is, once it was opened again.
	again, err := Open(t.Context(), w.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.tree = again.Latest().Tree
	if err := again.Close(); err != nil || w.tree.N != 560 {
		t.Fatalf("the log has %d entries, %v", w.tree.N, err)
	}
	err = tiles.Entries(t.Context(), w.cfg.Bucket, w.tree, 0, w.tree.N, func(e tiles.Entry) error { w.entries = append(w.entries, e); return nil })
	if err != nil {
		t.Fatal(err)
	}
	w.whole = w.cfg.Bucket.(*storagemem.Bucket).CrashClone()
	w.bucket, w.lock = dead, lock
	w.paths = dead.Paths()
	slices.Sort(w.paths)
	return w
}

// FuzzHostileLoad changes an object of the storage, or the cell of the lock, of a log
// that died in the middle of a round, and opens it. The log goes on as what it was, or
// refuses and has signed nothing.
func FuzzHostileLoad(f *testing.F) {
	w := newStopped(f)
	for i := range len(w.paths) + 1 {
		for j, script := range fuzztest.Edits() {
			if j%8 == i%8 || strings.Contains(w.paths[i%len(w.paths)], "staging/") {
				f.Add(uint8(i), j%2 == 0, script, j%3 == 0)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, inside bool, script []byte, setBack bool) {
		bucket, lock := w.bucket.CrashClone(), w.lock.CrashClone()
		if setBack {
			bucket = w.whole.CrashClone()
			held, err := lock.Load(t.Context(), "log")
			if err == nil {
				_, err = lock.Replace(t.Context(), held, w.early)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		cfg := w.cfg
		cfg.Bucket, cfg.Lock = bucket, lock
		if i := int(which) % (len(w.paths) + 1); i < len(w.paths) {
			err := bucket.Corrupt(w.paths[i], func(body []byte) []byte {
				if plain, err := tiles.Gunzip(body); inside && err == nil {
					return fuzztest.Gzip(fuzztest.Edit(plain, script))
				}
				return fuzztest.Edit(body, script)
			})
			if err != nil {
				t.Fatal(err)
			}
		} else {
			held, err := lock.Load(t.Context(), "log")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := lock.Replace(t.Context(), held, fuzztest.Edit(held.Body, script)); err != nil {
				return // larger than a cell
			}
		}
		before, err := lock.Load(t.Context(), "log")
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), cfg)
		if err != nil {
			if after, loadErr := lock.Load(t.Context(), "log"); loadErr != nil || !bytes.Equal(after.Body, before.Body) {
				t.Fatalf("refused (%v), and signed %q", err, after.Body)
			}
			return
		}
		if setBack {
			t.Fatal("a log whose lock was set back was opened")
		}
		tree := s.Latest().Tree
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if tree != w.tree {
			t.Fatalf("the log went on as %+v, it was %+v", tree, w.tree)
		}
		w.readBack(t, bucket)
	})
}

// readBack reads the log as it is published.
func (w *stopped) readBack(t *testing.T, bucket *storagemem.Bucket) {
	t.Helper()
	n := 0
	err := tiles.Entries(t.Context(), bucket, w.tree, 0, w.tree.N, func(e tiles.Entry) error {
		if want := w.entries[n]; e.Key != want.Key || e.Placement != want.Placement {
			t.Fatalf("entry %d is %+v, want %+v", n, e, want)
		}
		n++
		return nil
	})
	var corrupt *tiles.CorruptError
	if err != nil && !errors.As(err, &corrupt) && !errors.Is(err, tiles.ErrNotProved) {
		t.Fatal(err)
	}
	// What is not on the right edge is not read at a start; what is, holds.
	if err != nil && n >= 512 {
		t.Fatalf("the log serves a right edge that cannot be read: %v", err)
	}
}
