// Package gc finds and deletes what a log leaves behind and nobody needs any
// more: partial tiles whose full tile has stood for a grace period, and staging
// bundles that no commit can use (MON-09, MON-10, MON-17, MON-29; design: "The
// commit, step by step").
//
// Invariants: only paths of partial tiles and of bundles are ever deleted, so no
// full tile, issuer or checkpoint goes. A partial tile goes only when its full
// tile was read back, proved against the published tree and found to hold all of
// it; when the full tile has stood for the grace; and when no checkpoint that
// was current within the grace has it on its right edge. A bundle goes only when
// the lock can no longer move to it, and never that of the lock's checkpoint.
// Lock and checkpoint are read again before each step of deleting. A run that
// was cut off can be repeated, any number of runs may go on at a time, and the
// log may run meanwhile: gc takes no lock.
//
// How it knows without a memory. The newest entry that is older than the grace
// was given its timestamp at the begin of a round, and a round begins when the
// checkpoint of the round before is published. So the size at which that round
// began, the safe size, was published before the grace, and no checkpoint that
// was current since is smaller. Only tiles that are full at the safe size lose
// their partial tiles; those that the newest rounds filled wait for later ones.
//
// A bundle is staged after its round took a timestamp and before the lock moves.
// When the lock's checkpoint is younger than the bundle, the lock has left the
// version that the round held, and never comes back to it.
//
// Three clocks: entries and checkpoints tell the log's time, objects the
// storage's, and Config.Now this machine's. The log's time is taken to be that of
// the published checkpoint, the storage's that at which it wrote that checkpoint,
// and this machine's can only make either earlier. A wrong clock here therefore
// deletes nothing early, and a log that does not run is not cleaned up to the
// end. Log and storage are compared for bundles alone, where they may differ by
// less than the grace.
//
// The package never knows backends, locks or configuration.
package gc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln/checkpoint"
	"kiln/storage"
)

// The grace: hours, since many clients do not turn to the full tile when a
// partial one is gone (MON-10).
const (
	DefaultGrace = 6 * time.Hour
	MinGrace     = 10 * time.Minute
)

// DefaultParallel is how many storage calls are at work at a time.
const DefaultParallel = 32

// Config says what to clean. Bucket, Lister, Verifier and Lock are required.
type Config struct {
	Bucket storage.Bucket
	Lister storage.Lister // of the same objects

	// Verifier opens the checkpoints of the log.
	Verifier *checkpoint.Verifier
	// Lock returns the newest content of the log's lock cell.
	Lock func(ctx context.Context) ([]byte, error)

	Grace    time.Duration    // default DefaultGrace; at least MinGrace
	Parallel int              // default DefaultParallel
	Now      func() time.Time // default time.Now
	Logger   *slog.Logger     // default: discard

	// Each, if set, is told each object that was deleted or, by Plan, is to be.
	// Its calls come one after the other.
	Each func(storage.Info)
	// Progress, if set, is told how many objects were listed so far.
	Progress func(listed int64)
}

// Count is a number of objects and their bytes as stored.
type Count struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (c *Count) add(i storage.Info) {
	c.Objects++
	c.Bytes += i.Size
}

// Result is what a run did, or a plan found.
type Result struct {
	TreeSize int64 `json:"tree_size"` // of the published checkpoint
	SafeSize int64 `json:"safe_size"` // see the package comment

	Partials Count `json:"partial_tiles"` // deleted, or to be deleted
	Bundles  Count `json:"bundles"`       // the same
	Waiting  Count `json:"waiting"`       // partial tiles and bundles that have to stay for now

	// BundlesLeft says why no bundle was looked at, if none was.
	BundlesLeft string `json:"bundles_left,omitempty"`
}

// Plan finds what Run would delete, and changes nothing. It reads the tiles that
// tell the safe size, but not those that it would delete.
func Plan(ctx context.Context, cfg Config) (Result, error) { return collect(ctx, cfg, false) }

// Run deletes what may go. It stops at the first error that does not pass: a
// missing full tile, a tile that is not what the tree says, storage that fails
// again and again. The result then says what was deleted before; what is left is
// found by the next run.
func Run(ctx context.Context, cfg Config) (Result, error) { return collect(ctx, cfg, true) }

func collect(ctx context.Context, cfg Config, remove bool) (Result, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Result{}, err
	}
	c := &collector{cfg: cfg, remove: remove, calls: make(chan struct{}, cfg.Parallel)}
	err = c.collect(ctx)
	return c.result, err
}

func (cfg Config) withDefaults() (Config, error) {
	if cfg.Bucket == nil || cfg.Lister == nil || cfg.Verifier == nil || cfg.Lock == nil {
		return cfg, errors.New("gc config: Bucket, Lister, Verifier and Lock are required")
	}
	if cfg.Grace == 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.Grace < MinGrace {
		return cfg, fmt.Errorf("gc config: grace of %v is under %v", cfg.Grace, MinGrace)
	}
	if cfg.Parallel == 0 {
		cfg.Parallel = DefaultParallel
	}
	if cfg.Parallel < 1 {
		return cfg, fmt.Errorf("gc config: parallelism of %d", cfg.Parallel)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return cfg, nil
}

// collector is one run.
type collector struct {
	cfg    Config
	remove bool
	calls  chan struct{} // bounds the storage calls at work

	first view // of the log at the begin; set before anything is started
	due   due  // the same

	pace pace // of repeated calls

	mu     sync.Mutex // guards result, and calls of Each
	result Result
}

// due is what has to be older for something to be due.
type due struct {
	safe    int64     // tree size
	written time.Time // by the storage's clock
}

func (c *collector) collect(ctx context.Context) error {
	began := c.cfg.Now()
	var err error
	if c.first, err = c.look(ctx); err != nil {
		return err
	}
	if err := c.findDue(ctx); err != nil {
		return err
	}
	c.result.TreeSize, c.result.SafeSize = c.first.public.Tree.N, c.due.safe
	if err := c.bundles(ctx); err != nil {
		return err
	}
	if err := c.partials(ctx); err != nil {
		return err
	}
	if r := c.result; c.remove {
		c.cfg.Logger.Info("deleted partial tiles and bundles", "tree_size", r.TreeSize,
			"entries", r.Partials.Objects+r.Bundles.Objects, "elapsed", c.cfg.Now().Sub(began))
	}
	return nil
}

// partials lists all tiles and deletes the partial ones that are due, a full
// tile at a time. However storage orders its objects, no more than a bit for
// each full tile is remembered.
func (c *collector) partials(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	var seen seenTiles
	listed := int64(0)
	err := c.cfg.Lister.List(ctx, "tile/", func(i storage.Info) error {
		listed++
		if c.cfg.Progress != nil {
			c.cfg.Progress(listed)
		}
		p, ok := partialOf(i)
		switch {
		case !ok:
		case p.end() > c.due.safe:
			c.wait(i)
		case seen.add(p.tile):
			g.Go(func() error { return c.tile(ctx, p.full()) })
		}
		return ctx.Err()
	})
	if groupErr := g.Wait(); groupErr != nil {
		return groupErr // it is why the listing was ended
	}
	if err != nil {
		return fmt.Errorf("find partial tiles: %w", err)
	}
	return nil
}

// wait counts an object that has to stay.
func (c *collector) wait(i storage.Info) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result.Waiting.add(i)
}

// gone counts an object that was deleted or, in a plan, would be.
func (c *collector) gone(count *Count, i storage.Info) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count.add(i)
	if c.cfg.Each != nil {
		c.cfg.Each(i)
	}
}
