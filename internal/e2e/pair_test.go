package e2e_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// machine is one of the two processes, with what is its own.
type machine struct {
	name    string
	config  string // of its kiln.yaml
	prefix  string
	proxy   *servers.Proxy // to its S3 server; nil on a directory
	client  *testlogs.Client
	auditor *testlogs.Auditor // of what the process serves
	p       *process
	asked   chan error // of the last ask; nil for none
}

// newPair starts both processes.
func (s *pausing) newPair(t *testing.T, ctx context.Context, backend testlogs.Backend) *pair {
	t.Helper()
	a, b := &machine{name: "A"}, &machine{name: "B"}
	address := freeAddress(t)
	log := testlogs.New(keeper{t}, testlogs.Options{
		Backend: backend, Listen: address,
		Configure: func(c *config.Log) { c.Period = config.MinPeriod },
		Through: func(endpoint string) string {
			a.proxy = newProxy(t, endpoint)
			return a.proxy.Endpoint
		},
	})
	a.config, a.prefix = log.ConfigPath, "http://"+address+"/"+log.Conf.Name+"/"
	w := &pair{pausing: s, log: log, backend: backend, machines: [2]*machine{a, b}, stored: log.Auditor()}
	w.stored.SetURL(newStored(log).serve(t))
	w.secondConfig(t, b)
	w.load = &load{ca: log.CA, remember: w.remember, refusals: true}
	w.load.rest.Store(int64(fast))
	w.load.astray.Store(5)
	for _, m := range w.machines {
		m.client = w.newClient(t, m, patient)
		w.load.clients = append(w.load.clients, w.newClient(t, m, impatient))
		var err error
		m.auditor, err = testlogs.NewAuditor(testlogs.AuditorConfig{
			URL: m.prefix, Origin: log.Conf.Origin, SPKI: log.SPKI, HTTP: newHTTP(t, impatient),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.start(t, ctx, m)
	}
	return w
}

func newProxy(t *testing.T, endpoint string) *servers.Proxy {
	t.Helper()
	proxy, err := servers.NewProxy(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() }) // the log ends before, and the test after
	return proxy
}

func newHTTP(t *testing.T, timeout time.Duration) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: timeout, Transport: transport}
}

func (w *pair) newClient(t *testing.T, m *machine, timeout time.Duration) *testlogs.Client {
	t.Helper()
	c, err := testlogs.NewClient(m.prefix, w.log.SPKI, newHTTP(t, timeout))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// secondConfig writes the configuration of the second process: the same log,
// but what a machine has for itself.
func (w *pair) secondConfig(t *testing.T, m *machine) {
	t.Helper()
	cfg, err := config.Load(w.log.ConfigPath, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.Admin = freeAddress(t), freeAddress(t)
	cfg.Path = filepath.Join(cfg.Dir, "kiln-b.yaml")
	cfg.Logs[0].Dedup = filepath.Join(cfg.Dir, "dedup-b.db")
	if cfg.S3 != nil {
		m.proxy = newProxy(t, w.log.S3.Endpoint)
		cfg.S3.Endpoint = m.proxy.Endpoint
	}
	if err := os.WriteFile(cfg.Path, config.Render(cfg), 0o644); err != nil {
		t.Fatal(err)
	}
	m.config, m.prefix = cfg.Path, "http://"+cfg.Listen+"/"+cfg.Logs[0].Name+"/"
}

// start starts a process, as often as its supervisor would: one that loses its
// first swap to another process ends.
func (w *pair) start(t *testing.T, ctx context.Context, m *machine) {
	t.Helper()
	for {
		w.removeLockFiles(t)
		m.p = serveFile(t, m.config)
		err := m.p.ready(ctx, m.prefix)
		if err == nil {
			return
		}
		if !strings.Contains(m.p.output.String(), "another sequencer has written to the log") {
			t.Fatalf("start %s: %v", m.name, err)
		}
		w.restarts++
	}
}

// removeLockFiles does what nobody should: the files keep a second process of
// one machine off the log.
func (w *pair) removeLockFiles(t *testing.T) {
	t.Helper()
	if w.backend != testlogs.Embedded {
		return
	}
	for _, dir := range []string{w.log.Conf.Storage, filepath.Dir(w.log.Conf.Lock)} {
		files, err := filepath.Glob(filepath.Join(dir, ".serve*.lock"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (w *pair) remember(s *testlogs.SCT) {
	w.stored.Remember(s)
	for _, m := range w.machines {
		m.auditor.Remember(s)
	}
}

// roundLine is what a process prints of each round.
var roundLine = regexp.MustCompile(`msg=round .* timestamp=(\d+) `)

// lastRound returns the timestamp of the last round of a process, in ms.
func (m *machine) lastRound(t *testing.T) int64 {
	t.Helper()
	all := roundLine.FindAllStringSubmatch(m.p.output.since(0), -1)
	if len(all) == 0 {
		return 0
	}
	ms, err := strconv.ParseInt(all[len(all)-1][1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return ms
}

// standsBy reports whether the process has found out that another one writes.
func (m *machine) standsBy() bool {
	printed := m.p.output.since(0)
	return strings.LastIndex(printed, `msg="standing by`) > strings.LastIndex(printed, `msg="log loaded"`)
}

// until waits for something of a process.
func (w *pair) until(t *testing.T, ctx context.Context, m *machine, what string, is func() bool) {
	t.Helper()
	for !is() {
		select {
		case <-m.p.exited:
			t.Fatalf("%s has stopped by itself before %s: %v\n%s", m.name, what, m.p.err, m.p.output)
		case <-ctx.Done():
			t.Fatalf("%s: waited in vain for %s\n%s", m.name, what, m.p.output)
		case <-time.After(10 * time.Millisecond):
		}
		w.load.check(t)
	}
}
