package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"kiln/internal/catchup"
	"kiln/storage"
	"kiln/tiles"
)

// markInterval is the time between two marks of how far a run is.
const markInterval = 2 * time.Second

// maxIssuers bounds the issuers that are remembered as read. A log has thousands;
// beyond that all are forgotten, and read again.
const maxIssuers = 1 << 17

// restore verifies one log and completes its cache.
func (p *Plan) restore(ctx context.Context, l *Log) (err error) {
	release, err := l.parts.Hold()
	if err != nil {
		return err
	}
	defer release()
	cache, err := l.parts.OpenDedup(ctx, p.daemonOptions())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cache.Close()) }()

	r := &run{plan: p, l: l, issuers: make(map[[32]byte]bool)}
	f := &catchup.Filler{
		Bucket: l.view, Cache: cache, Now: p.opts.Now, Logger: p.opts.Logger.With("log", l.Name),
		Each: r.each, Put: r.put,
	}
	if err := f.Begin(ctx, l.head.Tree); err != nil {
		return err
	}
	if r.next, err = l.resume(ctx, max(0, cache.Covered())); err != nil {
		return err
	}
	l.ResumedAt, l.Verified = r.next, r.next
	err = f.From(ctx, l.head.Tree, r.next)
	if err == nil {
		return l.removeMark()
	}
	return r.failed(ctx, err)
}

// resume returns the index from which on entries have to be verified or put.
func (l *Log) resume(ctx context.Context, covered int64) (int64, error) {
	m := l.readMark()
	if m.Verified == 0 {
		return 0, nil
	}
	old := l.head.Tree
	old.N, old.Hash = m.TreeSize, m.RootHash
	switch err := tiles.CheckConsistency(ctx, l.view, old, l.head.Tree); {
	case errors.Is(err, tiles.ErrNotProved):
		return 0, nil // that was another tree
	case err != nil:
		return 0, err
	}
	return min(m.Verified, covered), nil
}

// run is the verification of one log.
type run struct {
	plan    *Plan
	l       *Log
	next    int64 // entries below were proved, and their issuers read
	issuers map[[32]byte]bool
	marked  time.Time
}

// each looks after the issuers of an entry, once the entry itself is proved.
func (r *run) each(ctx context.Context, e tiles.Entry) error {
	for _, fingerprint := range e.Chain {
		if r.issuers[fingerprint] {
			continue
		}
		path := tiles.IssuerPath(fingerprint)
		der, err := r.l.view.Get(ctx, path)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return &tiles.CorruptError{Path: path, Detail: fmt.Sprintf("it is missing, and the entry at index %d names it", e.Index)}
		case err != nil:
			return fmt.Errorf("read issuer: %w", err)
		}
		if got := sha256.Sum256(der); got != fingerprint {
			return &tiles.CorruptError{Path: path, Detail: fmt.Sprintf("the SHA-256 of its %d bytes is %x; the entry at index %d names it", len(der), got, e.Index)}
		}
		if len(r.issuers) >= maxIssuers {
			clear(r.issuers)
		}
		r.issuers[fingerprint] = true
		r.l.Issuers++
	}
	r.next = e.Index + 1
	if r.next%tiles.Width == 0 || r.next == r.l.head.Tree.N {
		r.plan.opts.Progress("verifying "+r.l.Name, r.next, r.l.head.Tree.N)
	}
	return nil
}

// put marks how far the run is, once the cache holds what was verified.
func (r *run) put(_ int, next int64) error {
	r.l.Verified = next
	now := r.plan.opts.Now()
	if now.Sub(r.marked) < markInterval {
		return nil
	}
	r.marked = now
	return r.l.writeMark(next)
}

// failed says what the end of a run means.
func (r *run) failed(ctx context.Context, err error) error {
	markErr := r.l.writeMark(r.l.Verified)
	var broken *catchup.CacheError
	switch {
	case ctx.Err() != nil:
		return errors.Join(fmt.Errorf("interrupted after %d of %d entries; the same command goes on from there: %w",
			r.l.Verified, r.l.head.Tree.N, context.Cause(ctx)), markErr)
	case errors.As(err, &broken):
		err = fmt.Errorf("%w; see to %s and its disk, then run the same again", err, r.l.parts.Conf.Dedup)
	case damaged(err):
		err = fmt.Errorf("refused: the storage does not hold what the log signed, from index %d on: %w; "+
			"bring the object back from a copy or a mirror, then run the same again", r.next, err)
	}
	return errors.Join(err, markErr)
}
