package daemon

import (
	"context"
	"fmt"

	"kiln/dedup"
	"kiln/internal/config"
)

// Find opens what there is of a log, for a look at one that may be incomplete:
// Key, Bucket and Lock are nil where there is none, and LockID is empty without
// Key. It makes nothing. That a part is there says nothing of whether it is this
// log's.
func (o *Opener) Find(ctx context.Context, conf config.Log) (*Parts, error) {
	p, err := o.backends.parts(ctx, conf)
	if p == nil {
		return nil, fmt.Errorf("log %s: %w", conf.Name, err)
	}
	return p, nil // err says what is missing
}

// Hold takes the exclusive locks that a serving process holds on the data of the
// log on this machine, so that none starts meanwhile. It fails at once, naming
// the other process, if one is held. What the log has on other machines knows no
// such locks.
func (p *Parts) Hold() (release func(), err error) {
	var locks lockFiles
	if err := locks.acquire(lockPaths(p.Conf, p.Key)...); err != nil {
		return nil, err
	}
	return locks.release, nil
}

// OpenDedup opens the log's long-term cache, and makes it if there is none. One
// process at a time may have it open. The caller closes it.
func (p *Parts) OpenDedup(ctx context.Context, opts Options) (*dedup.Cache, error) {
	secret, err := p.Key.Derive(dedupLabel)
	if err != nil {
		return nil, err
	}
	return dedup.Open(ctx, dedup.Config{Path: p.Conf.Dedup, Secret: secret, Logger: opts.withDefaults().Logger})
}
