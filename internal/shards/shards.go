// Package shards looks after the life of the logs of a configuration: what there
// is and what is missing, how the next one is made, and how one ends.
//
// Invariants: looking changes nothing; nothing is deleted of a log whose window
// is not over, or that has no final tree on which lock and storage agree, and
// nothing before all who might sign for it are shut out; only what a log is made
// of is deleted, as its own bucket lists it; what was begun can be repeated, and
// then completes.
//
// The package never knows flags and terminals, or how logs are served.
package shards

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"kiln/checkpoint"
	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/lifecycle"
	"kiln/storage"
)

// State is how far the life of a log has come.
type State string

// The states, in their order.
const (
	Planned  State = "planned"   // not made yet, or only half
	Active   State = "active"    // takes submissions, if it is served
	ReadOnly State = "read-only" // takes none by its window, or by read_only
	Freezing State = "freezing"  // takes none for good; its final tree is not known yet
	Frozen   State = "frozen"    // its tree is final
	Retired  State = "retired"   // its objects may be gone
	Broken   State = "broken"    // cannot be told, see Shard.Err
)

// checkpointPath is where a log's checkpoint is.
const checkpointPath = "checkpoint"

// Shard is what is known of one log.
type Shard struct {
	Conf  config.Log
	State State
	LogID []byte // nil as long as there is no key

	// Head is the published checkpoint, the final one where there is one; nil
	// where there is none.
	Head *checkpoint.Checkpoint
	// Marks are what was decided of the log for good.
	Marks lifecycle.State
	// Err says why the log is Broken, or Planned.
	Err error
}

// Look finds out about one log of those that o opens. What is wrong with the log
// is in the result.
func Look(ctx context.Context, o *daemon.Opener, conf config.Log, opts daemon.Options) Shard {
	p, err := o.Open(ctx, conf)
	switch {
	case errors.Is(err, daemon.ErrNotCreated):
		s := Shard{Conf: conf, State: Planned, Err: err}
		if key, err := loadKey(conf); err == nil && key != nil {
			id := key.LogID()
			s.LogID = id[:]
		}
		return s
	case errors.Is(err, daemon.ErrRetired):
		return Shard{Conf: conf, State: Retired}
	case err != nil:
		return Shard{Conf: conf, State: Broken, Err: err}
	}
	return look(ctx, p, now(opts))
}

// LookAt finds out about a log whose parts are open.
func LookAt(ctx context.Context, p *daemon.Parts, opts daemon.Options) (Shard, error) {
	s := look(ctx, p, now(opts))
	if s.State == Broken {
		return s, fmt.Errorf("log %s: %w", p.Conf.Name, s.Err)
	}
	return s, nil
}

// look finds out about a log whose parts are open.
func look(ctx context.Context, p *daemon.Parts, now time.Time) Shard {
	id := p.Key.LogID()
	s := Shard{Conf: p.Conf, State: Broken, LogID: id[:]}
	if s.Marks, s.Err = p.State(ctx); s.Err != nil {
		return s
	}
	if s.Head, s.Err = published(ctx, p); s.Err != nil {
		return s
	}
	if s.Marks.Final != nil {
		final, err := open(p, s.Marks.Final)
		if err != nil {
			s.Err = fmt.Errorf("final checkpoint: %w", err)
			return s
		}
		if s.Head != nil && s.Head.Tree != final.Tree && s.Head.Tree.N >= final.Tree.N {
			s.Err = fmt.Errorf("the published checkpoint has %d entries and root %v, but the log was frozen with %d and %v: keep everything",
				s.Head.Tree.N, s.Head.Tree.Hash, final.Tree.N, final.Tree.Hash)
			return s
		}
		s.Head = &final
	}
	switch {
	case s.Marks.Retired != nil:
		s.State = Retired
	case s.Marks.Final != nil:
		s.State = Frozen
	case s.Marks.Frozen != nil:
		s.State = Freezing
	case s.Head == nil:
		s.State, s.Err = Planned, errors.New("it was made by half: it has a lock cell, but no checkpoint")
	case p.Conf.ReadOnly || now.After(daemon.ReadOnlyAfter(p.Conf)):
		s.State = ReadOnly
	default:
		s.State = Active
	}
	return s
}

// published returns the checkpoint that readers see, nil if there is none.
func published(ctx context.Context, p *daemon.Parts) (*checkpoint.Checkpoint, error) {
	raw, err := p.Bucket.Get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read published checkpoint: %w", err)
	}
	head, err := open(p, raw)
	if err != nil {
		return nil, fmt.Errorf("published checkpoint: %w", err)
	}
	return &head, nil
}

// open verifies a checkpoint of a log.
func open(p *daemon.Parts, raw []byte) (checkpoint.Checkpoint, error) {
	v, err := checkpoint.NewVerifier(p.Conf.Origin, p.Key.SPKI())
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return v.Open(raw)
}

// List looks at all logs of a configuration, in its order. step is called after
// each; it may be nil.
func List(ctx context.Context, cfg *config.Config, opts daemon.Options, step func(done, total int64)) (list []Shard, err error) {
	o := daemon.NewOpener(cfg, opts)
	defer func() { err = errors.Join(err, o.Close()) }()
	for i, conf := range cfg.Logs {
		list = append(list, Look(ctx, o, conf, opts))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if step != nil {
			step(int64(i+1), int64(len(cfg.Logs)))
		}
	}
	return list, nil
}

// ErrUnknown says that no log of a configuration has a name.
var ErrUnknown = errors.New("no such log")

// Find returns the log that is meant by a name: that of the log or, if there is
// one series, its half-year, such as 2026h1. Other names are [ErrUnknown].
func Find(cfg *config.Config, name string) (config.Log, error) {
	byName := func(l config.Log) bool { return l.Name == name }
	if i := slices.IndexFunc(cfg.Logs, byName); i >= 0 {
		return cfg.Logs[i], nil
	}
	byHalf := func(l config.Log) bool { return l.FromSeries && l.Shard == name }
	if i := slices.IndexFunc(cfg.Logs, byHalf); i >= 0 && len(cfg.Series) == 1 {
		return cfg.Logs[i], nil
	} else if i >= 0 {
		return config.Log{}, fmt.Errorf("%w as %s: there are %d series, so give the whole name, such as %s",
			ErrUnknown, name, len(cfg.Series), cfg.Logs[i].Name)
	}
	var names []string
	for _, l := range cfg.Logs {
		names = append(names, l.Name)
	}
	err := fmt.Errorf("%w as %s in %s", ErrUnknown, name, cfg.Path)
	if near := config.Nearest(name, names); near != "" {
		return config.Log{}, fmt.Errorf("%w; did you mean %s?", err, near)
	}
	return config.Log{}, fmt.Errorf("%w: kiln shards list shows them", err)
}

// now is the time by the clock of the logs.
func now(opts daemon.Options) time.Time {
	if opts.Now == nil {
		return time.Now()
	}
	return opts.Now()
}

// sleep waits, or returns the error of a context that ended.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
