package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kiln/checkpoint"
	"kiln/internal/lifecycle"
	"kiln/reader"
	"kiln/storage"
)

const (
	// lifeInterval is how often a running log looks for what was decided of it,
	// and whether what it says of itself is still so.
	lifeInterval = 5 * time.Second

	lifeTimeout = 30 * time.Second // of one look
)

// openLife follows what is decided of the log by kiln shards, by this process
// or on another machine.
func (l *runningLog) openLife(ctx context.Context) error {
	if err := l.look(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.contained("follow what is decided of the log", func() { l.follow(ctx) })
	}()
	l.onClose(func() error {
		cancel()
		<-done
		return nil
	})
	return nil
}

func (l *runningLog) follow(ctx context.Context) {
	ticker := time.NewTicker(lifeInterval)
	defer ticker.Stop()
	for failing := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-l.sequencer.Done():
			return // it is only read from now on, and signs nothing
		case <-ticker.C:
		}
		err := l.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			l.log.Warn("cannot tell whether the log was frozen, or publish its log.v3.json; trying again", "err", err)
		case err == nil && failing:
			l.log.Info("log.v3.json is published again")
		}
		failing = err != nil
	}
}

// look reads the marks of the log, does what they ask for, and publishes what
// the log says of itself.
func (l *runningLog) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, lifeTimeout)
	defer cancel()
	state, err := l.parts.State(ctx)
	if err != nil {
		return err
	}
	if state.Retired != nil && !l.retired.Swap(true) {
		l.log.Warn("log was retired: it signs nothing any more; take it out of the configuration, then restart")
		if err := l.sequencer.Close(); err != nil {
			return err
		}
	}
	if l.retired.Load() {
		return nil
	}
	if state.Frozen != nil && l.life.Load().Final == nil {
		if err := l.freeze(ctx, *state.Frozen); err != nil {
			return err
		}
	}
	return l.publishInfo(ctx)
}

// freeze ends the growth of the log.
func (l *runningLog) freeze(ctx context.Context, m lifecycle.Mark) error {
	final, err := l.sequencer.Seal(ctx, m)
	if err != nil {
		return err
	}
	l.life.Store(&reader.Life{FrozenAt: m.At, Final: &final})
	l.log.Info("log is frozen: it takes no more submissions and goes on being read", "tree_size", final.Tree.N, "timestamp", final.TimestampMillis)
	return nil
}

// publishInfo keeps log.v3.json in the storage as this process would serve it.
func (l *runningLog) publishInfo(ctx context.Context) error {
	o, err := reader.InfoObject(l.info(), l.now(), *l.life.Load())
	if err != nil {
		return err
	}
	if bytes.Equal(o.Body, l.published) {
		return nil
	}
	if err := replaceInfo(ctx, l.bucket, o); err != nil {
		return err
	}
	l.published = o.Body
	return nil
}

// info is what the log says of itself.
func (l *runningLog) info() reader.Info {
	i := infoOf(l.parts, l.opts.Version)
	i.ActiveSince, i.ReadOnlyAfter = l.activeSince, l.readOnlyAfter
	return i
}

func infoOf(p *Parts, version string) reader.Info {
	conf := p.Conf
	return reader.Info{
		Name: conf.Name, Origin: conf.Origin, SPKI: p.Key.SPKI(), LogID: p.Key.LogID(),
		SubmissionURL: conf.SubmissionURL, MonitoringURL: conf.MonitoringURL,
		NotAfterStart: conf.NotAfterStart, NotAfterLimit: conf.NotAfterLimit,
		TLSOnly: conf.RequireServerAuth, IntendedUse: conf.IntendedUse,
		ReadOnlyAfter: conf.NotAfterLimit.Add(readOnlyGrace), Version: version,
	}
}

// publishInfo writes log.v3.json of a log that nothing serves.
func (p *Parts) publishInfo(ctx context.Context, opts Options) error {
	info := infoOf(p, opts.Version)
	var err error
	if info.ActiveSince, err = activeSince(ctx, p.Bucket, opts.Now()); err != nil {
		return err
	}
	life, err := p.life(ctx)
	if err != nil {
		return err
	}
	o, err := reader.InfoObject(info, opts.Now(), life)
	if err != nil {
		return err
	}
	return replaceInfo(ctx, p.Bucket, o)
}

// PublishInfo writes log.v3.json as it is to be now, from what was decided of
// the log. A serving process does so by itself.
func (p *Parts) PublishInfo(ctx context.Context, opts Options) error {
	if err := p.publishInfo(ctx, opts.withDefaults()); err != nil {
		return fmt.Errorf("log %s: %w", p.Conf.Name, err)
	}
	return nil
}

// life reads what was decided of the log.
func (p *Parts) life(ctx context.Context) (reader.Life, error) {
	state, err := p.State(ctx)
	if err != nil || state.Frozen == nil {
		return reader.Life{}, err
	}
	life := reader.Life{FrozenAt: state.Frozen.At}
	if state.Final == nil {
		return life, nil
	}
	v, err := checkpoint.NewVerifier(p.Conf.Origin, p.Key.SPKI())
	if err != nil {
		return life, err
	}
	final, err := v.Open(state.Final)
	if err != nil {
		return life, fmt.Errorf("final checkpoint: %w", err)
	}
	life.Final = &final
	return life, nil
}

func replaceInfo(ctx context.Context, bucket storage.Bucket, o storage.Object) error {
	return bucket.Update(ctx, o, func([]byte) ([]byte, error) { return o.Body, nil })
}

// activeSince is when the log began to take submissions, by what it said of
// itself before; a log that has said nothing yet begins now.
func activeSince(ctx context.Context, bucket storage.Bucket, now time.Time) (time.Time, error) {
	body, err := bucket.Get(ctx, reader.InfoPath)
	if errors.Is(err, storage.ErrNotFound) {
		return now, nil
	}
	if err != nil {
		return now, err
	}
	var said struct {
		Status string    `json:"status"`
		Since  time.Time `json:"status_timestamp"`
	}
	if err := json.Unmarshal(body, &said); err != nil || said.Status != "active" {
		return now, nil // not ours, or of another time: nothing hangs on it
	}
	return said.Since, nil
}
