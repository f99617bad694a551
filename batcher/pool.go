package batcher

import (
	"fmt"
	"time"

	"kiln/entry"
	"kiln/internal/contain"
)

// pool is the entries that wait for a batch. It stays open, and takes more, as
// long as no batch is free; what it may hold is what one batch may.
type pool struct {
	flights []*flight
	bytes   int
	opened  time.Time // when the first entry came
}

// fits reports whether an entry of a size may still come in. The first always
// may, however large.
func (p *pool) fits(size, entries, bytes int) bool {
	return len(p.flights) == 0 || (len(p.flights) < entries && p.bytes+size <= bytes)
}

// admit puts the entry of a flight into the pool, or refuses it at once: nothing
// is held back in the hope of room. Room is kept for entries of normal priority:
// when no batch is free, others get in up to half.
func (b *Batcher) admit(f *flight) error {
	size, low := f.pending.Size(), f.pending.LowPriority()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ctx.Err() != nil {
		return entry.ErrUnavailable
	}
	if !b.pool.fits(size, b.cfg.PoolEntries, b.cfg.PoolBytes) {
		b.dispatchLocked()
	}
	entries, bytes := b.cfg.PoolEntries, b.cfg.PoolBytes
	if b.batches >= b.cfg.BatchesInFlight {
		entries, bytes = share(entries, low), share(bytes, low)
	}
	if !b.pool.fits(size, entries, bytes) {
		return b.overloaded("pool of entries", refusedPool, low)
	}
	if len(b.pool.flights) == 0 {
		b.pool.opened = time.Now()
		select {
		case b.poked <- struct{}{}:
		default: // the pacer is about to look anyway
		}
	}
	b.pool.flights = append(b.pool.flights, f)
	b.pool.bytes += size
	b.metrics.poolEntries.Inc()
	b.metrics.poolBytes.Add(float64(size))
	if b.closeReasonLocked() != "" {
		b.dispatchLocked()
	}
	return nil
}

// closeReasonLocked says why the pool is due to be closed, "" if it is not.
func (b *Batcher) closeReasonLocked() string {
	switch {
	case len(b.pool.flights) == 0:
		return ""
	case len(b.pool.flights) >= b.cfg.PoolEntries:
		return closedEntries
	case b.pool.bytes >= b.cfg.PoolBytes:
		return closedBytes
	case b.closing:
		return closedDrain
	case time.Since(b.pool.opened) >= b.cfg.PoolAge:
		return closedAge
	}
	return ""
}

// dispatchLocked closes the pool, due or not, and sends it off, unless it is
// empty or no batch is free.
func (b *Batcher) dispatchLocked() {
	if len(b.pool.flights) == 0 || b.batches >= b.cfg.BatchesInFlight {
		return
	}
	reason := b.closeReasonLocked()
	if reason == "" {
		reason = closedBytes // the next entry does not fit, and has to have a place
	}
	b.metrics.closed.WithLabelValues(reason).Inc()
	b.batches++
	b.metrics.batches.Inc()
	flights := b.takePoolLocked()
	b.batchers.Go(func() {
		if err := contain.Do(func() { b.carry(flights) }); err != nil {
			b.fail(flights, entry.ErrUnavailable)
			b.panicked(fmt.Errorf("carry a batch: %w", err))
		}
	})
}

// takePoolLocked empties the pool.
func (b *Batcher) takePoolLocked() []*flight {
	b.metrics.poolEntries.Sub(float64(len(b.pool.flights)))
	b.metrics.poolBytes.Sub(float64(b.pool.bytes))
	flights := b.pool.flights
	b.pool = pool{}
	return flights
}

// release frees a batch, for the pool if that is due.
func (b *Batcher) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.batches--
	b.metrics.batches.Dec()
	if b.closeReasonLocked() != "" {
		b.dispatchLocked()
	}
}

// pace closes pools by age. One goroutine does it for all pools.
func (b *Batcher) pace() {
	timer := time.NewTimer(b.cfg.PoolAge)
	defer timer.Stop()
	for {
		select {
		case <-b.poked:
		case <-timer.C:
		case <-b.quit:
			return
		}
		if next := b.tick(); next > 0 {
			timer.Reset(next)
		}
	}
}

// tick closes the pool if it is old enough, and returns when to look again; 0 is
// when the next pool opens. Entries that found no free batch for a whole retry
// window were never given to the sequencer and are refused.
func (b *Batcher) tick() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pool.flights) == 0 {
		return 0
	}
	age := time.Since(b.pool.opened)
	if age < b.cfg.PoolAge {
		return b.cfg.PoolAge - age
	}
	b.dispatchLocked()
	if len(b.pool.flights) == 0 {
		return 0
	}
	if age < b.cfg.RetryWindow {
		return b.cfg.RetryWindow - age
	}
	for _, f := range b.takePoolLocked() {
		b.settleLocked(f, entry.SCT{}, b.overloaded("queue of batches", refusedAge, f.pending.LowPriority()))
	}
	return 0
}
