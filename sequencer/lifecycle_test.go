package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/checkpoint"
	"kiln/entry"
	lockmem "kiln/lock/mem"
	"kiln/storage"
	storagemem "kiln/storage/mem"
	"kiln/tiles"
)

// Another sequencer that goes on while one loads is no reason to stop for good.
func TestLoadWhileAnotherWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.open()
		time.Sleep(time.Second)
		// Reading the lock and the bucket take turns with rounds of the other.
		grow := func() { submit(t, other, batchOf(fmt.Sprint(time.Now()), 0, 3)) }
		var once sync.Once
		w.lock.SetFaults(func(op lockmem.Op, _ string) (f lockmem.Fault) {
			if op == lockmem.OpLoad {
				once.Do(func() {
					done := make(chan struct{})
					f.DelayAfter = done
					go func() { defer close(done); grow() }()
				})
			}
			return f
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		s, err := Open(ctx, w.config())
		w.lock.SetFaults(nil)
		if isFatal(err) {
			t.Errorf("Open: %v", err)
		}
		if err == nil {
			w.close(s)
		}
		w.close(other)
		w.audit()
	})
}

// Repeats of old entries must not put off the fresh checkpoint, even if there are
// always more of them than a round takes.
func TestRepeatsDoNotStarveTheCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		batch := batchOf("a", 0, maxRoundEntries/2+1)
		want := submit(t, s, batch)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for range 20 {
					if got := submit(t, s, batch); got[0] != want[0] {
						t.Errorf("repeat got %+v, want %+v", got[0], want[0])
					}
					if age := time.Now().UnixMilli() - s.Latest().TimestampMillis; age > 5000 {
						t.Errorf("checkpoint is %d ms old", age)
					}
				}
			})
		}
		wg.Wait()
		w.close(s)
	})
}

func bundles(b *storagemem.Bucket) (n int) {
	for _, p := range b.Paths() {
		if strings.HasPrefix(p, "staging/") {
			n++
		}
	}
	return n
}

// A lock that refuses to be written must not fill the storage with bundles.
func TestBundlesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		w.lock.SetFaults(func(op lockmem.Op, _ string) (f lockmem.Fault) {
			if op == lockmem.OpReplace {
				f.Before = errInjected
			}
			return f
		})
		batch := batchOf("a", 0, 10)
		for range 1000 {
			if _, err := s.Sequence(t.Context(), batch); !errors.Is(err, entry.ErrUnavailable) {
				t.Fatalf("Sequence: %v", err)
			}
		}
		if n := bundles(w.bucket); n > 3 {
			t.Errorf("%d bundles were left", n)
		}
		w.lock.SetFaults(nil)
		placements := submit(t, s, batch)
		submit(t, s, batchOf("b", 0, 1))
		w.close(s)
		if n := bundles(w.bucket); n > 1 {
			t.Errorf("%d bundles are left when all is well", n)
		}
		for range 5 {
			w.close(w.open())
		}
		if n := bundles(w.bucket); n > 1 {
			t.Errorf("%d bundles are left after restarts", n)
		}
		w.expect(batch, placements)
	})
}

// A repeated entry whose bytes changed since admission gets no placement: its
// SCT would be signed over those bytes.
func TestDamagedRepeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("a", 0, 4))
		again := batchOf("a", 0, 4)
		again[3].Certificate()[1] ^= 1
		if _, err := s.Sequence(t.Context(), again); !errors.Is(err, entry.ErrDamaged) {
			t.Errorf("Sequence: %v", err)
		}
		submit(t, s, batchOf("a", 0, 4))
		w.close(s)
	})
}

// A call that never returns ends by its time limit, and the log goes on.
func TestHangingCalls(t *testing.T) {
	for _, p := range points {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.open()
				var once sync.Once
				if p.op == "" {
					w.lock.SetFaults(func(op lockmem.Op, _ string) (f lockmem.Fault) {
						if op == p.lock {
							once.Do(func() { f.Delay = make(chan struct{}) })
						}
						return f
					})
				} else {
					w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
						if op == p.op && strings.HasPrefix(path, p.path) {
							once.Do(func() { f.Delay = make(chan struct{}) })
						}
						return f
					})
				}
				batch := batchOf("a", 0, 3)
				placements := submit(t, s, batch)
				more := batchOf("b", 0, 3)
				placements = append(placements, submit(t, s, more)...)
				w.lock.SetFaults(nil)
				w.bucket.SetFaults(nil)
				w.expect(append(batch, more...), placements)
				w.close(s)
			})
		})
	}
}

// Nobody waits for the removal of a bundle.
func TestAnswersBeforeBundlesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("a", 0, 1))
		time.Sleep(time.Second)
		w.bucket.SetFaults(func(op storagemem.Op, _ string) (f storagemem.Fault) {
			if op == storagemem.OpDelete {
				f.Delay = make(chan struct{})
			}
			return f
		})
		start := time.Now()
		submit(t, s, batchOf("b", 0, 1))
		if d := time.Since(start); d > 0 {
			t.Errorf("the answer took %v", d)
		}
		w.bucket.SetFaults(nil)
		w.close(s)
	})
}

// put writes what a sequencer of the same key could have published.
func (w *world) put(tree func(*tiles.Edge) *tiles.Edge) {
	w.t.Helper()
	e := tree(tiles.NewEdge(false))
	s := must(checkpoint.NewSigner(testOrigin, w.key, false))
	raw := must(s.Sign(e.Tree(), time.Now().UnixMilli()))
	err := w.bucket.Update(w.t.Context(), storage.Object{Path: "checkpoint"}, func([]byte) ([]byte, error) { return raw, nil })
	if err != nil {
		w.t.Fatal(err)
	}
}

func grow(n int, label string) func(*tiles.Edge) *tiles.Edge {
	return func(e *tiles.Edge) *tiles.Edge {
		next, _, err := e.Append(batchOf(label, 0, n), 1)
		if err != nil {
			panic(err)
		}
		return next
	}
}

// A public tree that is not a part of the lock's is a fork: stop, and say so.
func TestForkIsFatal(t *testing.T) {
	for name, n := range map[string]int{"smaller": 3, "same size": 5} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.open()
				submit(t, s, batchOf("a", 0, 5))
				w.close(s)
				// The forger's clock stood still: only the trees differ.
				held := must(w.lock.Load(t.Context(), "log"))
				w.put(grow(n, "forked"))
				time.Sleep(time.Second)
				signer := must(checkpoint.NewSigner(testOrigin, w.key, false))
				head := must(signer.Verifier().Open(held.Body))
				if _, err := w.lock.Replace(t.Context(), held, must(signer.Sign(head.Tree, time.Now().UnixMilli()))); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				if _, err := Open(t.Context(), w.config()); !isFatal(err) {
					t.Errorf("Open: %v", err)
				}
			})
		})
	}
}

// A wrong tile that stands where a round has to write: no checkpoint may ever
// name it.
func TestWrongTileInTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		if err := w.bucket.Create(t.Context(), storage.Object{Path: "tile/0/000.p/3", Body: bytes.Repeat([]byte{7}, 96)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sequence(t.Context(), batchOf("a", 0, 3)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Sequence: %v", err)
		}
		<-s.Done()
		if err := s.Err(); !strings.Contains(err.Error(), "tile/0/000.p/3") {
			t.Errorf("Err: %v", err)
		}
		if n := s.Latest().Tree.N; n != 0 {
			t.Errorf("a checkpoint of size %d was published", n)
		}
		if err := s.Close(); err == nil {
			t.Error("Close says nothing of it")
		}
	})
}

// A bundle of another step must not be published, however well-formed.
func TestWrongBundle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("a", 0, 10))
		w.inject(point{op: storagemem.OpCreate, path: "tile/"}, 10000, false)
		if _, err := s.Sequence(t.Context(), batchOf("b", 0, 5)); err == nil {
			t.Fatal("answered without tiles")
		}
		c := w.crash()
		time.Sleep(time.Second)
		_, objects, err := grow(10, "a")(tiles.NewEdge(false)).Append(batchOf("other", 0, 5), 1)
		if err != nil {
			t.Fatal(err)
		}
		other := must(tiles.EncodeBundle(objects))
		for _, p := range c.bucket.Paths() {
			if strings.HasPrefix(p, "staging/15-") {
				if err := c.bucket.Corrupt(p, func([]byte) []byte { return other }); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := len(c.bucket.Paths())
		if _, err := Open(t.Context(), c.config()); !isFatal(err) || !strings.Contains(err.Error(), "staging/15-") {
			t.Errorf("Open: %v", err)
		}
		if len(c.bucket.Paths()) != before {
			t.Error("something was published from the wrong bundle")
		}
		w.bucket.SetFaults(nil)
		w.close(s)
	})
}

// A reading error that passes is no reason to give a log up, not even without
// its bundle.
func TestTransientErrorsAreNotFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("a", 0, 10))
		w.inject(point{op: storagemem.OpUpdate, path: "checkpoint"}, 1000, false)
		if _, err := s.Sequence(t.Context(), batchOf("b", 0, 3)); err == nil {
			t.Fatal("answered without a checkpoint")
		}
		c := w.crash()
		time.Sleep(time.Second)
		for _, p := range c.bucket.Paths() {
			if strings.HasPrefix(p, "staging/13-") {
				if err := c.bucket.Delete(t.Context(), p); err != nil {
					t.Fatal(err)
				}
			}
		}
		c.inject(point{op: storagemem.OpGet, path: "tile/"}, 1, false)
		if _, err := Open(t.Context(), c.config()); err == nil || isFatal(err) {
			t.Errorf("Open: %v", err)
		}
		c.bucket.SetFaults(nil)
		c.close(c.open())
		w.bucket.SetFaults(nil)
		w.close(s)
	})
}

// A failed Open and a Close leave room for the next sequencer of the log.
func TestMetricsAreReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		reg := prometheus.NewRegistry()
		cfg := w.config()
		cfg.Registerer = reg
		w.skew = -time.Hour
		if _, err := Open(t.Context(), cfg); err == nil {
			t.Fatal("opened with a clock behind")
		}
		w.skew = 0
		for range 2 {
			s, err := Open(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			if got := must(reg.Gather()); len(got) == 0 {
				t.Error("no metrics")
			}
			w.close(s)
		}
	})
}
