package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/contain"
	"kiln/lock"
	"kiln/storage"
	"kiln/tiles"
)

const (
	// publishParallel bounds the objects of a round that are written at once.
	publishParallel = 64
	// tries and the first wait between them bound how long one storage or lock
	// operation is repeated in place before the state is dropped.
	tries     = 5
	firstWait = 20 * time.Millisecond

	// How far the clock may be behind for a moment: in a round, and when a log
	// is loaded that another machine, with another clock, wrote last.
	clockPatience = 20 * time.Millisecond
	loadPatience  = time.Second

	// largeRound is more bytes than a round has that is not full of entries larger
	// than any in use.
	largeRound = 16 << 20

	checkpointPath = "checkpoint"
)

// errSuperseded says that another sequencer has committed since.
var errSuperseded = errors.New("another sequencer has written to the log")

// loaded is the proved state of a log. Rounds exist only on it: a sequencer
// that has none cannot sequence. After a failed round it must be dropped.
type loaded struct {
	s      *Sequencer
	held   lock.Held             // the committed checkpoint
	head   checkpoint.Checkpoint // what held says
	edge   *tiles.Edge           // of head.Tree
	sums   sums                  // of the tiles on edge, as they are stored
	recent *recent
	frozen bool      // the log must not grow
	signed time.Time // when the last round ended, by the monotonic clock
}

// round is one commit, in the order that the design demands. Without requests
// it signs the same tree anew. On success all requests were answered; on error
// none was, and the state is to be dropped.
func (l *loaded) round(ctx context.Context, requests []*request) (err error) {
	began := time.Now()
	if l.s.isHalted() {
		return errHalted
	}
	p, err := l.plan(requests)
	if err != nil {
		return err
	}
	if len(requests) > 0 && len(p.entries) == 0 && !p.resign && time.Since(l.signed) < idleInterval {
		l.answer(p, 0) // every entry has its place already, and it is published
		return nil
	}
	var bundle []byte
	defer func() {
		l.s.collect = len(bundle) > largeRound
		if err != nil {
			l.s.metrics.rounds.WithLabelValues("failed").Inc()
		}
	}()
	timestamp, err := l.s.timestampAfter(l.head.TimestampMillis, clockPatience)
	if err != nil {
		return err
	}
	next := *l
	next.head.TimestampMillis = timestamp
	looking, done := context.WithCancel(ctx)
	defer done()
	looked := l.lookBack(looking)

	var objects []storage.Object
	if len(p.entries) > 0 {
		if bundle, objects, err = l.build(&next, p.entries, timestamp); err != nil {
			return err
		}
		if err := l.stage(ctx, next.head.Tree, bundle); err != nil {
			return err
		}
	} else if err := tiles.VerifyTree(l.edge, l.head.Tree); err != nil {
		l.s.metrics.refused.Inc()
		return err
	}
	raw, err := l.signAndCommit(ctx, &next, looked)
	if err != nil {
		return err
	}
	if len(p.entries) > 0 {
		if err := l.s.publish(ctx, bundle, objects); err != nil {
			return err
		}
	}
	if err := l.s.publishCheckpoint(ctx, raw, next.head, l.head); err != nil {
		return err
	}
	if l.s.isHalted() {
		return errHalted // what was found is about this very log: promise nothing on it
	}
	l.finish(&next, p, began)
	l.s.dropStaged(l.head.Tree)
	return nil
}

// timestampAfter reads the clock, which must be past the last timestamp. If that
// is a matter of a moment (the very same millisecond, a clock that is slewed) it
// waits; otherwise it gives up the log.
func (s *Sequencer) timestampAfter(last int64, patience time.Duration) (int64, error) {
	now := s.cfg.Now().UnixMilli()
	for began := time.Now(); now <= last && last-now <= patience.Milliseconds() && time.Since(began) < 2*patience; {
		time.Sleep(time.Millisecond)
		now = s.cfg.Now().UnixMilli()
	}
	if now <= last {
		return 0, fatalf("clock stands at %d ms, but the log has signed %d ms already: it was set back; "+
			"correct the clock, then start again", now, last)
	}
	return now, nil
}

// plan is what a round makes of its requests.
type plan struct {
	requests []*request
	entries  []*entry.Pending // those that have no place yet, in order
	// placements of all entries of all requests, in order; those of entries
	// that get their place in this round hold an offset from the old size.
	placements []entry.Placement
	fresh      []bool // parallel to placements: an offset, not yet a place
	resign     bool   // a checkpoint is wanted even if nothing is new
}

func (l *loaded) plan(requests []*request) (*plan, error) {
	p := &plan{requests: requests}
	offsets := make(map[entry.Key]int64)
	for _, r := range requests {
		p.resign = p.resign || r.fresh
		for _, e := range r.entries {
			pl, known := l.recent.get(e.Key())
			off, ok := offsets[e.Key()]
			if (known || ok) && !e.Intact() {
				// The second opinion sees only what is stored.
				return nil, fmt.Errorf("entry %x: %w", e.Key(), entry.ErrDamaged)
			}
			if known {
				p.placements, p.fresh = append(p.placements, pl), append(p.fresh, false)
				l.s.metrics.repeated.Inc()
				continue
			}
			if !ok {
				off = int64(len(p.entries))
				offsets[e.Key()] = off
				p.entries = append(p.entries, e)
			}
			p.placements, p.fresh = append(p.placements, entry.Placement{Index: off}), append(p.fresh, true)
		}
	}
	if l.frozen && len(p.entries) > 0 {
		return nil, fmt.Errorf("log is frozen: %w", entry.ErrReadOnly) // the loop refuses them before
	}
	if size := l.edge.Size(); size+int64(len(p.entries)) > tiles.MaxTree {
		return nil, fmt.Errorf("log holds %d entries, %d more do not fit under 2^40: %w", size, len(p.entries), entry.ErrReadOnly)
	}
	return p, nil
}

// build makes the new edge and its objects, and has the second opinion on the
// bytes that will be stored. A bit that flipped since admission ends here.
func (l *loaded) build(next *loaded, entries []*entry.Pending, timestamp int64) ([]byte, []storage.Object, error) {
	defer l.s.time("build")()
	edge, made, err := l.edge.Append(entries, timestamp)
	if err != nil {
		return nil, nil, err
	}
	next.edge = edge
	next.head.Tree = edge.Tree()
	bundle, err := tiles.EncodeBundle(made)
	if err != nil {
		return nil, nil, err
	}
	objects, err := tiles.Verify(tiles.Round{
		Old: l.head.Tree, New: next.head.Tree, Edge: l.edge,
		Bundle: bundle, Entries: entries, TimestampMillis: timestamp,
	})
	if err != nil {
		l.s.metrics.refused.Inc()
		return nil, nil, err
	}
	next.sums = l.sums.after(next.head.Tree.N, objects)
	return bundle, objects, nil
}

// stage writes the bundle that recovery needs, then looks once more at the
// bytes it wrote.
func (l *loaded) stage(ctx context.Context, tree tlog.Tree, bundle []byte) error {
	defer l.s.time("stage")()
	o := storage.Object{Path: tiles.BundlePath(tree), Body: bundle, ContentType: "application/octet-stream", CacheControl: "no-store"}
	l.s.staged = append(l.s.staged, o.Path)
	if err := l.s.create(ctx, o); err != nil {
		return fmt.Errorf("stage: %w", err)
	}
	return tiles.CheckBundle(bundle)
}

// signAndCommit makes the tree of next the committed one, unless what is published
// is not what it was. Halt waits for it, and none begins after.
func (l *loaded) signAndCommit(ctx context.Context, next *loaded, looked func() error) ([]byte, error) {
	if err := looked(); err != nil {
		return nil, err
	}
	l.s.signing <- struct{}{}
	defer func() { <-l.s.signing }()
	if l.s.isHalted() {
		return nil, errHalted
	}
	raw, err := l.s.signer.Sign(next.head.Tree, next.head.TimestampMillis)
	if err != nil {
		return nil, err
	}
	l.s.signed.Store(next.head.TimestampMillis)
	signed := bytes.Clone(raw)
	next.held, err = l.commit(ctx, raw)
	if !bytes.Equal(raw, signed) {
		// Nothing of the round is public yet, so that the tree before it stands.
		return nil, fatalf("the checkpoint of %d entries changed in memory while it was committed: check the machine's memory; "+
			"if the lock's checkpoint does not verify now, put the published one into its place", next.head.Tree.N)
	}
	return raw, err
}

// commit replaces the committed checkpoint by the new one: the point of no
// return. An error of the lock says nothing about what happened; the cell does.
// Repeating the same replacement is harmless, for it names the version it
// replaces.
func (l *loaded) commit(ctx context.Context, raw []byte) (lock.Held, error) {
	defer l.s.time("commit")()
	cfg := l.s.cfg
	var last error
	for try := range tries {
		if try > 0 && (!pause(ctx, try) || l.s.isHalted()) {
			break
		}
		held, err := l.s.lock.Replace(ctx, l.held, raw)
		if err == nil {
			return held, nil
		}
		last = err
		cur, err := l.s.lock.Load(ctx, cfg.LockID)
		switch {
		case err != nil:
			last = fmt.Errorf("%w (and reading the cell: %w)", last, err)
		case bytes.Equal(cur.Body, raw):
			return cur, l.checkMark(ctx)
		case cur.Version != l.held.Version:
			return lock.Held{}, fmt.Errorf("commit size and time in the lock: %w", errSuperseded)
		}
		cfg.Logger.Warn("commit outcome was unknown, read from the lock", "err", last)
	}
	return lock.Held{}, fmt.Errorf("commit, outcome unknown: %w", last)
}

// publish makes the objects of a bundle readable. It serves rounds and recovery
// alike. That the bundle still is what was verified after all was written from
// it tells that what was written is.
func (s *Sequencer) publish(ctx context.Context, bundle []byte, objects []storage.Object) error {
	defer s.time("publish")()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(publishParallel)
	for _, o := range objects {
		g.Go(func() error {
			return contain.Run(func() error { return s.create(ctx, o) })
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if err := tiles.CheckBundle(bundle); err != nil {
		return fatalf("published bytes changed in memory while they were written: %w; "+
			"check the machine's memory and compare the newest tiles with the staged bundle", err)
	}
	return nil
}

// create writes an object, again and again within bounds.
func (s *Sequencer) create(ctx context.Context, o storage.Object) error {
	var err error
	for try := range tries {
		if try > 0 && !pause(ctx, try) {
			break
		}
		if err = s.bucket.Create(ctx, o); err == nil || errors.Is(err, storage.ErrDifferent) {
			return err
		}
	}
	return err
}

// publishCheckpoint puts a committed checkpoint before the readers, unless a
// newer one is there. One that is older than last, which was there before, says
// that the storage was set back under the log.
func (s *Sequencer) publishCheckpoint(ctx context.Context, raw []byte, c, last checkpoint.Checkpoint) error {
	defer s.time("checkpoint")()
	o := storage.Object{Path: checkpointPath, ContentType: "text/plain; charset=utf-8", CacheControl: "no-store"}
	fence := func(current []byte) ([]byte, error) {
		if bytes.Equal(current, raw) {
			return raw, nil
		}
		if current == nil && c.Tree.N > 0 {
			// A log that has none was retired, or lost its storage meanwhile.
			return nil, fatalf("the published checkpoint is gone, of a log of %d entries: bring the storage back", c.Tree.N)
		}
		if current == nil {
			return raw, nil
		}
		old, err := s.signer.Verifier().Open(current)
		if err != nil {
			return nil, fatalf("the published checkpoint is not one of this log: %w", err)
		}
		if old != c && !c.Newer(old) {
			return nil, errSuperseded
		}
		if last.Newer(old) {
			return nil, fmt.Errorf("%w: %s is older than it was", errChanged, checkpointPath)
		}
		return raw, nil
	}
	var err error
	for try := range tries {
		if try > 0 && !pause(ctx, try) {
			break
		}
		if err = s.bucket.Update(ctx, o, fence); err == nil {
			s.latest.Store(&c)
			s.metrics.treeSize.Set(float64(c.Tree.N))
			s.metrics.timestamp.Set(float64(c.TimestampMillis) / 1000)
			return nil
		}
		if isFatal(err) || errors.Is(err, errSuperseded) || errors.Is(err, errChanged) {
			break
		}
	}
	return fmt.Errorf("publish checkpoint: %w", err)
}

// dropStaged removes the bundles of earlier rounds, finished or failed. That a
// later round was committed makes them useless: what was committed of them is
// published, and what was not never can be, since the lock has moved on. The
// newest stays. It happens beside the next round; while it lasts, bundles wait
// for the round after. If a removal fails the bundle is an orphan, which harms
// nothing.
func (s *Sequencer) dropStaged(head tlog.Tree) {
	select {
	case s.dropping <- struct{}{}:
	default:
		return
	}
	newest := tiles.BundlePath(head)
	old := slices.DeleteFunc(slices.Clone(s.staged), func(path string) bool { return path == newest })
	s.staged = slices.DeleteFunc(s.staged, func(path string) bool { return path != newest })
	go func() {
		defer func() { <-s.dropping }()
		if err := contain.Do(func() { s.remove(old) }); err != nil {
			s.Halt(fmt.Errorf("remove staging bundles: %w", err))
		}
	}()
}

func (s *Sequencer) remove(bundles []string) {
	for _, path := range bundles {
		if err := s.bucket.Delete(s.ctx, path); err != nil {
			s.cfg.Logger.Warn("staging bundle was not removed", "path", path, "err", err)
		}
	}
}

// finish makes next the state and answers the requests.
func (l *loaded) finish(next *loaded, p *plan, began time.Time) {
	old := l.head.Tree.N
	timestamp := next.head.TimestampMillis
	for i, e := range p.entries {
		l.recent.add(e.Key(), entry.Placement{Index: old + int64(i), TimestampMillis: timestamp})
	}
	next.signed = time.Now()
	result := "idle"
	if len(p.entries) > 0 {
		result = "grown"
	}
	*l = *next
	l.answer(p, old)

	m := l.s.metrics
	m.rounds.WithLabelValues(result).Inc()
	m.entries.Add(float64(len(p.entries)))
	m.duration.WithLabelValues("round").Observe(time.Since(began).Seconds())
	l.s.cfg.Logger.Info("round", "old_tree_size", old, "tree_size", l.head.Tree.N,
		"entries", len(p.entries), "batch", len(p.requests), "timestamp", timestamp, "elapsed", time.Since(began))
}

// answer gives each request its placements; old is the size before the round.
func (l *loaded) answer(p *plan, old int64) {
	rest, fresh := p.placements, p.fresh
	for _, r := range p.requests {
		n := len(r.entries)
		placements := rest[:n:n]
		for i := range placements {
			if fresh[i] {
				placements[i].Index += old
				placements[i].TimestampMillis = l.head.TimestampMillis
			}
		}
		rest, fresh = rest[n:], fresh[n:]
		r.answer <- answer{placements: placements}
	}
}

// time starts a measurement of a step and returns what ends it.
func (s *Sequencer) time(step string) func() {
	began := time.Now()
	return func() { s.metrics.duration.WithLabelValues(step).Observe(time.Since(began).Seconds()) }
}

// pause waits before another try; it reports false if ctx ended.
func pause(ctx context.Context, try int) bool {
	timer := time.NewTimer(firstWait << (try - 1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
