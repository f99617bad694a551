package gc_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/gc"
	"kiln/storage"
	storagemem "kiln/storage/mem"
	"kiln/tiles"
)

// edge is the partial data tile of a tree.
func edge(size int64) tlog.Tile {
	return tlog.Tile{H: tiles.Height, L: tiles.LevelData, N: size / tiles.Width, W: int(size % tiles.Width)}
}

func TestPartials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.names = true
		s := w.open()
		w.grow(s, repeat(1, 300)...)
		synctest.Wait() // the bundle before the last goes after the answer
		before := w.bucket.Paths()
		if r := w.run(); r.Partials.Objects != 0 || r.SafeSize != 0 || r.TreeSize != 300 {
			t.Errorf("while all is young: %+v", r)
		}
		time.Sleep(grace + time.Minute)
		planned, told := w.plan(), 0
		if got := w.bucket.Paths(); !slices.Equal(got, before) {
			t.Error("a plan changed what is stored")
		}
		cfg := w.gcConfig()
		cfg.Each = func(i storage.Info) {
			if told++; permanent(i.Path) {
				t.Errorf("told of %s", i.Path)
			}
		}
		r, err := gc.Run(t.Context(), cfg)
		if err != nil || r != planned {
			t.Errorf("run: %+v, %v; the plan was %+v", r, err, planned)
		}
		// 255 of each kind go; of the second tile 1 to 44 wait, and 1 above.
		if r.SafeSize != 299 || r.Partials.Objects != 3*255 || r.Waiting.Objects != 3*44+1+1 || told != 3*255 {
			t.Errorf("result %+v, told of %d", r, told)
		}
		for _, p := range []string{"tile/0/000.p/", "tile/data/000.p/", "tile/names/000.p/"} {
			if left := w.under(p); len(left) != 0 {
				t.Errorf("left: %q", left)
			}
		}
		for _, p := range before {
			if permanent(p) && !slices.Contains(w.bucket.Paths(), p) {
				t.Errorf("%s is gone", p)
			}
		}
		w.check(time.Now())
		if again := w.run(); again.Partials.Objects != 0 || again.Waiting != r.Waiting {
			t.Errorf("a second run: %+v", again)
		}
		w.grow(s, 1, 300)
		w.close(s)
		s = w.open()
		w.grow(s, 1)
		w.close(s)
		w.check(time.Now())
	})
}

func (w *world) plan() gc.Result {
	w.t.Helper()
	r, err := gc.Plan(w.t.Context(), w.gcConfig())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// TestSafeSize goes through the moments at which a full tile may lose its partial
// tiles, or not yet.
func TestSafeSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		want := func(what string, safe int64, partials int) {
			t.Helper()
			if r := w.plan(); r.SafeSize != safe || r.Partials.Objects != int64(2*partials) {
				t.Errorf("%s: %+v, want a safe size of %d and 2 times %d partial tiles", what, r, safe, partials)
			}
		}
		want("empty", 0, 0)
		s := w.open()
		w.grow(s, 100, 100, 100) // sizes 100, 200, 300
		time.Sleep(grace + time.Minute)
		// Whether 300 was published right away, or a moment ago, nothing tells.
		want("the newest round filled the tile", 200, 0)
		w.grow(s, 1)
		want("the round after it is young", 200, 0)
		time.Sleep(grace - time.Minute)
		want("and still is", 200, 0)
		time.Sleep(2 * time.Minute)
		want("and is old", 300, 2) // of the widths 100 and 200
		w.close(s)

		// A log that stands still has no time of its own.
		s = w.open()
		w.grow(s, 600, 1)
		w.close(s)
		time.Sleep(100 * grace)
		want("stopped", 300, 2)
	})
}

// TestRestored has a full tile that was brought back from a copy: its partial
// tiles wait until it has stood anew.
func TestRestored(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := aged(t)
		body, err := w.bucket.Get(t.Context(), "tile/data/000")
		if err != nil {
			t.Fatal(err)
		}
		if err := w.bucket.Delete(t.Context(), "tile/data/000"); err != nil {
			t.Fatal(err)
		}
		if err := w.bucket.Create(t.Context(), storage.Object{Path: "tile/data/000", Body: body}); err != nil {
			t.Fatal(err)
		}
		w.run()
		if h, d := len(w.under("tile/0/000.p/")), len(w.under("tile/data/000.p/")); h != 0 || d != 255 {
			t.Errorf("%d hash tiles and %d data tiles are left, want 0 and 255", h, d)
		}
	})
}

// TestProperty lets a log run, fail, crash and be cleaned in any order: whatever
// happens, every checkpoint that was current within the grace can be read.
func TestProperty(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { property(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

func property(t *testing.T, r *rand.Rand) {
	w := newWorld(t)
	w.names = r.IntN(2) == 0
	s := w.open()
	deleted, crashes := int64(0), 0
	for range 30 {
		switch r.IntN(6) {
		case 0, 1:
			for range r.IntN(40) {
				w.grow(s, 1+r.IntN(30)*r.IntN(2))
			}
		case 2, 3:
			time.Sleep(time.Duration(r.Int64N(int64(2 * grace / 3))))
		case 4:
			began := time.Now()
			result := w.run()
			deleted += result.Partials.Objects
			w.check(began)
		case 5:
			// Something fails in the middle of a round, for some time or until
			// the process is gone.
			crashes++
			w, s = w.brokenRound(s, r)
		}
	}
	w.grow(s, repeat(9, 40)...)
	time.Sleep(grace + time.Minute)
	began := time.Now()
	deleted += w.run().Partials.Objects
	w.close(s)
	w.check(began)
	if deleted < 20 {
		t.Errorf("only %d partial tiles were deleted", deleted)
	}
	t.Logf("%d entries, %d partial tiles deleted, %d rounds broken", w.n, deleted, crashes)
}

// TestBrokenGC cuts a run off at every call of the storage in turn, in every way.
func TestBrokenGC(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		origin := newWorld(t)
		s := origin.open()
		origin.grow(s, append(repeat(40, 7), 1)...)
		origin.orphan(t, 5)
		time.Sleep(grace + time.Minute)
		origin.close(s)
		want := origin.crash()
		result := want.run()
		if result.Bundles.Objects != 1 || result.Partials.Objects != 2*6 {
			t.Fatalf("result %+v", result)
		}
		for _, fault := range []storagemem.Fault{
			{Before: errFault}, {After: errFault}, {After: errFault, Volatile: true},
		} {
			for n := 0; ; n++ {
				w := origin.crash()
				if !w.cutOff(t, n, fault) {
					if n < 40 {
						t.Errorf("a run has only %d calls", n)
					}
					break
				}
				w = w.crash()
				w.check(time.Now())
				w.run()
				if got := w.bucket.Paths(); !slices.Equal(got, want.bucket.Paths()) {
					t.Fatalf("call %d fails with %+v: in the end there is %q", n, fault, got)
				}
				w.close(w.open())
			}
		}
	})
}

// TestBeside cleans a log again and again while it grows, and dies and comes back.
func TestBeside(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan int64)
		go func() {
			total := int64(0)
			defer func() { done <- total }()
			for ctx.Err() == nil {
				time.Sleep(17 * time.Second)
				r, err := gc.Run(t.Context(), w.gcConfig())
				if err != nil {
					t.Error(err)
					return
				}
				total += r.Partials.Objects
			}
		}()
		for i := range 40 {
			w.grow(s, append(repeat(1, 10), 3+17*(i%2))...)
			time.Sleep(time.Minute)
		}
		cancel()
		if total := <-done; total < 300 {
			t.Errorf("only %d partial tiles were deleted", total)
		}
		w.close(s)
		w.check(time.Now())
		w.close(w.open())
	})
}

// TestTransient has every call of the storage fail twice.
func TestTransient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := aged(t)
		w.bucket.SetFaults(firstTwo())
		if r := w.run(); r.Partials.Objects != 2*255 {
			t.Errorf("result %+v", r)
		}
		w.bucket.SetFaults(nil)
		w.check(time.Now())
	})
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := aged(t)
		ctx, cancel := context.WithCancel(t.Context())
		cfg := w.gcConfig()
		n := 0
		cfg.Each = func(storage.Info) {
			if n++; n == 10 {
				cancel()
			}
		}
		r, err := gc.Run(ctx, cfg)
		if err == nil || r.Partials.Objects < 10 || r.Partials.Objects == 510 {
			t.Errorf("%+v, %v", r, err)
		}
		if left := len(w.under("tile/data/000.p/")) + len(w.under("tile/0/000.p/")); int64(left)+r.Partials.Objects != 510 {
			t.Errorf("%d are left, and the result is %+v", left, r)
		}
		w.check(time.Now())
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		for _, c := range []struct {
			change func(*gc.Config)
			want   string
		}{
			{func(c *gc.Config) { c.Grace = gc.MinGrace - 1 }, "grace of 9m59.999999999s is under 10m0s"},
			{func(c *gc.Config) { c.Grace = -1 }, "under 10m"},
			{func(c *gc.Config) { c.Lister = nil }, "required"},
			{func(c *gc.Config) { c.Parallel = -1 }, "parallelism"},
		} {
			cfg := w.gcConfig()
			c.change(&cfg)
			if _, err := gc.Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		}
	})
}
