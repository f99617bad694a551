package sequencer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
	"kiln/internal/logkey"
	lockmem "kiln/lock/mem"
	storagemem "kiln/storage/mem"
)

var errInjected = errors.New("injected fault")

// submit tries a batch again until it is placed, as a batcher does.
func submit(t *testing.T, s *Sequencer, batch []*entry.Pending) []entry.Placement {
	t.Helper()
	for range 100 {
		placements, err := s.Sequence(t.Context(), batch)
		if err == nil {
			return placements
		}
		if !errors.Is(err, entry.ErrUnavailable) {
			t.Fatalf("Sequence: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("batch was not placed in 100 tries")
	return nil
}

// point is a place in a round where something can go wrong.
type point struct {
	name string
	op   storagemem.Op // empty: the lock
	path string        // prefix
	lock lockmem.Op
}

var points = []point{
	{name: "stage", op: storagemem.OpCreate, path: "staging/"},
	{name: "commit", lock: lockmem.OpReplace},
	{name: "reconcile", lock: lockmem.OpLoad},
	{name: "publish data tile", op: storagemem.OpCreate, path: "tile/data/"},
	{name: "publish hash tile", op: storagemem.OpCreate, path: "tile/0/"},
	{name: "publish checkpoint", op: storagemem.OpUpdate, path: "checkpoint"},
	{name: "drop bundle", op: storagemem.OpDelete, path: "staging/"},
	{name: "read", op: storagemem.OpGet},
}

// inject lets the next n calls at a point fail, before or after their effect.
func (w *world) inject(p point, n int, after bool) {
	var mu sync.Mutex
	fail := func() error {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			return nil
		}
		n--
		return errInjected
	}
	if p.op == "" {
		w.lock.SetFaults(func(op lockmem.Op, _ string) (f lockmem.Fault) {
			if op != p.lock {
				return f
			}
			if after {
				return lockmem.Fault{After: fail()}
			}
			return lockmem.Fault{Before: fail()}
		})
		return
	}
	unload := tries // a log reads only when it loads: give it reason to
	w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
		if p.op == storagemem.OpGet && op == storagemem.OpUpdate {
			if mu.Lock(); unload > 0 {
				unload--
				f.Before = errInjected
			}
			mu.Unlock()
			return f
		}
		if op != p.op || !strings.HasPrefix(path, p.path) {
			return f
		}
		if err := fail(); err != nil && after {
			return storagemem.Fault{After: err, Volatile: op == storagemem.OpCreate}
		} else if err != nil {
			return storagemem.Fault{Before: err}
		}
		return f
	})
}

// After any number of failures at any point, before or after the effect, the
// log goes on by itself, retried batches are in it once, and a crash at the
// worst moment loses nothing that was promised.
func TestFaults(t *testing.T) {
	for _, p := range points {
		for _, after := range []bool{false, true} {
			for _, n := range []int{1, 3, tries, 3 * tries} {
				t.Run(fmt.Sprintf("%s/after=%v/%d times", p.name, after, n), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testFault(t, p, n, after) })
				})
			}
		}
	}
}

func testFault(t *testing.T, p point, n int, after bool) {
	w := newWorld(t)
	s := w.open()
	all := batchOf("a", 0, 300)
	placements := submit(t, s, all)

	w.inject(p, n, after)
	more := batchOf("b", 0, 30)
	// The first try alone, then a crash: what it left must be a log that opens.
	first, err := s.Sequence(t.Context(), more)
	crashed := w.crash()
	if err == nil {
		all, placements = append(all, more...), append(placements, first...)
	}
	crashed.expect(all, placements)
	after2 := crashed.open()
	again := submit(t, after2, more)
	crashed.expect(append(all[:300:300], more...), append(placements[:300:300], again...))
	crashed.close(after2)

	// Without the crash it goes on as well.
	got := submit(t, s, more)
	if err == nil && got[0] != first[0] {
		t.Errorf("retried entry was at %+v, is at %+v", first[0], got[0])
	}
	last := batchOf("c", 0, 300)
	got = append(got, submit(t, s, last)...)
	w.bucket.SetFaults(nil) // what is left of them is not for the audit
	w.expect(append(append(all[:300:300], more...), last...), append(placements[:300:300], got...))
	w.close(s)
}

// A commit that took effect but was answered with an error is settled in place:
// the batch is answered, nothing is reloaded.
func TestUnknownCommitIsReconciledInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		w.inject(point{lock: lockmem.OpReplace}, 1, true)
		batch := batchOf("a", 0, 3)
		placements, err := s.Sequence(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		w.expect(batch, placements)
		w.close(s)
	})
}

// Two sequencers on one log, both under load: one commits at a time, the other
// finds out; nothing forks and nothing promised is lost.
func TestTwoSequencers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.open(), w.open()
		var mu sync.Mutex
		var batch []*entry.Pending
		var placements []entry.Placement
		var wg sync.WaitGroup
		for i, s := range []*Sequencer{a, b} {
			for j := range 4 {
				wg.Go(func() {
					for k := range 10 {
						mine := batchOf(fmt.Sprint(i, j, k), 0, 7)
						got, err := s.Sequence(t.Context(), mine)
						if errors.Is(err, entry.ErrUnavailable) {
							time.Sleep(30 * time.Millisecond)
							continue // whether it was logged or not, nothing was promised
						}
						if err != nil {
							t.Error(err)
							continue
						}
						mu.Lock()
						batch, placements = append(batch, mine...), append(placements, got...)
						mu.Unlock()
					}
				})
			}
		}
		wg.Wait()
		if len(batch) == 0 {
			t.Error("nobody was answered")
		}
		w.expect(batch, placements)
		w.close(a)
		w.close(b)
	})
}

// A sequencer that hangs before it publishes its checkpoint, while another goes
// on, must not put the old one over the newer.
func TestStaleCheckpointIsFenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		slow := w.open()
		hold := make(chan struct{})
		var once sync.Once
		w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
			if op == storagemem.OpUpdate {
				once.Do(func() { f.Delay = hold })
			}
			return f
		})
		batch := batchOf("slow", 0, 5)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := slow.Sequence(t.Context(), batch); !errors.Is(err, entry.ErrUnavailable) {
				t.Errorf("the slow one answered: %v", err)
			}
		})
		time.Sleep(time.Second)
		synctest.Wait()
		other := w.open() // finishes the round of the first
		submit(t, other, batchOf("other", 0, 5))
		close(hold)
		wg.Wait()
		w.audit()

		// The slow one stands by for as long as the other is there, then goes on.
		before := len(w.bucket.History("checkpoint"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(w.bucket.History("checkpoint")) - before; n > 22 {
			t.Errorf("two idle sequencers signed %d times in a minute", n)
		}
		w.close(other)
		time.Sleep(4 * idleInterval)
		w.expect(batch, submit(t, slow, batch))
		w.close(slow)
		w.audit()
	})
}

// A bit that flips in an entry between admission and storage: its batch is
// refused for good, nothing is signed over it, other batches go on.
func TestDamagedEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		damaged, good := batchOf("damaged", 0, 4), batchOf("good", 0, 4)
		damaged[2].Certificate()[5] ^= 0x10
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Sequence(t.Context(), damaged); !errors.Is(err, entry.ErrDamaged) {
				t.Errorf("damaged batch: %v", err)
			}
		})
		var placements []entry.Placement
		wg.Go(func() { placements = submit(t, s, good) })
		wg.Wait()
		w.expect(good, placements)
		if got := w.audit(); len(got) != len(good) {
			t.Errorf("log has %d entries, want %d", len(got), len(good))
		}
		w.close(s)
	})
}

// refusals are states on which a log must not start. Each returns what the
// error has to speak of.
var refusals = map[string]func(t *testing.T, w *world) string{
	"wrong key": func(t *testing.T, w *world) string {
		w.key = must(logkey.Generate())
		return "key"
	},
	"no lock": func(t *testing.T, w *world) string {
		w.lock = lockmem.New()
		return "lock has no cell"
	},
	"lock set back": func(t *testing.T, w *world) string {
		old := w.lock.CrashClone()
		s := w.open()
		submit(t, s, batchOf("later", 0, 3))
		w.close(s)
		w.lock = old
		return "newer than the lock"
	},
	"idle lock set back": func(t *testing.T, w *world) string {
		old := w.lock.CrashClone()
		w.close(w.open())
		w.lock = old
		return "newer than the lock"
	},
	"bucket set back": func(t *testing.T, w *world) string {
		old := w.bucket.CrashClone()
		s := w.open()
		submit(t, s, batchOf("later", 0, 3))
		submit(t, s, batchOf("later", 3, 300))
		w.close(s)
		w.bucket = old
		return "bundle is gone"
	},
	"bucket empty": func(t *testing.T, w *world) string {
		w.bucket = storagemem.New()
		return "storage has no checkpoint"
	},
	"clock set back": func(t *testing.T, w *world) string {
		w.skew = -time.Hour
		return "clock"
	},
	"hash tile":       corrupt("tile/0/001.p/44"),
	"upper tile":      corrupt("tile/1/000.p/1"),
	"data tile":       corrupt("tile/data/001.p/44"),
	"older data tile": corrupt("tile/data/000"),
	"checkpoint":      corrupt("checkpoint"),
	"hash tile is missing": func(t *testing.T, w *world) string {
		if err := w.bucket.Delete(t.Context(), "tile/0/001.p/44"); err != nil {
			t.Fatal(err)
		}
		return "tile/0/001.p/44"
	},
}

func corrupt(path string) func(t *testing.T, w *world) string {
	return func(t *testing.T, w *world) string {
		err := w.bucket.Corrupt(path, func(b []byte) []byte {
			b[len(b)/2] ^= 4
			return b
		})
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestRefusesToStart(t *testing.T) {
	for name, spoil := range refusals {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.open()
				submit(t, s, batchOf("a", 0, 300))
				w.close(s)
				time.Sleep(time.Second)
				want := spoil(t, w)
				time.Sleep(time.Second)
				before, _ := w.lock.Load(t.Context(), "log")
				checkpoints := len(w.bucket.History("checkpoint"))

				s, err := Open(t.Context(), w.config())
				if err == nil {
					w.close(s)
					t.Fatal("the log opened")
				}
				// That clock may be another machine's, and time heals it.
				if isFatal(err) == (name == "clock set back") {
					t.Errorf("fatal is %t: %v", isFatal(err), err)
				}
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not speak of %q", err, want)
				}
				after, _ := w.lock.Load(t.Context(), "log")
				if string(after.Body) != string(before.Body) || len(w.bucket.History("checkpoint")) != checkpoints {
					t.Error("something was signed")
				}
			})
		})
	}
}

func TestClockSetBackStopsTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("a", 0, 3))
		held, _ := w.lock.Load(t.Context(), "log")
		w.skew = -time.Minute
		if _, err := s.Sequence(t.Context(), batchOf("b", 0, 3)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Sequence: %v", err)
		}
		<-s.Done()
		if err := s.Err(); err == nil || !strings.Contains(err.Error(), "clock") {
			t.Errorf("Err: %v", err)
		}
		now, _ := w.lock.Load(t.Context(), "log")
		if now.Version != held.Version {
			t.Error("something was signed")
		}
		if err := s.Close(); err == nil {
			t.Error("Close says nothing of it")
		}
	})
}

// All that a lost bundle held may be in its place: then nothing is missing.
func TestBundleGoneButPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		placements := submit(t, s, batchOf("a", 0, 10))
		w.inject(point{op: storagemem.OpUpdate, path: "checkpoint"}, 1000, false)
		more := batchOf("b", 0, 300)
		if _, err := s.Sequence(t.Context(), more); err == nil {
			t.Fatal("answered without a checkpoint")
		}
		c := w.crash()
		for _, p := range c.bucket.Paths() {
			if strings.HasPrefix(p, "staging/") {
				if err := c.bucket.Delete(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
		}
		s2 := c.open()
		got := submit(t, s2, more)
		c.expect(append(batchOf("a", 0, 10), more...), append(placements, got...))
		c.close(s2)
		w.bucket.SetFaults(nil)
		w.close(s)
	})
}

func TestCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		if err := Create(t.Context(), w.config()); err != nil {
			t.Errorf("repeated: %v", err)
		}
		half := *w // a crash between lock and bucket
		half.bucket = storagemem.New()
		if err := Create(t.Context(), half.config()); err != nil {
			t.Errorf("after a crash half-way: %v", err)
		}
		half.close(half.open())

		lost := *w
		lost.lock = lockmem.New()
		if err := Create(t.Context(), lost.config()); err == nil || !strings.Contains(err.Error(), "lock") {
			t.Errorf("bucket without lock: %v", err)
		}
		s := w.open()
		submit(t, s, batchOf("a", 0, 1))
		w.close(s)
		if err := Create(t.Context(), w.config()); err == nil || !strings.Contains(err.Error(), "1 entries") {
			t.Errorf("log with entries: %v", err)
		}
	})
}

func TestWaiterMayLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		ctx, cancel := context.WithCancel(t.Context())
		batch := batchOf("a", 0, 2)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Sequence(ctx, batch); !errors.Is(err, context.Canceled) {
				t.Errorf("Sequence: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
		w.expect(batch, submit(t, s, batch))
		w.close(s)
	})
}

func TestRecentForgetsTheOldest(t *testing.T) {
	r := newRecent(4)
	for i, p := range batchOf("a", 0, 20) {
		r.add(p.Key(), entry.Placement{Index: int64(i)})
	}
	batch := batchOf("a", 0, 20)
	for i, p := range batch[16:] {
		if pl, ok := r.get(p.Key()); !ok || pl.Index != int64(16+i) {
			t.Errorf("entry %d: %v %v", 16+i, pl, ok)
		}
	}
	if _, ok := r.get(batch[0].Key()); ok || len(r.cur)+len(r.old) > 8 {
		t.Errorf("holds %d entries, the oldest: %v", len(r.cur)+len(r.old), ok)
	}
}
