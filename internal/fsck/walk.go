package fsck

import (
	"context"
	"errors"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"kiln/tiles"
)

// saveEvery is how often the state file is written on the way.
const saveEvery = 5 * time.Second

// checked is a data tile with the outcome of its check.
type checked struct {
	n      int64
	hashes []tlog.Hash
	err    error
}

// walk checks the data tiles from the spine on, in parallel, and takes their
// hashes in order up the levels. So the first fault it returns is the first in
// the log, and what it needs to remember is a tile at each level.
func (c *checker) walk(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	queue := make(chan chan checked, c.opts.Parallel) // in order; bounds what is ahead
	stop := make(chan struct{})                       // closed to begin no more
	var workers errgroup.Group
	workers.SetLimit(c.opts.Parallel + 1) // and the one who starts them
	workers.Go(func() error {
		defer close(queue)
		for n := c.spine.size / tiles.Width; n*tiles.Width < c.tree.N; n++ {
			slot := make(chan checked, 1)
			select {
			case queue <- slot:
			case <-stop:
				return nil
			case <-ctx.Done():
				return nil
			}
			workers.Go(func() error {
				hashes, err := c.checkTile(ctx, n)
				slot <- checked{n, hashes, err}
				return nil
			})
		}
		return nil
	})
	defer func() {
		cancel()
		_ = workers.Wait() // they have no errors but those in the queue
	}()
	return c.collect(ctx, queue, stop)
}

// collect takes what the workers have checked.
func (c *checker) collect(ctx context.Context, queue <-chan chan checked, stop chan<- struct{}) error {
	var unknown error
	saved := c.opts.Now()
	for slot := range queue {
		t := <-slot
		switch {
		case unknown != nil: // a fault in what was begun says more
			if t.err != nil && found(t.err) {
				return c.settle(ctx, t.err)
			}
			continue
		case t.err != nil && found(t.err):
			return c.settle(ctx, t.err)
		case t.err != nil:
			unknown = t.err
			close(stop)
			continue
		}
		if err := c.grow(ctx, t); err != nil {
			return err
		}
		c.progress("checking entries", c.spine.size, c.tree.N)
		if now := c.opts.Now(); now.Sub(saved) >= saveEvery {
			saved = now
			if err := c.save(false); err != nil {
				return err
			}
		}
	}
	if unknown == nil {
		unknown = ctx.Err()
	}
	return unknown
}

// grow takes a checked data tile into the spine. A tile at a higher level that
// becomes full is compared with the one that the log has.
func (c *checker) grow(ctx context.Context, t checked) error {
	if len(t.hashes) < tiles.Width {
		c.spine.levels[0] = t.hashes
		c.spine.size += int64(len(t.hashes))
		return nil
	}
	full := t.hashes
	for l := 1; full != nil; l++ {
		h := subtree(full)
		full = c.spine.push(l, h)
		if full == nil {
			break
		}
		above := widest(c.tree.N, l, t.n>>(tiles.Height*l))
		stored, err := c.hashes(ctx, above)
		if err != nil {
			return err
		}
		if err := c.compare(ctx, above, stored, full); err != nil {
			return err
		}
	}
	c.spine.size += tiles.Width
	return nil
}

// compare compares the hashes of a tile above level 0 with those computed from
// what is below.
func (c *checker) compare(ctx context.Context, t tlog.Tile, stored, computed []tlog.Hash) error {
	for i := range stored {
		if stored[i] == computed[i] {
			continue
		}
		child := tlog.Tile{H: tiles.Height, L: t.L - 1, N: t.N*tiles.Width + int64(i), W: tiles.Width}
		return c.judge(ctx, &clash{tile: t, i: i, stored: stored, below: computed[i], path: tiles.Path(child)})
	}
	return nil
}

// finish compares the spine of the whole tree with the right edge and the root.
func (c *checker) finish(ctx context.Context) error {
	for l := range levels {
		t := widest(c.tree.N, l, c.tree.N>>(tiles.Height*(l+1)))
		stored, computed := c.edge.levels[l], c.spine.levels[l]
		if len(stored) != len(computed) {
			return errors.New("tree levels do not add up") // not by anything a log can do
		}
		if err := c.compare(ctx, t, stored, computed); err != nil {
			return err
		}
	}
	if got := c.spine.root(); got != c.tree.Hash {
		return mismatch("checkpoint", -1, hexOf(c.tree.Hash), hexOf(got), "root of size %d is not that of the entries", c.tree.N)
	}
	return nil
}
