package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/testlogs"
)

// lines is where a daemon under test logs. A test waits for what is said
// instead of for some time.
type lines struct {
	mu    sync.Mutex
	text  bytes.Buffer
	waits []*wait
}

// wait is for a number of lines with a text.
type wait struct {
	want  string
	times int // to come
	over  chan struct{}
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(line)
	l.waits = slices.DeleteFunc(l.waits, func(w *wait) bool { return w.met(string(line)) })
	return len(line), nil
}

// met counts a line, and reports whether it was the last to wait for.
func (w *wait) met(line string) bool {
	if strings.Contains(line, w.want) {
		w.times--
	}
	if w.times > 0 {
		return false
	}
	close(w.over)
	return true
}

// said returns a channel that is closed once a line with the text was written.
func (l *lines) said(want string) <-chan struct{} { return l.saidTimes(want, 1) }

// saidTimes is said of so many lines.
func (l *lines) saidTimes(want string, times int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &wait{want, times, make(chan struct{})}
	for line := range strings.Lines(l.text.String()) {
		if w.met(line) {
			return w.over
		}
	}
	l.waits = append(l.waits, w)
	return w.over
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// rig is a configuration in a temporary folder, and the daemon that runs it.
type rig struct {
	t    *testing.T
	dir  string
	ca   *testlogs.CA
	cfg  *config.Config
	opts daemon.Options
	said *lines
	http *http.Client
	d    *daemon.Daemon
}

// newRig makes logs of these names, which nothing runs yet.
func newRig(t *testing.T, names ...string) *rig {
	t.Helper()
	return newRigOf(t, func(*config.Config, *config.Log) {}, names...)
}

// newRigOf is newRig with logs that change has changed before they are made.
func newRigOf(t *testing.T, change func(*config.Config, *config.Log), names ...string) *rig {
	t.Helper()
	ca, err := testlogs.NewCA(testlogs.CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir, said := t.TempDir(), new(lines)
	r := &rig{
		t: t, dir: dir, ca: ca, said: said,
		opts: daemon.Options{Logger: slog.New(slog.NewTextHandler(said, nil)), Version: "test"},
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
		cfg: &config.Config{
			Path: filepath.Join(dir, "kiln.yaml"), Dir: dir,
			Listen: "127.0.0.1:0", Admin: "127.0.0.1:0", MaxConnections: 1000,
		},
	}
	t.Cleanup(r.http.CloseIdleConnections)
	now := time.Now().UTC().Truncate(time.Second)
	for _, name := range names {
		conf := config.NewLog(name, "http://ct.test/"+name+"/", dir, now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0))
		conf.Period = 10 * time.Millisecond
		change(r.cfg, &conf)
		if err := daemon.CreateLog(t.Context(), r.cfg, conf, r.opts); err != nil {
			t.Fatal(err)
		}
		r.cfg.Logs = append(r.cfg.Logs, conf)
	}
	if err := os.WriteFile(r.cfg.Logs[0].RootsFile, ca.RootPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	return r
}

// start runs the daemon until stop, or the end of the test.
func (r *rig) start() {
	r.t.Helper()
	d, err := daemon.Start(r.t.Context(), r.cfg, r.opts)
	if err != nil {
		r.t.Fatalf("start: %v", err)
	}
	r.d = d
	r.t.Cleanup(func() {
		if r.d == d {
			r.stop()
		}
	})
}

func (r *rig) stop() {
	r.t.Helper()
	d := r.d
	r.d = nil
	r.http.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := d.Close(ctx); err != nil {
		r.t.Errorf("close: %v", err)
	}
	if err := d.Wait(); err != nil {
		r.t.Logf("wait: %v", err)
	}
}

func (r *rig) info(i int) daemon.LogInfo {
	r.t.Helper()
	one := *r.cfg // another log may lack its key
	one.Logs = r.cfg.Logs[i : i+1]
	infos, err := daemon.Metadata(&one)
	if err != nil {
		r.t.Fatal(err)
	}
	return infos[0]
}

// url returns the prefix at which log i is reached.
func (r *rig) url(i int) string {
	return fmt.Sprintf("http://%s/%s/", r.d.Addr(), r.cfg.Logs[i].Name)
}

func (r *rig) client(i int) *testlogs.Client {
	r.t.Helper()
	c, err := testlogs.NewClient(r.url(i), r.info(i).Key, r.http)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) auditor(i int) *testlogs.Auditor {
	r.t.Helper()
	info := r.info(i)
	a, err := testlogs.NewAuditor(testlogs.AuditorConfig{URL: r.url(i), Origin: info.Origin, SPKI: info.Key, HTTP: r.http})
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

func (r *rig) chain() testlogs.Chain {
	r.t.Helper()
	chain, err := r.ca.Precert(testlogs.LeafOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return chain
}

func (r *rig) submit(i int, chain testlogs.Chain) *testlogs.SCT {
	r.t.Helper()
	sct, err := r.client(i).Submit(r.t.Context(), chain)
	if err != nil {
		r.t.Fatalf("submit: %v\n%s", err, r.said)
	}
	return sct
}

// get returns status and body of a page.
func (r *rig) get(url string) (int, string) {
	r.t.Helper()
	resp, err := r.http.Get(url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (r *rig) admin(path string) (int, string) {
	r.t.Helper()
	return r.get("http://" + r.d.AdminAddr() + path)
}

// metric returns the value of a series, such as `name{label="value"}`.
func (r *rig) metric(series string) string {
	r.t.Helper()
	_, body := r.admin("/metrics")
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	r.t.Fatalf("no metric %s", series)
	return ""
}

// within waits for a channel, and fails the test when it hangs.
func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("%s: nothing within a minute", what)
		panic("not reached")
	}
}
