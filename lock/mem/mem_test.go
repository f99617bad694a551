package mem

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"kiln/lock"
	"kiln/lock/locktest"
)

func TestSuite(t *testing.T) {
	locktest.Test(t, func(*testing.T) lock.Store { return New() })
}

var errFault = errors.New("fault")

func load(t *testing.T, s *Store, id string) lock.Held {
	t.Helper()
	h, err := s.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault Fault
		body  string // of the cell after a failed Replace by "2"
		made  error  // of a Load after a failed Create
	}{
		{"before", Fault{Before: errFault}, "1", lock.ErrNotFound},
		{"after", Fault{After: errFault}, "2", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := New()
			if err := s.Create(t.Context(), "cell", []byte("1")); err != nil {
				t.Fatal(err)
			}
			held := load(t, s, "cell")
			s.SetFaults(func(Op, string) Fault { return c.fault })
			if h, err := s.Replace(t.Context(), held, []byte("2")); !errors.Is(err, errFault) || h.Version != "" {
				t.Errorf("Replace: %+v, error %v, want the fault", h, err)
			}
			if err := s.Create(t.Context(), "new", nil); !errors.Is(err, errFault) {
				t.Errorf("Create: error %v, want the fault", err)
			}
			if _, err := s.Load(t.Context(), "cell"); !errors.Is(err, errFault) {
				t.Errorf("Load: error %v, want the fault", err)
			}
			crashed := s.CrashClone()
			s.SetFaults(nil)
			for _, s := range []*Store{s, crashed} {
				if got := load(t, s, "cell"); string(got.Body) != c.body {
					t.Errorf("the cell is %q, want %q", got.Body, c.body)
				}
				if _, err := s.Load(t.Context(), "new"); !errors.Is(err, c.made) {
					t.Errorf("Load of the new cell: %v, want %v", err, c.made)
				}
			}
		})
	}
}

func TestDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := New()
		if err := s.Create(t.Context(), "cell", []byte("1")); err != nil {
			t.Fatal(err)
		}
		held := load(t, s, "cell")
		before, after := make(chan struct{}), make(chan struct{})
		s.SetFaults(func(op Op, _ string) Fault {
			if op != OpReplace {
				return Fault{}
			}
			return Fault{Delay: before, DelayAfter: after}
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := s.Replace(ctx, held, []byte("2"))
			done <- err
		}()
		synctest.Wait()
		if got := load(t, s, "cell"); string(got.Body) != "1" {
			t.Errorf("before the delay's end the cell is %q", got.Body)
		}
		close(before)
		synctest.Wait()
		if got := load(t, s, "cell"); string(got.Body) != "2" {
			t.Errorf("after the effect the cell is %q", got.Body)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	})
}

// TestCrashClone shows that a holder from before a crash cannot write after it,
// whatever both sides wrote meanwhile.
func TestCrashClone(t *testing.T) {
	t.Parallel()
	s := New()
	ctx := t.Context()
	if err := s.Create(ctx, "cell", []byte("1")); err != nil {
		t.Fatal(err)
	}
	c := s.CrashClone()
	old, err := s.Replace(ctx, load(t, s, "cell"), []byte("2"))
	if err != nil {
		t.Fatal(err)
	}
	if got := load(t, c, "cell"); string(got.Body) != "1" {
		t.Errorf("the clone's cell became %q", got.Body)
	}
	if _, err := c.Replace(ctx, load(t, c, "cell"), []byte("2")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Replace(ctx, old, []byte("3")); !errors.Is(err, lock.ErrConflict) {
		t.Errorf("Replace by a holder from before the crash: %v, want %v", err, lock.ErrConflict)
	}
}

// TestLedger shows that the faults of the store are honest: what failed before
// its effect has none, and what failed after it has one.
func TestLedger(t *testing.T) {
	t.Parallel()
	s := New()
	locktest.Ledger(t, func(await func(int)) {
		await(20)
		var calls atomic.Int64
		s.SetFaults(func(op Op, _ string) Fault {
			switch n := calls.Add(1); {
			case op == OpReplace && n%3 == 0:
				return Fault{After: errFault}
			case n%5 == 0:
				return Fault{Before: errFault}
			}
			return Fault{}
		})
		await(60)
		s.SetFaults(nil)
	}, s)
}
