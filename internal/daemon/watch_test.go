package daemon_test

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/testlogs"
	"kiln/tiles"
)

// pollsIn30s is how many polls of the default interval there are in 30 s: a fault
// has to be told after as many, however fast they follow each other here.
const pollsIn30s = 6

// front is a web server before log 0, as a CDN would be.
type front struct {
	to   atomic.Value // host:port of the log
	mu   sync.Mutex
	hook func(w http.ResponseWriter, r *http.Request) (done bool) // guarded by mu
}

func (f *front) set(hook func(w http.ResponseWriter, r *http.Request) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = hook
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	hook := f.hook
	f.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "http://"+f.to.Load().(string)+r.URL.Path, nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	req.Header = r.Header.Clone()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// watched is a rig of two logs that are watched, the first behind a front.
type watched struct {
	*rig
	front *front
	skew  atomic.Int64 // of the logs' clock
}

func newWatched(t *testing.T, entries int) *watched {
	t.Helper()
	w := &watched{rig: newRig(t, "one", "two")}
	if err := os.WriteFile(w.cfg.Logs[1].RootsFile, w.ca.RootPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	w.front = new(front)
	server := httptest.NewServer(w.front)
	t.Cleanup(server.Close)
	w.cfg.Logs[0].WatchURL = server.URL + "/one/"
	w.opts.WatchInterval = 10 * time.Millisecond
	w.opts.Now = func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }
	w.start()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range entries / 8 {
				chain, err := w.ca.Precert(testlogs.LeafOptions{})
				if err == nil {
					_, err = w.client(0).Submit(t.Context(), chain)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	w.verified(entries / 8 * 8)
	return w
}

// count returns a metric of log 0 as a number.
func (w *watched) count(series string) int {
	w.t.Helper()
	v, err := strconv.ParseFloat(w.metric(series), 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return int(v)
}

// polls is how many polls of log 0 found no fault.
func (w *watched) polls() int {
	return w.count(`kiln_watch_polls_total{log="one",result="fine"}`) + w.count(`kiln_watch_polls_total{log="one",result="unknown"}`)
}

// until waits until something is so.
func (w *watched) until(what string, so func() bool) {
	w.t.Helper()
	for range 6000 {
		if so() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("%s: not within a minute\n%s", what, w.said)
}

// verified waits until the watcher has verified a size.
func (w *watched) verified(size int) {
	w.t.Helper()
	w.until("verified", func() bool { return w.count(`kiln_watch_verified_entries{log="one"}`) == size })
	w.until("polls", func() bool { return w.polls() > 2 })
}

// start is rig.start with the front before it.
func (w *watched) start() {
	w.t.Helper()
	w.front.to.Store("127.0.0.1:1")
	w.rig.start()
	w.front.to.Store(w.d.Addr())
}

func (w *watched) path(name string) string { return filepath.Join(w.cfg.Logs[0].Storage, name) }

// edit changes a stored object, of a data tile what it decodes to.
func (w *watched) edit(name string, change func([]byte) []byte) {
	w.t.Helper()
	b, err := os.ReadFile(w.path(name))
	if err != nil {
		w.t.Fatal(err)
	}
	if strings.HasPrefix(name, "tile/data/") {
		if b, err = tiles.Gunzip(b); err != nil {
			w.t.Fatal(err)
		}
		b = zipped(change(b))
	} else {
		b = change(b)
	}
	w.write(name, b)
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // into memory
	_ = z.Close()
	return out.Bytes()
}

func (w *watched) write(name string, b []byte) {
	w.t.Helper()
	// The watcher must see the one or the other, and the object may not be written to.
	if err := os.WriteFile(w.path(".planted"), b, 0o644); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.path(".planted"), w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) remove(name string) {
	w.t.Helper()
	if err := os.Remove(w.path(name)); err != nil {
		w.t.Fatal(err)
	}
}

func flipAt(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
}

// signed returns a checkpoint of log 0 with another tree.
func (w *watched) signed(change func(*tlog.Tree)) []byte {
	w.t.Helper()
	key, err := daemon.LoadKey(w.cfg.Logs[0])
	if err != nil {
		w.t.Fatal(err)
	}
	signer, err := checkpoint.NewSigner(w.cfg.Logs[0].Origin, key, false)
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := os.ReadFile(w.path("checkpoint"))
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := signer.Verifier().Open(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	change(&c.Tree)
	raw, err = signer.Sign(c.Tree, c.TimestampMillis+5)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// answers makes the front answer one path with something of its own.
func (w *watched) answers(path, contentType string, b []byte) {
	w.front.set(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/one/"+path {
			return false
		}
		rw.Header().Set("Content-Type", contentType)
		_, _ = rw.Write(b)
		return true
	})
}

func (w *watched) stored(path string) []byte {
	w.t.Helper()
	b, err := os.ReadFile(w.path(path))
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

const octets = "application/octet-stream"

// plantedFault is a fault planted behind the back of a running log.
type plantedFault struct {
	entries int
	plant   func(w *watched)
	says    []string
	stops   bool // the sequencer
	where   string
	kind    string // those of the checks that may come to it first
}

var plantedFaults = map[string]plantedFault{
	"bit in a right-edge hash tile": {
		entries: 8, plant: func(w *watched) { w.edit("tile/0/000.p/8", flipAt(32*5)) },
		says: []string{"tile/0/000.p/8: hash 5 (index 5) is not that of the entry in tile/data/000.p/8"}, stops: true, where: "log", kind: "pass edge",
	},
	"bit in the data partial": {
		entries: 8, plant: func(w *watched) { w.edit("tile/data/000.p/8", flipAt(100)) },
		says: []string{"tile/data/000.p/8: index 0 has hash", "the checkpoint proves the hash tile"}, stops: true, where: "log", kind: "pass edge",
	},
	"removed data partial": {
		entries: 8, plant: func(w *watched) { w.remove("tile/data/000.p/8") },
		says: []string{"tile/data/000.p/8: is missing", "own storage"}, stops: true, where: "log", kind: "pass edge",
	},
	"bit in an old data tile": {
		entries: 776, plant: func(w *watched) { w.edit("tile/data/000", flipAt(100)) },
		says: []string{"tile/data/000: index 0 has hash"}, stops: true, where: "log", kind: "tile",
	},
	"bit in an old hash tile": {
		entries: 776, plant: func(w *watched) { w.edit("tile/0/001", flipAt(100)) },
		says: []string{"tile/0/001: the root over its hashes is not hash 1 of tile/1/000.p/3"}, stops: true, where: "log", kind: "tile sct",
	},
	"removed old tile": {
		entries: 264, plant: func(w *watched) { w.remove("tile/0/000") },
		says: []string{"tile/0/000: is missing"}, stops: true, where: "log", kind: "tile sct",
	},
	"old data tile changed behind a false 304": {
		entries: 264, plant: func(w *watched) {
			w.front.set(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("If-None-Match") == "" {
					return false
				}
				rw.WriteHeader(http.StatusNotModified)
				return true
			})
			w.edit("tile/data/000", flipAt(100))
		},
		says: []string{"tile/data/000: index 0 has hash", "own storage"}, stops: true, where: "log", kind: "tile",
	},
	"missing issuer": {
		entries: 8, plant: func(w *watched) { w.remove(w.issuer()) },
		says: []string{"issuer/", "is missing; index 0 names it"}, stops: true, where: "log", kind: "pass edge",
	},
	"entry with another timestamp than its SCT": {entries: 8, plant: func(w *watched) {
		p, pl := w.logged(3)
		pl.TimestampMillis--
		w.d.Watcher(0).Offer(p, entry.SCT{Placement: pl})
	}, says: []string{"the log answered an SCT for index 3", "of an entry with timestamp"}, stops: true, where: "log", kind: "sct"},
	"SCT that is not covered": {entries: 8, plant: func(w *watched) {
		p, pl := w.logged(3)
		pl.Index = 8
		w.d.Watcher(0).Offer(p, entry.SCT{Placement: pl})
	}, says: []string{"checkpoint: the log answered an SCT for index 8", "has 8 entries"}, stops: true, where: "log", kind: "sct"},
	"forked checkpoint of the log's key": {entries: 8, plant: func(w *watched) {
		w.answers("checkpoint", "text/plain; charset=utf-8", w.signed(func(t *tlog.Tree) { t.Hash[0] ^= 1 }))
	}, says: []string{"the log has forked: two trees of size 8 were signed", "signed by the log's key"}, stops: true, where: "log", kind: "pass"},
	"smaller checkpoint signed later": {entries: 8, plant: func(w *watched) {
		w.answers("checkpoint", "text/plain; charset=utf-8", w.signed(func(t *tlog.Tree) { t.N = 7 }))
	}, says: []string{"is smaller than one that was seen before", "it was signed later"}, stops: true, where: "log", kind: "pass"},
	"checkpoint set back in the CDN": {entries: 8, plant: func(w *watched) {
		old := w.stored("checkpoint")
		w.submit(0, w.chain())
		w.verified(9)
		w.answers("checkpoint", "text/plain; charset=utf-8", old)
	}, says: []string{"checkpoint: is smaller than one that was seen before: got size 8", "own storage has the right bytes"}, where: "cdn", kind: "pass"},
	"bit in the CDN's hash tile": {entries: 8, plant: func(w *watched) {
		w.answers("tile/0/000.p/8", octets, flipAt(32*5)(w.stored("tile/0/000.p/8")))
	}, says: []string{"tile/0/000.p/8: hash 5 (index 5)", "own storage has the right bytes"}, where: "cdn", kind: "pass"},
	"another object in the CDN": {entries: 8, plant: func(w *watched) {
		w.answers("tile/data/000.p/8", octets, w.stored("tile/0/000.p/8"))
	}, says: []string{"tile/data/000.p/8: entry 0 (index 0) is malformed", "own storage has the right bytes"}, where: "cdn", kind: "pass"},
	"short tile in the CDN": {entries: 8, plant: func(w *watched) {
		w.answers("tile/0/000.p/8", octets, w.stored("tile/0/000.p/8")[:40])
	}, says: []string{"tile/0/000.p/8: wrong length: got 40 bytes, want 256 bytes"}, where: "cdn", kind: "pass"},
	"tile that the CDN lacks": {entries: 8, plant: func(w *watched) {
		w.front.set(func(rw http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/tile/0/") {
				return false
			}
			http.NotFound(rw, r)
			return true
		})
	}, says: []string{"tile/0/000.p/8: is missing", "own storage has the right bytes"}, where: "cdn", kind: "pass"},
	"checkpoint of somebody else in the CDN": {entries: 8, plant: func(w *watched) {
		w.answers("checkpoint", "text/plain; charset=utf-8", []byte("other.example\n8\nAAAA\n\n\u2014 other.example AAAAAAAA\n"))
	}, says: []string{"checkpoint: does not open", "own storage has the right bytes"}, where: "cdn", kind: "pass"},
}

// logged returns the entry at an index of log 0, and its place.
func (w *watched) logged(index int64) (*entry.Pending, entry.Placement) {
	w.t.Helper()
	chain := w.chain()
	p, err := entry.NewX509(chain.Certificates[0], nil, false)
	if err != nil {
		w.t.Fatal(err)
	}
	return p, entry.Placement{Index: index, TimestampMillis: w.opts.Now().UnixMilli() - 1000}
}

// issuer is the path of an issuer that all entries name.
func (w *watched) issuer() string {
	w.t.Helper()
	list, err := os.ReadDir(w.path("issuer"))
	if err != nil || len(list) == 0 {
		w.t.Fatalf("issuers: %v, %v", list, err)
	}
	for _, e := range list {
		if raw, err := hex.DecodeString(e.Name()); err == nil && len(raw) == 32 {
			return "issuer/" + e.Name()
		}
	}
	w.t.Fatal("no issuer")
	return ""
}

// TestPlantedFaults plants one fault after the other behind the back of a running
// log. Each is told by its name within 30 s, by the count of polls; the sequencer
// is stopped if and only if the fault is the log's own; the other log goes on.
func TestPlantedFaults(t *testing.T) {
	t.Parallel()
	for name, f := range plantedFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatched(t, f.entries)
			f.plant(w)
			before := w.polls()
			w.until("alarm", func() bool { code, _ := w.admin("/readyz"); return code != http.StatusOK })
			if n := w.polls() - before; n > pollsIn30s {
				t.Errorf("it took %d polls, want at most %d", n, pollsIn30s)
			}
			var report string
			w.until("report", func() bool {
				_, report = w.admin("/readyz")
				return strings.Contains(report, f.says[0])
			})
			for _, part := range f.says {
				if !strings.Contains(report, part) {
					t.Errorf("/readyz does not say %q:\n%s", part, report)
				}
			}
			w.until("the other log", func() bool {
				_, report = w.admin("/readyz")
				return strings.Contains(report, "ok: log two") && strings.Contains(report, "not ready: log one")
			})
			counted := 0
			for kind := range strings.FieldsSeq(f.kind) {
				counted += w.count(fmt.Sprintf(`kiln_watch_faults_total{kind=%q,log="one",where=%q}`, kind, f.where))
			}
			if counted == 0 {
				t.Error("the fault was not counted")
			}
			w.checkStopped(f)
		})
	}
}

// TestAnsweredSCTsAreLookedFor has clients submit, and nobody else say what was
// answered: each of the first SCTs is looked for in the tree.
func TestAnsweredSCTsAreLookedFor(t *testing.T) {
	t.Parallel()
	w := newWatched(t, 16)
	checked := `kiln_watch_scts_checked_total{log="one"}`
	w.until("looked for", func() bool { return w.count(checked) >= 16 })
	if other := w.metric(`kiln_watch_scts_checked_total{log="two"}`); other != "0" {
		t.Errorf("the other log has looked for %s", other)
	}
}

// accepts submits a chain, whatever this machine's clock says to the SCT.
func (w *watched) accepts(i int) error {
	w.t.Helper()
	_, err := w.client(i).Submit(w.t.Context(), w.chain())
	if err != nil && strings.Contains(err.Error(), "in the future") {
		return nil
	}
	return err
}

// checkStopped checks which of the logs takes submissions, and that both are read.
func (w *watched) checkStopped(f plantedFault) {
	t := w.t
	t.Helper()
	if f.stops {
		w.until("stopped", func() bool { return w.metric(`kiln_daemon_log_up{log="one"}`) == "0" })
	}
	size := w.count(`kiln_sequencer_tree_size_entries{log="one"}`)
	if err := w.accepts(0); (err != nil) != f.stops {
		t.Errorf("a submission was answered %v, stopped should be %v", err, f.stops)
	}
	if grown := w.count(`kiln_sequencer_tree_size_entries{log="one"}`) - size; f.stops && grown != 0 {
		t.Errorf("%d entries were taken after the fault", grown)
	}
	if code, _ := w.get(w.url(0) + "checkpoint"); code != http.StatusOK {
		t.Errorf("the log's checkpoint is answered with %d", code)
	}
	if err := w.accepts(1); err != nil {
		t.Errorf("the other log answered %v", err)
	}
	if got := w.metric(`kiln_watch_alarm{kind="fault",log="two"}`); got != "0" {
		t.Error("the other log has an alarm")
	}
	told := strings.Count(w.said.String(), "proven fault of the log")
	if f.stops && told != 1 || !f.stops && told != 0 {
		t.Errorf("a proven fault was told %d times\n%s", told, w.said)
	}
	if f.stops {
		return
	}
	w.front.set(nil)
	w.until("well again", func() bool { code, _ := w.admin("/readyz"); return code == http.StatusOK })
}

// toldUnknown counts the warnings about what could not be read of a log.
func (w *watched) toldUnknown(name string) (n int) {
	for line := range strings.Lines(w.said.String()) {
		if strings.Contains(line, "cannot be watched at the moment") && strings.Contains(line, "log="+name) {
			n++
		}
	}
	return n
}

// TestUnknownIsNotRed serves what says nothing of the log.
func TestUnknownIsNotRed(t *testing.T) {
	t.Parallel()
	for name, hook := range map[string]func(rw http.ResponseWriter, r *http.Request) bool{
		"page with 200": func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(rw, "<p>maintenance</p>")
			return true
		},
		"truncated body": func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(rw, "short")
			return true
		},
		"server error": func(rw http.ResponseWriter, _ *http.Request) bool {
			http.Error(rw, "no", http.StatusBadGateway)
			return true
		},
		"hang-up": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWatched(t, 8)
			w.front.set(hook)
			unknown := `kiln_watch_polls_total{log="one",result="unknown"}`
			w.until("unknown", func() bool { return w.count(unknown) > 4 })
			if code, report := w.admin("/readyz"); code != http.StatusOK {
				t.Errorf("/readyz says %d\n%s", code, report)
			}
			w.submit(0, w.chain())
			if n := w.toldUnknown("one"); n != 1 {
				t.Errorf("it was told %d times\n%s", n, w.said)
			}
			w.front.set(nil)
			w.verified(9)
		})
	}
}

// TestStaleIsNotRed has the front keep a checkpoint.
func TestStaleIsNotRed(t *testing.T) {
	t.Parallel()
	w := newWatched(t, 8)
	d := w.d // the rig forgets it while requests may still come
	// The newest, so that it is not older than one that was seen; those after it
	// are not.
	w.front.set(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/checkpoint") {
			return false
		}
		c := d.Watcher(0).Status().Checkpoint
		key, err := daemon.LoadKey(w.cfg.Logs[0])
		if err != nil {
			panic(err)
		}
		signer, err := checkpoint.NewSigner(c.Origin, key, false)
		if err != nil {
			panic(err)
		}
		raw, err := signer.Sign(c.Tree, c.TimestampMillis)
		if err != nil {
			panic(err)
		}
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = rw.Write(raw)
		return true
	})
	w.skew.Add(int64(2 * time.Minute))
	w.until("stale", func() bool { return w.metric(`kiln_watch_alarm{kind="stale",log="one"}`) == "1" })
	// The log itself signs every few seconds.
	w.until("ready", func() bool { code, _ := w.admin("/readyz"); return code == http.StatusOK })
	if w.metric(`kiln_watch_alarm{kind="fault",log="one"}`) != "0" || w.metric(`kiln_daemon_log_up{log="one"}`) != "1" {
		t.Error("the log is taken to be at fault")
	}
}

// TestRefusesUntilRepaired starts a log again whose fault is still there, and
// after it was repaired.
func TestRefusesUntilRepaired(t *testing.T) {
	t.Parallel()
	w := newWatched(t, 264)
	right := w.stored("tile/data/000")
	w.edit("tile/data/000", flipAt(100))
	w.skew.Add(int64(time.Minute))
	w.until("stopped", func() bool { return w.metric(`kiln_daemon_log_up{log="one"}`) == "0" })
	w.stop()
	before := w.stored("checkpoint")
	alone := *w.cfg // beside another it would be left out, and that one served
	alone.Logs = w.cfg.Logs[:1]
	for range 2 {
		_, err := daemon.Start(t.Context(), &alone, w.opts)
		if err == nil || !strings.Contains(err.Error(), "tile/data/000: index 0 has hash") || !strings.Contains(err.Error(), "nothing was signed: bring the object back") {
			t.Fatalf("start: %v", err)
		}
	}
	if !bytes.Equal(before, w.stored("checkpoint")) {
		t.Error("something was signed")
	}
	w.write("tile/data/000", right)
	w.start()
	if err := w.accepts(0); err != nil {
		t.Error(err)
	}
	w.verified(265)
	if !strings.Contains(w.said.String(), "was repaired") {
		t.Error("it was not said that the fault was repaired")
	}
}

// TestWatchOff watches nothing, and a URL that does not resolve is no noise.
func TestWatchOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	r.cfg.Logs[0].WatchURL = config.WatchOff
	r.opts.WatchInterval = 10 * time.Millisecond
	r.start()
	unknown := `kiln_watch_polls_total{log="two",result="unknown"}`
	w := &watched{rig: r}
	w.until("unknown", func() bool { return w.count(unknown) > 3 })
	if _, body := r.admin("/metrics"); strings.Contains(body, `kiln_watch_polls_total{log="one"`) {
		t.Error("the log is watched")
	}
	if n := w.toldUnknown("two"); n != 1 {
		t.Errorf("it was told %d times\n%s", n, r.said)
	}
	if code, report := r.admin("/readyz"); code != http.StatusOK {
		t.Error(report)
	}
}
