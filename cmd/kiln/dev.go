package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"text/tabwriter"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/testlogs"
)

type devOptions struct {
	dir, listen, admin string
	samples            int
	moved              bool // listen or admin were given
	s3                 bool // storage and lock on an S3 server of its own
	s3Listen           string
	s3Moved            bool // s3Listen was given
}

func devCommand() command {
	return command{
		name: "dev", args: "[flags]",
		summary: "try kiln: two test logs on this machine, with sample submissions",
		about: "Makes what is missing in a folder (keys, lock, a test log for this half-year and one for the next, a throw-away " +
			"test CA), serves the logs on this machine, submits a few samples and prints what came of them. Started again, it goes on " +
			"with the same logs. With --s3 they are on an S3 server (versitygw), which is installed if it is missing, started beside them " +
			"and stopped after them. Ctrl-C drains and stops it. For tests only: anybody who reads the folder has the CA's keys.",
		examples: []string{"kiln dev", "kiln dev --s3", "kiln dev --dir other --listen 127.0.0.1:7962 --admin 127.0.0.1:7963"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			var o devOptions
			fs.StringVar(&o.dir, "dir", "", "the `folder` (default kiln-dev, with --s3 kiln-dev-s3)")
			fs.StringVar(&o.listen, "listen", config.DefaultListen, "`address` for submission and monitoring, of a new folder")
			fs.StringVar(&o.admin, "admin", config.DefaultAdmin, "`address` for metrics, health and profiles, of a new folder")
			fs.BoolVar(&o.s3, "s3", false, "keep the logs on an S3 server that runs beside them")
			fs.StringVar(&o.s3Listen, "s3-listen", devS3Listen, "`address` of the S3 server, of a new folder")
			fs.IntVar(&o.samples, "samples", 3, "`number` of certificates to submit to each log, 0 to 1000")
			return func(ctx context.Context, e *env, args []string) error {
				if err := noArguments("dev", args); err != nil {
					return err
				}
				if o.samples < 0 || o.samples > 1000 {
					return misuse("dev", "--samples: %d is not in 0 to 1000", o.samples)
				}
				o.moved = isSet(fs, "listen") || isSet(fs, "admin")
				o.s3Moved = isSet(fs, "s3-listen")
				if o.dir == "" {
					o.dir = "kiln-dev"
					if o.s3 {
						o.dir = "kiln-dev-s3"
					}
				}
				return dev(ctx, e, o)
			}
		},
	}
}

func dev(ctx context.Context, e *env, o devOptions) error {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	o.dir = dir
	for _, f := range []struct{ name, addr string }{{"listen", o.listen}, {"admin", o.admin}, {"s3-listen", o.s3Listen}} {
		if host, _, err := net.SplitHostPort(f.addr); err != nil || !config.Loopback(host) {
			return misuse("dev", "--%s: %q is not on this machine; want 127.0.0.1:PORT: anybody could make certificates for these logs",
				f.name, f.addr)
		}
	}
	ca, err := o.openCA(e)
	if err != nil {
		return err
	}
	stopS3, err := o.startS3(ctx, e)
	if err != nil {
		return err
	}
	return errors.Join(o.serve(ctx, e, ca), stopS3())
}

func (o devOptions) serve(ctx context.Context, e *env, ca *testlogs.CA) error {
	cfg, err := o.prepare(ctx, e)
	if err != nil {
		return err
	}
	err = serve(ctx, e, cfg, func(ctx context.Context, e *env, cfg *config.Config, d *daemon.Daemon) error {
		if err := o.submitSamples(ctx, e, cfg, ca); err != nil {
			return err
		}
		printDev(e, cfg, d)
		return nil
	})
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w\nIs another kiln dev running? Stop it, or make other logs with --dir, --listen and --admin", err)
	}
	return err
}

// openCA returns the folder's test CA, and makes it if it is missing.
func (o devOptions) openCA(e *env) (*testlogs.CA, error) {
	path := filepath.Join(o.dir, "ca")
	ca, err := testlogs.LoadCA(path)
	if !errors.Is(err, os.ErrNotExist) {
		return ca, err
	}
	if found, err := exists(filepath.Join(o.dir, configName)); err != nil || found {
		return nil, errors.Join(err, fmt.Errorf("%s is missing, but its logs are there: bring it back, or remove %s to begin anew", path, o.dir))
	}
	if ca, err = testlogs.NewCA(testlogs.CAOptions{Name: "Kiln Dev Test", Now: e.now()}); err != nil {
		return nil, err
	}
	if err := makeFolder(o.dir); err != nil {
		return nil, err
	}
	return ca, ca.Save(path)
}

// prepare returns the configuration of the folder, with the logs that the date
// calls for. Whatever is missing is made first; the configuration is written
// last, so that a crash leaves nothing that the next start would not complete.
func (o devOptions) prepare(ctx context.Context, e *env) (*config.Config, error) {
	path := filepath.Join(o.dir, configName)
	cfg, err := o.existing(e, path)
	if err != nil {
		return nil, err
	}
	known := len(cfg.Logs)
	if err := o.addShards(cfg, testlogs.Shards(e.now())); err != nil {
		return nil, err
	}
	if len(cfg.Logs) == known {
		return cfg, nil
	}
	rendered := config.Render(cfg)
	if _, err := config.Parse(path, rendered, o.dir, e.now()); err != nil {
		return nil, flagFaults("dev", err)
	}
	ca, err := testlogs.LoadCA(filepath.Join(o.dir, "ca"))
	if err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(o.dir, "roots.pem"), ca.RootPEM()); err != nil {
		return nil, err
	}
	for _, l := range cfg.Logs[known:] {
		if err := daemon.CreateLog(ctx, cfg, l, daemon.Options{}); err != nil {
			return nil, err
		}
	}
	if err := writeFile(path, rendered); err != nil {
		return nil, err
	}
	return config.Load(path, e.now())
}

// existing returns the configuration in the folder, or an empty one.
func (o devOptions) existing(e *env, path string) (*config.Config, error) {
	found, err := exists(path)
	if err != nil {
		return nil, err
	}
	if !found {
		cfg := &config.Config{
			Path: path, Dir: o.dir, Listen: o.listen, Admin: o.admin,
			MaxConnections: config.DefaultMaxConnections,
			Roots:          config.Roots{Refresh: config.DefaultRefresh},
			// A line for each round would bury what a newcomer looks for.
			Logging: config.Logging{Level: slog.LevelWarn, Format: "text"},
		}
		if o.s3 {
			o.withS3(cfg)
		}
		return cfg, nil
	}
	cfg, err := config.Load(path, e.now())
	if err != nil {
		return nil, err
	}
	if o.moved && (cfg.Listen != o.listen || cfg.Admin != o.admin) {
		return nil, fmt.Errorf("the logs in %s listen on %s (admin %s), and their names depend on that: "+
			"start without --listen and --admin, or take another folder with --dir", o.dir, cfg.Listen, cfg.Admin)
	}
	return cfg, nil
}

// addShards adds the logs that are missing. After a long pause that is every
// half-year in between, too: a series has no gaps.
func (o devOptions) addShards(cfg *config.Config, shards []testlogs.Shard) error {
	next := config.HalfYearOf(shards[0].Start)
	if n := len(cfg.Logs); n > 0 {
		next = config.HalfYearOf(cfg.Logs[n-1].NotAfterLimit)
	}
	for end := shards[len(shards)-1].Limit; next.Start.Before(end); next = next.Next() {
		name := "dev" + next.Suffix
		prefix, err := prefixFor("dev", cfg.Listen, name)
		if err != nil {
			return err
		}
		l := config.NewLog(name, prefix, o.dir, next.Start, next.Limit)
		l.IntendedUse = config.UseTest
		if cfg.S3 != nil {
			onS3(&l)
		}
		cfg.Logs = append(cfg.Logs, l)
	}
	return nil
}

// submitSamples submits new certificates and precertificates to each log that
// is open, and prints the SCTs, each of which was checked.
func (o devOptions) submitSamples(ctx context.Context, e *env, cfg *config.Config, ca *testlogs.CA) error {
	if o.samples == 0 {
		return nil
	}
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LOG\tENDPOINT\tINDEX\tTIMESTAMP")
	bar := e.progress("submitting samples")
	defer bar.end()
	logs := openLogs(cfg, e)
	for n, l := range logs {
		key, err := daemon.LoadKey(l)
		if err != nil {
			return err
		}
		client, err := testlogs.NewClient(l.SubmissionURL, key.SPKI(), nil)
		if err != nil {
			return err
		}
		for i := range o.samples {
			chain, err := sample(ca, i, testlogs.LeafOptions{NotBefore: e.now().Add(-1), NotAfter: l.NotAfterLimit.Add(-1)})
			if err != nil {
				return err
			}
			sct, err := client.Submit(ctx, chain)
			if err != nil {
				return fmt.Errorf("submit a sample to %s: %w", l.SubmissionURL, err)
			}
			fmt.Fprintf(tw, "%s\t%s\t%d\t%d\n", l.Name, chain.Endpoint(), sct.Index, sct.TimestampMillis)
			bar.set(int64(n*o.samples+i+1), int64(len(logs)*o.samples))
		}
	}
	bar.end()
	if err := tw.Flush(); err != nil {
		return nil // as env.printf
	}
	e.printf("\n")
	return nil
}

// sample makes the i-th sample: a precertificate, a final certificate, a
// precertificate by a Precertificate Signing Certificate, and so on.
func sample(ca *testlogs.CA, i int, opts testlogs.LeafOptions) (testlogs.Chain, error) {
	switch i % 3 {
	case 0:
		return ca.Precert(opts)
	case 1:
		return ca.Leaf(opts)
	default:
		return ca.PrecertBySigner(opts)
	}
}

// openLogs returns the logs whose window is not over.
func openLogs(cfg *config.Config, e *env) []config.Log {
	var logs []config.Log
	for _, l := range cfg.Logs {
		if l.NotAfterLimit.After(e.now()) && !l.ReadOnly {
			logs = append(logs, l)
		}
	}
	return logs
}

func printDev(e *env, cfg *config.Config, d *daemon.Daemon) {
	for _, l := range cfg.Logs {
		e.printf("%s  NotAfter in %s\n", l.Name, windowOf(l))
		e.printf("  home page   %s\n  checkpoint  %scheckpoint\n  submission  %sct/v1/\n", l.MonitoringURL, l.MonitoringURL, l.SubmissionURL)
	}
	if cfg.S3 != nil {
		e.printf("\nS3 server: %s, bucket %s, credentials in %s\n", cfg.S3.Endpoint, devBucket, cfg.S3.CredentialsFile)
	}
	e.printf("\nmetrics and health: http://%s/metrics  /livez  /readyz\ntest CA: %s\nCtrl-C drains and stops.\n",
		d.AdminAddr(), filepath.Join(cfg.Dir, "ca"))
}
