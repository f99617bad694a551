package batcher

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kiln/entry"
	"kiln/internal/contain"
)

const (
	firstBackoff = 20 * time.Millisecond
	maxBackoff   = time.Second

	// signChunk flights are signed, cached and settled together: few locks, and
	// no waiter of a large batch waits for the signatures of all.
	signChunk = 16
)

// carry takes a batch to the sequencer and its placements back to the waiters.
func (b *Batcher) carry(flights []*flight) {
	defer b.release()
	ctx, cancel := context.WithTimeout(b.ctx, b.cfg.RetryWindow)
	defer cancel()
	// A sequencer that does not heed its context keeps the batch, so that calls
	// stay bounded, but not the waiters.
	answered := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(answered)
		b.fail(flights, entry.ErrUnavailable)
	})
	began := time.Now()
	b.metrics.batchEntries.Observe(float64(len(flights)))
	left, placements, err := b.sequence(ctx, flights)
	b.metrics.batchSeconds.Observe(time.Since(began).Seconds())
	if !stop() {
		<-answered
	}
	if err != nil {
		b.fail(left, err)
		return
	}
	// Also when the window is over: those who come back find the SCT.
	b.finish(left, placements)
}

// sequence gives the batch to the sequencer until that answers, says that it
// never will, or the context ends. It returns the flights that are left in the
// batch, which are all but damaged ones.
func (b *Batcher) sequence(ctx context.Context, flights []*flight) ([]*flight, []entry.Placement, error) {
	began, backoff := time.Now(), firstBackoff
	batch := entries(flights)
	for {
		placements, err := b.cfg.Sequencer.Sequence(ctx, batch)
		if err == nil {
			if err := checkAnswer(batch, placements); err != nil {
				b.metrics.badAnswers.Inc()
				b.cfg.Logger.Error("sequencer gave an answer that cannot be, no SCT is signed", "entries", len(batch), "err", err)
				return flights, nil, entry.ErrUnavailable
			}
			return flights, placements, nil
		}
		if errors.Is(err, entry.ErrReadOnly) {
			return flights, nil, entry.ErrReadOnly
		}
		reason := retryReason(err)
		if reason == retryDamaged {
			if flights, err = b.dropDamaged(flights, err); err != nil || len(flights) == 0 {
				return flights, nil, err
			}
			batch = entries(flights) // a new slice: a call may still hold the old one
		}
		timer := time.NewTimer(backoff/2 + b.cfg.Jitter(backoff/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			b.cfg.Logger.Warn("batch was not placed within the retry window",
				"entries", len(batch), "elapsed", time.Since(began), "err", err)
			return flights, nil, entry.ErrUnavailable
		}
		b.metrics.retries.WithLabelValues(reason).Inc()
		backoff = min(2*backoff, maxBackoff)
	}
}

// dropDamaged answers the flights whose bytes have changed in memory and returns
// the others, so that one bad bit costs one submission, which its client sends
// again. If none has changed here the whole batch is given up.
func (b *Batcher) dropDamaged(flights []*flight, cause error) ([]*flight, error) {
	var intact, damaged []*flight
	for _, f := range flights {
		if f.pending.Intact() {
			intact = append(intact, f)
		} else {
			damaged = append(damaged, f)
		}
	}
	b.metrics.damaged.Add(float64(len(damaged)))
	b.cfg.Logger.Error("entries changed in memory after admission: faulty hardware?", "entries", len(damaged), "err", cause)
	if len(damaged) == 0 {
		return flights, entry.ErrUnavailable
	}
	b.fail(damaged, entry.ErrUnavailable)
	return intact, nil
}

func entries(flights []*flight) []*entry.Pending {
	batch := make([]*entry.Pending, len(flights))
	for i, f := range flights {
		batch[i] = f.pending
	}
	return batch
}

func retryReason(err error) string {
	var overloaded *entry.OverloadedError
	switch {
	case errors.As(err, &overloaded):
		return retryOverloaded
	case errors.Is(err, entry.ErrDamaged):
		return retryDamaged
	case errors.Is(err, entry.ErrUnavailable):
		return retryUnavailable
	default:
		return retryOther
	}
}

// checkAnswer returns an error unless there is one placement for each entry,
// each of them possible, and no index for two: an index is never signed twice
// for different entries.
func checkAnswer(batch []*entry.Pending, placements []entry.Placement) error {
	if len(placements) != len(batch) {
		return fmt.Errorf("%d placements for %d entries", len(placements), len(batch))
	}
	seen := make(map[int64]struct{}, len(placements))
	for i, pl := range placements {
		if err := pl.Check(); err != nil {
			return fmt.Errorf("placement of entry %x: %w", batch[i].Key(), err)
		}
		if _, twice := seen[pl.Index]; twice {
			return fmt.Errorf("leaf index %d is given to two entries", pl.Index)
		}
		seen[pl.Index] = struct{}{}
	}
	return nil
}

// finish signs the SCTs of a placed batch and answers the waiters, chunk by
// chunk, on several cores, and then hands the placements to the writer of the
// long-term cache.
func (b *Batcher) finish(flights []*flight, placements []entry.Placement) {
	var next atomic.Int64
	work := func() {
		for {
			to := int(next.Add(signChunk))
			from := to - signChunk
			if from >= len(flights) {
				return
			}
			to = min(to, len(flights))
			b.finishChunk(flights[from:to], placements[from:to])
		}
	}
	var helpers sync.WaitGroup
	for n := signChunk; n < len(flights) && b.takeHelper(); n += signChunk {
		helpers.Go(func() {
			defer func() { <-b.helpers }()
			if err := contain.Do(work); err != nil {
				b.fail(flights, entry.ErrUnavailable)
				b.panicked(fmt.Errorf("sign SCTs: %w", err))
			}
		})
	}
	work()
	helpers.Wait()
	if b.cfg.Dedup == nil {
		return
	}
	keys := make([]entry.Key, len(flights))
	for i, f := range flights {
		keys[i] = f.pending.Key()
	}
	b.remember(keys, placements)
}

// takeHelper takes one of the tokens that bound the goroutines which sign, over
// all batches, to the number of processors.
func (b *Batcher) takeHelper() bool {
	select {
	case b.helpers <- struct{}{}:
		return true
	default:
		return false
	}
}

// finishChunk signs, then fills the short-term cache, and only then removes the
// flights: at each moment one of the two knows the entry.
func (b *Batcher) finishChunk(flights []*flight, placements []entry.Placement) {
	scts, errs := make([]entry.SCT, len(flights)), make([]error, len(flights))
	known := make([]cached, 0, len(flights))
	for i, f := range flights {
		scts[i], errs[i] = b.sign(f.pending, placements[i])
		if errs[i] == nil {
			known = append(known, cached{key: f.pending.Key(), digest: f.pending.Digest(), sct: scts[i]})
		}
	}
	b.cache.put(known)
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, f := range flights {
		b.settleLocked(f, scts[i], errs[i])
	}
}

// sign makes the SCT of an entry at its placement. An error is a fault of the
// machine: the entry is in the log, and its client can ask again.
func (b *Batcher) sign(p *entry.Pending, pl entry.Placement) (entry.SCT, error) {
	message := p.AppendMerkleTreeLeaf(make([]byte, 0, p.Size()), pl)
	// Nothing has looked at these bytes since the tree was proved: a bit that
	// flipped would give a sound SCT for an entry that is in no tree.
	key, err := entry.SCTInputKey(message)
	if err == nil && key != p.Key() {
		err = entry.ErrDamaged
	}
	var signature []byte
	if err == nil {
		signature, err = b.cfg.Signer.Sign(message)
	}
	if err != nil {
		b.metrics.signFailures.Inc()
		b.cfg.Logger.Error("SCT was not signed", "leaf_index", pl.Index, "err", err)
		return entry.SCT{}, entry.ErrUnavailable
	}
	return entry.SCT{Placement: pl, Signature: signature}, nil
}
