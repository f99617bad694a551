package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kiln/checkpoint"
	"kiln/internal/config"
	"kiln/internal/lifecycle"
	"kiln/sequencer"
)

// ErrInUse says that another process of this machine holds the data of a log.
var ErrInUse = errors.New("the data is in use by another kiln process")

// Claim takes the exclusive locks on what the log has on this machine, as kiln
// serve does, or returns an error that wraps [ErrInUse]. Of a log that has
// nothing here there is nothing to take. The caller calls release.
func (p *Parts) Claim() (release func(), err error) {
	var locks lockFiles
	if err := locks.acquire(lockPaths(p.Conf, p.Key)...); err != nil {
		return nil, fmt.Errorf("log %s: %w", p.Conf.Name, err)
	}
	return locks.release, nil
}

// Exclusive reports whether a claim keeps all others from writing to the log:
// what is on S3 or etcd, other machines may have.
func (p *Parts) Exclusive() bool {
	_, _, onS3 := p.Conf.StorageS3()
	return !onS3 && onSQLite(p.Conf)
}

// Seal freezes the log for good with a sequencer of its own, and returns the
// final checkpoint. It may be repeated. Sequencers that run elsewhere let go of
// the log; whoever has it on this machine has to be gone, see [Parts.Claim].
func (p *Parts) Seal(ctx context.Context, m lifecycle.Mark, opts Options) (checkpoint.Checkpoint, error) {
	opts = opts.withDefaults()
	s, err := sequencer.Open(ctx, p.sequencerConfig(opts))
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("log %s: %w", p.Conf.Name, err)
	}
	final, err := s.Seal(ctx, m)
	return final, errors.Join(err, s.Close())
}

func (p *Parts) sequencerConfig(opts Options) sequencer.Config {
	return sequencer.Config{
		Origin: p.Conf.Origin, Key: p.Key, Grease: p.Conf.Grease, Bucket: p.Bucket, Lock: p.Lock, LockID: p.LockID,
		Period: p.Conf.Period, Names: p.Conf.Names, Now: opts.Now, Logger: opts.Logger.With("log", p.Conf.Name),
	}
}

// ReadOnlyAfter is when a log stops taking submissions by itself (SUB-39).
func ReadOnlyAfter(conf config.Log) time.Time { return conf.NotAfterLimit.Add(readOnlyGrace) }
