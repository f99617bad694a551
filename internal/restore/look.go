package restore

import (
	"context"
	"errors"
	"fmt"

	"kiln/checkpoint"
	"kiln/internal/config"
	"kiln/lock"
	"kiln/storage"
	"kiln/tiles"
)

const checkpointPath = "checkpoint"

// looks is how often a log is looked at that another process goes on writing.
const looks = 5

// What a refusal means.
const (
	meansFork = "Whoever signs from there signs a second history: a log that has two is forked, and dead for every programme. "
	bringLock = "Bring back the newest copy of the lock there is. If none is as new as what is published, the log is over: " +
		"keep what is published readable, for which any web server or the bucket itself will do, tell the programmes " +
		"that the log takes no more, and make a new shard, which has a key of its own."
)

// look finds out how it stands with one log.
func (p *Plan) look(ctx context.Context, conf config.Log) *Log {
	l := &Log{Name: conf.Name, State: Ready}
	err := p.inspect(ctx, conf, l)
	var r *refusal
	switch {
	case err == nil:
	case errors.As(err, &r):
		l.State, l.Problem = Refused, r.text
	case damaged(err):
		l.State, l.Problem = Refused, fmt.Sprintf("%v; bring the object back from a copy or a mirror: nothing else can take its place", err)
	default:
		l.State, l.Problem = Unknown, err.Error()
	}
	return l
}

// refusal is the reason for which a log must not be started.
type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// inspect opens the parts of a log and compares them.
func (p *Plan) inspect(ctx context.Context, conf config.Log, l *Log) error {
	var err error
	if l.parts, err = p.opener.Find(ctx, conf); err != nil {
		return err
	}
	if l.parts.Bucket == nil {
		return l.withoutStorage(ctx)
	}
	raw, err := readPublished(ctx, l.parts.Bucket)
	if err != nil {
		return err
	}
	if l.parts.Key == nil {
		if raw == nil {
			return l.never(ctx)
		}
		return refuse("%s is missing, but %s holds a log: %s", conf.KeyFile, conf.Storage, remedies["key_file"])
	}
	for try := 1; ; try++ {
		done, err := l.compare(ctx)
		if err != nil || l.State != Ready {
			return err
		}
		if done {
			break
		}
		if try == looks {
			return errors.New("another process goes on writing this log: stop it, or let it serve")
		}
	}
	if now := p.opts.Now(); l.Lock.Time.After(now) {
		l.Notes = append(l.Notes, fmt.Sprintf("the lock's checkpoint is %v ahead of this machine's clock: correct the clock before the log is served",
			l.Lock.Time.Sub(now).Round(1e6)))
	}
	return nil
}

// withoutStorage judges a log whose folder is not there.
func (l *Log) withoutStorage(ctx context.Context) error {
	conf := l.parts.Conf
	if l.parts.Key == nil || l.parts.Lock == nil {
		l.State = NotMade
		return nil
	}
	state, err := l.parts.State(ctx)
	if err != nil {
		return err
	}
	_, err = l.parts.Lock.Load(ctx, l.parts.LockID)
	switch {
	case errors.Is(err, lock.ErrNotFound):
		l.State = NotMade
		return nil
	case err != nil:
		return err
	case state.Retired != nil:
		l.State = Retired
		return nil
	}
	return refuse("%s does not exist, but the lock has a cell of this log: %s", conf.Storage, remedies["storage"])
}

// never judges a log that has neither a checkpoint nor a cell, or no key.
func (l *Log) never(ctx context.Context) error {
	tile, err := tiles.Any(ctx, l.parts.Bucket)
	switch {
	case err != nil:
		return err
	case tile != "":
		return refuse("%s has no checkpoint and the lock no cell of this log, yet there is %s: a log was here and both were lost. %s%s",
			l.parts.Conf.Storage, tile, meansFork, bringLock)
	}
	l.State = NotMade
	return nil
}

// compare reads what is published and the lock, and judges them. It is not done
// if another process has moved the lock in between.
func (l *Log) compare(ctx context.Context) (done bool, err error) {
	conf := l.parts.Conf
	v, err := checkpoint.NewVerifier(conf.Origin, l.parts.Key.SPKI())
	if err != nil {
		return false, err
	}
	// First what is public, then the lock, as at each start of the log: another
	// process may go on in between, and the lock must not look as if it were behind.
	raw, err := readPublished(ctx, l.parts.Bucket)
	if err != nil {
		return false, err
	}
	public := checkpoint.Checkpoint{Origin: conf.Origin, Tree: checkpoint.EmptyTree()}
	if raw != nil {
		if public, err = v.Open(raw); err != nil {
			return false, refuse("the published checkpoint was not signed by this log: %v; check that key, submission_url and storage belong together (storage %s)", err, conf.Storage)
		}
		l.Published = headOf(public)
	}
	held, err := l.readLock(ctx)
	switch {
	case err != nil:
		return false, err
	case held == nil && raw == nil:
		return true, l.never(ctx)
	case held == nil:
		return false, refuse("the lock has no cell of this log (lock %s), but %s shows %v: the lock was lost, or is another. "+
			"Nothing can say any more what this log signed last, and a new lock would begin at what happens to be stored. %s%s",
			conf.Lock, conf.Storage, l.Published, meansFork, bringLock)
	}
	state, err := l.parts.State(ctx)
	if err != nil {
		return false, err
	}
	if state.Retired != nil {
		l.State = Retired
		return true, nil
	}
	if l.head, err = v.Open(held); err != nil {
		return false, refuse("the lock's checkpoint was not signed by this log: %v; check that key, submission_url and lock belong together (lock %s)", err, conf.Lock)
	}
	l.Lock = headOf(l.head)
	if err := l.checkOrder(public, raw != nil); err != nil {
		return false, err
	}
	return l.prove(ctx, public)
}

// readLock returns the cell's content, nil if there is none.
func (l *Log) readLock(ctx context.Context) ([]byte, error) {
	if l.parts.Lock == nil {
		return nil, nil // no file: config or parts would have said why it cannot be read
	}
	held, err := l.parts.Lock.Load(ctx, l.parts.LockID)
	if errors.Is(err, lock.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read lock: %w", err)
	}
	return held.Body, nil
}

// checkOrder refuses a lock that is behind what is published.
func (l *Log) checkOrder(public checkpoint.Checkpoint, published bool) error {
	conf := l.parts.Conf
	switch {
	case !published && l.head.Tree.N > 0:
		return refuse("the lock knows %v, but %s has no checkpoint: %s", l.Lock, conf.Storage, remedies["storage"])
	case public.Tree.N > l.head.Tree.N || public.TimestampMillis > l.head.TimestampMillis:
		return refuse("the lock is behind: it says %v, but %s shows %v, so that the lock was set back or is that of an older copy (lock %s). %s%s",
			l.Lock, conf.Storage, l.Published, conf.Lock, meansFork, bringLock)
	case public.Tree.N == l.head.Tree.N && public.Tree.Hash != l.head.Tree.Hash:
		return refuse("the lock and %s have %d entries each, but roots %v and %v: the log has forked. Keep both, do not start it, tell the programmes",
			conf.Storage, l.head.Tree.N, l.head.Tree.Hash, public.Tree.Hash)
	}
	return nil
}

// prove proves the right edge of the lock's tree, and that it continues what is
// published. It is not done if the lock has moved meanwhile.
func (l *Log) prove(ctx context.Context, public checkpoint.Checkpoint) (done bool, err error) {
	conf, tree := l.parts.Conf, l.head.Tree
	if l.view, l.Bundle, err = viewOf(ctx, l.parts.Bucket, public.Tree, tree); err == nil {
		_, err = tiles.Load(ctx, l.view, tree, false)
	}
	if err == nil {
		err = tiles.CheckConsistency(ctx, l.view, public.Tree, tree)
	}
	further, least := "", int64(0)
	if err == nil {
		further, least, err = tiles.Beyond(ctx, l.parts.Bucket, tree.N)
	}
	if err == nil && further == "" {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	// Another process may serve the log and have moved on meanwhile. Else it is as
	// bad as it looks.
	if moved, lockErr := l.moved(ctx); lockErr != nil {
		return false, errors.Join(err, lockErr)
	} else if moved != nil {
		return err == nil && moved.Tree.N >= least, nil
	}
	switch {
	case errors.Is(err, errNoBundle):
		return false, refuse("the lock is ahead of what is published by a round, from %d to %d entries, that was committed and not wholly published (%v). "+
			"The SCTs of that round may be out: bring back %s from a copy of the storage",
			public.Tree.N, tree.N, err, tiles.BundlePath(tree))
	case err != nil:
		return false, err
	}
	return false, refuse("the lock is behind: it says %v, but %s holds %s, which only a larger tree has, and which is written after the lock has moved (lock %s). %s%s",
		l.Lock, conf.Storage, further, conf.Lock, meansFork, bringLock)
}

// moved returns what the lock says now, nil if that is what it said before, or
// nothing that continues it.
func (l *Log) moved(ctx context.Context) (*checkpoint.Checkpoint, error) {
	raw, err := l.readLock(ctx)
	if err != nil || raw == nil {
		return nil, err
	}
	v, err := checkpoint.NewVerifier(l.parts.Conf.Origin, l.parts.Key.SPKI())
	if err != nil {
		return nil, err
	}
	if c, err := v.Open(raw); err == nil && c.Newer(l.head) {
		return &c, nil
	}
	return nil, nil
}

// readPublished returns the published checkpoint, nil if there is none.
func readPublished(ctx context.Context, bucket storage.Bucket) ([]byte, error) {
	raw, err := bucket.Get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read published checkpoint: %w", err)
	}
	return raw, nil
}
