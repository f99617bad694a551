package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/lock"
	"kiln/storage"
	"kiln/tiles"
)

// load reads and proves the log's state. The lock says what is true; what is
// public may lag behind it by one round, which is published now, and must never
// be ahead. Errors that reading again cannot mend are fatal.
func (s *Sequencer) load(ctx context.Context) (*loaded, error) {
	began := time.Now()
	held, head, err := s.readLock(ctx)
	if err != nil {
		return nil, err
	}
	public, raw, err := s.readPublic(ctx, head)
	if err != nil {
		return nil, err
	}
	if err := s.checkOrder(public, head); err != nil {
		return nil, err
	}
	if public.Tree.N < head.Tree.N {
		if err := s.recover(ctx, public.Tree, head.Tree); err != nil {
			return nil, err
		}
	}
	edge, err := tiles.Load(ctx, s.cfg.Bucket, head.Tree, s.cfg.Names)
	if err != nil {
		return nil, s.unreadable(err)
	}
	if err := tiles.CheckConsistency(ctx, s.cfg.Bucket, public.Tree, head.Tree); err != nil {
		return nil, s.unreadable(err)
	}
	index, err := s.readRecent(ctx, head.Tree)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(raw, held.Body) {
		if err := s.publishCheckpoint(ctx, held.Body, head); err != nil {
			return nil, err
		}
	}
	s.latest.Store(&head)
	s.metrics.loads.Inc()
	s.cfg.Logger.Info("log loaded", "tree_size", head.Tree.N, "timestamp", head.TimestampMillis, "elapsed", time.Since(began))
	return &loaded{s: s, held: held, head: head, edge: edge, recent: index}, nil
}

func (s *Sequencer) readLock(ctx context.Context) (lock.Held, checkpoint.Checkpoint, error) {
	held, err := s.cfg.Lock.Load(ctx, s.cfg.LockID)
	switch {
	case errors.Is(err, lock.ErrNotFound):
		return held, checkpoint.Checkpoint{}, fatalf("the lock has no cell of this log: %w; "+
			"if the log was never made, make it; if the lock was lost, do not make a new one: bring back the old", err)
	case err != nil:
		return held, checkpoint.Checkpoint{}, fmt.Errorf("read lock: %w", err)
	}
	head, err := s.signer.Verifier().Open(held.Body)
	if err != nil {
		return held, head, fatalf("the lock's checkpoint was not signed by this log: %w; check that key, origin and lock belong together", err)
	}
	return held, head, nil
}

// readPublic reads what readers see. Only the empty log may have no checkpoint
// there yet: a crash came between lock and bucket when it was made.
func (s *Sequencer) readPublic(ctx context.Context, head checkpoint.Checkpoint) (checkpoint.Checkpoint, []byte, error) {
	raw, err := s.cfg.Bucket.Get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		if head.Tree.N == 0 {
			return checkpoint.Checkpoint{Origin: head.Origin, Tree: checkpoint.EmptyTree()}, nil, nil
		}
		return checkpoint.Checkpoint{}, nil, fatalf("the lock knows %d entries, but the storage has no checkpoint: %w; "+
			"check that the storage is the one of this log", head.Tree.N, err)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, nil, fmt.Errorf("read published checkpoint: %w", err)
	}
	public, err := s.signer.Verifier().Open(raw)
	if err != nil {
		return public, nil, fatalf("the published %s was not signed by this log: %w; check that key, origin and storage belong together", checkpointPath, err)
	}
	return public, raw, nil
}

// checkOrder refuses a lock behind what is public, or behind what this process
// published before.
func (s *Sequencer) checkOrder(public, head checkpoint.Checkpoint) error {
	if last := s.latest.Load(); last != nil && last.TimestampMillis > public.TimestampMillis && public.Tree.N <= last.Tree.N {
		public = *last
	}
	switch {
	case public.Tree.N > head.Tree.N || public.TimestampMillis > head.TimestampMillis:
		return fatalf("the published checkpoint (%d entries at %d ms) is newer than the lock's (%d entries at %d ms): "+
			"the lock was set back, or belongs to another copy of the log; bring back the newest lock",
			public.Tree.N, public.TimestampMillis, head.Tree.N, head.TimestampMillis)
	case public.Tree.N == head.Tree.N && public.Tree.Hash != head.Tree.Hash:
		return fatalf("the published checkpoint and the lock's have %d entries each, but roots %v and %v: the log has forked; "+
			"keep both and do not start it", head.Tree.N, public.Tree.Hash, head.Tree.Hash)
	}
	_, err := s.timestampAfter(head.TimestampMillis)
	return err
}

// recover publishes the round that was committed but not wholly published.
func (s *Sequencer) recover(ctx context.Context, public, head tlog.Tree) error {
	path := tiles.BundlePath(head)
	s.cfg.Logger.Warn("finishing a round that was committed but not published", "path", path,
		"old_tree_size", public.N, "tree_size", head.N)
	bundle, err := s.cfg.Bucket.Get(ctx, path)
	if errors.Is(err, storage.ErrNotFound) {
		// Nothing is lost if all that the bundle held is in its place.
		proved := func(tiles.Entry) error { return nil }
		if tileErr := tiles.Entries(ctx, s.cfg.Bucket, head, public.N, head.N, proved); tileErr != nil {
			return fatalf("the committed round from %d to %d entries was not published (%w) and its staging bundle is gone: %w; bring back %s",
				public.N, head.N, tileErr, err, path)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read staging bundle: %w", err)
	}
	objects, err := tiles.DecodeBundle(bundle)
	if err != nil {
		return fatalf("staging bundle %s: %w; bring it back from a copy", path, err)
	}
	err = s.publish(ctx, bundle, objects)
	if errors.Is(err, storage.ErrDifferent) {
		return fatalf("finish the committed round from %s: %w; one of the two is corrupt: compare them before anything else", path, err)
	}
	return err
}

// readRecent proves and remembers the newest entries.
func (s *Sequencer) readRecent(ctx context.Context, tree tlog.Tree) (*recent, error) {
	index := newRecent(recentLimit)
	err := tiles.Entries(ctx, s.cfg.Bucket, tree, max(0, tree.N-recentLimit), tree.N, func(e tiles.Entry) error {
		index.add(e.Key, e.Placement)
		return nil
	})
	if err != nil {
		return nil, s.unreadable(err)
	}
	return index, nil
}

// unreadable makes errors fatal that say what is stored is wrong or missing;
// any other may pass.
func (s *Sequencer) unreadable(err error) error {
	var corrupt *tiles.CorruptError
	if errors.As(err, &corrupt) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, tiles.ErrNotProved) {
		return fatalf("%w; nothing was signed: bring the object back from a copy", err)
	}
	return err
}
