package batcher

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"kiln/entry"
	"kiln/internal/contain"
)

// lookup is one question to the long-term cache, answered by a worker.
type lookup struct {
	ctx     context.Context
	pending *entry.Pending
	answer  chan recalled // buffered, so that a worker never waits for a caller
}

// recalled is a confirmed placement, or the reason why there is none.
type recalled struct {
	placement entry.Placement
	miss      string
}

// recall asks the long-term cache for an entry and the log to confirm it. All
// that goes wrong, or takes too long, is a miss: the entry is then logged again,
// which costs space and is no fault. The work is done by a fixed number of
// workers, since a call that hangs must hold neither its caller nor ever more
// goroutines.
func (b *Batcher) recall(p *entry.Pending) (entry.Placement, bool) {
	if b.cfg.Dedup == nil {
		return entry.Placement{}, false
	}
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.DedupTimeout)
	defer cancel()
	l := lookup{ctx: ctx, pending: p, answer: make(chan recalled, 1)}
	r := recalled{miss: missNoSlot}
	select {
	case b.lookups <- l:
		r.miss = missTimeout
		select {
		case r = <-l.answer:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	if r.miss != "" {
		b.metrics.misses.WithLabelValues(tierLong, r.miss).Inc()
		return entry.Placement{}, false
	}
	b.metrics.hits.WithLabelValues(tierLong).Inc()
	return r.placement, true
}

// lookUp is a worker.
func (b *Batcher) lookUp() {
	for {
		select {
		case l := <-b.lookups:
			r := recalled{miss: missError}
			b.contained("look up", func() { r = b.confirmed(l.ctx, l.pending) })
			if r.miss != "" && r.miss != missAbsent && l.ctx.Err() != nil {
				r.miss = missTimeout
			}
			l.answer <- r
		case <-b.quit:
			return
		}
	}
}

func (b *Batcher) confirmed(ctx context.Context, p *entry.Pending) recalled {
	pl, ok, err := b.cfg.Dedup.Get(ctx, p.Key())
	switch {
	case err != nil:
		return recalled{miss: missError}
	case !ok:
		return recalled{miss: missAbsent}
	case pl.Check() != nil:
		return recalled{miss: missInvalid}
	}
	held, err := b.cfg.Confirm(ctx, p, pl)
	switch {
	case err != nil:
		return recalled{miss: missConfirmError}
	case !held:
		if n, ok := b.lied.allow(); ok {
			b.cfg.Logger.Error("long-term cache names places that hold other entries; its answers are not used",
				"leaf_index", pl.Index, "entries", n)
		}
		return recalled{miss: missUnconfirmed}
	}
	return recalled{placement: pl}
}

const (
	// writeRows bounds what one Put of the long-term cache gets. Rows that
	// queued up meanwhile go together, which is cheaper for each.
	writeRows = 4096

	// writeTimeout is for one Put. It has to bear a checkpoint of a database.
	writeTimeout = 30 * time.Second
)

// writeQueue is placements on their way to the long-term cache: a bounded list.
type writeQueue struct {
	bound int
	wake  chan struct{}

	mu         sync.Mutex
	keys       []entry.Key
	placements []entry.Placement
}

func newWriteQueue(bound int) *writeQueue {
	return &writeQueue{bound: bound, wake: make(chan struct{}, 1)}
}

// push appends rows, all or none, and reports whether there was room.
func (q *writeQueue) push(keys []entry.Key, placements []entry.Placement) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.keys)+len(keys) > q.bound {
		return false
	}
	q.keys = append(q.keys, keys...)
	q.placements = append(q.placements, placements...)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// take removes up to n rows from the front.
func (q *writeQueue) take(n int) ([]entry.Key, []entry.Placement) {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.keys))
	keys, placements := slices.Clone(q.keys[:n]), slices.Clone(q.placements[:n])
	q.keys, q.placements = slices.Delete(q.keys, 0, n), slices.Delete(q.placements, 0, n)
	return keys, placements
}

func (q *writeQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.keys)
}

// remember queues placements for the long-term cache, or drops them.
func (b *Batcher) remember(keys []entry.Key, placements []entry.Placement) {
	if b.writes.push(keys, placements) {
		b.metrics.writeQueue.Add(float64(len(keys)))
		return
	}
	b.metrics.writeDrops.WithLabelValues(dropFull).Add(float64(len(keys)))
	if n, ok := b.writeFailed.allow(); ok {
		b.cfg.Logger.Warn("long-term cache is too slow, placements were dropped", "batch", n, "entries", len(keys))
	}
}

// write is the writer of the long-term cache. It ends when the batcher closes
// and the queue is empty, or when Close waits no longer.
func (b *Batcher) write() {
	for open := true; open; {
		select {
		case <-b.writes.wake:
		case <-b.quit:
			open = false
		}
		for b.ctx.Err() == nil && b.writeSome() {
		}
	}
}

// writeSome writes the oldest rows and reports whether there were any.
func (b *Batcher) writeSome() bool {
	keys, placements := b.writes.take(writeRows)
	if len(keys) == 0 {
		return false
	}
	b.metrics.writeQueue.Sub(float64(len(keys)))
	ctx, cancel := context.WithTimeout(b.ctx, writeTimeout)
	defer cancel()
	err := contain.Run(func() error { return b.cfg.Dedup.Put(ctx, keys, placements) })
	if contain.Is(err) {
		b.panicked(fmt.Errorf("write to the long-term cache: %w", err))
	}
	if err != nil {
		b.metrics.writeDrops.WithLabelValues(dropError).Add(float64(len(keys)))
		if n, ok := b.writeFailed.allow(); ok {
			b.cfg.Logger.Warn("long-term cache was not written", "batch", n, "entries", len(keys), "err", err)
		}
		return true
	}
	b.metrics.written.Add(float64(len(keys)))
	return true
}
