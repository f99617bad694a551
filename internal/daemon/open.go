package daemon

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"kiln/batcher"
	"kiln/dedup"
	"kiln/frontend"
	"kiln/internal/catchup"
)

// Seams are the places where the roles of one log meet, for who runs a log on
// parts of its own: a simulation, which stands between them. Each field may be
// nil, and then is as kiln serve has it.
type Seams struct {
	// OpenDedup opens the long-term cache instead of [dedup.Open].
	OpenDedup func(context.Context, dedup.Config) (DedupCache, error)
	// Batcher and Sequencer return what the frontend, or a batcher, calls in the
	// place of the one they are given.
	Batcher   func(frontend.Batcher) frontend.Batcher
	Sequencer func(batcher.Sequencer) batcher.Sequencer
	// Jitter returns a duration in [0, limit) in the place of a random one.
	Jitter func(limit time.Duration) time.Duration
}

// DedupCache is a long-term deduplication cache as a log uses it; a
// [*dedup.Cache] is one.
type DedupCache interface {
	batcher.Dedup
	catchup.Cache
	Close() error
}

// openDedup is [dedup.Open], unless there is another.
func (s Seams) openDedup(ctx context.Context, cfg dedup.Config) (DedupCache, error) {
	if s.OpenDedup != nil {
		return s.OpenDedup(ctx, cfg)
	}
	c, err := dedup.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (s Seams) batcher(b frontend.Batcher) frontend.Batcher {
	if s.Batcher == nil {
		return b
	}
	return s.Batcher(b)
}

func (s Seams) sequencer(q batcher.Sequencer) batcher.Sequencer {
	if s.Sequencer == nil {
		return q
	}
	return s.Sequencer(q)
}

// Log is one running log with all its roles and no listener. It is safe for
// concurrent use.
type Log struct{ l *runningLog }

// OpenLog runs a log on parts, wired as in a [Daemon]: when it returns, the log
// is loaded, proved and caught up. Of parts it needs Conf, Key, Bucket, Lock and
// LockID. It takes no locks on the data of the log, see [Parts.Claim]. ctx governs
// the opening only. The caller calls Close.
func OpenLog(ctx context.Context, parts *Parts, opts Options, seams Seams) (*Log, error) {
	opts = opts.withDefaults()
	v, err := newValidator(parts.Conf, opts)
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", parts.Conf.Name, err)
	}
	l, err := openLog(ctx, parts, parts.Bucket, v, opts, seams, nil)
	if err != nil {
		return nil, err
	}
	return &Log{l}, nil
}

// Submission returns the submission API, at paths without the log's prefix.
func (g *Log) Submission() http.Handler { return g.l.frontend }

// Monitoring returns the monitoring API, at paths without the log's prefix.
func (g *Log) Monitoring() http.Handler { return g.l.reader }

// Done is closed when the log has stopped for good; Err then says why. It goes on
// being read.
func (g *Log) Done() <-chan struct{} { return g.l.sequencer.Done() }

// Err returns why the log stopped for good, or nil.
func (g *Log) Err() error { return g.l.sequencer.Err() }

// Close answers whoever waits, then stops all roles.
func (g *Log) Close() error { return g.l.close() }
