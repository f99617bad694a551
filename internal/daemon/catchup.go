package daemon

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/catchup"
	"kiln/storage"
)

// A gap that opens while the log runs (a write of the cache that failed) is closed
// at leisure: repairLimit entries every repairInterval.
const (
	repairInterval = 10 * time.Second
	repairLimit    = 16 * catchup.Batch
)

// catchUp brings the long-term deduplication cache of one log up to the tree, and
// keeps it there while the log runs.
type catchUp struct {
	bucket  storage.Bucket
	cache   catchup.Cache
	now     func() time.Time
	log     *slog.Logger
	metrics *logMetrics
}

func (c *catchUp) filler() *catchup.Filler {
	return &catchup.Filler{
		Bucket: c.bucket, Cache: c.cache, Now: c.now, Logger: c.log,
		Put: func(n int, _ int64) error {
			c.metrics.catchUpEntries.Add(float64(n))
			return nil
		},
	}
}

// start runs before submissions are taken; its errors are those of
// [catchup.Filler.All].
func (c *catchUp) start(ctx context.Context, tree tlog.Tree) error { return c.filler().All(ctx, tree) }

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
	err := c.filler().Fill(ctx, tree, covered, min(due, covered+repairLimit))
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
	if broken := new(catchup.CacheError); errors.As(err, &broken) {
		c.log.Error("deduplication cache takes no entries, so that old entries may be logged a second time: "+
			"check its file and the disk, or remove the file and restart", "err", err)
		return
	}
	c.log.Error("cannot read back entries from the tiles: check storage, and do not restart before it is repaired", "err", err)
}
