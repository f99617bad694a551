package shards_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/internal/daemon"
	"kiln/internal/lifecycle"
	"kiln/internal/shards"
	lockmem "kiln/lock/mem"
	"kiln/sequencer"
	"kiln/storage/mem"
)

func TestFreeze(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.grow(3, 300)
		f := r.freeze()
		if head := r.head(); f.Head.Tree != head.Tree || head.Tree.N != 303 || f.Head.TimestampMillis != head.TimestampMillis {
			t.Errorf("final head is %v, the lock has %v", f.Head, head)
		}
		if f.Marks.Frozen == nil || f.Marks.Frozen.Note != "note" || !bytes.Equal(f.Checkpoint, f.Marks.Final) {
			t.Errorf("marks are %+v", f.Marks)
		}
		r.wantInfo(f)

		time.Sleep(time.Hour)
		again, err := shards.Freeze(t.Context(), r.parts, shards.FreezeConfig{Note: "another note"}, r.opts)
		if err != nil {
			t.Fatal(err)
		}
		if again.Head != f.Head || !bytes.Equal(again.Checkpoint, f.Checkpoint) || *again.Marks.Frozen != *f.Marks.Frozen {
			t.Errorf("the second time it is %+v, want %+v", again, f)
		}
		r.wantInfo(f)

		s := r.open()
		defer s.Close()
		p, err := entry.NewX509([]byte("late"), [][32]byte{{1}}, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sequence(t.Context(), []*entry.Pending{p}); !errors.Is(err, entry.ErrReadOnly) {
			t.Errorf("an entry after the end: %v", err)
		}
	})
}

// serve does what a process that serves the log does about the marks, until the
// log is retired or stop is called. It closes the sequencer.
func (r *rig) serve(s *sequencer.Sequencer) (ended <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.Close()
		ticker := time.NewTicker(5 * time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			state, err := r.parts.State(ctx)
			switch {
			case err != nil || state.Retired != nil:
				return
			case state.Frozen != nil:
				_, _ = s.Seal(ctx, *state.Frozen)
			}
		}
	}()
	return done, func() { cancel(); <-done }
}

// claim takes the log's data as another process of the machine.
func claim(t *testing.T, p *daemon.Parts) (release func()) {
	t.Helper()
	release, err := p.Claim()
	if err != nil {
		t.Fatal(err)
	}
	return release
}

func TestFreezeWhileServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.inFolder()
		r.grow(5)
		defer claim(t, r.parts)()
		s := r.open()
		_, stop := r.serve(s)
		defer stop()
		f := r.freeze()
		if f.Head.Tree.N != 5 || !s.Sealed() {
			t.Errorf("final head is %v; the one that serves is sealed: %v", f.Head, s.Sealed())
		}
		r.wantInfo(f)
	})
}

// TestFreezeWhileServedElsewhere freezes a log that grows on another machine:
// the two race for rounds, until the tree is final for both.
func TestFreezeWhileServedElsewhere(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		s := r.open()
		_, stop := r.serve(s)
		defer stop()
		var taken []entry.Placement
		ended := make(chan error, 1)
		go func() {
			for i := 0; ; i++ {
				p, err := entry.NewX509(fmt.Append(nil, "entry ", i), [][32]byte{{1}}, false)
				if err != nil {
					ended <- err
					return
				}
				got, err := s.Sequence(t.Context(), []*entry.Pending{p})
				if errors.Is(err, entry.ErrUnavailable) { // superseded: clients try again
					time.Sleep(time.Second)
					continue
				}
				if err != nil {
					ended <- err
					return
				}
				taken = append(taken, got...)
			}
		}()
		time.Sleep(2 * time.Second)
		began := time.Now()
		f := r.freeze()
		if time.Since(began) > 10*time.Second {
			t.Errorf("it took %v", time.Since(began))
		}
		if err := <-ended; !errors.Is(err, entry.ErrReadOnly) {
			t.Errorf("the one that serves ended with %v", err)
		}
		time.Sleep(time.Minute)
		if head := r.head(); head.Tree != f.Head.Tree || f.Head.Tree.N < 10 || int64(len(taken)) > f.Head.Tree.N {
			t.Errorf("the lock has %v, %d entries were taken, final is %v", head, len(taken), f.Head)
		}
		if !s.Sealed() || s.Err() != nil {
			t.Errorf("the one that serves is sealed: %v, %v", s.Sealed(), s.Err())
		}
		r.wantInfo(f)
	})
}

func TestFreezeOfHolderThatDoesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.inFolder()
		release := claim(t, r.parts)
		_, err := shards.Freeze(t.Context(), r.parts, shards.FreezeConfig{Patience: 10 * time.Second}, r.opts)
		if !errors.Is(err, daemon.ErrInUse) || !strings.Contains(err.Error(), "within 10s") {
			t.Fatalf("error is %v", err)
		}
		if state, err := r.parts.State(t.Context()); err != nil || state.Frozen == nil || state.Final != nil {
			t.Fatalf("state is %+v, %v", state, err)
		}
		if s, err := shards.LookAt(t.Context(), r.parts, r.opts); err != nil || s.State != shards.Freezing {
			t.Errorf("state is %s, %v", s.State, err)
		}
		// It ends while the next one waits.
		go func() {
			time.Sleep(3 * time.Second)
			release()
		}()
		r.wantInfo(r.freeze())
	})
}

// TestFreezeFaults fails each call of storage and lock, one at a time, with and
// without its effect: what is repeated completes.
func TestFreezeFaults(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		for n, failed := 0, true; failed; n++ {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 0)
				r.grow(3)
				broken := errors.New("broken")
				calls := 0
				failed = false
				count := func() error {
					calls++
					if calls-1 == n {
						failed = true
						return broken
					}
					return nil
				}
				r.bucket.SetFaults(func(mem.Op, string) mem.Fault {
					if after {
						return mem.Fault{After: count()}
					}
					return mem.Fault{Before: count()}
				})
				r.locks.SetFaults(func(lockmem.Op, string) lockmem.Fault {
					if after {
						return lockmem.Fault{After: count()}
					}
					return lockmem.Fault{Before: count()}
				})
				_, err := shards.Freeze(t.Context(), r.parts, shards.FreezeConfig{Note: "note"}, r.opts)
				if err != nil && !errors.Is(err, broken) {
					t.Logf("call %d: %v", n, err)
				}
				r.bucket.SetFaults(nil)
				r.locks.SetFaults(nil)
				f := r.freeze()
				if f.Head.Tree != r.head().Tree || f.Head.Tree.N != 3 {
					t.Errorf("call %d: final head is %v", n, f.Head)
				}
				r.wantInfo(f)
			})
		}
	}
}

// TestLookSeesGrowth gives a frozen log a published tree that it cannot have.
func TestLookSeesGrowth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 0)
		r.grow(3)
		r.freeze()
		r.overwrite("checkpoint", r.sign(tlog.Tree{N: 4, Hash: tlog.Hash{1}}))
		if s, err := shards.LookAt(t.Context(), r.parts, r.opts); err == nil || s.State != shards.Broken {
			t.Errorf("it is %s, %v", s.State, err)
		}
	})
}

func TestNoFinal(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	if f, err := shards.LoadFinal(t.Context(), r.parts); f != nil || err != nil {
		t.Errorf("a log that grows has the final head %v, %v", f, err)
	}
	if _, err := lifecycle.Freeze(t.Context(), r.locks, r.parts.LockID, lifecycle.Mark{At: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if _, err := lifecycle.Finalize(t.Context(), r.locks, r.parts.LockID, []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if _, err := shards.LoadFinal(t.Context(), r.parts); err == nil {
		t.Error("a final checkpoint that nobody signed is taken")
	}
	if s, err := shards.LookAt(t.Context(), r.parts, r.opts); err == nil || s.State != shards.Broken {
		t.Errorf("state is %s, %v", s.State, err)
	}
}
