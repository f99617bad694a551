package gc_test

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/internal/gc"
	lockmem "kiln/lock/mem"
	"kiln/sequencer"
	"kiln/storage"
	storagemem "kiln/storage/mem"
	"kiln/tiles"
)

var errFault = errors.New("fault")

// orphan leaves a bundle of a tree size, as a crash after staging does.
func (w *world) orphan(t *testing.T, size int64) string {
	t.Helper()
	path := tiles.BundlePath(tlog.Tree{N: size, Hash: tlog.RecordHash([]byte("orphan"))})
	if err := w.bucket.Create(t.Context(), storage.Object{Path: path, Body: []byte("orphan")}); err != nil {
		t.Fatal(err)
	}
	return path
}

// brokenRound makes one step of a round fail, with or without effect, and lets
// time go by. Then the process is killed or the storage comes back.
func (w *world) brokenRound(s *sequencer.Sequencer, r *rand.Rand) (*world, *sequencer.Sequencer) {
	w.t.Helper()
	steps := []string{"staging/", "tile/", "tile/data/", "checkpoint", "lock"}
	step := steps[r.IntN(len(steps))]
	f := storagemem.Fault{Before: errFault}
	if r.IntN(2) == 0 {
		f = storagemem.Fault{After: errFault, Volatile: r.IntN(2) == 0}
	}
	w.bucket.SetFaults(func(op storagemem.Op, path string) storagemem.Fault {
		if op != storagemem.OpGet && op != storagemem.OpList && strings.HasPrefix(path, step) {
			return f
		}
		return storagemem.Fault{}
	})
	if step == "lock" {
		w.lock.SetFaults(func(op lockmem.Op, _ string) lockmem.Fault {
			if op == lockmem.OpReplace {
				return lockmem.Fault{Before: f.Before, After: f.After}
			}
			return lockmem.Fault{}
		})
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(r.Int64N(int64(3*grace/2))))
	defer cancel()
	_, _ = s.Sequence(ctx, w.batch(1+r.IntN(300))) // it may fail, or not
	<-ctx.Done()
	if r.IntN(2) == 0 {
		began := time.Now()
		if _, err := gc.Run(w.t.Context(), w.gcConfig()); err != nil && !errors.Is(err, errFault) {
			w.t.Error(err)
		}
		w.check(began)
	}
	if r.IntN(2) == 0 {
		killed := w.crash()
		_ = s.Close() // of the world that is gone
		return killed, killed.open()
	}
	w.bucket.SetFaults(nil)
	w.lock.SetFaults(nil)
	time.Sleep(time.Minute) // it comes back by itself
	if err := s.Err(); err != nil {
		w.t.Fatal(err)
	}
	return w, s
}

// cutOff runs gc with a fault in call n and in all that follow, and reports
// whether there is a call n.
func (w *world) cutOff(t *testing.T, n int, f storagemem.Fault) bool {
	t.Helper()
	var calls atomic.Int64
	w.bucket.SetFaults(func(op storagemem.Op, _ string) storagemem.Fault {
		if calls.Add(1) <= int64(n) {
			return storagemem.Fault{}
		}
		if op == storagemem.OpGet || op == storagemem.OpList {
			return storagemem.Fault{Before: errFault}
		}
		return f
	})
	_, err := gc.Run(t.Context(), w.gcConfig())
	w.bucket.SetFaults(nil)
	if calls.Load() <= int64(n) {
		return false
	}
	if !errors.Is(err, errFault) {
		t.Fatalf("call %d fails with %+v: error %v", n, f, err)
	}
	return true
}

// firstTwo fails the first two calls of each kind with each path.
func firstTwo() storagemem.Faults {
	var mu sync.Mutex
	calls := make(map[string]int)
	return func(op storagemem.Op, path string) storagemem.Fault {
		mu.Lock()
		defer mu.Unlock()
		// A listing of all tiles is not begun anew: the next run does that.
		if key := string(op) + path; path != "tile/" && path != "staging/" && calls[key] < 2 {
			calls[key]++
			return storagemem.Fault{After: errFault, Volatile: op == storagemem.OpDelete}
		}
		return storagemem.Fault{}
	}
}

// TestRefuses has a log that is not sound in one way each: nothing goes.
func TestRefuses(t *testing.T) {
	t.Parallel()
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	cases := []struct {
		name  string
		spoil func(w *world) error
		want  string
	}{
		{"data tile lost", func(w *world) error {
			return w.bucket.Corrupt("tile/data/000", func([]byte) []byte { return nil })
		}, "tile/data/000"},
		{"hash tile lost", func(w *world) error {
			return w.bucket.Corrupt("tile/0/000", func([]byte) []byte { return nil })
		}, "tile/0/000"},
		{"data tile damaged", func(w *world) error { return w.bucket.Corrupt("tile/data/000", flip) }, "tile/data/000 is corrupt"},
		{"hash tile damaged", func(w *world) error { return w.bucket.Corrupt("tile/0/000", flip) }, "tile/0/000"},
		{"partial hash tile damaged", func(w *world) error { return w.bucket.Corrupt("tile/0/000.p/17", flip) }, "tile/0/000.p/17"},
		{"partial data tile damaged", func(w *world) error { return w.bucket.Corrupt("tile/data/000.p/17", flip) }, "tile/data/000.p/17"},
		{"partial data tile too long", func(w *world) error {
			longer, err := w.bucket.Get(w.t.Context(), "tile/data/000.p/18")
			return errors.Join(err, w.bucket.Corrupt("tile/data/000.p/17", func([]byte) []byte { return longer }))
		}, "tile/data/000.p/17"},
		{"no checkpoint", func(w *world) error { return w.bucket.Delete(w.t.Context(), "checkpoint") }, "has no checkpoint"},
		{"checkpoint damaged", func(w *world) error { return w.bucket.Corrupt("checkpoint", flip) }, "not one of this log"},
		{"lock lost", func(w *world) error { w.lock = lockmem.New(); return nil }, "read lock"},
		{"lock set back", func(w *world) error { return w.sign(200, tlog.Hash{}, time.Now()) }, "the lock was set back"},
		{"lock set back in time", func(w *world) error {
			last := w.newest()
			return w.sign(last.Tree.N, last.Tree.Hash, time.UnixMilli(last.TimestampMillis-1))
		}, "the lock was set back"},
		{"forked", func(w *world) error { return w.sign(300, tlog.Hash{}, time.Now()) }, "has forked"},
	}
	synctest.Test(t, func(t *testing.T) {
		origin := aged(t)
		for _, c := range cases {
			w := origin.crash()
			if err := c.spoil(w); err != nil {
				t.Fatal(err)
			}
			before := w.bucket.Paths()
			_, err := gc.Run(t.Context(), w.gcConfig())
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.want)
			}
			after := w.bucket.Paths()
			for _, p := range before {
				// What another kind of tile holds up is none of its business.
				other := strings.HasPrefix(p, "tile/0/") && strings.Contains(c.name, "data") ||
					strings.HasPrefix(p, "tile/data/") && strings.Contains(c.name, "hash")
				if !other && !strings.HasPrefix(c.name, "partial") && !slices.Contains(after, p) {
					t.Errorf("%s: %s is gone", c.name, p)
				}
			}
			if strings.HasPrefix(c.name, "partial") && !slices.Contains(after, c.want) {
				t.Errorf("%s is gone", c.want)
			}
		}
	})
}

// sign puts another checkpoint of the log into the lock.
func (w *world) sign(size int64, root tlog.Hash, at time.Time) error {
	signer, err := checkpoint.NewSigner(testOrigin, w.key, false)
	if err != nil {
		return err
	}
	raw, err := signer.Sign(tlog.Tree{N: size, Hash: root}, at.UnixMilli())
	if err != nil {
		return err
	}
	held, err := w.lock.Load(w.t.Context(), "log")
	if err != nil {
		return err
	}
	_, err = w.lock.Replace(w.t.Context(), held, raw)
	return err
}

func (w *world) newest() checkpoint.Checkpoint {
	all := w.published()
	return all[len(all)-1].tree
}

// TestNamesDiffer leaves partial names tiles that are not the begin of the full
// one, and those without a full one, and goes on.
func TestNamesDiffer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.names = true
		s := w.open()
		w.grow(s, repeat(10, 30)...)
		time.Sleep(grace + time.Minute)
		w.close(s)
		other, err := w.bucket.Get(t.Context(), "tile/names/000.p/20")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.bucket.Corrupt("tile/names/000.p/10", func([]byte) []byte { return other }); err != nil {
			t.Fatal(err)
		}
		if r := w.run(); r.Partials.Objects != 3*25-1 {
			t.Errorf("result %+v", r)
		}
		if got := w.under("tile/names/000.p/"); !slices.Equal(got, []string{"tile/names/000.p/10"}) {
			t.Errorf("left: %q", got)
		}
		if err := w.bucket.Corrupt("tile/names/000", func([]byte) []byte { return nil }); err != nil {
			t.Fatal(err)
		}
		if r := w.run(); r.Partials.Objects != 0 {
			t.Errorf("result %+v", r)
		}
	})
}

// TestBundles has bundles of all kinds.
func TestBundles(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		w.grow(s, 10)
		old := []string{w.orphan(t, 5), w.orphan(t, 10), w.orphan(t, 11), w.orphan(t, 1_000_000)}
		foreign := []string{
			"staging/5", "staging/5-" + hex.EncodeToString([]byte("short")), "staging/05-" + strings.Repeat("00", 32),
			"staging/5-" + strings.Repeat("AA", 32), "staging/x/5-" + strings.Repeat("aa", 32), "stagings",
		}
		for _, p := range foreign {
			if err := w.bucket.Create(t.Context(), storage.Object{Path: p}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(grace)
		if r := w.run(); r.Bundles.Objects != 0 {
			t.Errorf("while they are young: %+v", r)
		}
		time.Sleep(time.Minute)
		young := w.orphan(t, 6)
		planned := w.plan()
		if r := w.run(); r != planned || r.Bundles.Objects != 4 || r.Waiting.Objects != 4 { // young, the newest, and two of the edge
			t.Errorf("result %+v, planned %+v", r, planned)
		}
		left := w.under("staging")
		for _, p := range old {
			if slices.Contains(left, p) {
				t.Errorf("%s is left", p)
			}
		}
		head := w.newest().Tree
		for _, p := range append(foreign, young, tiles.BundlePath(head)) {
			if !slices.Contains(left, p) {
				t.Errorf("%s is gone", p)
			}
		}
		w.close(s)
	})
}

// TestStalledRound stops a process between staging and commit, for long. No
// other one writes meanwhile, so that it may go on where it was, and then crash:
// its bundle is all there is.
func TestStalledRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		w.grow(s, 10)
		w.lock.SetFaults(func(op lockmem.Op, _ string) lockmem.Fault {
			if op == lockmem.OpReplace {
				return lockmem.Fault{Before: errFault}
			}
			return lockmem.Fault{}
		})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond+time.Second)
		defer cancel()
		_, _ = s.Sequence(ctx, w.batch(7))
		w.lock.SetFaults(nil)
		stalled := w.crash()
		_ = s.Close()
		w = stalled
		var tree tlog.Tree
		for _, p := range w.under("staging/17-") {
			root, err := hex.DecodeString(strings.TrimPrefix(p, "staging/17-"))
			if err != nil {
				t.Fatal(err)
			}
			tree = tlog.Tree{N: 17, Hash: tlog.Hash(root)}
		}
		time.Sleep(100 * grace)
		if r := w.run(); r.Bundles.Objects != 0 {
			t.Errorf("result %+v", r)
		}
		// One that stood still for as long may publish its checkpoint once more.
		err := w.bucket.Update(t.Context(), storage.Object{Path: "checkpoint"}, func(b []byte) ([]byte, error) { return b, nil })
		if err != nil {
			t.Fatal(err)
		}
		if r := w.run(); r.Bundles.Objects != 0 {
			t.Errorf("result %+v", r)
		}
		if err := w.sign(tree.N, tree.Hash, time.Now()); err != nil { // it goes on, commits and crashes
			t.Fatal(err)
		}
		time.Sleep(100 * grace)
		if r := w.run(); r.Bundles.Objects != 0 || r.BundlesLeft == "" {
			t.Errorf("result %+v", r)
		}
		s = w.open()
		if got := s.Latest().Tree; got != tree {
			t.Errorf("recovered %v, want %v", got, tree)
		}
		w.close(s)
		w.check(time.Now())
	})
}

// TestClocks lets clocks of this machine and of the storage go wrong: nothing is
// deleted that would not be with clocks that agree.
func TestClocks(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name          string
		host, storage time.Duration
	}{
		{"host years ahead", 10 * 365 * 24 * time.Hour, 0},
		{"host behind", -time.Hour, 0},
		{"storage behind", 0, -time.Hour},
		{"storage far behind", 0, -24 * time.Hour},
		{"storage ahead", 0, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.bucket.SetClock(func() time.Time { return time.Now().Add(c.storage) })
				s := w.open()
				defer w.close(s)
				orphan := w.orphan(t, 1)
				for i := range 10 {
					w.grow(s, repeat(1, 40)...)
					time.Sleep(8 * time.Minute)
					cfg := w.gcConfig()
					cfg.Now = func() time.Time { return time.Now().Add(c.host) }
					began := time.Now()
					if _, err := gc.Run(t.Context(), cfg); err != nil {
						t.Fatal(err)
					}
					w.check(began)
					if young := i < 1; young && !slices.Contains(w.under("staging/"), orphan) {
						t.Error("a young bundle was deleted")
					}
				}
				if c.host >= 0 && c.storage <= 0 && len(w.under("tile/data/000.p/")) > 0 {
					t.Errorf("nothing was deleted")
				}
			})
		})
	}
}

// TestStorms bounds how often calls are repeated when storage fails for good.
func TestStorms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := aged(t)
		var calls atomic.Int64
		w.bucket.SetFaults(func(op storagemem.Op, _ string) storagemem.Fault {
			if op == storagemem.OpDelete {
				calls.Add(1)
				return storagemem.Fault{Before: errFault}
			}
			return storagemem.Fault{}
		})
		began := time.Now()
		if _, err := gc.Run(t.Context(), w.gcConfig()); !errors.Is(err, errFault) {
			t.Errorf("error %v", err)
		}
		if n, took := calls.Load(), time.Since(began); n > 2*gc.DefaultParallel+int64(took/(50*time.Millisecond))+1 {
			t.Errorf("%d calls in %v", n, took)
		}
		w.check(time.Now())
	})
}
