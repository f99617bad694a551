package daemon

import (
	"context"
	"errors"
	"fmt"

	"kiln/checkpoint"
	"kiln/dedup"
	"kiln/internal/catchup"
	"kiln/storage"
)

// DedupStat is what a look at the long-term cache of a log found.
type DedupStat struct {
	dedup.Stats
	TreeSize int64 // of the published tree
}

// StatDedup looks at the long-term cache of the log and changes nothing. The log
// may be served meanwhile. Rows are counted if counting is set, which is told how
// far that is.
func (p *Parts) StatDedup(ctx context.Context, counting func(done, total int64)) (DedupStat, error) {
	var s DedupStat
	public, err := p.Published(ctx)
	if err != nil {
		return s, err
	}
	s.TreeSize = public.Tree.N
	secret, err := p.Key.Derive(dedupLabel)
	if err != nil {
		return s, err
	}
	s.Stats, err = dedup.Stat(ctx, dedup.Config{Path: p.Conf.Dedup, Secret: secret}, counting)
	return s, err
}

// Rebuilt is what a rebuild of a long-term cache did.
type Rebuilt struct {
	From     int64 // entries below were held before
	Covered  int64 // entries below are held now
	TreeSize int64 // of the published tree
}

// RebuildDedup completes the long-term cache of the log from the tiles of the
// published tree, each entry proved as at a start. It goes on where the cache
// ends, unless fromStart, which empties it first; what a run that was cut off has
// put stays. A cache that is open elsewhere is [dedup.ErrInUse], one that knows
// more than the lock [catchup.ErrAhead], which is kept. progress, if set, is told
// how many entries of the tree are held.
func (p *Parts) RebuildDedup(ctx context.Context, opts Options, fromStart bool, progress func(done, total int64)) (r Rebuilt, err error) {
	opts = opts.withDefaults()
	public, err := p.Published(ctx)
	if err != nil {
		return r, err
	}
	r.TreeSize = public.Tree.N
	c, err := p.OpenDedup(ctx, opts)
	if errors.Is(err, dedup.ErrInUse) {
		return r, fmt.Errorf("%w: stop kiln serve first; it completes the cache by itself when it starts", err)
	}
	if err != nil {
		return r, err
	}
	defer func() {
		r.Covered = c.Covered()
		err = errors.Join(err, c.Close())
	}()
	if err := p.notAhead(ctx, c.Covered()); err != nil {
		return r, err
	}
	if fromStart {
		if err := c.Reset(ctx); err != nil {
			return r, err
		}
	}
	f := &catchup.Filler{
		Bucket: p.Bucket, Cache: c, Now: opts.Now, Logger: opts.Logger.With("log", p.Conf.Name),
		Put: func(_ int, next int64) error {
			if progress != nil {
				progress(next, public.Tree.N)
			}
			return nil
		},
	}
	r.From = c.Covered()
	return r, f.From(ctx, public.Tree, r.From)
}

// PlanDedup says what RebuildDedup would read, and changes nothing. The log may
// be served meanwhile.
func (p *Parts) PlanDedup(ctx context.Context, fromStart bool) (Rebuilt, error) {
	s, err := p.StatDedup(ctx, nil)
	if err == nil {
		err = p.notAhead(ctx, s.Covered)
	}
	r := Rebuilt{From: s.Covered, Covered: s.Covered, TreeSize: s.TreeSize}
	if fromStart {
		r.From = 0
	}
	return r, err
}

// notAhead returns [catchup.ErrAhead] if a cache knows more than the lock.
func (p *Parts) notAhead(ctx context.Context, covered int64) error {
	_, head, err := p.Committed(ctx)
	if err != nil {
		return err
	}
	if covered > head.Tree.N {
		return fmt.Errorf("%s, with %d entries, where the lock has %d: %w", p.Conf.Dedup, covered, head.Tree.N, catchup.ErrAhead)
	}
	return nil
}

// Published returns the log's published checkpoint, verified.
func (p *Parts) Published(ctx context.Context) (checkpoint.Checkpoint, error) {
	raw, err := p.Bucket.Get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		return checkpoint.Checkpoint{}, fmt.Errorf("the storage has no checkpoint: %w", err)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("read published checkpoint: %w", err)
	}
	v, err := checkpoint.NewVerifier(p.Conf.Origin, p.Key.SPKI())
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return v.Open(raw)
}
