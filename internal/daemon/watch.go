package daemon

import (
	"context"
	"errors"
	"fmt"

	"kiln/entry"
	"kiln/frontend"
	"kiln/internal/fsck"
	"kiln/internal/watch"
)

const (
	// watchLabel names the secret of the watcher among those derived from the log's
	// key.
	watchLabel = "watch v1"
	// watchSuffix is what the watcher's state has after the name of the long-term
	// cache.
	watchSuffix = ".watch"
)

// openWatch makes the log's watcher, and asks it whether what it has verified
// before is still there: before anything is signed. It does not look at the public
// URL yet, at which nothing is served.
func (l *runningLog) openWatch(ctx context.Context) error {
	url := l.conf.Watched()
	if url == "" || !l.opts.watch {
		return nil
	}
	secret, err := l.key.Derive(watchLabel)
	if err != nil {
		return err
	}
	_, _, onS3 := l.conf.StorageS3()
	w, err := watch.New(watch.Config{
		URL: url, Agent: "kiln/" + l.opts.Version + " (watching itself)",
		Origin: l.conf.Origin, SPKI: l.key.SPKI(), From: fsck.FromNow,
		State: l.conf.Dedup + watchSuffix, Secret: secret,
		Storage: fsck.Bucket(l.readable, l.conf.Storage), Near: !onS3,
		Halt:   func(reason error) { l.sequencer.Halt(reason) },
		Paused: l.retired.Load, Interval: l.opts.WatchInterval,
		MaxAge: maxCheckpointAge(l.conf.Period) + 6*watch.DefaultInterval, // caches may keep it for some seconds
		Now:    l.now, Logger: l.log, Registerer: l.reg,
	})
	if err != nil {
		return err
	}
	_, head, err := l.parts.Committed(ctx)
	committed := &head
	if err != nil {
		committed = nil // what is wrong with it, the sequencer says
	}
	if err := w.Inspect(ctx, committed); err != nil {
		return refused(fmt.Errorf("%w (watch state %s)", err, l.conf.Dedup+watchSuffix))
	}
	l.watcher = w
	return nil
}

// refused marks what a watcher refuses as lasting, unless the storage could not be
// read: it may be later, and then tells.
func refused(err error) error {
	if errors.Is(err, watch.ErrUntold) {
		return err
	}
	return lasting(err)
}

// watchLog lets the watcher of a log run until Close. What a panic in it has found
// out is not known, so that it stops the log too.
func (d *Daemon) watchLog(l *runningLog) {
	if l.watcher == nil {
		return
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	d.watchers.Go(func() {
		defer cancel(nil)
		l.contained("watch the log", func() { l.watcher.Run(ctx) })
	})
	d.watchers.Go(func() {
		select {
		case <-d.stopping:
			cancel(errStopping)
		case <-ctx.Done():
		}
	})
}

var errStopping = errors.New("the process is being stopped")

// sampled lets the watcher have a sample of the SCTs that are answered.
type sampled struct {
	frontend.Batcher
	watcher *watch.Watcher
}

// Add implements [frontend.Batcher].
func (s sampled) Add(ctx context.Context, p *entry.Pending) (entry.SCT, error) {
	sct, err := s.Batcher.Add(ctx, p)
	if err == nil {
		s.watcher.Offer(p, sct)
	}
	return sct, err
}
