// Package daemon makes running logs of a configuration: it starts the roles of
// every log in order, puts them behind one public and one admin listener, and
// stops them in reverse.
//
// Invariants: nothing is accepted for a log before it is loaded, proved and caught
// up; a log that cannot be opened keeps no other from being served; a start that fails leaves nothing running; a
// request that was taken is answered before its log is closed; a log that stops
// for good takes no other log with it, and goes on being read.
//
// It is the only package that knows all others, and it never knows what they
// do: protocol, order of a commit and rules for certificates are theirs.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/internal/config"
	"kiln/internal/contain"
	"kiln/internal/roots"
)

// Options are what a daemon needs beside its configuration. The zero value
// works.
type Options struct {
	Logger  *slog.Logger     // default: discard
	Now     func() time.Time // the logs' clock; default time.Now
	Version string           // for the build_info metric

	// WatchInterval is how often each log is looked at as monitors see it; default
	// watch.DefaultInterval.
	WatchInterval time.Duration

	watch    bool          // the logs are served, and so they are watched
	patience time.Duration // default openPatience
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.patience == 0 {
		o.patience = openPatience
	}
	return o
}

// Daemon is a set of running logs. Its methods are safe for concurrent use.
type Daemon struct {
	cfg     *config.Config
	opts    Options
	log     *slog.Logger
	metrics *metrics
	reg     *prometheus.Registry

	backends *backends
	slots    []*slot                   // complete before the logs are opened
	admin    *admin                    // nil if there is none
	roots    map[string]*roots.Manager // by roots file
	public   *public
	phase    atomic.Int32 // a phase

	stopping chan struct{}  // closed when Close begins: ends the watchers
	watchers sync.WaitGroup // of each log, of the listener, of each log that is reopened
	left     atomic.Int64   // logs that run, or may yet

	closing  sync.Once
	closeErr error         // set before closed is closed
	closed   chan struct{} // closed when Close is done with everything

	ending sync.Once
	endErr error         // set before ended is closed
	ended  chan struct{} // closed when there is nothing left to wait for
}

// Start runs the logs of a configuration. When it returns nil, the logs are
// loaded and the public listener accepts. A log that cannot be opened is left out,
// red and loud, and tried again if the reason may pass; only if there is none that
// can, or what they share fails, does Start. Then it has stopped what it had
// started; the error names each log and file, and says what to do. ctx governs the
// start only.
func Start(ctx context.Context, cfg *config.Config, opts Options) (*Daemon, error) {
	opts = opts.withDefaults()
	opts.watch = true
	d := &Daemon{
		cfg: cfg, opts: opts, log: opts.Logger, reg: prometheus.NewRegistry(),
		stopping: make(chan struct{}), closed: make(chan struct{}), ended: make(chan struct{}),
	}
	d.metrics = newMetrics(d.reg, opts.Version)
	d.backends = newBackends(cfg, d.log, d.reg)
	if err := d.start(ctx); err != nil {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), submissionTimeout)
		defer cancel()
		return nil, errors.Join(err, d.Close(stop))
	}
	return d, nil
}

func (d *Daemon) start(ctx context.Context) error {
	if len(d.cfg.Logs) == 0 {
		return fmt.Errorf("%s: no logs configured, want at least one", d.cfg.Path)
	}
	tlsConf, err := tlsConfig(d.cfg.TLS, time.Now, d.log, d.metrics)
	if err != nil {
		return err
	}
	if err := d.openParts(ctx); err != nil {
		return err
	}
	if d.cfg.Admin != "" {
		if d.admin, err = listenAdmin(ctx, d.cfg.Admin, d.reg, d.ready, d.log); err != nil {
			return err
		}
	}
	if err := d.openRoots(ctx); err != nil {
		return err
	}
	if err := d.openLogs(ctx); err != nil {
		return err
	}
	handler, err := d.router()
	if err != nil {
		return err
	}
	d.public, err = listenPublic(ctx, publicConfig{
		address: d.cfg.Listen, tls: tlsConf, maxConnections: d.cfg.MaxConnections, logs: len(d.slots),
		handler: handler, log: d.log, metrics: d.metrics,
	})
	if err != nil {
		return err
	}
	d.watch()
	d.followRoots()
	d.phase.Store(int32(serving))
	d.log.Info("serving", "endpoint", d.Addr())
	return nil
}

// openParts opens the parts of all logs and takes the exclusive locks on their
// data, before anything of them is proved. A shard that was not made yet, or was
// retired, is no fault: the calendar makes and ends shards.
func (d *Daemon) openParts(ctx context.Context) error {
	errs := make([]error, len(d.cfg.Logs))
	slots := make([]*slot, len(d.cfg.Logs))
	limited, opened, stop := patient(ctx, d.opts.patience)
	var wg sync.WaitGroup
	for i, conf := range d.cfg.Logs {
		s := &slot{conf: conf}
		slots[i] = s
		wg.Go(func() {
			err := contain.Run(func() error { return d.openData(limited, s) })
			if err == nil {
				opened()
			}
			errs[i] = impatient(limited, err)
		})
	}
	wg.Wait()
	stop()
	for i, s := range slots {
		conf, err := s.conf, errs[i]
		switch {
		case conf.FromSeries && errors.Is(err, ErrNotCreated):
			d.log.Warn("shard is not served: it was not made yet, make it with kiln shards create", "log", conf.Name, "err", err)
			continue
		case conf.FromSeries && errors.Is(err, ErrRetired):
			d.log.Info("shard is not served: it was retired", "log", conf.Name)
			continue
		case err != nil:
			if err := d.leaveOut(ctx, s, fmt.Errorf("log %s: %w", conf.Name, err)); err != nil {
				return err
			}
		}
		d.slots = append(d.slots, s)
	}
	if len(d.slots) == 0 {
		return fmt.Errorf("%s: none of its shards is there to be served: make them with kiln shards create", d.cfg.Path)
	}
	return nil
}

// openLogs starts all logs whose parts are there. It fails if none could be
// started.
func (d *Daemon) openLogs(ctx context.Context) error {
	failed := make([]error, len(d.slots))
	limited, opened, stop := patient(ctx, d.opts.patience)
	var wg sync.WaitGroup
	for i, s := range d.slots {
		if s.broken() != nil {
			continue
		}
		wg.Go(func() {
			err := contain.Run(func() error { return d.openSlot(limited, s) })
			if err == nil {
				opened()
			}
			failed[i] = impatient(limited, err)
		})
	}
	wg.Wait()
	stop()
	var errs []error
	for i, s := range d.slots {
		if failed[i] != nil {
			if err := d.leaveOut(ctx, s, failed[i]); err != nil {
				return err
			}
		}
		errs = append(errs, s.broken())
	}
	if len(d.logs()) == 0 {
		return errors.Join(errs...)
	}
	return nil
}

func (d *Daemon) router() (*router, error) {
	index, err := newIndex(d.infos)
	if err != nil {
		return nil, err
	}
	var sites []site
	for _, s := range d.slots {
		sites = append(sites, s.site(d.metrics.shareRefused.WithLabelValues(s.conf.Name).Inc))
	}
	return newRouter(sites, index)
}

// infos says what the index page lists: the logs that are open.
func (d *Daemon) infos() []LogInfo {
	var infos []LogInfo
	for _, l := range d.logs() {
		infos = append(infos, l.parts.info())
	}
	return infos
}

// watch follows the logs and the listener until Close, and opens the logs that
// could not be opened.
func (d *Daemon) watch() {
	for _, s := range d.slots {
		if s.log.Load() != nil || mayPass(s.conf, s.broken()) {
			d.left.Add(1)
		}
	}
	for _, l := range d.logs() {
		d.serveLog(l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	for _, s := range d.slots {
		if s.log.Load() == nil {
			d.watchers.Go(func() { d.reopen(ctx, s) })
		}
	}
	d.watchers.Go(func() {
		<-d.stopping
		cancel()
	})
	d.watchers.Go(func() {
		select {
		case <-d.public.stopped:
			d.end(d.public.err)
		case <-d.stopping:
		}
	})
}

// serveLog follows and watches a log that was opened until Close.
func (d *Daemon) serveLog(l *runningLog) {
	d.watchLog(l)
	d.watchers.Go(func() {
		select {
		case <-l.sequencer.Done():
		case <-d.stopping:
			return
		}
		err := fmt.Errorf("log %s has stopped for good: %w", l.conf.Name, l.sequencer.Err())
		l.metrics.up.Set(0)
		l.log.Error("log takes no more submissions and is only read: repair what the error names, then restart",
			"path", l.conf.Storage, "err", err)
		d.lost(err)
	})
}

// lost counts a log out for good; with the last one there is nothing left to wait
// for.
func (d *Daemon) lost(err error) {
	if d.left.Add(-1) == 0 {
		d.end(err)
	}
}

// end lets Wait return; only the first call counts.
func (d *Daemon) end(err error) {
	d.ending.Do(func() {
		d.endErr = err
		close(d.ended)
	})
}

// Wait blocks until nothing is left to serve: it returns an error when every log
// has stopped for good or the public listener failed, and nil after Close.
func (d *Daemon) Wait() error {
	<-d.ended
	return d.endErr
}

// Served returns the configurations of the logs that are served now: shards that
// were not made yet or were retired, and logs that could not be opened, are left
// out.
func (d *Daemon) Served() []config.Log {
	var served []config.Log
	for _, l := range d.logs() {
		served = append(served, l.conf)
	}
	return served
}

// Addr returns host:port of the public listener.
func (d *Daemon) Addr() string { return d.public.limiter.Addr().String() }

// AdminAddr returns host:port of the admin listener, "" if there is none.
func (d *Daemon) AdminAddr() string {
	if d.admin == nil {
		return ""
	}
	return d.admin.address.String()
}

// Close drains: no more connections are accepted, requests at hand are answered
// (submissions with their SCT), then the logs are closed and their data
// released, the admin listener last. When ctx ends first, requests are cut and
// Close returns while logs may still be closing. Further calls wait for the
// first.
func (d *Daemon) Close(ctx context.Context) error {
	d.closing.Do(func() { go d.close(ctx) })
	select {
	case <-d.closed:
		return d.closeErr
	case <-ctx.Done():
	}
	select { // both may be true
	case <-d.closed:
		return d.closeErr
	default:
		return fmt.Errorf("close: %w: logs are still being closed", ctx.Err())
	}
}

func (d *Daemon) close(ctx context.Context) {
	d.phase.Store(int32(draining))
	close(d.stopping)
	d.watchers.Wait()
	var errs []error
	if d.public != nil {
		d.log.Info("draining", "endpoint", d.Addr())
		errs = append(errs, d.public.shutdown(ctx))
	}
	logs := d.logs()
	logErrs := make([]error, len(logs))
	var wg sync.WaitGroup
	for i, l := range logs {
		wg.Go(func() { logErrs[i] = contain.Run(l.close) })
	}
	wg.Wait()
	logErrs = append(logErrs, d.backends.close())
	for _, s := range d.slots {
		s.locks.release()
	}
	errs = append(errs, logErrs...)
	if d.admin != nil {
		errs = append(errs, d.admin.shutdown(ctx))
	}
	d.closeErr = errors.Join(errs...)
	d.end(nil)
	close(d.closed)
}
