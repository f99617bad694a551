package batcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
)

// TestSequencerFails: after errors that say "try again" the same batch is given
// again, until it is placed, whether the failed calls took effect or not.
func TestSequencerFails(t *testing.T) {
	for name, err := range map[string]error{
		"unavailable":         entry.ErrUnavailable,
		"unavailable, inside": fmt.Errorf("call sequencer: %w", entry.ErrUnavailable),
		"overloaded":          &entry.OverloadedError{What: "round", RetryAfter: time.Second},
		"another error":       errors.New("connection reset"),
	} {
		for _, persisted := range []bool{false, true} {
			for _, failures := range []int{1, 5} {
				t.Run(fmt.Sprintf("%s/%d times/persisted %v", name, failures, persisted), func(t *testing.T) {
					bubble(t, func(t *testing.T) {
						r := newRig(t, Config{}, nil)
						r.seq.hook = func(_ context.Context, call int, batch []*entry.Pending) ([]entry.Placement, error) {
							if call < failures {
								if persisted {
									r.seq.commit(batch)
								}
								return nil, err
							}
							return r.seq.commit(batch), nil
						}
						one, two := r.add(t.Context(), x509(1)), r.add(t.Context(), x509(2))
						for i, a := range []result{<-one, <-two} {
							if a.err != nil {
								t.Fatal(a.err)
							}
							r.checkSCT(t, x509(i+1), a.sct)
						}
						if n := r.seq.size(); n != 2 {
							t.Errorf("%d entries in the log, want 2", n)
						}
						if n := len(r.seq.batches()); n != failures+1 {
							t.Errorf("%d calls, want %d", n, failures+1)
						}
						for _, c := range r.seq.batches() {
							if !slices.Equal(c, r.seq.batches()[0]) {
								t.Error("a retry is not the same batch")
							}
						}
						r.mustClose(t)
					})
				})
			}
		}
	}
}

// TestSequencerNeverPlaces: no SCT is signed and nothing is remembered.
func TestSequencerNeverPlaces(t *testing.T) {
	const window = 10 * time.Second
	answer := func(change func([]entry.Placement) []entry.Placement) func(*rig) hook {
		return func(r *rig) hook {
			return func(_ context.Context, _ int, batch []*entry.Pending) ([]entry.Placement, error) {
				return change(r.seq.commit(batch)), nil
			}
		}
	}
	fails := func(err error) func(*rig) hook {
		return func(*rig) hook {
			return func(context.Context, int, []*entry.Pending) ([]entry.Placement, error) { return nil, err }
		}
	}
	for name, tt := range map[string]struct {
		hook func(*rig) hook
		want error
		took time.Duration // after the pool was closed
	}{
		"unavailable for good": {fails(entry.ErrUnavailable), entry.ErrUnavailable, window},
		"overloaded for good":  {fails(&entry.OverloadedError{}), entry.ErrUnavailable, window},
		"read-only":            {fails(fmt.Errorf("sequence: %w", entry.ErrReadOnly)), entry.ErrReadOnly, 0},
		"damaged, not here":    {fails(entry.ErrDamaged), entry.ErrUnavailable, 0},
		"hangs": {func(*rig) hook {
			return func(ctx context.Context, _ int, _ []*entry.Pending) ([]entry.Placement, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}, entry.ErrUnavailable, window},
		"too few placements":  {answer(func(p []entry.Placement) []entry.Placement { return p[:1] }), entry.ErrUnavailable, 0},
		"no placements":       {answer(func([]entry.Placement) []entry.Placement { return nil }), entry.ErrUnavailable, 0},
		"too many placements": {answer(func(p []entry.Placement) []entry.Placement { return append(p, entry.Placement{Index: 9}) }), entry.ErrUnavailable, 0},
		"negative index":      {answer(func(p []entry.Placement) []entry.Placement { p[1].Index = -1; return p }), entry.ErrUnavailable, 0},
		"index too large":     {answer(func(p []entry.Placement) []entry.Placement { p[0].Index = entry.MaxIndex + 1; return p }), entry.ErrUnavailable, 0},
		"negative timestamp":  {answer(func(p []entry.Placement) []entry.Placement { p[1].TimestampMillis = -5; return p }), entry.ErrUnavailable, 0},
		"one index for two":   {answer(func(p []entry.Placement) []entry.Placement { p[1] = p[0]; return p }), entry.ErrUnavailable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dedup := &fakeDedup{}
				r := newRig(t, Config{RetryWindow: window, PoolAge: time.Millisecond}, dedup)
				r.seq.hook = tt.hook(r)
				one, two := r.add(t.Context(), x509(1)), r.add(t.Context(), x509(2))
				for i, a := range []result{<-one, <-two} {
					if !errors.Is(a.err, tt.want) || a.took != tt.took+time.Millisecond {
						t.Errorf("Add took %v: %v, want %v: %v", a.took, a.err, tt.took+time.Millisecond, tt.want)
					}
					if _, ok := r.Lookup(t.Context(), x509(i+1).Key(), x509(i+1).Digest()); ok {
						t.Error("Lookup knows an entry that was not placed")
					}
				}
				if n := r.signer.signed(); n != 0 {
					t.Errorf("%d SCTs were signed", n)
				}
				r.seq.setHook(nil)
				r.mustAdd(t, x509(1))
				synctest.Wait()
				if n := dedup.len(); n != 1 {
					t.Errorf("the long-term cache has %d rows, want 1", n)
				}
				r.mustClose(t)
			})
		})
	}
}

// TestDamagedEntry: the entry whose bytes changed is answered, the others of its
// batch are logged.
func TestDamagedEntry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{}, nil)
		r.seq.hook = func(_ context.Context, call int, batch []*entry.Pending) ([]entry.Placement, error) {
			for _, p := range batch {
				if call == 0 && p.Key() == x509(1).Key() {
					p.Certificate()[3] ^= 1
				}
				if !p.Intact() {
					return nil, entry.ErrDamaged
				}
			}
			return r.seq.commit(batch), nil
		}
		good, damaged := r.add(t.Context(), x509(0)), r.add(t.Context(), x509(1))
		if a := <-damaged; !errors.Is(a.err, entry.ErrUnavailable) {
			t.Errorf("Add of the damaged entry: %v", a.err)
		}
		if a := <-good; a.err != nil {
			t.Error(a.err)
		}
		r.mustAdd(t, x509(1))
		if n := r.seq.size(); n != 2 {
			t.Errorf("%d entries in the log, want 2", n)
		}
		r.mustClose(t)
	})
}

// TestSequencerIgnoresContext: a call that outlives the window keeps its batch,
// not its waiters; entries that never got a batch are refused after the window;
// what the call brings in the end is remembered.
func TestSequencerIgnoresContext(t *testing.T) {
	const window = 3 * time.Second
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{BatchesInFlight: 1, RetryWindow: window, PoolAge: time.Millisecond}, nil)
		r.seq.hook = func(_ context.Context, call int, batch []*entry.Pending) ([]entry.Placement, error) {
			if call == 0 {
				time.Sleep(10 * window)
			}
			return r.seq.commit(batch), nil
		}
		hung := r.add(t.Context(), x509(1))
		time.Sleep(time.Second)
		queued := r.add(t.Context(), x509(2))
		if a := <-hung; !errors.Is(a.err, entry.ErrUnavailable) || a.took != window+time.Millisecond {
			t.Errorf("Add took %v: %v", a.took, a.err)
		}
		var overloaded *entry.OverloadedError
		if a := <-queued; !errors.As(a.err, &overloaded) || a.took != window {
			t.Errorf("Add without a batch took %v: %v", a.took, a.err)
		}
		if n := len(r.seq.batches()); n != 1 {
			t.Errorf("%d calls at one time, want 1", n)
		}
		time.Sleep(10 * window)
		p := x509(1)
		sct, ok := r.Lookup(t.Context(), p.Key(), p.Digest())
		if !ok {
			t.Fatal("the late answer was not remembered")
		}
		r.checkSCT(t, p, sct)
		r.mustAdd(t, x509(2))
		r.mustClose(t)
	})
}

// TestRandomCancellation: waiters come and go at random moments while the
// sequencer is slow and fails. Each entry is in one batch at most, whoever stays
// gets its SCT, and whoever comes back gets the same.
func TestRandomCancellation(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 1))
				r := newRig(t, Config{PoolEntries: 8, PoolAge: 5 * time.Millisecond, BatchesInFlight: 3}, &fakeDedup{})
				r.seq.hook = func(_ context.Context, call int, batch []*entry.Pending) ([]entry.Placement, error) {
					time.Sleep(time.Duration(1+(call*7919)%40) * time.Millisecond)
					if call%3 == 0 {
						return nil, entry.ErrUnavailable
					}
					placements := r.seq.commit(batch)
					if call%5 == 0 {
						return nil, entry.ErrUnavailable
					}
					return placements, nil
				}
				type attempt struct {
					n      int
					answer <-chan result
				}
				var attempts []attempt
				for range 300 {
					n := rng.IntN(60)
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(150))*time.Millisecond)
					defer cancel()
					attempts = append(attempts, attempt{n, r.add(ctx, x509(n))})
					time.Sleep(time.Duration(rng.IntN(2000)) * time.Microsecond)
				}
				scts := make(map[int]entry.SCT)
				for _, at := range attempts {
					a := <-at.answer
					var overloaded *entry.OverloadedError
					switch {
					case errors.Is(a.err, context.DeadlineExceeded), errors.As(a.err, &overloaded):
						continue
					case a.err != nil:
						t.Fatal(a.err)
					}
					r.checkSCT(t, x509(at.n), a.sct)
					if old, ok := scts[at.n]; ok && old.Placement != a.sct.Placement {
						t.Errorf("entry %d has SCTs for %v and %v", at.n, old.Placement, a.sct.Placement)
					}
					scts[at.n] = a.sct
				}
				for n, sct := range scts {
					if again := r.mustAdd(t, x509(n)); again.Placement != sct.Placement {
						t.Errorf("entry %d came back to another place", n)
					}
				}
				r.mustClose(t)
				checkBatches(t, r.seq.batches())
				if len(scts) < 10 {
					t.Errorf("only %d entries were answered: the test does not bite", len(scts))
				}
			})
		})
	}
}

// checkBatches fails if an entry is in two batches, where the retries of a batch
// are one, or twice in one.
func checkBatches(t *testing.T, calls [][]*entry.Pending) {
	t.Helper()
	in := make(map[entry.Key]*entry.Pending) // to the first entry of its batch
	for _, batch := range calls {
		seen := make(map[entry.Key]bool)
		for _, p := range batch {
			if seen[p.Key()] {
				t.Errorf("a batch holds %q twice", p.Certificate())
			}
			seen[p.Key()] = true
			if first, ok := in[p.Key()]; ok && first != batch[0] {
				t.Errorf("%q is in two batches", p.Certificate())
			}
			in[p.Key()] = batch[0]
		}
	}
}

func TestCloseDrains(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dedup := &fakeDedup{put: func(context.Context, []entry.Key) error {
			time.Sleep(100 * time.Millisecond)
			return nil
		}, get: func(context.Context, entry.Key) (entry.Placement, bool, error) {
			time.Sleep(20 * time.Millisecond)
			return entry.Placement{}, false, nil
		}}
		r := newRig(t, Config{PoolEntries: 10, BatchesInFlight: 1, PoolAge: 30 * time.Millisecond, Lookups: 8}, dedup)
		r.seq.hook = func(_ context.Context, _ int, batch []*entry.Pending) ([]entry.Placement, error) {
			time.Sleep(50 * time.Millisecond)
			return r.seq.commit(batch), nil
		}
		var answers []<-chan result
		for n := range 15 { // when Close comes some are placed, some pooled, some looked up
			answers = append(answers, r.add(t.Context(), x509(n)))
			time.Sleep(5 * time.Millisecond)
		}
		closed := make(chan error, 1)
		go func() { closed <- r.Close() }()
		synctest.Wait()
		if _, err := r.Add(t.Context(), x509(99)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Add after Close: %v", err)
		}
		for n, c := range answers {
			a := <-c
			if a.err != nil {
				t.Errorf("Add of entry %d: %v", n, a.err)
				continue
			}
			r.checkSCT(t, x509(n), a.sct)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if n := dedup.len(); n != 15 {
			t.Errorf("the long-term cache has %d rows after Close, want 15", n)
		}
		r.mustClose(t)
	})
}

// TestCloseIsBounded: whatever hangs, Close ends, and so do the waiters.
func TestCloseIsBounded(t *testing.T) {
	const window = 5 * time.Second
	for name, tt := range map[string]struct {
		hang func(r *rig, release <-chan struct{})
		want string // in the error of Close
		took time.Duration
	}{
		"sequencer heeds its context": {func(r *rig, _ <-chan struct{}) {
			r.seq.hook = func(ctx context.Context, _ int, _ []*entry.Pending) ([]entry.Placement, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}
		}, "", window},
		"sequencer ignores its context": {func(r *rig, release <-chan struct{}) {
			r.seq.hook = func(context.Context, int, []*entry.Pending) ([]entry.Placement, error) {
				<-release
				return nil, entry.ErrUnavailable
			}
		}, "sequencer does not return", window + closeGrace},
		"cache writes hang": {func(r *rig, release <-chan struct{}) {
			r.dedup.put = func(context.Context, []entry.Key) error {
				<-release
				return nil
			}
		}, "cache does not return", window + closeGrace},
		"cache writes heed their context": {func(r *rig, _ <-chan struct{}) {
			r.dedup.put = func(ctx context.Context, _ []entry.Key) error {
				<-ctx.Done()
				return ctx.Err()
			}
		}, "not written", window},
		"cache reads hang": {func(r *rig, release <-chan struct{}) {
			r.dedup.get = func(context.Context, entry.Key) (entry.Placement, bool, error) {
				<-release
				return entry.Placement{}, false, nil
			}
		}, "cache does not return", window + closeGrace},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				release := make(chan struct{})
				r := newRig(t, Config{RetryWindow: window, BatchesInFlight: 1, PoolEntries: 2, PoolAge: time.Millisecond}, &fakeDedup{})
				tt.hang(r, release)
				var answers []<-chan result
				for n := range 3 { // one batch and half a pool
					answers = append(answers, r.add(t.Context(), x509(n)))
				}
				synctest.Wait()
				began := time.Now()
				err := r.Close()
				if took := time.Since(began); took > tt.took {
					t.Errorf("Close took %v, want at most %v", took, tt.took)
				}
				if (err == nil) != (tt.want == "") || (err != nil && !strings.Contains(err.Error(), tt.want)) {
					t.Errorf("Close: %v, want %q", err, tt.want)
				}
				for n, c := range answers {
					var overloaded *entry.OverloadedError
					if a := <-c; a.err != nil && !errors.Is(a.err, entry.ErrUnavailable) && !errors.As(a.err, &overloaded) {
						t.Errorf("Add of entry %d: %v", n, a.err)
					}
				}
				close(release)
			})
		})
	}
}

// A bit that flips after the entry was placed: its bytes must not be signed.
func TestDamagedAfterPlacement(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{}, nil)
		r.seq.hook = func(_ context.Context, _ int, batch []*entry.Pending) ([]entry.Placement, error) {
			placements := r.seq.commit(batch)
			batch[0].Certificate()[0] ^= 1
			return placements, nil
		}
		if got := <-r.add(t.Context(), x509(1)); !errors.Is(got.err, entry.ErrUnavailable) {
			t.Errorf("Add: %+v", got)
		}
		if n := r.signer.signed(); n != 0 {
			t.Errorf("%d SCTs were signed", n)
		}
		r.mustClose(t)
	})
}
