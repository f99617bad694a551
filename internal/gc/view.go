package gc

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"kiln/checkpoint"
	"kiln/storage"
	"kiln/tiles"
)

const checkpointPath = "checkpoint"

// view is the log as its lock and its readers have it.
type view struct {
	public checkpoint.Checkpoint // what readers see
	head   checkpoint.Checkpoint // the lock's, read last
	// settled says that all that the lock had when it was read first is public.
	settled bool
}

// look reads the lock and the published checkpoint, and refuses what a sound log
// does not show. The lock is read before what is public, so that it does not
// look as if it were ahead when the log only went on in between; and again if it
// now looks as if it were behind.
func (c *collector) look(ctx context.Context) (view, error) {
	var v view
	var err error
	if v.head, err = c.readLock(ctx); err != nil {
		return v, err
	}
	if v.public, err = c.readPublic(ctx); err != nil {
		return v, err
	}
	v.settled = v.public.Tree.N >= v.head.Tree.N
	if ahead(v.public, v.head) {
		if v.head, err = c.readLock(ctx); err != nil {
			return v, err
		}
	}
	switch {
	case ahead(v.public, v.head):
		return v, fmt.Errorf("the published checkpoint (%d entries at %d ms) is newer than the lock's (%d entries at %d ms): "+
			"the lock was set back, or belongs to another copy of the log; nothing is deleted",
			v.public.Tree.N, v.public.TimestampMillis, v.head.Tree.N, v.head.TimestampMillis)
	case v.public.Tree.N == v.head.Tree.N && v.public.Tree.Hash != v.head.Tree.Hash:
		return v, fmt.Errorf("the published checkpoint and the lock's have %d entries each, but roots %v and %v: "+
			"the log has forked; nothing is deleted", v.head.Tree.N, v.public.Tree.Hash, v.head.Tree.Hash)
	}
	return v, nil
}

func ahead(a, b checkpoint.Checkpoint) bool {
	return a.Tree.N > b.Tree.N || a.TimestampMillis > b.TimestampMillis
}

// lookAgain looks at the log right before something is deleted.
func (c *collector) lookAgain(ctx context.Context) (view, error) {
	v, err := c.look(ctx)
	if err != nil {
		return v, err
	}
	if ahead(c.first.public, v.public) {
		return v, fmt.Errorf("the published checkpoint went back from %d entries at %d ms to %d entries at %d ms: stopped",
			c.first.public.Tree.N, c.first.public.TimestampMillis, v.public.Tree.N, v.public.TimestampMillis)
	}
	return v, nil
}

func (c *collector) readLock(ctx context.Context) (checkpoint.Checkpoint, error) {
	var raw []byte
	err := c.call(ctx, func() (err error) {
		raw, err = c.cfg.Lock(ctx)
		return err
	})
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("read lock: %w", err)
	}
	head, err := c.cfg.Verifier.Open(raw)
	if err != nil {
		return head, fmt.Errorf("the lock's checkpoint is not one of this log: %w", err)
	}
	return head, nil
}

func (c *collector) readPublic(ctx context.Context) (checkpoint.Checkpoint, error) {
	raw, err := c.get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		return checkpoint.Checkpoint{}, fmt.Errorf("the storage has no checkpoint: %w; check that it is the one of this log", err)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("read published checkpoint: %w", err)
	}
	public, err := c.cfg.Verifier.Open(raw)
	if err != nil {
		return public, fmt.Errorf("the published checkpoint is not one of this log: %w", err)
	}
	return public, nil
}

// findDue finds the safe size and the time before which objects are old.
func (c *collector) findDue(ctx context.Context) error {
	now := c.cfg.Now()
	wrote, err := c.checkpointWritten(ctx)
	if err != nil {
		return err
	}
	if wrote.After(now) {
		wrote = now
	}
	c.due.written = wrote.Add(-c.cfg.Grace)

	logNow := min(now.UnixMilli(), c.first.public.TimestampMillis)
	if c.due.safe, err = c.safeSize(ctx, logNow-c.cfg.Grace.Milliseconds()); err != nil {
		return fmt.Errorf("find out how far the log had grown %v ago: %w", c.cfg.Grace, err)
	}
	return nil
}

// checkpointWritten returns when the checkpoint was written, by the clock of the
// storage.
func (c *collector) checkpointWritten(ctx context.Context) (wrote time.Time, err error) {
	err = c.call(ctx, func() error {
		wrote = time.Time{}
		return c.cfg.Lister.List(ctx, checkpointPath, func(i storage.Info) error {
			if i.Path == checkpointPath {
				wrote = i.Modified
			}
			return nil
		})
	})
	if err == nil && wrote.IsZero() {
		err = errors.New("the storage does not list its checkpoint")
	}
	return wrote, err
}

// safeSize returns the size of the tree when the round of the newest entry that
// is no younger than cutoff began; 0 if there is none. Timestamps never fall from
// entry to entry, and rise from round to round.
func (c *collector) safeSize(ctx context.Context, cutoff int64) (int64, error) {
	times := timestamps{c: c, tiles: make(map[int64][]int64)}
	size := int(c.first.public.Tree.N)
	at := func(i int) int64 { return times.at(ctx, int64(i)) }
	after := sort.Search(size, func(i int) bool { return at(i) > cutoff })
	if times.err != nil || after == 0 {
		return 0, times.err
	}
	round := at(after - 1)
	begin := sort.Search(after, func(i int) bool { return at(i) >= round })
	return int64(begin), times.err
}

// timestamps reads those of entries, a data tile at a time. After an error all
// are 0.
type timestamps struct {
	c     *collector
	tiles map[int64][]int64 // by number of the data tile: at most one for each step of a search
	err   error
}

func (t *timestamps) at(ctx context.Context, index int64) int64 {
	n := index / tiles.Width
	if _, ok := t.tiles[n]; !ok && t.err == nil {
		tree := t.c.first.public.Tree
		var got []int64
		from, to := n*tiles.Width, min(tree.N, (n+1)*tiles.Width)
		t.err = tiles.Entries(ctx, reader{t.c.cfg.Bucket, t.c}, tree, from, to, func(e tiles.Entry) error {
			got = append(got, e.TimestampMillis)
			return nil
		})
		t.tiles[n] = got
	}
	if t.err != nil {
		return 0
	}
	return t.tiles[n][index%tiles.Width]
}
