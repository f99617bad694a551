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

// lookInterval is how often a command looks whether another process has done
// its part.
const lookInterval = 500 * time.Millisecond

// faultPatience is how long sealing a log is tried in spite of faults: three
// times as long as a process that serves it takes to find the mark.
const faultPatience = 15 * time.Second

// Final is the tree head of a log that can no longer grow.
type Final struct {
	Marks      lifecycle.State
	Head       checkpoint.Checkpoint
	Checkpoint []byte // signed
}

// FreezeConfig is how [Freeze] goes about it. The zero value waits for nobody.
type FreezeConfig struct {
	Note     string
	Patience time.Duration           // with a process of this machine that serves the log
	Waiting  func(done, total int64) // called while it is waited for, in seconds; may be nil
}

// Freeze freezes a log for good: no sequencer grows it any more, and its final
// tree head is in log.v3.json. If a process of this machine serves the log, that
// one ends its last round, and Freeze waits for it. It may be repeated, also
// after an error, and returns the same then.
func Freeze(ctx context.Context, p *daemon.Parts, c FreezeConfig, opts daemon.Options) (Final, error) {
	f, err := freeze(ctx, p, c, opts)
	if err != nil {
		return Final{}, fmt.Errorf("freeze %s: %w", p.Conf.Name, err)
	}
	return f, nil
}

func freeze(ctx context.Context, p *daemon.Parts, c FreezeConfig, opts daemon.Options) (Final, error) {
	f, err := LoadFinal(ctx, p)
	if err != nil {
		return Final{}, err
	}
	if f == nil {
		mark := lifecycle.Mark{At: now(opts), Note: c.Note}
		if mark, err = lifecycle.Freeze(ctx, p.Lock, p.LockID, mark); err != nil {
			return Final{}, err
		}
		if f, err = sealed(ctx, p, mark, c, opts); err != nil {
			return Final{}, err
		}
	}
	if f.Marks.Retired == nil {
		err = p.PublishInfo(ctx, opts)
	}
	return *f, err
}

// sealed returns the final tree of a log that was marked as frozen, once this
// process has sealed it, or the one that serves it. What fails is tried again
// for a while: on another machine the log may be in the midst of its rounds, one
// of which then wins over ours; that one seals it, at last.
func sealed(ctx context.Context, p *daemon.Parts, mark lifecycle.Mark, c FreezeConfig, opts daemon.Options) (*Final, error) {
	if f, err := sealedElsewhere(ctx, p, c); err != nil || f != nil {
		return f, err
	}
	for began := time.Now(); ; {
		sealErr := seal(ctx, p, mark, opts)
		f, err := LoadFinal(ctx, p)
		if err != nil || f != nil {
			return f, err
		}
		waited, inUse := time.Since(began), errors.Is(sealErr, daemon.ErrInUse)
		switch {
		case sealErr == nil:
			return nil, errors.New("the log was sealed, but has no final tree")
		case inUse && waited >= c.Patience:
			return nil, fmt.Errorf("the log is marked and takes nothing once that is read, but within %v its last round was not ended by who has it: %w; "+
				"or look into what that process says, and repeat this command", c.Patience, sealErr)
		case !inUse && waited >= min(c.Patience, faultPatience):
			return nil, fmt.Errorf("the log is marked as frozen, but its final tree could not be signed: %w; repeat this command", sealErr)
		}
		if c.Waiting != nil {
			c.Waiting(int64(waited/time.Second), int64(c.Patience/time.Second))
		}
		if err := sleep(ctx, lookInterval); err != nil {
			return nil, err
		}
	}
}

// signPatience is how long it takes to see that somebody signs for a log, who
// does so every 3 s when idle.
const signPatience = 4 * time.Second

// sealedElsewhere leaves it to a process on another machine that signs for the
// log, with the clock that all of its checkpoints are of, to seal it. It returns
// nil if there is none, or if it does not do it in time.
func sealedElsewhere(ctx context.Context, p *daemon.Parts, c FreezeConfig) (*Final, error) {
	if p.Exclusive() || c.Patience == 0 {
		return nil, nil
	}
	first, _, err := p.Committed(ctx)
	if err != nil {
		return nil, err
	}
	limit := signPatience
	for began := time.Now(); time.Since(began) < limit; {
		if err := sleep(ctx, lookInterval); err != nil {
			return nil, err
		}
		if c.Waiting != nil {
			c.Waiting(int64(time.Since(began)/time.Second), int64(limit/time.Second))
		}
		if f, err := LoadFinal(ctx, p); err != nil || f != nil {
			return f, err
		}
		now, _, err := p.Committed(ctx)
		if err != nil {
			return nil, err
		}
		if now.Version != first.Version {
			limit = min(c.Patience, faultPatience)
		}
	}
	return nil, nil
}

// seal ends the last round of a log that no process of this machine has.
func seal(ctx context.Context, p *daemon.Parts, mark lifecycle.Mark, opts daemon.Options) error {
	release, err := p.Claim()
	if err != nil {
		return err
	}
	defer release()
	_, err = p.Seal(ctx, mark, opts)
	return err
}

// LoadFinal returns the final tree head of a log, nil if it has none yet.
func LoadFinal(ctx context.Context, p *daemon.Parts) (*Final, error) {
	marks, err := p.State(ctx)
	if err != nil || marks.Final == nil {
		return nil, err
	}
	head, err := open(p, marks.Final)
	if err != nil {
		return nil, fmt.Errorf("final checkpoint: %w", err)
	}
	return &Final{Marks: marks, Head: head, Checkpoint: marks.Final}, nil
}
