package batcher

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/entry"
)

func TestParallelAddsMakeOneEntry(t *testing.T) {
	for name, dedup := range map[string]*fakeDedup{
		"without long-term cache": nil,
		"long-term cache misses after a while": {get: func(context.Context, entry.Key) (entry.Placement, bool, error) {
			time.Sleep(30 * time.Millisecond)
			return entry.Placement{}, false, nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, Config{}, dedup)
				r.mustAdd(t, x509(0))
				var answers []<-chan result
				for range 50 {
					answers = append(answers, r.add(t.Context(), x509(1)))
				}
				first := <-answers[0]
				r.checkSCT(t, x509(1), first.sct)
				for _, c := range answers[1:] {
					if a := <-c; a.err != nil || a.sct.Placement != first.sct.Placement || string(a.sct.Signature) != string(first.sct.Signature) {
						t.Errorf("SCTs differ: %v and %v, %v", a.sct, first.sct, a.err)
					}
				}
				if again := r.mustAdd(t, x509(1)); string(again.Signature) != string(first.sct.Signature) {
					t.Error("a later submission got another SCT")
				}
				if n := r.seq.size(); n != 2 {
					t.Errorf("%d entries in the log, want 2", n)
				}
				if n := value(r.metrics.hits.WithLabelValues(tierFlight)); n != 49 {
					t.Errorf("%v submissions joined, want 49", n)
				}
				r.mustClose(t)
			})
		})
	}
}

func TestLookupWantsTheWholeSubmission(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{}, nil)
		p, other := x509(1), otherChain(1)
		if _, ok := r.Lookup(t.Context(), p.Key(), p.Digest()); ok {
			t.Error("Lookup of a new entry says yes")
		}
		sct := r.mustAdd(t, p)
		if got, ok := r.Lookup(t.Context(), p.Key(), p.Digest()); !ok || string(got.Signature) != string(sct.Signature) {
			t.Errorf("Lookup = %v, %v", got, ok)
		}
		if _, ok := r.Lookup(t.Context(), other.Key(), other.Digest()); ok {
			t.Error("Lookup answers a submission that nobody has checked")
		}
		if got := r.mustAdd(t, other); string(got.Signature) != string(sct.Signature) {
			t.Error("the other chain made another SCT")
		}
		if _, ok := r.Lookup(t.Context(), other.Key(), other.Digest()); !ok {
			t.Error("Lookup does not know the submission that was just answered")
		}
		r.mustClose(t)
	})
}

func TestPoolCloses(t *testing.T) {
	size := sized(0, 100, false).Size()
	for name, tt := range map[string]struct {
		cfg     Config
		entries []*entry.Pending
		want    []int // sizes of the batches
		reason  string
		took    time.Duration
	}{
		"by count":               {Config{PoolEntries: 3, PoolAge: time.Hour}, []*entry.Pending{x509(1), x509(2), x509(3)}, []int{3}, closedEntries, 0},
		"by bytes":               {Config{PoolBytes: 2 * size, PoolAge: time.Hour}, []*entry.Pending{sized(1, 100, false), sized(2, 100, false)}, []int{2}, closedBytes, 0},
		"by age":                 {Config{PoolAge: 7 * time.Millisecond}, []*entry.Pending{x509(1), x509(2)}, []int{2}, closedAge, 7 * time.Millisecond},
		"alone if very large":    {Config{PoolBytes: 500, PoolAge: time.Hour}, []*entry.Pending{sized(1, 5000, false)}, []int{1}, closedBytes, 0},
		"before one that is too": {Config{PoolBytes: 500, PoolAge: time.Hour}, []*entry.Pending{x509(1), sized(2, 5000, false)}, []int{1, 1}, closedBytes, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, tt.cfg, nil)
				var answers []<-chan result
				for _, p := range tt.entries {
					answers = append(answers, r.add(t.Context(), p))
					synctest.Wait()
				}
				for i, c := range answers {
					a := <-c
					if a.err != nil || a.took != tt.took {
						t.Errorf("Add took %v and returned %v, want %v", a.took, a.err, tt.took)
					}
					r.checkSCT(t, tt.entries[i], a.sct)
				}
				if got := r.seq.batchSizes(); !slices.Equal(got, tt.want) {
					t.Errorf("batches of %v, want %v", got, tt.want)
				}
				if got := value(r.metrics.closed.WithLabelValues(tt.reason)); got != float64(len(tt.want)) {
					t.Errorf("%v batches were closed by %s, want %d", got, tt.reason, len(tt.want))
				}
				r.mustClose(t)
			})
		})
	}
}

// TestBatchesInFlight: while one batch is at the sequencer the next goes, but no
// more than the bound at one time; the pool grows meanwhile.
func TestBatchesInFlight(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{BatchesInFlight: 2, PoolAge: 10 * time.Millisecond}, nil)
		now, most := 0, 0
		r.seq.hook = func(_ context.Context, _ int, batch []*entry.Pending) ([]entry.Placement, error) {
			r.seq.mu.Lock()
			now++
			most = max(most, now)
			r.seq.mu.Unlock()
			time.Sleep(100 * time.Millisecond)
			r.seq.mu.Lock()
			now--
			r.seq.mu.Unlock()
			return r.seq.commit(batch), nil
		}
		var answers []<-chan result
		for n := range 9 {
			answers = append(answers, r.add(t.Context(), x509(n)))
			time.Sleep(10 * time.Millisecond)
		}
		for _, c := range answers {
			if a := <-c; a.err != nil || a.took > 210*time.Millisecond {
				t.Errorf("Add took %v: %v", a.took, a.err)
			}
		}
		if most != 2 {
			t.Errorf("%d batches were at the sequencer at one time, want 2", most)
		}
		if sizes := r.seq.batchSizes(); len(sizes) != 3 || slices.Max(sizes) < 5 {
			t.Errorf("batches of %v, want two small ones and the rest", sizes)
		}
		r.mustClose(t)
	})
}

func TestOverload(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{BatchesInFlight: 2, PoolEntries: 4}, nil)
		free := make(chan struct{})
		r.seq.hook = func(_ context.Context, _ int, batch []*entry.Pending) ([]entry.Placement, error) {
			<-free
			return r.seq.commit(batch), nil
		}
		var taken []<-chan result
		for n := range 10 { // two batches of four, and half a pool
			taken = append(taken, r.add(t.Context(), x509(n)))
		}
		synctest.Wait()
		refused := func(p *entry.Pending) {
			t.Helper()
			began := time.Now()
			_, err := r.Add(t.Context(), p)
			var overloaded *entry.OverloadedError
			if !errors.As(err, &overloaded) || overloaded.RetryAfter < time.Second || overloaded.RetryAfter > 2*time.Second {
				t.Errorf("Add to a full pool: %v", err)
			}
			if took := time.Since(began); took != 0 {
				t.Errorf("the refusal took %v", took)
			}
		}
		refused(lowPriority(20))
		taken = append(taken, r.add(t.Context(), x509(10)), r.add(t.Context(), x509(11)))
		synctest.Wait()
		refused(x509(21))
		refused(lowPriority(20))

		// Who submits an entry that is on its way joins it, full or not.
		taken = append(taken, r.add(t.Context(), x509(3)))
		close(free)
		for _, c := range taken {
			if a := <-c; a.err != nil {
				t.Error(a.err)
			}
		}
		// The refused have left no trace.
		r.mustAdd(t, x509(21))
		r.mustAdd(t, lowPriority(20))
		if n := r.seq.size(); n != 14 {
			t.Errorf("%d entries in the log, want 14", n)
		}
		r.mustClose(t)
	})
}

func TestWaitersAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{Waiters: 4, PoolAge: time.Second}, nil)
		var taken []<-chan result
		var overloaded *entry.OverloadedError
		for range 4 {
			taken = append(taken, r.add(t.Context(), x509(1)))
			synctest.Wait()
			if len(taken) >= 2 {
				if _, err := r.Add(t.Context(), lowPriority(2)); !errors.As(err, &overloaded) {
					t.Errorf("a low-priority submission beside %d: %v", len(taken), err)
				}
			}
		}
		if _, err := r.Add(t.Context(), x509(1)); !errors.As(err, &overloaded) {
			t.Errorf("a fifth submission: %v", err)
		}
		for _, c := range taken {
			if a := <-c; a.err != nil {
				t.Error(a.err)
			}
		}
		r.mustAdd(t, lowPriority(2))
		r.mustClose(t)
	})
}

// TestEndedContext: a waiter that leaves leaves at once, and its entry is logged
// once; one that never came in leaves nothing.
func TestEndedContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{PoolAge: time.Second}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		left, stays := r.add(ctx, x509(1)), r.add(t.Context(), x509(1))
		synctest.Wait()
		cancel()
		if a := <-left; !errors.Is(a.err, context.Canceled) || a.took != 0 {
			t.Errorf("a cancelled Add took %v: %v", a.took, a.err)
		}
		if _, err := r.Add(ctx, x509(2)); !errors.Is(err, context.Canceled) {
			t.Errorf("Add under an ended context: %v", err)
		}
		if a := <-stays; a.err != nil {
			t.Error(a.err)
		}
		r.mustAdd(t, x509(1))
		if n := r.seq.size(); n != 1 {
			t.Errorf("%d entries in the log, want 1", n)
		}
		r.mustClose(t)
	})
}

// TestSignFailure: an SCT that cannot be signed costs one answer, and nothing
// false is remembered.
func TestSignFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{}, nil)
		var broken atomic.Bool
		broken.Store(true)
		r.signer.hook = func(message []byte) error {
			if broken.Load() && strings.Contains(string(message), "certificate 7 ") {
				return errors.New("does not verify")
			}
			return nil
		}
		var answers []<-chan result
		for n := range 40 {
			answers = append(answers, r.add(t.Context(), x509(n)))
		}
		for n, c := range answers {
			if a := <-c; (n == 7) != errors.Is(a.err, entry.ErrUnavailable) || (n != 7 && a.err != nil) {
				t.Errorf("Add of entry %d: %v", n, a.err)
			}
		}
		broken.Store(false)
		r.mustAdd(t, x509(7))
		if n := r.seq.size(); n != 40 {
			t.Errorf("%d entries in the log, want 40", n)
		}
		r.mustClose(t)
	})
}

// TestNoGapBeforeTheCache: from the first submission on there is no moment at
// which another one makes a second entry, in particular not while signing.
func TestNoGapBeforeTheCache(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Config{PoolAge: time.Millisecond}, nil)
		r.signer.hook = func([]byte) error {
			time.Sleep(5 * time.Millisecond)
			return nil
		}
		var answers []<-chan result
		for range 400 {
			for n := range 3 {
				answers = append(answers, r.add(t.Context(), x509(n)))
			}
			time.Sleep(50 * time.Microsecond)
		}
		for _, c := range answers {
			if a := <-c; a.err != nil {
				t.Error(a.err)
			}
		}
		sent := 0
		for _, n := range r.seq.batchSizes() {
			sent += n
		}
		if sent != 3 {
			t.Errorf("%d entries were sent to the sequencer, want 3", sent)
		}
		r.mustClose(t)
	})
}

// TestCacheBeforeFlight: as long as the SCT cannot be put into the short-term
// cache, the flight stays where later submissions find it.
func TestCacheBeforeFlight(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, nil)
	signed := make(chan struct{})
	r.signer.hook = func([]byte) error {
		r.cache.mu.Lock() // the put that follows blocks
		close(signed)
		return nil
	}
	answer := r.add(t.Context(), x509(1))
	<-signed
	for range 20_000 {
		r.mu.Lock()
		inFlight := len(r.flights)
		r.mu.Unlock()
		if inFlight != 1 {
			t.Error("the flight was removed before the SCT was in the cache")
			break
		}
		runtime.Gosched()
	}
	r.cache.mu.Unlock()
	if a := <-answer; a.err != nil {
		t.Error(a.err)
	}
	r.mustClose(t)
}

func TestCacheIsBounded(t *testing.T) {
	t.Parallel()
	c := newCache(10)
	for n := range 35 {
		p := x509(n)
		c.put([]cached{{key: p.Key(), digest: p.Digest(), sct: entry.SCT{Placement: entry.Placement{Index: int64(n)}}}})
		if len(c.index) > 10 || len(c.slots) > 10 {
			t.Fatalf("%d and %d places are taken, want at most 10", len(c.index), len(c.slots))
		}
	}
	for n := range 35 {
		p := x509(n)
		sct, ok := c.lookup(p.Key(), p.Digest())
		if ok != (n >= 25) || (ok && sct.Index != int64(n)) {
			t.Errorf("lookup of entry %d = %v, %v", n, sct.Placement, ok)
		}
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Sequencer: &fakeSequencer{}, Signer: &fakeSigner{}, Registerer: prometheus.NewRegistry()}
	for name, change := range map[string]func(*Config){
		"no sequencer":           func(c *Config) { c.Sequencer = nil },
		"no signer":              func(c *Config) { c.Signer = nil },
		"dedup without confirm":  func(c *Config) { c.Dedup = &fakeDedup{} },
		"negative pool entries":  func(c *Config) { c.PoolEntries = -1 },
		"negative pool age":      func(c *Config) { c.PoolAge = -1 },
		"negative retry window":  func(c *Config) { c.RetryWindow = -1 },
		"negative cache entries": func(c *Config) { c.CacheEntries = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: New succeeded", name)
		}
	}
	// The batchers of a log share a registerer.
	for range 3 {
		b, err := New(good)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var members []*Batcher
		var rigs []*rig
		for range 4 {
			r := newRig(t, Config{}, nil)
			rigs, members = append(rigs, r), append(members, r.Batcher)
		}
		ring := NewRing(members)
		for n := range 64 {
			first, err := ring.Add(t.Context(), x509(n))
			if err != nil {
				t.Fatal(err)
			}
			again, ok := ring.Lookup(t.Context(), x509(n).Key(), x509(n).Digest())
			if !ok || again.Placement != first.Placement {
				t.Errorf("Lookup of entry %d = %v, %v, want %v", n, again, ok, first)
			}
		}
		total := 0
		for i, r := range rigs {
			if n := r.seq.size(); n == 0 {
				t.Errorf("batcher %d has nothing", i)
			} else {
				total += n
			}
		}
		if total != 64 {
			t.Errorf("the batchers have %d entries, want 64", total)
		}
		if err := ring.Close(); err != nil {
			t.Error(err)
		}
		if _, err := ring.Add(t.Context(), x509(99)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Add after Close: %v", err)
		}
		empty := NewRing(nil)
		if _, err := empty.Add(t.Context(), x509(1)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Add to an empty ring: %v", err)
		}
		if _, ok := empty.Lookup(t.Context(), entry.Key{}, entry.Digest{}); ok {
			t.Error("an empty ring knows an entry")
		}
	})
}
