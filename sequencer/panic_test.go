package sequencer

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
	lockmem "kiln/lock/mem"
	storagemem "kiln/storage/mem"
)

// TestPanics has storage and lock panic at each point of a round and of a load.
// The process lives, the log stops for good, whoever waits is released, nothing is
// signed after it, and a restart finds a sound log.
func TestPanics(t *testing.T) {
	for _, p := range append(points, point{name: "load the lock", lock: lockmem.OpLoad}) {
		for _, loading := range []bool{false, true} {
			name := p.name
			if loading {
				name += " while loading"
			}
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testPanic(t, p, loading) })
			})
		}
	}
}

func testPanic(t *testing.T, p point, loading bool) {
	w := newWorld(t)
	s := w.open()
	submit(t, s, batchOf("a", 0, 300))
	time.Sleep(time.Second)
	var mu sync.Mutex
	panics, failing := 0, 0
	if loading {
		failing = tries // of the checkpoint, so that the round is to be finished by a load
	}
	trap := func() {
		mu.Lock()
		defer mu.Unlock()
		if failing == 0 {
			panics++
			panic("a bug in " + p.name)
		}
	}
	w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
		if p.op != "" && op == p.op && strings.HasPrefix(path, p.path) {
			trap()
		}
		if mu.Lock(); op == storagemem.OpUpdate && failing > 0 {
			failing--
			f.Before = errInjected
		}
		mu.Unlock()
		return f
	})
	w.lock.SetFaults(func(op lockmem.Op, _ string) (f lockmem.Fault) {
		if p.op == "" && op == p.lock {
			trap()
		}
		if p.lock == lockmem.OpLoad && op == lockmem.OpReplace && !loading {
			f.Before = errInjected // to have it look
		}
		return f
	})
	for i := range 100 {
		if _, err := s.Sequence(t.Context(), batchOf("b", 3*i, 3)); err != nil && !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("who waited was told %v", err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
	}
	mu.Lock()
	met := panics
	mu.Unlock()
	if met == 0 {
		t.Fatal("nothing panicked")
	}
	stops(t, s)
	if err := s.Err(); !strings.Contains(err.Error(), "a bug in "+p.name) || !strings.Contains(err.Error(), "panic_test.go") {
		t.Errorf("the reason does not tell the bug and its stack: %v", err)
	}
	w.bucket.SetFaults(nil)
	w.lock.SetFaults(nil)
	held := must(w.lock.Load(t.Context(), "log"))
	if _, err := s.Sequence(t.Context(), batchOf("c", 0, 3)); !errors.Is(err, entry.ErrUnavailable) {
		t.Errorf("Sequence afterwards: %v", err)
	}
	time.Sleep(time.Minute)
	if now := must(w.lock.Load(t.Context(), "log")); now.Version != held.Version {
		t.Error("something was signed afterwards")
	}
	_ = s.Close()
	s = w.open()
	submit(t, s, batchOf("b", 0, 3))
	w.close(s)
	w.audit()
}
