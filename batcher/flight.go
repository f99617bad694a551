package batcher

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"kiln/entry"
)

// flight is one entry on its way, and what all its submissions wait for. Its
// first submission, the leader, looks for the entry in the caches and pools it.
type flight struct {
	pending *entry.Pending
	settled bool // guarded by Batcher.mu

	done chan struct{} // closed when sct and err are set for good
	sct  entry.SCT
	err  error
}

// Add returns the SCT of an entry: that of the entry in the log if it is there,
// or after it was put there. It blocks, in the caller's goroutine, until then.
//
// Errors: the context's, when that ends first (the entry may be logged all the
// same, once); *entry.OverloadedError at once when a bounded queue is full, and
// nothing was taken; entry.ErrReadOnly; entry.ErrUnavailable when the sequencer
// did not place the entry within the retry window, and after Close. The caller
// must not modify the signature.
//
// A leader whose context ends while the long-term cache is asked stays until
// that is done, at most Config.DedupTimeout, since others may have joined it.
func (b *Batcher) Add(ctx context.Context, p *entry.Pending) (entry.SCT, error) {
	if err := ctx.Err(); err != nil {
		return entry.SCT{}, fmt.Errorf("add entry: %w", err)
	}
	f, leads, err := b.board(p)
	if err != nil {
		return entry.SCT{}, err
	}
	defer b.leave()
	if leads {
		b.lead(f)
	} else {
		b.metrics.hits.WithLabelValues(tierFlight).Inc()
	}
	select {
	case <-f.done:
		return f.sct, f.err
	default:
	}
	select {
	case <-f.done:
		return f.sct, f.err
	case <-ctx.Done():
		return entry.SCT{}, fmt.Errorf("wait for entry: %w", ctx.Err())
	}
}

// board counts a waiter in and gives it the flight of its entry, a new one if
// there is none. Registering comes before any look into a cache: between "not in
// the cache" and "in flight" there must be no gap.
func (b *Batcher) board(p *entry.Pending) (f *flight, leads bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, false, entry.ErrUnavailable
	}
	if b.waiters >= share(b.cfg.Waiters, p.LowPriority()) {
		return nil, false, b.overloaded("waiting submissions", refusedWaiters, p.LowPriority())
	}
	b.waiters++
	b.metrics.waiters.Inc()
	if f, ok := b.flights[p.Key()]; ok {
		return f, false, nil
	}
	f = &flight{pending: p, done: make(chan struct{})}
	b.flights[p.Key()] = f
	b.metrics.flights.Inc()
	return f, true, nil
}

// leave counts a waiter out. Its flight goes on without it.
func (b *Batcher) leave() {
	b.mu.Lock()
	b.waiters--
	b.mu.Unlock()
	b.metrics.waiters.Dec()
}

// lead takes a new flight as far as its leader can: to the SCT if a cache knows
// the entry, into the pool if not, or back with an error.
func (b *Batcher) lead(f *flight) {
	led := false
	defer func() {
		if !led { // a panic, which is the caller's; but others wait for the flight
			b.settle(f, entry.SCT{}, entry.ErrUnavailable)
		}
	}()
	b.take(f)
	led = true
}

func (b *Batcher) take(f *flight) {
	p := f.pending
	if sct, ok := b.cache.adopt(p.Key(), p.Digest()); ok {
		b.metrics.hits.WithLabelValues(tierShort).Inc()
		b.settle(f, sct, nil)
		return
	}
	b.metrics.misses.WithLabelValues(tierShort, missAbsent).Inc()
	if pl, ok := b.recall(p); ok {
		sct, err := b.sign(p, pl)
		if err == nil {
			b.cache.put([]cached{{key: p.Key(), digest: p.Digest(), sct: sct}})
		}
		b.settle(f, sct, err)
		return
	}
	if err := b.admit(f); err != nil {
		b.settle(f, entry.SCT{}, err)
	}
}

// settle gives a flight its end and removes it. An SCT must be in the short-term
// cache by then, or a submission that comes now would make a second entry.
func (b *Batcher) settle(f *flight, sct entry.SCT, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settleLocked(f, sct, err)
}

// settleLocked does nothing if the flight has had its end.
func (b *Batcher) settleLocked(f *flight, sct entry.SCT, err error) {
	if f.settled {
		return
	}
	f.settled = true
	f.sct, f.err = sct, err
	close(f.done)
	delete(b.flights, f.pending.Key())
	b.metrics.flights.Dec()
	b.checkDrainedLocked()
}

// checkDrainedLocked tells Close that no flight is left and none can come.
func (b *Batcher) checkDrainedLocked() {
	if !b.closing || len(b.flights) > 0 {
		return
	}
	select {
	case <-b.drained:
	default:
		close(b.drained)
	}
}

// fail settles all flights that have had no end yet with an error.
func (b *Batcher) fail(flights []*flight, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range flights {
		b.settleLocked(f, entry.SCT{}, err)
	}
}

// overloaded counts and makes a refusal. Clients come back at one of two whole
// seconds, for all at one would fill the queue again at once.
func (b *Batcher) overloaded(what, reason string, low bool) error {
	priority := priorityNormal
	if low {
		priority = priorityLow
	}
	b.metrics.refusals.WithLabelValues(reason, priority).Inc()
	return &entry.OverloadedError{What: what, RetryAfter: time.Duration(1+rand.IntN(2)) * time.Second}
}

// share is the part of a bound that an entry may use: low-priority ones half, so
// that they are refused while there is room for the others.
func share(bound int, low bool) int {
	if low {
		return max(1, bound/2)
	}
	return bound
}
