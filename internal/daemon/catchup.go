package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/storage"
	"kiln/tiles"
)

const (
	catchUpBatch     = 4096             // entries a transaction of the cache
	progressInterval = 10 * time.Second // between INFO lines of a long catch-up

	// A gap that opens while the log runs (a write of the cache that failed)
	// is closed at leisure: repairLimit entries every repairInterval.
	repairInterval = 10 * time.Second
	repairLimit    = 16 * catchUpBatch
)

// cache is what a catch-up needs of *dedup.Cache.
type cache interface {
	Covered() int64
	Reset(context.Context) error
	Put(context.Context, []entry.Key, []entry.Placement) error
}

// cacheError says that the cache failed, and not the tiles.
type cacheError struct{ err error }

func (e *cacheError) Error() string { return e.err.Error() }
func (e *cacheError) Unwrap() error { return e.err }

// catchUp brings the long-term deduplication cache of one log up to the tree,
// from the tiles, so that a resubmission after a crash or with a lost cache
// gets the SCT of the entry that is already in the log.
type catchUp struct {
	bucket  storage.Bucket
	cache   cache
	now     func() time.Time
	log     *slog.Logger
	metrics *logMetrics
}

// start runs before submissions are taken. A *cacheError means that the log has
// to do without the cache; any other error that a tile cannot be read or does
// not verify, so that the log must not start.
func (c *catchUp) start(ctx context.Context, tree tlog.Tree) error {
	if covered := c.cache.Covered(); covered > tree.N {
		// It was written beside another, longer tree, so none of it counts.
		c.log.Error("deduplication cache is ahead of the tree, which no crash explains: making it anew from the tiles",
			"tree_size", tree.N, "leaf_index", covered)
		if err := c.cache.Reset(ctx); err != nil {
			return &cacheError{fmt.Errorf("reset deduplication cache: %w", err)}
		}
	}
	if err := c.fill(ctx, tree, max(0, c.cache.Covered()), tree.N); err != nil {
		return err
	}
	if covered := c.cache.Covered(); covered < tree.N {
		return &cacheError{fmt.Errorf("deduplication cache was given all %d entries and says it holds those below %d", tree.N, covered)}
	}
	return nil
}

// fill puts the entries [from, to) into the cache.
func (c *catchUp) fill(ctx context.Context, tree tlog.Tree, from, to int64) error {
	if from >= to {
		return nil
	}
	began, said := c.now(), c.now()
	keys := make([]entry.Key, 0, catchUpBatch)
	placements := make([]entry.Placement, 0, catchUpBatch)
	done := int64(0)
	flush := func() error {
		if len(keys) == 0 {
			return nil
		}
		if err := c.cache.Put(ctx, keys, placements); err != nil {
			return &cacheError{fmt.Errorf("put %d entries into deduplication cache: %w", len(keys), err)}
		}
		c.metrics.catchUpEntries.Add(float64(len(keys)))
		done += int64(len(keys))
		keys, placements = keys[:0], placements[:0]
		if now := c.now(); now.Sub(said) >= progressInterval {
			said = now
			c.log.Info(fmt.Sprintf("catching up deduplication cache from the tiles, %d%% done", 100*done/(to-from)),
				"entries", done, "tree_size", to, "elapsed", now.Sub(began))
		}
		return nil
	}
	err := tiles.Entries(ctx, c.bucket, tree, from, to, func(e tiles.Entry) error {
		keys, placements = append(keys, e.Key), append(placements, e.Placement)
		if len(keys) < catchUpBatch {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	c.log.Info("caught up deduplication cache from the tiles", "entries", done, "leaf_index", from, "tree_size", to,
		"elapsed", c.now().Sub(began))
	return nil
}

// run closes gaps until ctx ends. The cache is written after the SCTs have
// left, so only what was due at the last look and is still missing is a gap.
func (c *catchUp) run(ctx context.Context, latest func() tlog.Tree) {
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	due := latest().N
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		tree := latest()
		err := c.repair(ctx, tree, due)
		due = tree.N
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			c.report(err)
		case err == nil && failing:
			c.log.Info("deduplication cache is caught up again")
		}
		failing = err != nil
	}
}

// repair puts some of the entries below due that the cache does not hold.
func (c *catchUp) repair(ctx context.Context, tree tlog.Tree, due int64) error {
	covered := max(0, c.cache.Covered())
	err := c.fill(ctx, tree, covered, min(due, covered+repairLimit))
	if err != nil && ctx.Err() == nil {
		c.metrics.catchUpFailures.Inc()
		c.metrics.dedupUp.Set(0)
		return err
	}
	c.metrics.dedupUp.Set(1)
	return nil
}

// report says once what each pass would find again.
func (c *catchUp) report(err error) {
	if broken := new(cacheError); errors.As(err, &broken) {
		c.log.Error("deduplication cache takes no entries, so that old entries may be logged a second time: "+
			"check its file and the disk, or remove the file and restart", "err", err)
		return
	}
	c.log.Error("cannot read back entries from the tiles: check storage, and do not restart before it is repaired", "err", err)
}
