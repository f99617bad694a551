package watch

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/internal/fsck"
	"kiln/tiles"
)

// Poll looks at the log once and returns how long to wait until the next time.
func (w *Watcher) Poll(ctx context.Context) (wait time.Duration) {
	whole := w.polls%wholeEvery == 0 || w.absent > 0 || w.open != nil // that it is right again has to be seen
	w.polls++
	found, err := w.look(ctx, whole)
	if ctx.Err() != nil {
		return w.cfg.Interval // what was cut off says nothing
	}
	switch {
	case found != nil:
		w.tellFault(found)
	case err != nil:
		w.tellUnknown(err)
		return w.backOff(err)
	default:
		w.absent = 0
		w.tellFine()
	}
	w.saveIfDue(false)
	return w.cfg.Interval
}

// backOff is how long to wait after a poll that could not tell.
func (w *Watcher) backOff(err error) time.Duration {
	wait := w.cfg.Interval
	if w.teller.unknowns > slowest && w.absent == 0 {
		wait *= slowest
	}
	var busy *fsck.BusyError
	if errors.As(err, &busy) {
		wait = max(wait, min(busy.After, 2*time.Minute))
	}
	return wait
}

// look makes the checks of one poll. What it finds was confirmed.
func (w *Watcher) look(ctx context.Context, whole bool) (*finding, error) {
	if err := w.pass(ctx, whole); err != nil {
		return w.judge(ctx, checkNote{Kind: checkPass}, err)
	}
	if w.open != nil && w.open.check.needsHead() {
		if err := w.open.check.run(ctx, w.follower); err != nil {
			return w.judge(ctx, w.open.check, err)
		}
	}
	if whole && w.cfg.Storage != nil {
		// Monitors may see none of it: caches keep what never changes for a year.
		if found, _ := w.own(ctx, checkNote{Kind: checkEdge}, w.cfg.Storage); found != nil {
			return found, nil
		}
	}
	if found, err := w.receipts(ctx, whole); found != nil || err != nil {
		return found, err
	}
	if found, err := w.recents(ctx); found != nil || err != nil {
		return found, err
	}
	return w.sweep(ctx)
}

// judge makes the outcome of a check that did not end well. Something that is
// absent is no fault before it was so for some polls, where a cache that lags may
// be the reason.
func (w *Watcher) judge(ctx context.Context, c checkNote, err error) (*finding, error) {
	var fault *fsck.Fault
	if !errors.As(err, &fault) {
		return nil, err
	}
	found, err := w.confirm(ctx, c, fault)
	if err != nil {
		return nil, err
	}
	if found.fault.Ground == fsck.GroundAbsent && (w.cfg.Storage == nil || found.where != inLog) {
		if w.absent++; w.absent < patience {
			return nil, &fsck.UnknownError{Path: found.fault.Path, Err: &lagError{found}}
		}
	}
	return found, nil
}

// MayLag reports whether what could not be told may be a cache that lags behind: a
// few polls more will tell.
func MayLag(err error) bool {
	var lag *lagError
	return errors.As(err, &lag)
}

// lagError is a fault that may be a cache that lags behind.
type lagError struct{ found *finding }

// Error implements error.
func (e *lagError) Error() string { return e.found.fault.Detail + " (" + e.found.how + ")" }

// pass checks what is new, and the right edge. If the tree is that of the pass
// before, it is enough that the right edge has not changed since.
func (w *Watcher) pass(ctx context.Context, whole bool) error {
	if whole {
		w.follower.Forget()
	} else if c, same := w.unchanged(ctx); same {
		w.verified(c)
		return nil
	}
	report, err := w.follower.Pass(ctx)
	if report != nil {
		w.metrics.entries.Add(float64(report.Entries))
		w.update(func(s *Status) { s.Entries += report.Entries })
	}
	if err == nil {
		w.verified(w.follower.Head())
	}
	return err
}

// unchanged reports whether the log has the tree of the last pass and the objects
// of its right edge have the bytes that were verified then. In doubt it has not,
// and a pass finds out.
func (w *Watcher) unchanged(ctx context.Context) (c checkpoint.Checkpoint, same bool) {
	head := w.follower.Head()
	if head.TimestampMillis == 0 {
		return c, false
	}
	o, err := w.web.Open(ctx, "checkpoint")
	if err != nil {
		return c, false
	}
	defer o.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(o.Body, checkpoint.MaxSize+1))
	if err != nil {
		return c, false
	}
	origin, spki := w.follower.Identity()
	v, err := checkpoint.NewVerifier(origin, spki)
	if err != nil {
		return c, false
	}
	c, err = v.Open(raw)
	if err != nil || c.Tree != head.Tree || c.TimestampMillis < w.Status().Checkpoint.TimestampMillis {
		return c, false
	}
	for _, path := range rightEdge(head.Tree.N) {
		if same, err := w.web.unchanged(ctx, path); err != nil || !same {
			return c, false
		}
	}
	return c, true
}

// rightEdge returns the paths of the partial tiles of a tree.
func rightEdge(size int64) (paths []string) {
	for l := 0; size>>(tiles.Height*l) > 0; l++ {
		hashes := size >> (tiles.Height * l)
		t := tlog.Tile{H: tiles.Height, L: l, N: hashes / tiles.Width, W: int(hashes % tiles.Width)}
		if t.W == 0 {
			continue
		}
		paths = append(paths, tiles.Path(t))
		if l == 0 {
			t.L = tiles.LevelData
			paths = append(paths, tiles.Path(t))
		}
	}
	return paths
}

// dataTile returns the data tile of an index, as wide as it is in a tree.
func dataTile(size, index int64) tlog.Tile {
	n := index / tiles.Width
	return tlog.Tile{H: tiles.Height, L: tiles.LevelData, N: n, W: int(min(size-n*tiles.Width, tiles.Width))}
}

// verified notes a checkpoint that was found right.
func (w *Watcher) verified(c checkpoint.Checkpoint) {
	var old checkpoint.Checkpoint
	w.update(func(s *Status) {
		old, s.Checkpoint = s.Checkpoint, c
		s.Tiles = w.follower.Older()
	})
	w.metrics.size.Set(float64(c.Tree.N))
	w.teller.verified(old, c)
	w.begun = true
}

// own makes a check in the log's own storage, and once more if that seems to be at
// fault: one bad read must not stop a log. The error says that it is not known;
// it is the public URL that has to be readable.
func (w *Watcher) own(ctx context.Context, c checkNote, stored fsck.Source) (*finding, error) {
	var fault *fsck.Fault
	for range 2 {
		if err := c.run(ctx, w.follower.With(stored)); !errors.As(err, &fault) {
			return nil, err
		}
	}
	return &finding{c, fault, inLog, "read twice from the log's own storage; the public URL has the right bytes still"}, nil
}

// receipts looks for the SCTs that were answered since the last time, and for one
// of the sample at whole polls. Those that the checkpoint cannot cover yet wait.
func (w *Watcher) receipts(ctx context.Context, whole bool) (*finding, error) {
	w.pending = append(w.pending, w.sample.take()...)
	if n := len(w.pending) - 2*maxRecent; n > 0 {
		w.pending = slices.Delete(w.pending, 0, n) // they are in the sample
	}
	list := w.pending
	if _, old := w.sample.all(); whole && len(old) > 0 {
		w.oldNext = (w.oldNext + 1) % len(old)
		list = append(slices.Clone(list), old[w.oldNext])
	}
	head, done := w.follower.Head(), make(map[uint64]bool)
	for _, r := range list {
		if r.Index >= head.Tree.N && r.TimestampMillis > head.TimestampMillis {
			continue
		}
		c := checkNote{Kind: checkReceipt, Receipt: &r}
		if err := c.run(ctx, w.follower); err != nil {
			return w.judge(ctx, c, err)
		}
		done[r.Rank] = true
		w.metrics.receipts.Inc()
		w.update(func(s *Status) { s.Receipts++ })
	}
	w.pending = slices.DeleteFunc(w.pending, func(r Receipt) bool { return done[r.Rank] })
	return nil, nil
}

// sweep checks the older tiles that are due.
func (w *Watcher) sweep(ctx context.Context) (*finding, error) {
	total := w.follower.Older()
	now := w.cfg.Now()
	if total == 0 {
		w.sweptAt = now
		return nil, nil
	}
	step := min(sweepStep, sweepAll/time.Duration(total))
	due := min(int(now.Sub(w.sweptAt)/max(step, time.Millisecond)), sweepMost)
	for range due {
		if w.swept >= total {
			w.swept = 0
			w.metrics.rounds.Inc()
			w.update(func(s *Status) { s.Sweeps++ })
		}
		if found, err := w.verify(ctx, w.swept); found != nil || err != nil {
			return found, err
		}
		w.swept++
		w.sweptAt = now
		w.metrics.swept.Inc()
		w.update(func(s *Status) { s.Swept++ })
	}
	return nil, nil
}
