package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

// drainTimeout bounds how long open requests hold up the end. It is longer than
// any submission may take.
const drainTimeout = 30 * time.Second

func serveCommand() command {
	return command{
		name: "serve", args: "[-c FILE]",
		summary: "serve the logs of a configuration",
		about: "Checks the configuration, starts its logs and serves them until SIGINT or SIGTERM. Then it drains: " +
			"nothing new is taken, waiting submissions get their SCT, and it ends with status 0. A second signal stops it " +
			"at once, with status 1; that loses nothing that was promised. It also ends with status 1, and says why, when no log can go on.",
		examples: []string{"kiln serve -c kiln.yaml"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			return func(ctx context.Context, e *env, args []string) error {
				if err := noArguments("serve", args); err != nil {
					return err
				}
				cfg, err := config.Load(*path)
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
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	// The first signal ends the start and started; the loop below sees it as
	// the end of ctx, and a second one in the channel.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	first := make(chan os.Signal, 1)
	go func() {
		select {
		case s := <-signals:
			first <- s
			stop()
		case <-ctx.Done():
		}
	}()

	d, err := daemon.Start(ctx, cfg, daemon.Options{Logger: newLogger(e.stderr, cfg.Logging), Version: version()})
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("stopped by a signal before everything was started")
		}
		return explainStart(err, cfg)
	}
	failed := make(chan error, 1)
	go func() { failed <- d.Wait() }()

	startErr := started(ctx, e, cfg, d)
	if startErr == nil {
		select {
		case <-ctx.Done():
		case startErr = <-failed:
		}
	}
	select {
	case s := <-first:
		startErr = nil // what was interrupted did not fail
		fmt.Fprintf(e.stderr, "kiln: %v: draining; once more stops at once\n", s)
	default:
	}
	return errors.Join(startErr, drain(ctx, d, signals))
}

// drain closes the daemon, unless another signal comes first.
func drain(ctx context.Context, d *daemon.Daemon, signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- d.Close(ctx) }()
	select {
	case err := <-closed:
		return err
	case s := <-signals:
		return fmt.Errorf("%v: stopped before everything was drained", s)
	}
}

// explainStart adds what to do about an address that is taken.
func explainStart(err error, cfg *config.Config) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	key, addr := "listen", cfg.Listen
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Addr != nil && op.Addr.String() == cfg.Admin {
		key, addr = "admin", cfg.Admin
	}
	return fmt.Errorf("%w\n%s %s is taken by another program: stop that, or change %s in %s", err, key, addr, key, cfg.Path)
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
	for _, l := range cfg.Logs {
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
