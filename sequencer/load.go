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

// loadTries is how often a log that another sequencer goes on with is looked at
// again at once.
const loadTries = 3

// load reads and proves the log's state. Errors that reading again cannot mend
// are fatal; but what was read while another sequencer went on may not fit
// together, and says nothing.
func (s *Sequencer) load(ctx context.Context) (*loaded, error) {
	before, err := s.look(ctx)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		state, err := s.loadOnce(ctx)
		if err == nil || !isFatal(err) {
			return state, err
		}
		after, lookErr := s.look(ctx)
		switch {
		case lookErr != nil:
			return nil, fmt.Errorf("%v; whether another sequencer goes on with the log is not known: %w", err, lookErr) // %v: not fatal as yet
		case after == before:
			return nil, err
		case try == loadTries:
			return nil, fmt.Errorf("%w while it was being loaded: %v", errSuperseded, err)
		}
		before = after
	}
}

// sight is what tells whether another sequencer has gone on.
type sight struct{ public, version string }

func (s *Sequencer) look(ctx context.Context) (sight, error) {
	raw, err := s.bucket.Get(ctx, checkpointPath)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return sight{}, fmt.Errorf("read published checkpoint: %w", err)
	}
	held, err := s.lock.Load(ctx, s.cfg.LockID)
	if err != nil && !errors.Is(err, lock.ErrNotFound) {
		return sight{}, fmt.Errorf("read lock: %w", err)
	}
	return sight{string(raw), held.Version}, nil
}

// loadOnce is load of a log that stands still. The lock says what is true; what
// is public may lag behind it by one round, which is published now, and must
// never be ahead.
func (s *Sequencer) loadOnce(ctx context.Context) (*loaded, error) {
	began := time.Now()
	// First what is public, then the lock: another sequencer may go on in
	// between, and the lock must not look as if it were behind.
	public, raw, err := s.readPublic(ctx)
	if err != nil {
		return nil, err
	}
	held, head, err := s.readLock(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkOrder(public, raw, head); err != nil {
		return nil, err
	}
	frozen, err := s.readMarks(ctx, head.Tree)
	if err != nil {
		return nil, err
	}
	if public.Tree.N < head.Tree.N {
		if err := s.recover(ctx, public.Tree, head.Tree); err != nil {
			return nil, err
		}
	}
	if err := s.checkBeyond(ctx, head.Tree); err != nil {
		return nil, err
	}
	seen := summing{s.bucket, make(sums)}
	edge, err := tiles.Load(ctx, seen, head.Tree, s.cfg.Names)
	if err != nil {
		return nil, s.unreadable(err)
	}
	if err := tiles.CheckConsistency(ctx, s.bucket, public.Tree, head.Tree); err != nil {
		return nil, s.unreadable(err)
	}
	index, err := s.readRecent(ctx, head.Tree)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(raw, held.Body) {
		if err := s.publishCheckpoint(ctx, held.Body, head, public); err != nil {
			return nil, err
		}
	}
	s.latest.Store(&head)
	s.staged = append(s.staged, tiles.BundlePath(head.Tree))
	s.metrics.loads.Inc()
	s.cfg.Logger.Info("log loaded", "tree_size", head.Tree.N, "timestamp", head.TimestampMillis, "elapsed", time.Since(began))
	return &loaded{
		s: s, held: held, head: head, edge: edge, sums: seen.sums.after(head.Tree.N, nil), recent: index, frozen: frozen,
	}, nil
}

func (s *Sequencer) readLock(ctx context.Context) (lock.Held, checkpoint.Checkpoint, error) {
	held, err := s.lock.Load(ctx, s.cfg.LockID)
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

// readPublic reads what readers see: the empty tree and no bytes if there is no
// checkpoint.
func (s *Sequencer) readPublic(ctx context.Context) (checkpoint.Checkpoint, []byte, error) {
	raw, err := s.bucket.Get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		return checkpoint.Checkpoint{Origin: s.cfg.Origin, Tree: checkpoint.EmptyTree()}, nil, nil
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
func (s *Sequencer) checkOrder(public checkpoint.Checkpoint, raw []byte, head checkpoint.Checkpoint) error {
	if raw == nil && head.Tree.N > 0 {
		// Only the empty log may have none yet, after a crash when it was made.
		return fatalf("the lock knows %d entries, but the storage has no checkpoint: "+
			"check that the storage is the one of this log", head.Tree.N)
	}
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
	if _, err := s.timestampAfter(head.TimestampMillis, loadPatience); err != nil {
		if head.TimestampMillis > s.signed.Load() {
			// Another machine with another clock signed it. Time will tell.
			return fmt.Errorf("the lock was signed by a clock that is ahead of this one: %v", err) // %v: not fatal
		}
		return err
	}
	return nil
}

// checkBeyond refuses tiles of a larger tree: the lock and what is public were
// set back together, and SCTs of what is forgotten are out.
func (s *Sequencer) checkBeyond(ctx context.Context, head tlog.Tree) error {
	l, ok := s.cfg.Bucket.(storage.Lister)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 6*callTimeout)
	defer cancel()
	path, least, err := tiles.Beyond(ctx, l, head.N)
	switch {
	case err != nil:
		return err
	case path != "":
		return fatalf("the storage has %s, a tile of a tree of %d entries or more, but the lock knows %d: lock and checkpoint were set back, "+
			"and going on would fork the log; bring back the newest lock", path, least, head.N)
	}
	return nil
}

// recover publishes the round that was committed but not wholly published.
func (s *Sequencer) recover(ctx context.Context, public, head tlog.Tree) error {
	path := tiles.BundlePath(head)
	s.cfg.Logger.Warn("finishing a round that was committed but not published", "path", path,
		"old_tree_size", public.N, "tree_size", head.N)
	bundle, err := s.bucket.Get(ctx, path)
	if errors.Is(err, storage.ErrNotFound) {
		// Nothing is lost if all that the bundle held is in its place.
		proved := func(tiles.Entry) error { return nil }
		tileErr := tiles.Entries(ctx, s.bucket, head, public.N, head.N, proved)
		if tileErr != nil && !isFatal(s.unreadable(tileErr)) {
			return tileErr
		}
		if tileErr != nil {
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
	if err := s.proveBundle(ctx, objects, public, head); err != nil {
		if isFatal(s.unreadable(err)) {
			return fatalf("staging bundle %s does not lead from %d to %d entries: %w; bring the right one back from a copy",
				path, public.N, head.N, err)
		}
		return err
	}
	err = s.publish(ctx, bundle, objects)
	if errors.Is(err, storage.ErrDifferent) {
		return fatalf("finish the committed round from %s: %w; one of the two is corrupt: compare them before anything else", path, err)
	}
	return err
}

// overlay is a bucket as it would be with more objects.
type overlay struct {
	storage.Bucket
	objects map[string][]byte
}

func (o overlay) Get(ctx context.Context, path string) ([]byte, error) {
	if body, ok := o.objects[path]; ok {
		return body, nil
	}
	return o.Bucket.Get(ctx, path)
}

// proveBundle proves that the objects of a bundle are those of the step from one
// tree to the next, before they are published: nothing could take them back.
func (s *Sequencer) proveBundle(ctx context.Context, objects []storage.Object, public, head tlog.Tree) error {
	// Names tiles may have been switched on or off since.
	want, withNames := tiles.StepTiles(public.N, head.N, false), tiles.StepTiles(public.N, head.N, true)
	with := overlay{Bucket: s.bucket, objects: make(map[string][]byte)}
	for _, o := range objects {
		if _, ok := withNames[o.Path]; !ok {
			return &tiles.CorruptError{Path: o.Path, Detail: "is none of the tiles of this step"}
		}
		with.objects[o.Path] = o.Body
		delete(want, o.Path)
	}
	for path := range want {
		return &tiles.CorruptError{Path: path, Detail: "is not in the bundle"}
	}
	first := public.N / tiles.Width * tiles.Width
	proved := func(tiles.Entry) error { return nil }
	if err := tiles.Entries(ctx, with, head, first, head.N, proved); err != nil {
		return err
	}
	if _, err := tiles.Load(ctx, with, head, false); err != nil {
		return err
	}
	return tiles.CheckConsistency(ctx, with, public, head)
}

// readRecent proves and remembers the newest entries.
func (s *Sequencer) readRecent(ctx context.Context, tree tlog.Tree) (*recent, error) {
	index := newRecent(recentLimit)
	err := tiles.Entries(ctx, s.bucket, tree, max(0, tree.N-recentLimit), tree.N, func(e tiles.Entry) error {
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
