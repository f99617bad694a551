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

var errReason = errors.New("the tree contradicts itself")

// version returns what the lock holds of the log.
func (w *world) version() string {
	w.t.Helper()
	held, err := w.lock.Load(w.t.Context(), "log")
	if err != nil {
		w.t.Fatal(err)
	}
	return held.Version
}

// halted checks what is true of every halted log, and closes it.
func (w *world) halted(s *Sequencer) {
	w.t.Helper()
	select {
	case <-s.Done():
	default:
		w.t.Error("Done is open")
	}
	if !errors.Is(s.Err(), errReason) {
		w.t.Errorf("Err is %v, want %v", s.Err(), errReason)
	}
	before := w.version()
	if _, err := s.Sequence(w.t.Context(), batchOf("late", 0, 1)); !errors.Is(err, entry.ErrUnavailable) {
		w.t.Errorf("Sequence: %v, want %v", err, entry.ErrUnavailable)
	}
	time.Sleep(10 * idleInterval)
	if w.version() != before {
		w.t.Error("the lock was swapped after Halt")
	}
	if err := s.Close(); !errors.Is(err, errReason) {
		w.t.Errorf("Close: %v, want %v", err, errReason)
	}
	if w.version() != before {
		w.t.Error("the lock was swapped by Close")
	}
}

// A halted log signs nothing, not even an idle round, whether it was idle, not
// loaded, or standing by.
func TestHalt(t *testing.T) {
	for name, before := range map[string]func(w *world){
		"idle": func(*world) { time.Sleep(time.Second) },
		"not loaded": func(w *world) {
			w.bucket.SetFaults(func(storagemem.Op, string) storagemem.Fault {
				return storagemem.Fault{Before: errInjected}
			})
			time.Sleep(time.Minute)
		},
		"standing by": func(w *world) {
			other := w.open()
			time.Sleep(2 * idleInterval)
			w.close(other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.open()
				batch := batchOf("a", 0, 3)
				placements := submit(t, s, batch)
				before(w)
				var wg sync.WaitGroup
				for range 3 {
					wg.Go(func() { s.Halt(errReason) })
				}
				wg.Wait()
				s.Halt(errors.New("another reason"))
				w.bucket.SetFaults(nil)
				w.halted(s)
				w.expect(batch, placements)
				w.close(w.open())
			})
		})
	}
}

// hold holds back the first call at a point, which is reached when the first
// channel is closed, until release is called.
func (w *world) hold(p point) (reached <-chan struct{}, release func()) {
	at, gate := make(chan struct{}), make(chan struct{})
	var once sync.Once
	if p.op == "" {
		w.lock.SetFaults(func(op lockmem.Op, _ string) (f lockmem.Fault) {
			if op == p.lock {
				once.Do(func() { f.Delay = gate; close(at) })
			}
			return f
		})
	} else {
		w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
			if op == p.op && strings.HasPrefix(path, p.path) {
				once.Do(func() { f.Delay = gate; close(at) })
			}
			return f
		})
	}
	return at, func() { close(gate) }
}

// Halted in the middle of a round, a log ends it: before the signature nothing is
// signed, after the swap what is committed is published. Nobody gets a placement.
func TestHaltInARound(t *testing.T) {
	for name, c := range map[string]struct {
		at        point
		waits     bool // Halt waits for the swap
		committed bool
	}{
		"stage":              {at: points[0]},
		"commit":             {at: points[1], waits: true, committed: true},
		"publish tile":       {at: points[3], committed: true},
		"publish checkpoint": {at: points[5], committed: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				s := w.open()
				old := batchOf("a", 0, 3)
				placements := submit(t, s, old)
				before := w.version()
				reached, release := w.hold(c.at)
				answered := make(chan error, 1)
				batch := batchOf("b", 0, 2)
				go func() {
					_, err := s.Sequence(t.Context(), batch)
					answered <- err
				}()
				<-reached
				returned := make(chan struct{})
				go func() {
					s.Halt(errReason)
					close(returned)
				}()
				synctest.Wait()
				select {
				case <-returned:
					if c.waits {
						t.Error("Halt returned while the lock was being swapped")
					}
				default:
					if !c.waits {
						t.Error("Halt waits for storage")
					}
				}
				release()
				<-returned
				if err := <-answered; !errors.Is(err, entry.ErrUnavailable) {
					t.Errorf("the round in progress was answered %v, want %v", err, entry.ErrUnavailable)
				}
				if swapped := w.version() != before; swapped != c.committed {
					t.Errorf("the lock was swapped: %v, want %v", swapped, c.committed)
				}
				w.halted(s)
				got := w.audit() // what is committed is readable without a start
				if want := len(old) + len(batch); c.committed && len(got) != want || !c.committed && len(got) != len(old) {
					t.Errorf("%d entries are published", len(got))
				}
				again := w.open()
				placements = append(placements, submit(t, again, batch)...)
				w.expect(append(old, batch...), placements)
				w.close(again)
			})
		})
	}
}

// A swap whose outcome is unknown is not tried again.
func TestHaltWhileTheSwapIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		time.Sleep(time.Second) // between two idle rounds
		swaps := 0
		reached := make(chan struct{})
		w.lock.SetFaults(func(op lockmem.Op, _ string) (f lockmem.Fault) {
			if op == lockmem.OpReplace {
				if swaps++; swaps == 1 {
					close(reached)
				}
				f.Before = errInjected
			}
			return f
		})
		<-reached
		s.Halt(errReason)
		if swaps != 1 {
			t.Errorf("%d swaps were tried, want 1", swaps)
		}
		w.halted(s)
		if swaps != 1 {
			t.Errorf("%d swaps were tried, want 1", swaps)
		}
	})
}
