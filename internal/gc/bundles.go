package gc

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"kiln/storage"
	"kiln/tiles"
)

const bundlePrefix = "staging/"

// How long a round may take to become public before bundles are left for the
// next run: settleTries looks, settleWait apart.
const (
	settleTries = 10
	settleWait  = 200 * time.Millisecond
	bundleBatch = 256 // bundles deleted between two looks at the lock
)

// bundleOf reports whether an object is a staging bundle.
func bundleOf(i storage.Info) bool {
	name, ok := strings.CutPrefix(i.Path, bundlePrefix)
	if !ok {
		return false
	}
	size, root, _ := strings.Cut(name, "-")
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return false
	}
	hash, err := hex.DecodeString(root)
	return err == nil && len(hash) == tlog.HashSize && tiles.BundlePath(tlog.Tree{N: n, Hash: tlog.Hash(hash)}) == i.Path
}

// bundles deletes the bundles that no commit can use.
func (c *collector) bundles(ctx context.Context) error {
	v, err := c.settled(ctx)
	if err != nil {
		return err
	}
	if !v.settled {
		c.result.BundlesLeft = "the newest round is committed, but not published yet"
		return nil
	}
	var batch []storage.Info
	err = c.cfg.Lister.List(ctx, bundlePrefix, func(i storage.Info) error {
		switch {
		case !bundleOf(i):
			return nil
		case !c.useless(v, i):
			c.wait(i)
			return nil
		}
		if batch = append(batch, i); len(batch) < bundleBatch {
			return nil
		}
		full := batch
		batch = nil
		return c.removeBundles(ctx, full)
	})
	if err != nil {
		return fmt.Errorf("find staging bundles: %w", err)
	}
	return c.removeBundles(ctx, batch)
}

// settled looks until what is committed is public too, for a moment: a log that
// runs is always about to publish a round.
func (c *collector) settled(ctx context.Context) (view, error) {
	for try := 1; ; try++ {
		v, err := c.lookAgain(ctx)
		if err != nil || v.settled || try == settleTries {
			return v, err
		}
		timer := time.NewTimer(settleWait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return v, ctx.Err()
		}
	}
}

// useless says that no commit and no recovery can want a bundle any more: it is
// old, it is not that of a checkpoint that counts, and the lock has moved since
// it was staged, by the grace, which is more than clocks may differ. A round that
// staged it, and stands still since, holds a version of the lock that is gone.
func (c *collector) useless(v view, i storage.Info) bool {
	moved := time.UnixMilli(v.head.TimestampMillis).Add(-c.cfg.Grace)
	return i.Path != tiles.BundlePath(v.head.Tree) && i.Path != tiles.BundlePath(v.public.Tree) &&
		i.Modified.Before(c.due.written) && i.Modified.Before(moved)
}

func (c *collector) removeBundles(ctx context.Context, list []storage.Info) error {
	if len(list) == 0 {
		return nil
	}
	if !c.remove {
		for _, i := range list {
			c.gone(&c.result.Bundles, i)
		}
		return nil
	}
	v, err := c.settled(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Parallel)
	for _, i := range list {
		if !v.settled || !c.useless(v, i) {
			c.wait(i)
			continue
		}
		g.Go(func() error {
			if err := c.delete(ctx, i); err != nil {
				return err
			}
			c.gone(&c.result.Bundles, i)
			return nil
		})
	}
	return g.Wait()
}
