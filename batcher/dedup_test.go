package batcher

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
)

// logged adds an entry by a batcher of its own and returns the log and the
// long-term cache that know it, as a later process finds them.
func logged(t *testing.T, p *entry.Pending) (*fakeSequencer, *fakeDedup, entry.SCT) {
	t.Helper()
	r := newRig(t, Config{}, &fakeDedup{})
	r.mustAdd(t, x509(1000)) // so that the place is not the zero value
	sct := r.mustAdd(t, p)
	r.mustClose(t)
	return r.seq, r.dedup, sct
}

func TestLongTermHit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		log, dedup, first := logged(t, x509(1))
		time.Sleep(time.Hour)
		r := newRig(t, Config{Confirm: log.confirm}, dedup)
		r.seq.placed = log.placed
		answers := []<-chan result{r.add(t.Context(), x509(1)), r.add(t.Context(), x509(1)), r.add(t.Context(), otherChain(1))}
		for _, c := range answers {
			if a := <-c; a.err != nil || a.sct.Placement != first.Placement || string(a.sct.Signature) != string(first.Signature) {
				t.Errorf("Add = %v, %v, want %v", a.sct, a.err, first)
			}
		}
		r.mustAdd(t, x509(1))
		if _, ok := r.Lookup(t.Context(), x509(1).Key(), x509(1).Digest()); !ok || r.signer.signed() != 1 {
			t.Error("the hit is not in the short-term cache")
		}
		if n := len(r.seq.batches()); n != 0 {
			t.Errorf("the sequencer was called %d times", n)
		}
		r.mustClose(t)
	})
}

// TestLongTermFaults: whatever the long-term cache does, the submission gets a
// right SCT, of a new entry, within the time allowed, and the reason is counted.
func TestLongTermFaults(t *testing.T) {
	const timeout = 200 * time.Millisecond
	type get = func(context.Context, entry.Key) (entry.Placement, bool, error)
	type confirm = func(context.Context, *entry.Pending, entry.Placement) (bool, error)
	fail := errors.New("disk I/O error")
	yes := func(pl entry.Placement) get {
		return func(context.Context, entry.Key) (entry.Placement, bool, error) { return pl, true, nil }
	}
	liar := func(context.Context, *entry.Pending, entry.Placement) (bool, error) { return true, nil }
	for name, tt := range map[string]struct {
		get     get
		confirm confirm // nil: that of the log
		reason  string
		took    time.Duration
	}{
		"error": {func(context.Context, entry.Key) (entry.Placement, bool, error) {
			return entry.Placement{}, false, fail
		}, nil, missError, 0},
		"error and a hit": {func(context.Context, entry.Key) (entry.Placement, bool, error) {
			return entry.Placement{}, true, fail
		}, liar, missError, 0},
		"hangs": {func(ctx context.Context, _ entry.Key) (entry.Placement, bool, error) {
			<-ctx.Done()
			return entry.Placement{}, false, ctx.Err()
		}, nil, missTimeout, timeout},
		"hangs and ignores its context": {func(context.Context, entry.Key) (entry.Placement, bool, error) {
			time.Sleep(10 * timeout)
			return entry.Placement{Index: 1}, true, nil
		}, liar, missTimeout, timeout},
		"another entry's place":  {yes(entry.Placement{Index: 0, TimestampMillis: 5}), nil, missUnconfirmed, 0},
		"a place beyond the log": {yes(entry.Placement{Index: 1 << 30, TimestampMillis: 5}), nil, missUnconfirmed, 0},
		"an impossible place":    {yes(entry.Placement{Index: -1}), liar, missInvalid, 0},
		"an impossible time":     {yes(entry.Placement{TimestampMillis: -1}), liar, missInvalid, 0},
		"log cannot confirm": {yes(entry.Placement{Index: 1}), func(context.Context, *entry.Pending, entry.Placement) (bool, error) {
			return true, fail
		}, missConfirmError, 0},
		"log takes too long": {yes(entry.Placement{Index: 1}), func(ctx context.Context, _ *entry.Pending, _ entry.Placement) (bool, error) {
			<-ctx.Done()
			return true, nil
		}, missTimeout, timeout},
		"miss": {func(context.Context, entry.Key) (entry.Placement, bool, error) {
			return entry.Placement{}, false, nil
		}, nil, missAbsent, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dedup := &fakeDedup{}
				r := newRig(t, Config{DedupTimeout: timeout, PoolAge: time.Millisecond, Confirm: tt.confirm}, dedup)
				r.mustAdd(t, x509(0))
				time.Sleep(time.Second)
				dedup.get = tt.get
				a := <-r.add(t.Context(), x509(1))
				if a.err != nil {
					t.Fatal(a.err)
				}
				r.checkSCT(t, x509(1), a.sct)
				if a.sct.Index != 1 {
					t.Errorf("the SCT names index %d, want that of a new entry, 1", a.sct.Index)
				}
				if a.took > tt.took+time.Millisecond {
					t.Errorf("Add took %v, want at most %v", a.took, tt.took+time.Millisecond)
				}
				if n := r.misses(tt.reason); n < 1 {
					t.Errorf("no miss is counted as %s", tt.reason)
				}
				r.mustClose(t)
			})
		})
	}
}

// TestLookupsAreBounded: when all lookups hang, submissions wait for no more
// than the timeout and go on, and no further lookup is begun.
func TestLookupsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const timeout = 100 * time.Millisecond
		begun := make(chan struct{}, 1000)
		r := newRig(t, Config{Lookups: 3, DedupTimeout: timeout, PoolAge: time.Millisecond}, &fakeDedup{
			get: func(context.Context, entry.Key) (entry.Placement, bool, error) {
				begun <- struct{}{}
				time.Sleep(time.Second)
				return entry.Placement{}, false, nil
			},
		})
		var answers []<-chan result
		for n := range 100 {
			answers = append(answers, r.add(t.Context(), x509(n)))
		}
		for _, c := range answers {
			if a := <-c; a.err != nil || a.took > timeout+time.Millisecond {
				t.Errorf("Add took %v: %v", a.took, a.err)
			}
		}
		if n := len(begun); n != 3 {
			t.Errorf("%d lookups were begun, want 3", n)
		}
		if n := r.misses(missNoSlot); n != 97 {
			t.Errorf("%v lookups had no slot, want 97", n)
		}
		r.mustClose(t)
	})
}

// TestSCTLeavesFirst: the long-term cache is written after the SCT has left, and
// what it does then is nobody's concern.
func TestSCTLeavesFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		put        func(context.Context) error
		written    int
		closeFails bool
	}{
		"slow":  {func(context.Context) error { time.Sleep(2 * time.Second); return nil }, 5, false},
		"fails": {func(context.Context) error { return errors.New("disk full") }, 0, false},
		"hangs": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, Config{PoolAge: time.Millisecond}, &fakeDedup{put: func(ctx context.Context, _ []entry.Key) error { return tt.put(ctx) }})
				for n := range 5 {
					if a := <-r.add(t.Context(), x509(n)); a.err != nil || a.took != time.Millisecond {
						t.Errorf("Add took %v: %v", a.took, a.err)
					}
				}
				if err := r.Close(); (err != nil) != tt.closeFails {
					t.Errorf("Close: %v, want an error: %v", err, tt.closeFails)
				}
				if n := r.dedup.len(); n != tt.written {
					t.Errorf("%d rows were written, want %d", n, tt.written)
				}
				drops := r.metrics.writeDrops
				if n := value(drops.WithLabelValues(dropError)) + value(drops.WithLabelValues(dropClosed)); int(n) != 5-tt.written {
					t.Errorf("%v rows are counted as dropped, want %d", n, 5-tt.written)
				}
			})
		})
	}
}

func TestWriteQueueIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		free := make(chan struct{})
		r := newRig(t, Config{DedupQueue: 4, PoolAge: time.Millisecond}, &fakeDedup{put: func(context.Context, []entry.Key) error {
			<-free
			return nil
		}})
		for n := range 10 {
			r.mustAdd(t, x509(n))
			synctest.Wait()
			if queued := r.writes.len(); queued > 4 {
				t.Errorf("%d rows are queued, want at most 4", queued)
			}
		}
		close(free)
		r.mustClose(t)
		// The first went to the writer at once, four waited.
		if n := r.dedup.len(); n != 5 {
			t.Errorf("%d rows were written, want 5", n)
		}
		if n := value(r.metrics.writeDrops.WithLabelValues(dropFull)); n != 5 {
			t.Errorf("%v rows are counted as dropped, want 5", n)
		}
	})
}
