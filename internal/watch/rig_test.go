package watch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/chain"
	"kiln/internal/fsck"
	"kiln/internal/logkey"
	"kiln/internal/watch"
	"kiln/storage"
	"kiln/testlogs"
	"kiln/tiles"
)

const origin = "ct.example.net/2026h2"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// objects are the files of a log, and a source of it.
type objects struct {
	mu   sync.Mutex
	list map[string][]byte
}

func (o *objects) String() string { return "the storage" }

func (o *objects) get(path string) ([]byte, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b, ok := o.list[path]
	return b, ok
}

// become makes the objects those of a clone.
func (o *objects) become(list map[string][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = list
}

func (o *objects) put(path string, b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list[path] = b
}

func (o *objects) remove(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.list[path]; !ok {
		panic("no " + path)
	}
	delete(o.list, path)
}

func (o *objects) clone() map[string][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.list)
}

func (o *objects) Open(_ context.Context, path string) (*fsck.Object, error) {
	b, ok := o.get(path)
	if !ok {
		return nil, storage.ErrNotFound
	}
	return &fsck.Object{Body: io.NopCloser(bytes.NewReader(b)), Encoding: fsck.EncodingUnknown}, nil
}

// edit changes an object; of a data tile what it decodes to.
func (o *objects) edit(path string, change func([]byte) []byte) {
	b, ok := o.get(path)
	if !ok {
		panic("no " + path)
	}
	if strings.HasPrefix(path, "tile/data/") {
		b = zip(change(must(tiles.Gunzip(b))))
	} else {
		b = change(bytes.Clone(b))
	}
	o.put(path, b)
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	must(w.Write(b))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[at] ^= 1
		return b
	}
}

// clock is the time of a test.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is a log behind a web server, and its watcher.
type world struct {
	t     *testing.T
	key   *logkey.Key
	store *objects // what the log has
	cdn   *objects // what is served; the same unless a test parts them
	clock *clock
	edge  *tiles.Edge
	sent  []*entry.Pending

	server *httptest.Server

	mu    sync.Mutex
	asked []string                                                 // guarded by mu
	hook  func(w http.ResponseWriter, r *http.Request) (done bool) // guarded by mu; before each answer

	dir    string
	conf   watch.Config
	reg    *prometheus.Registry
	events []watch.Event
	halted []error
	text   *bytes.Buffer
	w      *watch.Watcher
}

var pki = sync.OnceValue(func() (p struct {
	pending []*entry.Pending
	old     []*entry.Pending // of a CA of their own
	issuers map[string][]byte
},
) {
	p.issuers = map[string][]byte{}
	p.pending, p.old = newEntries(p.issuers, 12), newEntries(p.issuers, 2)
	return p
})

// newEntries makes entries of a new CA, and adds its objects to issuers.
func newEntries(issuers map[string][]byte, n int) (list []*entry.Pending) {
	ca := must(testlogs.NewCA(testlogs.CAOptions{}))
	v := must(chain.New(chain.Config{}))
	if err := v.SetRoots([][]byte{ca.Root()}); err != nil {
		panic(err)
	}
	for i := range n {
		issue := []func(testlogs.LeafOptions) (testlogs.Chain, error){ca.Leaf, ca.Precert}[i%2]
		c := must(issue(testlogs.LeafOptions{DNS: []string{fmt.Sprintf("%d.example.org", i)}}))
		typ := entry.X509
		if c.Precert {
			typ = entry.Precert
		}
		candidate := must(v.Prepare(c.Certificates, typ))
		list = append(list, candidate.Pending())
		for _, der := range candidate.Issuers() {
			o := tiles.IssuerObject(der)
			issuers[o.Path] = o.Body
		}
	}
	return list
}

// newWorld makes a log of so many entries.
func newWorld(t *testing.T, size int) *world {
	t.Helper()
	w := &world{
		t: t, key: must(logkey.Generate()), store: &objects{list: map[string][]byte{}},
		clock: &clock{at: time.Date(2026, 10, 3, 12, 0, 0, 0, time.UTC)}, edge: tiles.NewEdge(false), dir: t.TempDir(),
	}
	w.cdn = w.store
	maps.Copy(w.store.list, pki().issuers)
	w.server = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.server.Close)
	w.conf = watch.Config{
		URL: w.server.URL + "/log/", Agent: "test", Origin: origin, SPKI: w.key.SPKI(),
		State: filepath.Join(w.dir, "dedup", "log.watch"), Secret: []byte("secret"),
		Now: w.clock.now, MaxAge: time.Minute,
		Events: func(e watch.Event) { w.events = append(w.events, e) },
		Halt:   func(err error) { w.halted = append(w.halted, err) },
	}
	w.grow(size)
	return w
}

// grow adds entries and signs.
func (w *world) grow(n int) {
	w.t.Helper()
	w.growOf(pki().pending, n)
}

// growOf adds entries of a list and signs.
func (w *world) growOf(list []*entry.Pending, n int) {
	w.t.Helper()
	w.clock.add(time.Second)
	var batch []*entry.Pending
	for range n {
		batch = append(batch, list[len(w.sent)%len(list)])
		w.sent = append(w.sent, batch[len(batch)-1])
	}
	if n > 0 {
		edge, made, err := w.edge.Append(batch, w.clock.now().UnixMilli())
		if err != nil {
			w.t.Fatal(err)
		}
		for _, o := range made {
			w.store.put(o.Path, o.Body)
		}
		w.edge = edge
	}
	w.sign()
}

// sign signs the tree as it is.
func (w *world) sign() {
	signer := must(checkpoint.NewSigner(origin, w.key, true))
	w.store.put("checkpoint", must(signer.Sign(w.edge.Tree(), w.clock.now().UnixMilli())))
}

// before puts a hook before each answer.
func (w *world) before(hook func(w http.ResponseWriter, r *http.Request) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = hook
}

// serve is the web server.
func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.asked = append(w.asked, r.URL.Path)
	hook := w.hook
	w.mu.Unlock()
	if hook != nil && hook(rw, r) {
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/log/")
	b, ok := w.cdn.get(path)
	if !ok {
		http.Error(rw, "not here", http.StatusNotFound)
		return
	}
	etag := fmt.Sprintf(`"%x"`, sha256.Sum256(b))
	rw.Header().Set("Etag", etag)
	if r.Header.Get("If-None-Match") == etag {
		rw.WriteHeader(http.StatusNotModified)
		return
	}
	rw.Header().Set("Content-Type", "application/octet-stream")
	if strings.HasPrefix(path, "tile/data/") {
		rw.Header().Set("Content-Encoding", "gzip")
	}
	_, _ = rw.Write(b)
}

// watch makes the watcher, as a start of the process does.
func (w *world) watch() *watch.Watcher {
	w.t.Helper()
	w.text = new(bytes.Buffer)
	w.reg = prometheus.NewRegistry()
	conf := w.conf
	conf.Logger, conf.Registerer = slog.New(slog.NewTextHandler(w.text, nil)), w.reg
	watcher, err := watch.New(conf)
	if err != nil {
		w.t.Fatal(err)
	}
	w.w, w.events, w.halted = watcher, nil, nil
	return watcher
}

// poll lets so many polls go by, five seconds apart, with a fresh checkpoint
// each.
func (w *world) poll(n int) {
	w.t.Helper()
	for range n {
		w.w.Poll(w.t.Context())
		w.clock.add(watch.DefaultInterval)
	}
}

// fine checks that nothing is wrong.
func (w *world) fine() {
	w.t.Helper()
	s := w.w.Status()
	if s.Unknown != nil || s.Fault != "" || w.w.Health() != nil || len(w.halted) > 0 {
		w.t.Fatalf("status is %+v, halted %v\n%s", s, w.halted, w.text)
	}
}

// last returns the last event of a kind, nil if there is none.
func (w *world) last(kind string) *watch.Event {
	for _, e := range slices.Backward(w.events) {
		if e.Event == kind {
			return &e
		}
	}
	return nil
}

// metric returns a metric's value.
func (w *world) metric(name string, labels ...string) float64 {
	w.t.Helper()
	families := must(w.reg.Gather())
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	series:
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(labels, l.GetName()+"="+l.GetValue()) {
					continue series
				}
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	w.t.Fatalf("no metric %s %v", name, labels)
	return 0
}
