package testlogs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/servers"
)

// Options says what [New] makes. The zero value is a log with a CA of its own
// that takes what the CA issues.
type Options struct {
	Name string // of the log; "test" if empty
	CA   *CA    // whose root is accepted; a new one if nil
	// Roots is PEM of roots that are accepted besides the CA's.
	Roots []byte
	// Key is the PEM of the log's key; a new one if empty.
	Key []byte
	// NotAfterStart and NotAfterLimit are a year back and two years ahead if zero.
	NotAfterStart, NotAfterLimit time.Time
	// Listen and Admin are any free port of the loopback interface if empty.
	Listen, Admin string
	// Backend says where the log is kept; the zero value is a directory.
	Backend Backend
	// Through may put something between the log and its S3 server: it gets the
	// server's URL and returns the one that the log uses.
	Through func(endpoint string) string
	// Configure may change the log's configuration before it is written.
	Configure func(*config.Log)
	// Daemon is passed on; its Logger is nil for silence.
	Daemon daemon.Options
}

// Log is one log in a temporary folder, run in this process by
// internal/daemon on embedded parts, or by any other process that is given
// ConfigPath. What starts and stops it is for one goroutine.
type Log struct {
	CA         *CA
	ConfigPath string // of its kiln.yaml
	Conf       config.Log
	SPKI       []byte // of its key

	S3   *servers.S3   // its S3 server, nil if it has none
	Etcd *servers.Etcd // its etcd server, nil if it has none

	tb      TB
	opts    Options
	http    *http.Client
	running *daemon.Daemon
	auditor *Auditor
}

// Start makes a log and runs it until the test ends.
func Start(tb TB, opts Options) *Log {
	tb.Helper()
	l := New(tb, opts)
	l.Start()
	return l
}

// New makes a log (folder, kiln.yaml, roots, key, lock cell, checkpoint of size
// 0) that nothing runs yet.
func New(tb TB, opts Options) *Log {
	tb.Helper()
	l := &Log{tb: tb, opts: opts, CA: opts.CA, http: newHTTPClient()}
	tb.Cleanup(l.http.CloseIdleConnections)
	if l.CA == nil {
		ca, err := NewCA(CAOptions{})
		if err != nil {
			tb.Fatalf("testlogs: %v", err)
		}
		l.CA = ca
	}
	if err := l.create(tb.TempDir()); err != nil {
		tb.Fatalf("testlogs: %v", err)
	}
	return l
}

// newHTTPClient makes one that keeps enough connections for a test's submitters.
func newHTTPClient() *http.Client {
	return &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	}
}

func (l *Log) create(dir string) error {
	ctx := context.Background()
	cfg := l.config(dir)
	if err := l.serve(dir, cfg); err != nil {
		return err
	}
	conf := &cfg.Logs[0]
	if err := os.MkdirAll(filepath.Dir(conf.KeyFile), 0o700); err != nil {
		return err
	}
	if len(l.opts.Key) > 0 {
		if err := os.WriteFile(conf.KeyFile, l.opts.Key, 0o600); err != nil {
			return err
		}
	}
	roots := append(l.CA.RootPEM(), l.opts.Roots...)
	if err := os.WriteFile(conf.RootsFile, roots, 0o644); err != nil {
		return err
	}
	if err := daemon.CreateLog(ctx, cfg, *conf, l.opts.Daemon); err != nil {
		return err
	}
	info, err := daemon.Metadata(cfg)
	if err != nil {
		return err
	}
	l.SPKI, l.Conf, l.ConfigPath = info[0].Key, *conf, cfg.Path
	l.auditor, err = NewAuditor(AuditorConfig{Origin: conf.Origin, SPKI: l.SPKI, Names: conf.Names, HTTP: l.http})
	if err != nil {
		return err
	}
	return os.WriteFile(cfg.Path, config.Render(cfg), 0o644)
}

// config fills in what kiln.yaml is rendered from.
func (l *Log) config(dir string) *config.Config {
	o := l.opts
	now := time.Now().UTC().Truncate(time.Second)
	conf := config.Log{
		Name:          orDefault(o.Name, "test"),
		NotAfterStart: now.AddDate(-1, 0, 0), NotAfterLimit: now.AddDate(2, 0, 0),
		KeyFile: filepath.Join(dir, "keys", "log.pem"), RootsFile: filepath.Join(dir, "roots.pem"),
		Storage: filepath.Join(dir, "log"), Lock: filepath.Join(dir, "lock.db"), Dedup: filepath.Join(dir, "dedup.db"),
		Period: 20 * time.Millisecond, Batchers: config.DefaultBatchers, MaxInFlight: config.DefaultMaxInFlight,
		Grease: true, IntendedUse: config.UseTest,
	}
	if !o.NotAfterStart.IsZero() {
		conf.NotAfterStart = o.NotAfterStart
	}
	if !o.NotAfterLimit.IsZero() {
		conf.NotAfterLimit = o.NotAfterLimit
	}
	conf.Series = config.Stem(conf.Name)
	// The origin must outlive restarts on other ports, so it names none.
	conf.Origin = "kiln.localhost/" + conf.Name
	conf.SubmissionURL = "http://" + conf.Origin + "/"
	conf.MonitoringURL = conf.SubmissionURL
	if o.Configure != nil {
		o.Configure(&conf)
	}
	return &config.Config{
		Path: filepath.Join(dir, "kiln.yaml"), Dir: dir,
		Listen: orDefault(o.Listen, "127.0.0.1:0"), Admin: orDefault(o.Admin, "127.0.0.1:0"),
		Logging: config.Logging{Level: slog.LevelInfo, Format: "text"}, MaxConnections: config.DefaultMaxConnections,
		Roots: config.Roots{Refresh: config.DefaultRefresh}, Logs: []config.Log{conf},
	}
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// Start runs the log in this process, as its kiln.yaml says.
func (l *Log) Start() {
	l.tb.Helper()
	if err := l.TryStart(); err != nil {
		l.tb.Fatalf("testlogs: start %s: %v", l.Conf.Name, err)
	}
}

// TryStart is [Log.Start] for a log that may refuse to start.
func (l *Log) TryStart() error {
	cfg, err := config.Load(l.ConfigPath, time.Now())
	if err != nil {
		return err
	}
	d, err := daemon.Start(context.Background(), cfg, l.opts.Daemon)
	if err != nil {
		return err
	}
	l.running = d
	l.tb.Cleanup(func() {
		if err := l.stop(d); err != nil {
			l.tb.Logf("testlogs: stop %s: %v", l.Conf.Name, err)
		}
	})
	l.auditor.SetURL(l.URL())
	return nil
}

// Stop ends the log as an interrupt would: waiting submissions get their SCT.
func (l *Log) Stop() {
	l.tb.Helper()
	if err := l.stop(l.running); err != nil {
		l.tb.Fatalf("testlogs: stop %s: %v", l.Conf.Name, err)
	}
}

func (l *Log) stop(d *daemon.Daemon) error {
	if l.running == nil || l.running != d {
		return nil // stopped before
	}
	l.running = nil
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return d.Close(ctx)
}

// Restart stops the log and starts it again.
func (l *Log) Restart() {
	l.tb.Helper()
	l.Stop()
	l.Start()
}

// ForgetDedup deletes the long-term deduplication database of a stopped log.
func (l *Log) ForgetDedup() {
	l.tb.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(l.Conf.Dedup + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			l.tb.Fatalf("testlogs: %v", err)
		}
	}
}

// URL returns the prefix of both APIs of the running log, with a slash at its
// end. It changes when the log is started again, unless Options.Listen says.
func (l *Log) URL() string {
	return fmt.Sprintf("http://%s/%s/", l.running.Addr(), l.Conf.Name)
}

// AdminURL returns the prefix of the running log's metrics and health pages.
func (l *Log) AdminURL() string { return fmt.Sprintf("http://%s/", l.running.AdminAddr()) }

// Client returns a client of the log as it runs now.
func (l *Log) Client() *Client {
	l.tb.Helper()
	return l.ClientAt(l.URL())
}

// ClientAt returns a client of the log at a prefix, for when another process
// runs it.
func (l *Log) ClientAt(prefix string) *Client {
	l.tb.Helper()
	c, err := NewClient(prefix, l.SPKI, l.http)
	if err != nil {
		l.tb.Fatalf("testlogs: %v", err)
	}
	return c
}

// Auditor returns the one auditor of the log. It follows the log from start to
// start.
func (l *Log) Auditor() *Auditor { return l.auditor }
