package shards_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/internal/lifecycle"
	"kiln/internal/shards"
	lockmem "kiln/lock/mem"
	"kiln/storage"
	"kiln/storage/mem"
)

const day = 24 * time.Hour

func TestRetireIsBlocked(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ended  time.Duration // ago
		freeze bool
		mark   bool // only
		keep   time.Duration
		want   string // "" is nothing
	}{
		"grows":             {ended: 365 * day, keep: 90 * day, want: "is not frozen"},
		"half frozen":       {ended: 365 * day, keep: 90 * day, mark: true, want: "final tree is not known"},
		"window not over":   {ended: -day, freeze: true, keep: 0, want: "certificates in it are valid until"},
		"negative keep":     {ended: -day, freeze: true, keep: -10 * day, want: "certificates in it are valid until"},
		"kept":              {ended: 89 * day, freeze: true, keep: 90 * day, want: "it is kept for 90 days after the end"},
		"kept for an hour":  {ended: time.Minute, freeze: true, keep: time.Hour, want: "it is kept for 1h0m0s after the end"},
		"long enough":       {ended: 91 * day, freeze: true, keep: 90 * day},
		"at once":           {ended: time.Minute, freeze: true},
		"grows, not so old": {ended: 10 * day, keep: 90 * day, want: "is not frozen"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, c.ended)
				if c.freeze {
					r.freeze()
				}
				if c.mark {
					if _, err := lifecycle.Freeze(t.Context(), r.locks, r.parts.LockID, lifecycle.Mark{At: time.Now()}); err != nil {
						t.Fatal(err)
					}
				}
				before := r.paths()
				in, err := shards.Inspect(t.Context(), r.parts, shards.RetireConfig{Keep: c.keep}, r.opts)
				if err != nil {
					t.Fatal(err)
				}
				if got := strings.Join(in.Blocked, "; "); (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
					t.Errorf("blocked is %q, want %q", got, c.want)
				}
				if want := r.parts.Conf.NotAfterLimit.Add(max(c.keep, 0)); !in.Earliest.Equal(want) {
					t.Errorf("earliest is %v, want %v", in.Earliest, want)
				}
				if c.want == "" {
					return
				}
				if _, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Keep: c.keep}, r.opts); !errors.Is(err, shards.ErrBlocked) {
					t.Errorf("retire: %v", err)
				}
				if state, err := r.parts.State(t.Context()); err != nil || state.Retired != nil {
					t.Errorf("state is %+v, %v", state, err)
				}
				if !slices.Equal(r.paths(), before) {
					t.Errorf("storage is %q, was %q", r.paths(), before)
				}
			})
		})
	}
}

func TestRetire(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.grow(3, 10)
		final := r.freeze()
		foreign := r.everyKind()
		all := r.paths()
		in, err := shards.Inspect(t.Context(), r.parts, shards.RetireConfig{Keep: shards.DefaultKeep}, r.opts)
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(len(all) - len(foreign)); in.Objects.Total.Objects != want || in.Objects.Other.Objects != int64(len(foreign)) {
			t.Errorf("inventory is %+v, want %d and %d other", in.Objects, want, len(foreign))
		}
		for _, k := range shards.Kinds() {
			if a := in.Objects.Kinds[k]; a.Objects == 0 || a.Bytes == 0 {
				t.Errorf("of %s there are %+v", k, a)
			}
		}
		if !slices.Equal(r.paths(), all) {
			t.Fatal("inspecting changed the storage")
		}

		r.watchDeletes()
		var steps []int64
		began := time.Now()
		out, gone, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{
			Keep: shards.DefaultKeep, Note: "over", Patience: time.Minute,
			Step: func(done, total int64) { r.mu.Lock(); steps = append(steps, done); r.mu.Unlock() },
		}, r.opts)
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(began) < 6*time.Second {
			t.Errorf("objects were deleted after %v: one that signs every 3 s could have gone on", time.Since(began))
		}
		if got := r.paths(); !slices.Equal(got, foreign) {
			t.Errorf("left is %q, want %q", got, foreign)
		}
		if gone != in.Objects.Total || out.Marks.Retired.Note != "over" || slices.Max(steps) != gone.Objects {
			t.Errorf("%+v are gone, want %+v; steps %v, mark %+v", gone, in.Objects.Total, steps, out.Marks.Retired)
		}
		if n := len(r.deleted); r.deleted[0] != "checkpoint" || r.deleted[n-1] != "log.v3.json" {
			t.Errorf("deleted were %q", r.deleted)
		}

		// What has to stay.
		if head := r.head(); head.Tree != final.Head.Tree {
			t.Errorf("the lock has %v, want the final tree %v", head, final.Head)
		}
		s, err := shards.LookAt(t.Context(), r.parts, r.opts)
		if err != nil || s.State != shards.Retired || *s.Head != final.Head {
			t.Errorf("shard is %+v, %v", s, err)
		}
		if again := r.freeze(); !bytes.Equal(again.Checkpoint, final.Checkpoint) || slices.Contains(r.paths(), "log.v3.json") {
			t.Errorf("freezing it again: %v, storage %q", again.Head, r.paths())
		}
		if _, gone, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{}, r.opts); err != nil || gone.Objects != 0 {
			t.Errorf("retiring it again: %+v, %v", gone, err)
		}
	})
}

// TestRetireWhileServed retires a log that a process serves, which finds the
// mark after some seconds: nothing is deleted while it signs.
func TestRetireWhileServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.grow(3)
		r.freeze()
		ended, stop := r.serve(r.open())
		defer stop()
		r.bucket.SetFaults(func(op mem.Op, path string) mem.Fault {
			if op == mem.OpDelete && !strings.HasPrefix(path, "staging/") {
				select {
				case <-ended:
				default:
					t.Errorf("%s was deleted while the log was signed for", path)
				}
			}
			return mem.Fault{}
		})
		if _, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute}, r.opts); err != nil {
			t.Fatal(err)
		}
		if got := r.paths(); len(got) != 0 {
			t.Errorf("left is %q", got)
		}
	})
}

func TestRetireWhileSomebodySigns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.freeze()
		s := r.open() // and nobody looks at the marks
		before := r.paths()
		_, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute}, r.opts)
		if err == nil || !strings.Contains(err.Error(), "somebody still signs for it") {
			t.Fatalf("error is %v", err)
		}
		if !slices.Equal(r.paths(), before) {
			t.Errorf("storage is %q, was %q", r.paths(), before)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{}, r.opts); err != nil || len(r.paths()) != 0 {
			t.Errorf("afterwards: %v, left is %q", err, r.paths())
		}
	})
}

// TestRetireFencesSleepers lets a sequencer sleep in its round from before the
// log is retired until it is over: it cannot publish a checkpoint then.
func TestRetireFencesSleepers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.freeze()
		s := r.open()
		wake, asleep := make(chan struct{}), make(chan struct{})
		slept := false
		r.locks.SetFaults(func(op lockmem.Op, _ string) lockmem.Fault {
			r.mu.Lock()
			defer r.mu.Unlock()
			if op == lockmem.OpReplace && !slept { // just before it commits
				slept = true
				close(asleep)
				return lockmem.Fault{Delay: wake}
			}
			return lockmem.Fault{}
		})
		<-asleep
		if _, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute}, r.opts); err != nil {
			t.Fatal(err)
		}
		close(wake)
		<-s.Done() // it loads again, and finds the mark
		if err := s.Err(); err == nil || !strings.Contains(err.Error(), "was retired") {
			t.Errorf("the sleeper ended with %v", err)
		}
		if slices.Contains(r.paths(), "checkpoint") {
			t.Errorf("storage is %q", r.paths())
		}
	})
}

// TestRetireGoesOn cuts the deletion short at each object.
func TestRetireGoesOn(t *testing.T) {
	t.Parallel()
	for n, failed := 0, true; failed; n++ {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 100*day)
			r.grow(2)
			r.freeze()
			foreign := r.everyKind()
			broken := errors.New("broken")
			calls := 0
			failed = false
			r.bucket.SetFaults(func(op mem.Op, path string) mem.Fault {
				if op != mem.OpDelete && op != mem.OpList {
					return mem.Fault{}
				}
				r.mu.Lock()
				defer r.mu.Unlock()
				calls++
				if calls-1 == n {
					failed = true
					return mem.Fault{Before: broken}
				}
				return mem.Fault{}
			})
			_, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute}, r.opts)
			if failed != errors.Is(err, broken) {
				t.Errorf("call %d: error is %v", n, err)
			}
			r.bucket.SetFaults(nil)
			if _, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute}, r.opts); err != nil {
				t.Errorf("call %d: the second time: %v", n, err)
			}
			if got := r.paths(); !slices.Equal(got, foreign) {
				t.Errorf("call %d: left is %q", n, got)
			}
		})
	}
}

func TestRetireIsCalledOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.freeze()
		before := r.paths()
		ctx, cancel := context.WithCancel(t.Context())
		_, _, err := shards.Retire(ctx, r.parts, shards.RetireConfig{Patience: time.Minute, Waiting: cancel}, r.opts)
		if !errors.Is(err, context.Canceled) || !slices.Equal(r.paths(), before) {
			t.Errorf("error is %v, storage %q, was %q", err, r.paths(), before)
		}
	})
}

// TestRetireRefusesDisagreement gives lock and storage another tree than the
// final one.
func TestRetireRefusesDisagreement(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(r *rig, raw []byte)
		want  string
	}{
		"checkpoint of another tree": {func(r *rig, raw []byte) { r.overwrite("checkpoint", raw) }, "keep everything"},
		"checkpoint of before":       {func(r *rig, _ []byte) { r.overwrite("checkpoint", r.sign(tlog.Tree{N: 2, Hash: tlog.Hash{1}})) }, "keep everything"},
		"checkpoint of nobody":       {func(r *rig, _ []byte) { r.overwrite("checkpoint", []byte("nonsense")) }, "published checkpoint"},
		"no checkpoint": {func(r *rig, _ []byte) {
			if err := r.bucket.Delete(r.t.Context(), "checkpoint"); err != nil {
				r.t.Fatal(err)
			}
		}, "has no checkpoint"},
		"lock of another tree": {func(r *rig, raw []byte) { r.swap(raw) }, "keep everything"},
		"lock of nobody":       {func(r *rig, _ []byte) { r.swap([]byte("nonsense")) }, "was not signed by this log"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 100*day)
				r.grow(4)
				r.freeze()
				c.spoil(r, r.sign(tlog.Tree{N: 9, Hash: tlog.Hash{1}}))
				before := r.paths()
				_, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute}, r.opts)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error is %v, want %q", err, c.want)
				}
				if state, err := r.parts.State(t.Context()); err != nil || state.Retired != nil || !slices.Equal(r.paths(), before) {
					t.Errorf("state is %+v, %v; storage %q, was %q", state, err, r.paths(), before)
				}
			})
		})
	}
}

func TestRetireMarksOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.freeze()
		before, head := r.paths(), r.head()
		out, gone, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute, MarkOnly: true}, r.opts)
		if err != nil || gone.Objects != 0 || out.State != shards.Retired || !slices.Equal(r.paths(), before) {
			t.Errorf("it is %+v, %+v, %v; storage %q, was %q", out, gone, err, r.paths(), before)
		}
		if r.head() == head {
			t.Error("a process that sleeps could still commit")
		}
		for _, path := range before { // as the bucket does
			if err := r.bucket.Delete(t.Context(), path); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := shards.LookAt(t.Context(), r.parts, r.opts); err != nil || s.State != shards.Retired {
			t.Errorf("then it is %+v, %v", s, err)
		}
	})
}

// TestRetireSeesLockChange changes the lock between the mark and the deletion.
func TestRetireSeesLockChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.freeze()
		before := r.paths()
		raw := r.sign(tlog.Tree{N: 1, Hash: tlog.Hash{1}})
		_, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute, Waiting: func() { r.swap(raw) }}, r.opts)
		if err == nil || !strings.Contains(err.Error(), "keep everything") || !slices.Equal(r.paths(), before) {
			t.Errorf("error is %v, storage %q, was %q", err, r.paths(), before)
		}
	})
}

// TestRetireGivesUp lets objects come back.
func TestRetireGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 100*day)
		r.freeze()
		n := 0
		r.bucket.SetFaults(func(op mem.Op, path string) mem.Fault {
			if op == mem.OpList {
				r.mu.Lock()
				n++
				path := fmt.Sprintf("tile/0/%03d", n)
				r.mu.Unlock()
				r.put(path, "again")
			}
			return mem.Fault{}
		})
		_, _, err := shards.Retire(t.Context(), r.parts, shards.RetireConfig{Patience: time.Minute}, r.opts)
		if err == nil || !strings.Contains(err.Error(), "objects are there again") {
			t.Errorf("error is %v", err)
		}
	})
}

// sign signs a tree that is none of the log's.
func (r *rig) sign(tree tlog.Tree) []byte {
	r.t.Helper()
	signer, err := checkpoint.NewSigner(r.parts.Conf.Origin, r.parts.Key, false)
	if err != nil {
		r.t.Fatal(err)
	}
	raw, err := signer.Sign(tree, time.Now().Add(time.Hour).UnixMilli())
	if err != nil {
		r.t.Fatal(err)
	}
	return raw
}

// overwrite puts other bytes in the place of an object.
func (r *rig) overwrite(path string, body []byte) {
	r.t.Helper()
	err := r.bucket.Update(r.t.Context(), storage.Object{Path: path}, func([]byte) ([]byte, error) { return body, nil })
	if err != nil {
		r.t.Fatal(err)
	}
}

// swap puts other bytes into the lock.
func (r *rig) swap(body []byte) {
	r.t.Helper()
	held, err := r.locks.Load(r.t.Context(), r.parts.LockID)
	if err == nil {
		_, err = r.locks.Replace(r.t.Context(), held, body)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}
