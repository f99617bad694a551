package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

// drainTimeout bounds how long open requests hold up the end. It is longer than
// any submission may take.
const drainTimeout = 45 * time.Second

func serveCommand() command {
	return command{
		name: "serve", args: "[-c FILE]",
		summary: "serve the logs of a configuration",
		about: "Checks the configuration, starts its logs and serves them until SIGINT or SIGTERM. Then it drains: " +
			"nothing new is taken, waiting submissions get their SCT, and it ends with status 0. A second signal stops it " +
			"at once, with status 1; that loses nothing that was promised. SIGHUP reads the accepted roots again, and the reports they follow. " +
			"Shards of a series that were not made yet, or were retired, are left out. A log that cannot be opened is left out too, with an ERROR line " +
			"and a red /readyz, and tried again if the reason may pass. It ends with status 1, and says why, when no log can be opened or go on.",
		examples: []string{"kiln serve -c kiln.yaml"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			return func(ctx context.Context, e *env, args []string) error {
				if err := noArguments("serve", args); err != nil {
					return err
				}
				cfg, err := config.Load(*path, e.now())
				if err != nil {
					return err
				}
				return serve(ctx, e, cfg, printServed)
			}
		},
	}
}

// serve runs the daemon until a signal comes or it fails. Once it runs, started
// is called; if that fails, so does serve.
func serve(ctx context.Context, e *env, cfg *config.Config, started func(context.Context, *env, *config.Config, *daemon.Daemon) error) error {
	i := followInterrupts(ctx)
	defer i.close()

	var d *daemon.Daemon
	var running atomic.Pointer[daemon.Daemon]
	defer followHangups(func() {
		if d := running.Load(); d != nil { // a log that is being started reads all there is anyway
			d.Reload()
		}
	})()
	err := i.run(func() (err error) {
		d, err = daemon.Start(i.ctx, cfg, daemon.Options{Now: e.now, Logger: newLogger(e.stderr, cfg.Logging), Version: version()})
		return err
	})
	switch {
	case err != nil && i.asked() && errors.Is(err, context.Canceled):
		fmt.Fprintln(e.stderr, "kiln: stopped before everything was started")
		return nil
	case err != nil:
		return err
	}
	running.Store(d)
	failed := make(chan error, 1)
	go func() { failed <- d.Wait() }() // returns after Close at the latest

	err = i.run(func() error { return started(i.ctx, e, cfg, d) })
	if err == nil {
		select {
		case <-i.ctx.Done():
		case err = <-failed:
		}
	}
	if i.asked() {
		err = nil // what was interrupted did not fail
		fmt.Fprintln(e.stderr, "kiln: draining; another signal stops at once")
	}
	return errors.Join(err, i.run(func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(i.ctx), drainTimeout)
		defer cancel()
		return d.Close(ctx)
	}))
}

func newLogger(w io.Writer, l config.Logging) *slog.Logger {
	opts := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// printServed says what is served and where.
func printServed(_ context.Context, e *env, cfg *config.Config, d *daemon.Daemon) error {
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	for _, l := range d.Served() {
		fmt.Fprintf(tw, "log %s\t%s\t%s%s\n", l.Name, l.SubmissionURL, windowOf(l), mode(l))
	}
	if err := tw.Flush(); err != nil {
		return nil // as env.printf
	}
	scheme := "http"
	if cfg.TLS != nil {
		scheme = "https"
	}
	e.printf("serving on %s://%s, admin on http://%s\n", scheme, d.Addr(), d.AdminAddr())
	return nil
}

// windowOf writes a log's window, by days where it has whole ones.
func windowOf(l config.Log) string {
	return "[" + shortTime(l.NotAfterStart) + ", " + shortTime(l.NotAfterLimit) + ")"
}

func shortTime(t time.Time) string {
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}

func mode(l config.Log) string {
	if l.ReadOnly {
		return ", read-only"
	}
	return ""
}
