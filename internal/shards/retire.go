package shards

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kiln/checkpoint"
	"kiln/internal/daemon"
	"kiln/internal/lifecycle"
)

// DefaultKeep is how long after the end of its window a log is kept. Programmes
// drop a log once its window is over, but clients with older lists, and monitors
// that catch up, still read it: no certificate in it is valid any more, yet what
// was issued has to stay provable for a while.
const DefaultKeep = 90 * 24 * time.Hour

const (
	// quietTime is how long the lock of a log has to stand still before nobody
	// is taken to sign for it: more than twice the 3 s after which a log that is
	// served signs anew, and more than the 5 s in which it finds the mark.
	quietTime = 8 * time.Second

	quietLook  = time.Second // how often the lock is looked at
	fenceTries = 5
)

// Retirement is what there is to be deleted of a log, and whether it may be.
type Retirement struct {
	Shard
	Final    *Final // nil if it has none
	Earliest time.Time
	Keep     time.Duration
	Objects  Inventory
	// Blocked are the reasons for which nothing may be deleted yet.
	Blocked []string
}

// RetireConfig is how [Inspect] and [Retire] go about it. The zero value keeps nothing and
// waits for nobody.
type RetireConfig struct {
	Keep     time.Duration // after the end of the window, as in Retirement
	Note     string
	MarkOnly bool                    // delete nothing: somebody else does
	Patience time.Duration           // with those that still sign
	Listed   func(done, total int64) // called as objects are listed, of a total that is not known (0); may be nil
	Waiting  func()                  // called before they are waited for; may be nil
	Step     func(done, total int64) // called as objects go; may be nil
}

// Inspect finds out what may be deleted of a log, and changes nothing.
func Inspect(ctx context.Context, p *daemon.Parts, c RetireConfig, opts daemon.Options) (*Retirement, error) {
	r, err := inspect(ctx, p, c, now(opts))
	if err != nil {
		return nil, fmt.Errorf("retire %s: %w", p.Conf.Name, err)
	}
	return r, nil
}

func inspect(ctx context.Context, p *daemon.Parts, c RetireConfig, now time.Time) (*Retirement, error) {
	r := &Retirement{Shard: look(ctx, p, now), Keep: max(c.Keep, 0)}
	if r.State == Broken {
		return nil, r.Err
	}
	r.Earliest = p.Conf.NotAfterLimit.Add(r.Keep)
	var err error
	if r.Final, err = LoadFinal(ctx, p); err != nil {
		return nil, err
	}
	if r.Objects, err = takeInventory(ctx, p, c.Listed); err != nil {
		return nil, err
	}
	switch {
	case r.Marks.Frozen == nil:
		r.Blocked = append(r.Blocked, "it is not frozen: kiln shards freeze does that")
	case r.Final == nil:
		r.Blocked = append(r.Blocked, "its final tree is not known yet: repeat kiln shards freeze")
	default:
		if err := r.agree(ctx, p); err != nil {
			return nil, err
		}
	}
	switch {
	case now.Before(p.Conf.NotAfterLimit):
		r.Blocked = append(r.Blocked, fmt.Sprintf("certificates in it are valid until %s, when its window ends", stamp(p.Conf.NotAfterLimit)))
	case now.Before(r.Earliest):
		r.Blocked = append(r.Blocked, fmt.Sprintf("it is kept for %s after the end of its window, until %s", days(r.Keep), stamp(r.Earliest)))
	}
	return r, nil
}

// agree refuses a log of which lock and storage do not both have the final
// tree: something went wrong there, and what is left is the evidence.
func (r *Retirement) agree(ctx context.Context, p *daemon.Parts) error {
	_, head, err := p.Committed(ctx)
	if err != nil {
		return err
	}
	if head.Tree != r.Final.Head.Tree {
		return fmt.Errorf("the lock has %d entries and root %v, but the log was frozen with %d and %v: keep everything",
			head.Tree.N, head.Tree.Hash, r.Final.Head.Tree.N, r.Final.Head.Tree.Hash)
	}
	if r.Marks.Retired != nil {
		return nil // the checkpoint was the first to go
	}
	public, err := published(ctx, p)
	switch {
	case err != nil:
		return err
	case public == nil:
		return fmt.Errorf("the log has a final tree, but %s has no checkpoint: check that it is the storage of this log", p.Conf.Storage)
	case public.Tree != r.Final.Head.Tree:
		return fmt.Errorf("the published checkpoint has %d entries and root %v, but the log was frozen with %d and %v: keep everything",
			public.Tree.N, public.Tree.Hash, r.Final.Head.Tree.N, r.Final.Head.Tree.Hash)
	}
	return nil
}

// ErrBlocked says that a log may not be retired yet.
var ErrBlocked = errors.New("not yet")

// Retire ends a log: it is marked, nobody signs for it any more, and its objects
// are deleted. Key, lock cells and marks stay, so that the key is never used for
// another log. What is not blocked and was cut short goes on when repeated. A log
// that is blocked is [ErrBlocked].
func Retire(ctx context.Context, p *daemon.Parts, c RetireConfig, opts daemon.Options) (*Retirement, Amount, error) {
	r, gone, err := retire(ctx, p, c, opts)
	if err != nil {
		return r, gone, fmt.Errorf("retire %s: %w", p.Conf.Name, err)
	}
	return r, gone, nil
}

func retire(ctx context.Context, p *daemon.Parts, c RetireConfig, opts daemon.Options) (*Retirement, Amount, error) {
	none := Amount{}
	r, err := inspect(ctx, p, c, now(opts))
	if err != nil {
		return nil, none, err
	}
	if len(r.Blocked) > 0 {
		return r, none, fmt.Errorf("%w: %s", ErrBlocked, r.Blocked[0])
	}
	if r.State == Retired && r.Objects.Total.Objects == 0 {
		return r, none, nil
	}
	mark, err := lifecycle.Retire(ctx, p.Lock, p.LockID, lifecycle.Mark{At: now(opts), Note: c.Note})
	if err != nil {
		return r, none, err
	}
	r.Marks.Retired, r.State = &mark, Retired
	if c.Waiting != nil {
		c.Waiting()
	}
	if err := quiet(ctx, p, c.Patience); err != nil {
		return r, none, err
	}
	if err := fence(ctx, p, r.Final.Head, now(opts)); err != nil {
		return r, none, err
	}
	if c.MarkOnly {
		return r, none, nil
	}
	rm := &removal{p: p, total: r.Objects.Total.Objects, step: c.Step}
	err = rm.run(ctx)
	return r, Amount{rm.objects.Load(), rm.bytes.Load()}, err
}

// quiet waits until the lock of a log stands still.
func quiet(ctx context.Context, p *daemon.Parts, patience time.Duration) error {
	held, _, err := p.Committed(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	for since := began; time.Since(since) < quietTime; {
		if err := sleep(ctx, quietLook); err != nil {
			return err
		}
		seen, _, err := p.Committed(ctx)
		switch {
		case err != nil:
			return err
		case seen.Version != held.Version:
			held, since = seen, time.Now()
		}
		if time.Since(began) > max(patience, 2*quietTime) {
			return fmt.Errorf("the log was marked as retired, but after %v somebody still signs for it: find and stop the process that serves it, "+
				"then repeat this command; nothing was deleted", time.Since(began).Round(time.Second))
		}
	}
	return nil
}

// fence puts a new version into the lock, so that a process which slept all the
// while, and wakes up, holds one that is gone: it has to load the log again, and
// finds the mark. What is signed is the final tree, once more.
func fence(ctx context.Context, p *daemon.Parts, final checkpoint.Checkpoint, now time.Time) error {
	signer, err := checkpoint.NewSigner(p.Conf.Origin, p.Key, p.Conf.Grease)
	if err != nil {
		return err
	}
	for range fenceTries {
		held, head, loadErr := p.Committed(ctx)
		if loadErr != nil {
			return loadErr
		}
		if head.Tree != final.Tree {
			return fmt.Errorf("the lock has %d entries and root %v, but the log was frozen with %d and %v: keep everything",
				head.Tree.N, head.Tree.Hash, final.Tree.N, final.Tree.Hash)
		}
		raw, signErr := signer.Sign(head.Tree, max(now.UnixMilli(), head.TimestampMillis+1))
		if signErr != nil {
			return signErr
		}
		if _, err = p.Lock.Replace(ctx, held, raw); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return fmt.Errorf("shut others out by a new version of the lock: %w", err)
}

// stamp writes a time as RFC 3339 in UTC, in whole seconds.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// days writes a duration in days if it is a number of them.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return fmt.Sprintf("%d days", d/day)
	}
	return d.String()
}
