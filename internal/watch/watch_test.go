package watch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/fsck"
	"kiln/internal/watch"
	"kiln/tiles"
)

// withinPolls is how many polls there are in 30 s.
const withinPolls = int(30 * time.Second / watch.DefaultInterval)

// A sound log that grows, idles and fills tiles is well at every poll, and each
// entry is hashed.
func TestSoundLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	w.conf.Storage = w.store
	watcher := w.watch()
	for _, n := range []int{0, 1, 0, 99, 156, 0, 0, 1, 300, 0, 0, 0, 0, 0, 0, 0, 55, 0} {
		if n > 0 {
			w.grow(n)
			p := w.sent[len(w.sent)-1]
			watcher.Offer(p, entry.SCT{Placement: entry.Placement{Index: int64(len(w.sent) - 1), TimestampMillis: w.clock.now().UnixMilli()}})
		} else {
			w.sign()
		}
		w.poll(1)
		w.fine()
		if got := watcher.Status().Checkpoint; got.Tree != w.edge.Tree() {
			t.Fatalf("verified size is %d, want %d", got.Tree.N, w.edge.Tree().N)
		}
	}
	s := watcher.Status()
	if s.Receipts < 6 || s.Entries < int64(len(w.sent)) || s.Swept == 0 || s.StaleFor != 0 {
		t.Errorf("status is %+v", s)
	}
	if got := w.metric("kiln_watch_verified_entries"); got != float64(len(w.sent)) {
		t.Errorf("metric says %v entries", got)
	}
	if w.metric("kiln_watch_alarm", "kind=stale") != 0 || w.metric("kiln_watch_unknown_total", "reason=other") != 0 {
		t.Error("there is an alarm")
	}
}

// An idle log costs a request for the checkpoint and one for each tile of the
// right edge, which are answered with 304.
func TestIdlePollsAreCheap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 300)
	w.conf.Storage = w.store
	w.watch()
	w.poll(1)
	w.mu.Lock()
	w.asked = nil
	w.mu.Unlock()
	var sent atomic.Int64
	w.before(func(rw http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("If-None-Match") == "" && !strings.HasSuffix(r.URL.Path, "/checkpoint") {
			sent.Add(1)
		}
		return false
	})
	w.sign()
	w.poll(1)
	w.fine()
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := slices.DeleteFunc(slices.Clone(w.asked), func(path string) bool { return strings.Contains(path, "/issuer/") }) // see TestRecentIsCheap
	if len(asked) != 4 || sent.Load() != 0 {
		t.Errorf("asked for %v, %d of them without a condition", w.asked, sent.Load())
	}
}

// planted is a fault planted behind the log's back.
type planted struct {
	name   string
	do     func(w *world)
	path   string
	says   []string // parts of what is said
	events string   // that tells it; default fault
	stays  bool     // the sequencer goes on
}

// edgeFaults are seen in whatever was verified before.
var edgeFaults = []planted{
	{name: "bit in a right-edge hash tile", do: func(w *world) { w.store.edit("tile/0/002.p/88", flip(32*7)) }, path: "tile/0/002.p/88", says: []string{"hash 7 (index 519)", "tile/data/002.p/88"}},
	{name: "bit in a right-edge hash tile of a higher level", do: func(w *world) { w.store.edit("tile/1/000.p/2", flip(3)) }, path: "tile/1/000.p/2", says: []string{"hash 0 (entries 0 to 255)"}},
	{name: "bit in the data partial", do: func(w *world) { w.store.edit("tile/data/002.p/88", flip(100)) }, path: "tile/data/002.p/88", says: []string{"index 512 has hash", "proves the hash tile"}},
	{name: "stored bytes of the data partial", do: func(w *world) {
		w.store.put("tile/data/002.p/88", []byte("\x1f\x8bgarbage"))
	}, path: "tile/data/002.p/88", says: []string{"gzip"}},
	{name: "right-edge hash tile removed", do: func(w *world) { w.store.remove("tile/0/002.p/88") }, path: "tile/0/002.p/88", says: []string{"is missing"}},
	{name: "data partial removed", do: func(w *world) { w.store.remove("tile/data/002.p/88") }, path: "tile/data/002.p/88", says: []string{"is missing"}},
	{name: "data partial of another size", do: func(w *world) {
		b, _ := w.store.get("tile/data/000")
		w.store.put("tile/data/002.p/88", b)
	}, path: "tile/data/002.p/88", says: []string{"leaf_index of entry 0"}},
	{name: "issuer removed", do: func(w *world) { w.store.remove(anIssuer()) }, path: anIssuer(), says: []string{"is missing; index 512 names it"}},
	{name: "bit in an issuer", do: func(w *world) { w.store.edit(anIssuer(), flip(50)) }, path: anIssuer(), says: []string{"is not its name"}},
	{name: "checkpoint set back", do: func(w *world) { w.store.put("checkpoint", w.signed(w.treeOf(500), -time.Hour)) }, path: "checkpoint", says: []string{"is smaller than one that was seen before", "got size 500", "want at least size 600"}},
	{name: "smaller checkpoint signed later", do: func(w *world) { w.store.put("checkpoint", w.signed(w.treeOf(500), time.Second)) }, path: "checkpoint", says: []string{"signed later"}},
	{name: "older checkpoint of the same tree", do: func(w *world) { w.store.put("checkpoint", w.signed(w.edge.Tree(), -time.Hour)) }, path: "checkpoint", says: []string{"timestamp is before"}},
	{name: "forked checkpoint of the same size", do: func(w *world) {
		tree := w.edge.Tree()
		tree.Hash[0] ^= 1
		w.store.put("checkpoint", w.signed(tree, time.Second))
	}, path: "checkpoint", says: []string{"the log has forked: two trees of size 600 were signed"}},
	{name: "forked and grown", do: func(w *world) { w.fork() }, path: "checkpoint", says: []string{"the log has forked", "another root at size 600"}},
	{name: "checkpoint of another key", do: func(w *world) { w.store.edit("checkpoint", func([]byte) []byte { return newForeign() }) }, path: "checkpoint", says: []string{"does not open"}},
}

// anIssuer is the path of the issuer of the first entry.
func anIssuer() string { return tiles.IssuerPath(pki().pending[0].Chain()[0]) }

func newForeign() []byte { return []byte("another.example\n5\nAAAA\n\n- sig\n") }

// signed signs a tree at some time from now.
func (w *world) signed(tree tlog.Tree, in time.Duration) []byte {
	signer := must(checkpoint.NewSigner(origin, w.key, false))
	return must(signer.Sign(tree, w.clock.now().Add(in).UnixMilli()))
}

// treeOf returns the tree as it was at a smaller size.
func (w *world) treeOf(size int64) tlog.Tree {
	w.t.Helper()
	other := w.rebuilt(func(i int64) *entry.Pending { return w.sent[i] }, size)
	return other.edge.Tree()
}

// rebuilt returns the log's tree of other entries, with the timestamps of
// newWorld.
func (w *world) rebuilt(next func(int64) *entry.Pending, size int64) *world {
	w.t.Helper()
	var batch []*entry.Pending
	for i := range size {
		batch = append(batch, next(i))
	}
	edge, made, err := tiles.NewEdge(false).Append(batch, time.Date(2026, 10, 3, 12, 0, 1, 0, time.UTC).UnixMilli())
	if err != nil {
		w.t.Fatal(err)
	}
	other := &world{store: &objects{list: map[string][]byte{}}, edge: edge}
	for _, o := range made {
		other.store.put(o.Path, o.Body)
	}
	return other
}

// fork puts another history in the log's place, larger and whole.
func (w *world) fork() {
	other := w.rebuilt(func(i int64) *entry.Pending { return pki().pending[(i+1)%12] }, 700)
	for path, b := range other.store.clone() {
		w.store.put(path, b)
	}
	w.store.put("checkpoint", w.signed(other.edge.Tree(), time.Second))
}

func (p *planted) check(t *testing.T, w *world, polls int) {
	t.Helper()
	for n := range polls {
		w.poll(1)
		kind := p.events
		if kind == "" {
			kind = "fault"
		}
		e := w.last(kind)
		if e == nil {
			continue
		}
		t.Logf("after %d polls: %s: %s", n+1, e.Path, e.Detail)
		if e.Path != p.path {
			t.Errorf("path is %s, want %s (%s)", e.Path, p.path, e.Detail)
		}
		health := fmt.Sprint(w.w.Health())
		for _, part := range p.says {
			if !strings.Contains(e.Detail, part) || !strings.Contains(health, part) {
				t.Errorf("%q is not in %q, or in %q", part, e.Detail, health)
			}
		}
		if stopped := len(w.halted) == 1; stopped == p.stays {
			t.Errorf("the sequencer was stopped: %v", w.halted)
		}
		w.poll(5)
		if len(w.halted) > 1 {
			t.Errorf("it was stopped %d times", len(w.halted))
		}
		return
	}
	t.Fatalf("no alarm within %d polls: %+v\n%s", polls, w.w.Status(), w.text)
}

// Faults planted behind the back of an own log are proven within 30 s, each by
// its name; what is at fault has to be the log itself.
func TestPlantedInTheLog(t *testing.T) {
	t.Parallel()
	for _, f := range edgeFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			for late := range wholeEvery {
				w := newWorld(t, 600)
				w.conf.Storage = w.store
				w.watch().Recents(0) // which may come to an issuer first
				w.poll(1 + late)
				w.fine()
				f.do(w)
				f.check(t, w, withinPolls)
			}
		})
	}
}

const wholeEvery = 4

// So they are in a stranger's log, of which there is nothing but the URL.
func TestPlantedInAStrangersLog(t *testing.T) {
	t.Parallel()
	for _, f := range edgeFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 600)
			w.watch().Recents(0) // which may come to an issuer first
			w.poll(2)
			w.fine()
			f.do(w)
			f.check(t, w, withinPolls)
		})
	}
}

// onceWrong is a source of which one read of an object gave a flipped bit.
type onceWrong struct {
	*objects
	path string
	done atomic.Bool
}

func (o *onceWrong) Open(ctx context.Context, path string) (*fsck.Object, error) {
	if path == o.path && o.done.CompareAndSwap(false, true) {
		b, _ := o.get(path)
		return &fsck.Object{Body: io.NopCloser(bytes.NewReader(flip(32 * 7)(bytes.Clone(b)))), Encoding: fsck.EncodingPlain}, nil
	}
	return o.objects.Open(ctx, path)
}

// One bad read of the log's own storage is no proof, and stops nothing.
func TestOneBadRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 600)
	once := &onceWrong{objects: w.store, path: "tile/0/002.p/88"}
	w.conf.Storage = once
	w.watch()
	w.poll(2 * wholeEvery)
	if !once.done.Load() {
		t.Fatal("the object was not read")
	}
	w.fine()
}

// Names tiles are a convenience that nothing vouches for: what is wrong with them
// is for kiln fsck to say, and stops no log.
func TestNamesTiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 0)
	w.edge = tiles.NewEdge(true)
	w.conf.Storage = w.store
	w.grow(600)
	w.watch()
	w.poll(1)
	for _, path := range []string{"tile/names/000", "tile/names/002.p/88"} {
		if _, ok := w.store.get(path); !ok {
			t.Fatalf("the log has no %s", path)
		}
		w.store.put(path, zip([]byte("{}\n")))
	}
	w.grow(30)
	w.poll(2*6 + 1) // the sweep, too
	w.fine()
	if s := w.w.Status(); s.Sweeps == 0 && s.Swept < 2 {
		t.Errorf("the sweep has looked at %d tiles", s.Swept)
	}
}

// Faults of older objects are found by the sweep, in its time.
func TestSweep(t *testing.T) {
	t.Parallel()
	for _, f := range []planted{
		{name: "bit in an old hash tile", do: func(w *world) { w.store.edit("tile/0/000", flip(32*9)) }, path: "tile/0/000", says: []string{"is not hash 0 of tile/1/000.p/2"}},
		{name: "bit in an old data tile", do: func(w *world) { w.store.edit("tile/data/001", flip(200)) }, path: "tile/data/001", says: []string{"index 256 has hash", "proves the hash tile"}},
		{name: "old data tile removed", do: func(w *world) { w.store.remove("tile/data/000") }, path: "tile/data/000", says: []string{"is missing"}},
		{name: "old hash tile removed", do: func(w *world) { w.store.remove("tile/0/001") }, path: "tile/0/001", says: []string{"is missing"}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 600)
			w.conf.Storage = w.store
			w.watch().Recents(0) // nor the newest tiles
			w.poll(3)
			w.fine()
			f.do(w)
			f.check(t, w, 2*6+1) // two tiles, one in 30 s
		})
	}
}

// What only the CDN has wrong is said to be so, and stops nothing.
func TestPlantedInTheCDN(t *testing.T) {
	t.Parallel()
	for _, f := range edgeFaults {
		switch f.name {
		case "smaller checkpoint signed later", "forked checkpoint of the same size", "forked and grown":
			continue // signed by the log, whoever serves it: see below
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 600)
			right := &objects{list: w.store.clone()}
			w.conf.Storage = right
			w.watch().Recents(0) // which may come to an issuer first
			w.poll(2)
			w.fine()
			f.events, f.stays = "cdn", true
			f.says = append(f.says[:len(f.says):len(f.says)], "own storage has the right bytes")
			f.do(w)
			f.check(t, w, withinPolls)
			w.store.become(right.clone())
			w.poll(1)
			w.fine() // repaired
		})
	}
}

// Two trees that the log's key has signed are a fault of the log, though its
// storage knows one of them only.
func TestForkShownToReaders(t *testing.T) {
	t.Parallel()
	for _, f := range edgeFaults {
		if f.name != "smaller checkpoint signed later" && f.name != "forked checkpoint of the same size" && f.name != "forked and grown" {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 600)
			w.conf.Storage = &objects{list: w.store.clone()}
			w.watch()
			w.poll(2)
			w.fine()
			f.do(w)
			f.check(t, w, 1)
		})
	}
}

// A cache that obeys no-cache is told from one that does not.
func TestCacheKeepsWrongBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 600)
	w.watch() // a stranger's
	w.poll(1)
	w.fine()
	b, _ := w.store.get("tile/0/002.p/88")
	wrong := flip(40)(bytes.Clone(b))
	w.before(func(rw http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "tile/0/002.p/88") || r.Header.Get("Cache-Control") == "no-cache" {
			return false
		}
		rw.Header().Set("Content-Type", "application/octet-stream")
		_, _ = rw.Write(wrong)
		return true
	})
	f := planted{path: "tile/0/002.p/88", says: []string{"a cache before the log keeps wrong bytes"}, events: "cdn", stays: true}
	f.check(t, w, 1)
}

// SCTs of the log's own that the tree does not keep are faults of the log.
func TestReceipts(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 10, 3, 12, 0, 1, 0, time.UTC).UnixMilli()
	for name, c := range map[string]struct {
		sct entry.Placement
		p   int
		f   planted
	}{
		"another timestamp":     {entry.Placement{Index: 300, TimestampMillis: at - 1}, 300, planted{path: "tile/data/001", says: []string{"answered an SCT for index 300", "of an entry with timestamp"}}},
		"another entry":         {entry.Placement{Index: 300, TimestampMillis: at}, 301, planted{path: "tile/data/001", says: []string{"answered an SCT for index 300"}}},
		"on the right edge":     {entry.Placement{Index: 599, TimestampMillis: at - 1}, 599, planted{path: "tile/data/002.p/88", says: []string{"index 599"}}},
		"not covered":           {entry.Placement{Index: 600, TimestampMillis: at}, 0, planted{path: "checkpoint", says: []string{"index 600", "has 600 entries"}}},
		"not covered as yet":    {entry.Placement{Index: 600, TimestampMillis: at + 5000}, 0, planted{}},
		"what the tree has":     {entry.Placement{Index: 300, TimestampMillis: at}, 300, planted{}},
		"the last of the edge":  {entry.Placement{Index: 599, TimestampMillis: at}, 599, planted{}},
		"the first of the tree": {entry.Placement{Index: 0, TimestampMillis: at}, 0, planted{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 600)
			w.conf.Storage = w.store
			watcher := w.watch()
			w.poll(2)
			watcher.Offer(w.sent[c.p], entry.SCT{Placement: c.sct})
			if c.f.path == "" {
				w.poll(1)
				w.fine()
				return
			}
			c.f.check(t, w, 1)
		})
	}
}

// What cannot be read is unknown: told once, counted, and never a fault.
func TestUnknown(t *testing.T) {
	t.Parallel()
	edge := "/log/tile/0/002.p/88"
	for name, c := range map[string]struct {
		hook   func(rw http.ResponseWriter, r *http.Request) bool
		reason string
		says   string
	}{
		"500": {func(rw http.ResponseWriter, _ *http.Request) bool { http.Error(rw, "x", 500); return true }, "status", "500"},
		"429": {func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Retry-After", "7")
			http.Error(rw, "x", http.StatusTooManyRequests)
			return true
		}, "status", "429"},
		"page with 200": {func(rw http.ResponseWriter, r *http.Request) bool {
			rw.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprint(rw, "<h1>Sorry</h1>")
			return true
		}, "answer", "text/html"},
		"redirect": {func(rw http.ResponseWriter, r *http.Request) bool {
			http.Redirect(rw, r, "https://example.org/", http.StatusFound)
			return true
		}, "answer", "redirects"},
		"truncated body": {func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != edge {
				return false
			}
			rw.Header().Set("Content-Length", "2816")
			_, _ = io.WriteString(rw, "short")
			return true
		}, "other", "broke off"},
		"hang-up": {func(rw http.ResponseWriter, r *http.Request) bool { panic(http.ErrAbortHandler) }, "other", "EOF"},
		"slow body": {func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != edge {
				return false
			}
			rw.Header().Set("Content-Length", "2816")
			_, _ = io.WriteString(rw, "s")
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}, "timeout", "no answer within 50ms"},
		"other encoding": {func(rw http.ResponseWriter, r *http.Request) bool {
			rw.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(rw, "x")
			return true
		}, "answer", "Content-Encoding is br"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 600)
			w.conf.Storage = w.store
			if c.reason == "timeout" {
				w.conf.Timeout = 50 * time.Millisecond
			}
			watcher := w.watch()
			w.poll(4) // the next one is whole
			w.fine()
			w.before(c.hook)
			w.sign()
			w.poll(1)
			s := watcher.Status()
			if s.Unknown == nil || !strings.Contains(s.Unknown.Error(), c.says) || watcher.Health() != nil || len(w.halted) > 0 {
				t.Fatalf("status is %+v, health %v, want it to say %q", s, watcher.Health(), c.says)
			}
			if w.metric("kiln_watch_unknown_total", "reason="+c.reason) != 1 {
				t.Errorf("reason is not %s: %v", c.reason, s.Unknown)
			}
			w.before(nil)
			w.sign()
			w.poll(1)
			w.fine()
			if n := strings.Count(w.text.String(), "level=WARN"); n != 1 {
				t.Errorf("%d warnings\n%s", n, w.text)
			}
		})
	}
}

// It warns once and then every hour, and is loud after half an hour.
func TestUnknownIsToldSeldom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	w.watch()
	w.server.Close()
	for range 2 * 60 { // two hours
		w.poll(1)
		w.clock.add(time.Minute - watch.DefaultInterval)
	}
	text := w.text.String()
	if warn, loud := strings.Count(text, "level=WARN"), strings.Count(text, "level=ERROR"); warn != 1 || loud != 2 {
		t.Errorf("%d warnings and %d errors\n%s", warn, loud, text)
	}
	if w.w.Health() != nil || w.metric("kiln_watch_alarm", "kind=unknown") != 1 || w.metric("kiln_watch_unknown_total", "reason=connect") != 120 {
		t.Errorf("health is %v\n%s", w.w.Health(), text)
	}
}

// A stale checkpoint is an alarm that proves nothing.
func TestStale(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 10)
	w.conf.Storage = w.store
	watcher := w.watch()
	w.poll(14) // without a signature, the limit is a minute
	if s := watcher.Status(); s.StaleFor == 0 || s.Fault != "" || watcher.Health() != nil || len(w.halted) > 0 || w.metric("kiln_watch_alarm", "kind=stale") != 1 {
		t.Fatalf("status is %+v", s)
	}
	if e := w.last("stale"); e == nil || !strings.Contains(e.Detail, "want at most 1m0s") {
		t.Errorf("event is %+v", e)
	}
	w.sign()
	w.poll(1)
	w.fine()
	if w.metric("kiln_watch_alarm", "kind=stale") != 0 || w.last("fresh") == nil {
		t.Error("it is still stale")
	}
}

// mute is a storage that does not answer.
type mute struct{ fsck.Source }

func (mute) Open(context.Context, string) (*fsck.Object, error) {
	return nil, errors.New("no answer")
}

// A fault survives the process: the next one refuses until it is repaired.
func TestRestartAfterAFault(t *testing.T) {
	t.Parallel()
	for _, f := range edgeFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 600)
			w.conf.Storage = w.store
			w.watch()
			w.poll(1)
			right := w.store.clone()
			f.do(w)
			w.poll(withinPolls)
			if len(w.halted) != 1 {
				t.Fatal("not stopped")
			}
			// No orderly end: the fault has to be in the file by now.
			again := w.watch()
			err := again.Inspect(t.Context(), nil)
			if err == nil || !strings.Contains(err.Error(), f.path) {
				t.Fatalf("Inspect: %v, want one that names %s", err, f.path)
			}
			t.Log(err)
			w.store.become(right)
			for range 2 { // what cannot be told stays so
				w.conf.Storage = mute{w.store}
				err = w.watch().Inspect(t.Context(), nil)
				if err == nil || errors.Is(err, watch.ErrUntold) == strings.Contains(err.Error(), "both are signed") {
					t.Errorf("a storage that does not answer: %v", err)
				}
			}
			w.conf.Storage = w.store
			again = w.watch()
			err = again.Inspect(t.Context(), nil)
			if strings.Contains(f.name, "fork") || f.name == "smaller checkpoint signed later" {
				if err == nil || !strings.Contains(err.Error(), "both are signed") {
					t.Errorf("a fork was forgiven: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("repaired: %v", err)
			}
			w.poll(1)
			w.fine()
			if err := w.watch().Inspect(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
}

// A log that was set back while nobody watched is refused.
func TestSetBackWhileDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 300)
	w.conf.Storage = w.store
	before, tree := w.store.clone(), w.edge.Tree()
	millis := w.clock.now().UnixMilli()
	w.grow(40)
	watcher := w.watch()
	w.poll(1)
	watcher.Close()
	w.store.become(before)
	err := w.watch().Inspect(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "is smaller than one that was seen before") {
		t.Errorf("Inspect: %v", err)
	}
	c := checkpoint.Checkpoint{Origin: origin, Tree: tree, TimestampMillis: millis}
	if err := w.watch().Inspect(t.Context(), &c); err == nil {
		t.Error("a lock that was set back is taken")
	}
}

// A state file that is damaged or another's is moved aside.
func TestBadState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 300)
	w.conf.Storage = w.store
	watcher := w.watch()
	w.poll(1)
	watcher.Close()
	good, err := os.ReadFile(w.conf.State)
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range [][]byte{nil, []byte("{}"), good[:len(good)/2], flip(len(good) / 2)(bytes.Clone(good)), bytes.Repeat([]byte(" "), 9<<20)} {
		if err := os.WriteFile(w.conf.State, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		w.watch()
		if !strings.Contains(w.text.String(), "level=WARN") || !strings.Contains(w.text.String(), "moved aside") {
			t.Errorf("no warning: %s", w.text)
		}
		if err := w.w.Inspect(t.Context(), nil); err != nil {
			t.Error(err)
		}
		w.poll(1)
		w.fine()
		if _, err := os.Stat(fmt.Sprintf("%s.bad-%d", w.conf.State, min(i+1, 4))); err != nil {
			t.Error(err)
		}
	}
	// Of another log: sealed with another secret.
	if err := os.WriteFile(w.conf.State, good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.conf.Secret = []byte("another")
	w.watch()
	if !strings.Contains(w.text.String(), "of another log") {
		t.Error(w.text)
	}
	if left, _ := filepath.Glob(filepath.Join(w.dir, "dedup", ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A watcher may begin anywhere.
func TestFrom(t *testing.T) {
	t.Parallel()
	for from, entries := range map[int64]int64{0: 600, fsck.FromNow: 88, 300: 344, 512: 88, 9999: 88} {
		w := newWorld(t, 600)
		w.conf.From, w.conf.State = from, ""
		watcher := w.watch()
		w.poll(1)
		w.fine()
		if s := watcher.Status(); s.Entries != entries {
			t.Errorf("from %d: %d entries were hashed, want %d", from, s.Entries, entries)
		}
		w.grow(1000)
		w.poll(1)
		w.fine()
	}
}
