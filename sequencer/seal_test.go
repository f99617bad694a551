package sequencer

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
	"kiln/internal/lifecycle"
	lockmem "kiln/lock/mem"
)

func (w *world) mark() lifecycle.Mark { return lifecycle.Mark{At: w.config().Now()} }

// size is how many entries the published log has.
func (w *world) size() int64 {
	w.t.Helper()
	return int64(len(w.audit()))
}

// A frozen log answers what was taken, takes nothing more, goes on being signed,
// and stays so after a restart.
func TestSeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		time.Sleep(time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { submit(t, s, batchOf("taken before", 0, 3)) })
		synctest.Wait() // it is queued
		final, err := s.Seal(t.Context(), w.mark())
		if err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if final.Tree.N != 3 || w.size() != 3 || !s.Sealed() {
			t.Fatalf("final tree has %d entries, the log %d", final.Tree.N, w.size())
		}
		if _, err := s.Sequence(t.Context(), batchOf("after", 0, 1)); !errors.Is(err, entry.ErrReadOnly) {
			t.Errorf("Sequence of a frozen log: %v", err)
		}
		signed := s.Latest().TimestampMillis
		time.Sleep(2 * idleInterval)
		if now := s.Latest(); now.TimestampMillis <= signed || now.Tree != final.Tree {
			t.Errorf("two idle intervals later the checkpoint is %+v, was signed at %d", now, signed)
		}
		if again, err := s.Seal(t.Context(), w.mark()); err != nil || again != final {
			t.Errorf("Seal again: %+v, %v", again, err)
		}
		w.close(s)

		s = w.open()
		if _, err := s.Sequence(t.Context(), batchOf("after a restart", 0, 1)); !errors.Is(err, entry.ErrReadOnly) {
			t.Errorf("Sequence after a restart: %v", err)
		}
		w.close(s)
		if w.size() != 3 {
			t.Error("the log has grown")
		}
	})
}

// Another sequencer that was at work learns that the log is frozen before it
// could grow it.
func TestSealWhileAnotherWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.open()
		submit(t, other, batchOf("first", 0, 2))
		time.Sleep(time.Second)
		s := w.open()
		final, err := s.Seal(t.Context(), w.mark())
		if err != nil {
			t.Fatal(err)
		}
		w.close(s)
		for i := 0; ; i++ {
			_, err := other.Sequence(t.Context(), batchOf(fmt.Sprint("late ", i), 0, 1))
			if errors.Is(err, entry.ErrReadOnly) {
				break
			}
			if !errors.Is(err, entry.ErrUnavailable) || i > 1000 {
				t.Fatalf("Sequence %d by the other: %v", i, err)
			}
			time.Sleep(time.Second)
		}
		w.close(other)
		if w.size() != final.Tree.N {
			t.Errorf("the final tree has %d entries, the log %d", final.Tree.N, w.size())
		}
	})
}

// A sequencer that loads while another freezes the log either finds the mark or
// holds a version of the lock that is gone.
func TestLoadWhileAnotherSeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sealer := w.open()
		time.Sleep(time.Second)
		var once sync.Once
		w.lock.SetFaults(func(op lockmem.Op, id string) (f lockmem.Fault) {
			if op == lockmem.OpLoad && strings.HasSuffix(id, ".frozen") {
				once.Do(func() { // it has found no mark; now there is one, and a new version
					done := make(chan struct{})
					f.DelayAfter = done
					go func() {
						defer close(done)
						if _, err := sealer.Seal(t.Context(), w.mark()); err != nil {
							t.Error(err)
						}
					}()
				})
			}
			return f
		})
		s, err := Open(t.Context(), w.config())
		w.lock.SetFaults(nil)
		if err == nil {
			if _, err = s.Sequence(t.Context(), batchOf("late", 0, 1)); err == nil {
				t.Error("a frozen log was grown")
			}
			w.close(s)
		}
		w.close(sealer)
		if w.size() != 0 {
			t.Error("the log has grown")
		}
	})
}

// What fails on the way leaves a log that can be frozen by doing it again, and
// until then grows or not, but is never frozen with another tree.
func TestSealFaults(t *testing.T) {
	for _, op := range []lockmem.Op{lockmem.OpCreate, lockmem.OpLoad, lockmem.OpReplace} {
		for _, after := range []bool{false, true} {
			for nth := range 8 {
				t.Run(fmt.Sprintf("%v/after=%v/%d", op, after, nth), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { sealFault(t, op, after, nth) })
				})
			}
		}
	}
}

func sealFault(t *testing.T, op lockmem.Op, after bool, nth int) {
	w := newWorld(t)
	s := w.open()
	time.Sleep(time.Second)
	var mu sync.Mutex
	n := 0
	w.lock.SetFaults(func(o lockmem.Op, _ string) (f lockmem.Fault) {
		mu.Lock()
		defer mu.Unlock()
		if o == op {
			n++
			if n > nth && n <= nth+3 {
				if f.Before = errors.New("injected"); after {
					f.Before, f.After = nil, f.Before
				}
			}
		}
		return f
	})
	for i := 0; ; i++ {
		final, err := s.Seal(t.Context(), w.mark())
		if err == nil {
			if final.Tree.N != w.size() {
				t.Errorf("the final tree has %d entries, the log %d", final.Tree.N, w.size())
			}
			break
		}
		if i > 100 {
			t.Fatalf("Seal: %v", err)
		}
		time.Sleep(time.Second)
	}
	crashed := w.crash()
	w.lock.SetFaults(nil)
	w.close(s)
	s = crashed.open()
	if _, err := s.Sequence(t.Context(), batchOf("late", 0, 1)); !errors.Is(err, entry.ErrReadOnly) {
		t.Errorf("Sequence after a crash: %v", err)
	}
	crashed.close(s)
}

// A log that is not the one that was frozen, or that was retired, is not served.
func TestMarksRefuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		grown := func() *world {
			s := w.open()
			submit(t, s, batchOf(fmt.Sprint(time.Now()), 0, 1))
			w.close(s)
			time.Sleep(time.Second)
			return w.crash()
		}
		before := grown()
		held, err := before.lock.Load(t.Context(), "log")
		if err != nil {
			t.Fatal(err)
		}
		after := grown()
		for id, body := range map[string][]byte{"log.frozen": []byte(`{"at_millis":1}`), "log.final": held.Body} {
			if err := after.lock.Create(t.Context(), id, body); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(t.Context(), after.config()); !isFatal(err) || !strings.Contains(err.Error(), "was frozen with 1 entries") {
			t.Errorf("Open of a log that grew after it was frozen: %v", err)
		}

		s := w.open()
		if _, err := s.Seal(t.Context(), w.mark()); err != nil {
			t.Fatal(err)
		}
		w.close(s)
		if _, err := lifecycle.Retire(t.Context(), w.lock, "log", w.mark()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := Open(t.Context(), w.config()); !isFatal(err) || !strings.Contains(err.Error(), "was retired") {
			t.Errorf("Open of a retired log: %v", err)
		}
	})
}
