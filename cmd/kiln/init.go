package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

const (
	configName = "kiln.yaml"
	// markerName is a file that says that init is at work on a folder, and
	// with which parameters. Its content is the configuration to be.
	markerName = ".kiln-init"
)

// noRoots is the roots file of a log that accepts nothing as yet.
const noRoots = `# The roots this log accepts: PEM certificates, one after the other.
# There are none yet, so that every submission is refused.
`

type initOptions struct {
	name, listen, admin, roots string
	start, limit               string
	period                     time.Duration
}

func initCommand() command {
	return command{
		name: "init", args: "DIR [flags]",
		summary: "make a new log in a folder",
		about: "Makes a log in DIR: its private key, its lock cell, a checkpoint of size 0 and DIR/kiln.yaml, which explains " +
			"itself. It refuses to touch anything that exists. If it was interrupted, the same command line completes it.",
		examples: []string{
			"kiln init mylog --roots roots.pem",
			"kiln init /srv/ct --name example2027h1 --listen 192.0.2.1:443 --roots roots.pem \\",
			"    --not-after-start 2027-01-01T00:00:00Z --not-after-limit 2027-07-01T00:00:00Z",
		},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			var o initOptions
			fs.StringVar(&o.name, "name", "", "the log's `name` (default kiln and the half-year, as in kiln2026h2)")
			fs.StringVar(&o.listen, "listen", config.DefaultListen, "`address` for submission and monitoring; part of the log's URL")
			fs.StringVar(&o.admin, "admin", config.DefaultAdmin, "`address` for metrics, health and profiles")
			fs.StringVar(&o.roots, "roots", "", "PEM `file` of the accepted roots, copied to DIR/roots.pem (default none: nothing is accepted)")
			fs.StringVar(&o.start, "not-after-start", "", "first NotAfter that is accepted, an RFC 3339 `time` (default: of the half-year of today)")
			fs.StringVar(&o.limit, "not-after-limit", "", "first NotAfter that is no longer accepted, an RFC 3339 `time`")
			fs.DurationVar(&o.period, "period", config.DefaultPeriod, "least `time` between two rounds")
			return func(ctx context.Context, e *env, args []string) error {
				if len(args) != 1 {
					return misuse("init", "kiln init takes one folder, but got %s", count(len(args), "argument"))
				}
				return initLog(ctx, e, args[0], o)
			}
		},
	}
}

func initLog(ctx context.Context, e *env, dir string, o initOptions) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	cfg, err := o.config(dir, e.now())
	if err != nil {
		return err
	}
	roots, err := o.readRoots()
	if err != nil {
		return err
	}
	rendered := config.Render(cfg)
	if _, err := config.Parse(filepath.Join(dir, configName), rendered, dir); err != nil {
		return fmt.Errorf("these flags do not make a log:\n%w", err)
	}
	done, err := claim(dir, append(rootsMark(roots), rendered...))
	if err != nil {
		return err
	}
	if !done {
		if err := makeLog(ctx, cfg, roots, rendered); err != nil {
			return fmt.Errorf("%w\nThe same command completes what is half made, once the cause is gone.", err)
		}
	}
	if err := os.Remove(filepath.Join(dir, markerName)); err != nil {
		return err
	}
	o.report(e, cfg, roots)
	return nil
}

// config makes the configuration that the flags describe.
func (o initOptions) config(dir string, now time.Time) (*config.Config, error) {
	half := config.HalfYearOf(now)
	start, limit := half.Start, half.Limit
	if (o.start == "") != (o.limit == "") {
		return nil, misuse("init", "--not-after-start and --not-after-limit go together, but only one was given")
	}
	if o.start != "" {
		var err error
		if start, err = parseTime("not-after-start", o.start); err != nil {
			return nil, err
		}
		if limit, err = parseTime("not-after-limit", o.limit); err != nil {
			return nil, err
		}
	}
	if o.name == "" {
		o.name = "kiln" + config.HalfYearOf(start).Suffix
	}
	if _, _, err := net.SplitHostPort(o.listen); err != nil {
		return nil, misuse("init", "--listen: %q is not understood: want HOST:PORT", o.listen)
	}
	l := config.NewLog(o.name, "http://"+o.listen+"/"+o.name+"/", dir, start, limit)
	l.Period = o.period
	return &config.Config{
		Path: filepath.Join(dir, configName), Dir: dir,
		Listen: o.listen, Admin: o.admin, MaxConnections: config.DefaultMaxConnections,
		InsecureHTTP: !loopback(o.listen), Logging: config.Logging{Format: "text"},
		Logs: []config.Log{l},
	}, nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	return err == nil && config.Loopback(host)
}

func parseTime(name, value string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil {
		return t, misuse("init", "--%s: %q is not understood: want an RFC 3339 time such as 2027-01-01T00:00:00Z", name, value)
	}
	return t.UTC(), nil
}

// readRoots returns the content of the log's roots file to be.
func (o initOptions) readRoots() ([]byte, error) {
	if o.roots == "" {
		return []byte(noRoots), nil
	}
	data, err := os.ReadFile(o.roots)
	if err != nil {
		return nil, fmt.Errorf("--roots: %w", err)
	}
	if err := config.CheckRoots(o.roots); err != nil {
		return nil, fmt.Errorf("--roots %s: %w", o.roots, err)
	}
	return data, nil
}

// rootsMark names the roots in the marker.
func rootsMark(roots []byte) []byte {
	sum := sha256.Sum256(roots)
	return []byte("# kiln init is at work here. SHA-256 of the roots: " + hex.EncodeToString(sum[:]) + "\n")
}

// claim makes the folder this init's own: one that is new or empty, or one that
// an init with the same parameters has left half made. It reports whether that
// one lacked nothing but its end.
func claim(dir string, parameters []byte) (done bool, err error) {
	marker := filepath.Join(dir, markerName)
	left, err := os.ReadFile(marker)
	switch {
	case err == nil && bytes.Equal(left, parameters):
		return exists(filepath.Join(dir, configName))
	case err == nil:
		return false, fmt.Errorf("%s holds a log that kiln init has half made with other flags (see %s): "+
			"repeat it with those, or remove the folder if you do not want that log", dir, marker)
	case !errors.Is(err, os.ErrNotExist) && !isNotFolder(dir):
		return false, err
	}
	if err := refuseOccupied(dir); err != nil {
		return false, err
	}
	if err := makeFolder(dir); err != nil {
		return false, err
	}
	return false, writeFile(marker, parameters)
}

func isNotFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

func refuseOccupied(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist) || (err == nil && len(entries) == 0):
		return nil
	case isNotFolder(dir):
		return fmt.Errorf("%s exists and is not a folder: name one that does not exist or is empty", dir)
	case err != nil:
		return err
	}
	if found, _ := exists(filepath.Join(dir, configName)); found {
		return fmt.Errorf("%s exists: there is a log already; serve it with kiln serve -c %[1]s, or name another folder",
			filepath.Join(dir, configName))
	}
	return fmt.Errorf("%s is not empty (there is %s): name a folder that does not exist or is empty", dir, entries[0].Name())
}

// makeLog makes the log. The configuration comes last: with it the log is whole.
func makeLog(ctx context.Context, cfg *config.Config, roots, rendered []byte) error {
	l := cfg.Logs[0]
	if err := writeFile(l.RootsFile, roots); err != nil {
		return err
	}
	if err := daemon.CreateLog(ctx, l, daemon.Options{}); err != nil {
		return err
	}
	return writeFile(cfg.Path, rendered)
}

func (o initOptions) report(e *env, cfg *config.Config, roots []byte) {
	l := cfg.Logs[0]
	e.printf("made log %s, for NotAfter in %s\n", l.Name, windowOf(l))
	e.printf("  configuration  %s\n  private key    %s  (back it up)\n  lock           %s  (never set it back)\n",
		cfg.Path, l.KeyFile, l.Lock)
	e.printf("  URL            %s\n", l.SubmissionURL)
	if config.NoRoots(roots) {
		e.printf("It accepts nothing yet: put its roots into %s.\n", l.RootsFile)
	}
	e.printf("Next: kiln serve -c %s\n", cfg.Path)
}
