package watch_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"kiln/tiles"
)

// recentTurn is how many polls look at all of the newest full tiles.
const recentTurn = 5

// anOldIssuer is named by none but the first 256 entries of newOldWorld.
func anOldIssuer() string { return tiles.IssuerPath(pki().old[0].Chain()[0]) }

// newOldWorld is a log of three full tiles and a right edge, whose first tile
// names issuers of its own.
func newOldWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 0)
	w.growOf(pki().old, 256)
	w.grow(256 + 256 + 132)
	return w
}

// recentFaults are in full tiles, and in an issuer of an old one.
var recentFaults = []planted{
	{name: "bit in an old data tile", do: func(w *world) { w.store.edit("tile/data/000", flip(200)) }, path: "tile/data/000", says: []string{"index 0 has hash", "proves the hash tile"}},
	{name: "stored bytes of a data tile", do: func(w *world) { w.store.put("tile/data/002", []byte("\x1f\x8bgarbage")) }, path: "tile/data/002", says: []string{"gzip"}},
	{name: "old data tile removed", do: func(w *world) { w.store.remove("tile/data/001") }, path: "tile/data/001", says: []string{"is missing"}},
	{name: "bit in a full hash tile", do: func(w *world) { w.store.edit("tile/0/001", flip(32*9)) }, path: "tile/0/001", says: []string{"is not hash 1 of tile/1/000.p/3"}},
	{name: "full hash tile removed", do: func(w *world) { w.store.remove("tile/0/000") }, path: "tile/0/000", says: []string{"is missing"}},
	{name: "bit in an old issuer", do: func(w *world) { w.store.edit(anOldIssuer(), flip(50)) }, path: anOldIssuer(), says: []string{"is not its name"}},
	{name: "old issuer removed", do: func(w *world) { w.store.remove(anOldIssuer()) }, path: anOldIssuer(), says: []string{"is missing; index 0 names it"}},
}

// Faults in the newest full tiles are proven within 30 s, wherever in its turn the
// watcher is: of a log on a disk, on object storage, and of a stranger's.
func TestPlantedInRecentTiles(t *testing.T) {
	t.Parallel()
	for _, f := range recentFaults {
		for _, kind := range []string{"disk", "object storage", "stranger"} {
			t.Run(f.name+" on "+kind, func(t *testing.T) {
				t.Parallel()
				for late := range recentTurn {
					w := newOldWorld(t)
					within := withinPolls
					if kind != "stranger" {
						w.conf.Storage, w.conf.Near = w.store, kind == "disk"
					} else if strings.HasSuffix(f.name, "removed") {
						within++ // a cache may lag: absent at three polls in a row
					}
					w.watch()
					w.poll(1 + late)
					w.w.StopSweep()
					w.fine()
					f.do(w)
					f.check(t, w, within)
				}
			})
		}
	}
}

// A server that says that nothing has changed hides no fault of a log on a disk.
func TestRecentBehindAFalse304(t *testing.T) {
	t.Parallel()
	for _, f := range recentFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newOldWorld(t)
			w.conf.Storage, w.conf.Near = w.store, true
			w.watch()
			w.poll(2)
			w.w.StopSweep()
			w.before(func(rw http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("If-None-Match") != "" {
					rw.WriteHeader(http.StatusNotModified)
				}
				return r.Header.Get("If-None-Match") != ""
			})
			f.do(w)
			f.check(t, w, withinPolls)
		})
	}
}

// What only the CDN has wrong stops nothing.
func TestRecentInTheCDN(t *testing.T) {
	t.Parallel()
	for _, f := range recentFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newOldWorld(t)
			right := &objects{list: w.store.clone()}
			w.conf.Storage, w.conf.Near = right, true
			w.watch()
			w.poll(2)
			w.w.StopSweep()
			f.events, f.stays = "cdn", true
			f.do(w)
			f.check(t, w, withinPolls+1) // a cache may lag
			w.store.become(right.clone())
			w.poll(1)
			w.fine()
		})
	}
}

// Without a strong ETag all is read in full, at a quarter of the pace.
func TestRecentWithoutETags(t *testing.T) {
	t.Parallel()
	for _, etag := range []string{"", `W/"same"`} {
		for _, f := range recentFaults {
			w := newOldWorld(t)
			w.before(func(rw http.ResponseWriter, r *http.Request) bool {
				b, ok := w.store.get(strings.TrimPrefix(r.URL.Path, "/log/"))
				if !ok {
					return false
				}
				if strings.Contains(r.URL.Path, "/data/") {
					rw.Header().Set("Content-Encoding", "gzip")
				}
				rw.Header().Set("Etag", etag)
				if full := !strings.Contains(r.URL.Path, ".p/"); full && r.Header.Get("If-None-Match") != "" {
					rw.WriteHeader(http.StatusNotModified) // which says nothing
					return true
				}
				_, _ = rw.Write(b)
				return true
			})
			w.watch()
			w.poll(2)
			w.w.StopSweep()
			w.fine()
			f.do(w)
			f.check(t, w, 4*recentTurn+3)
		}
	}
}

// Each of the full tiles and of the issuers is asked for once in a turn, and none
// is sent again while it is the same.
func TestRecentIsCheap(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	w.conf.Storage, w.conf.Near = w.store, true
	w.watch()
	w.poll(1)
	w.w.StopSweep()
	asked, sent := map[string]int{}, map[string]int{}
	w.before(func(_ http.ResponseWriter, r *http.Request) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		if path := strings.TrimPrefix(r.URL.Path, "/log/"); r.Header.Get("If-None-Match") != "" {
			asked[path]++
		} else {
			sent[path]++
		}
		return false
	})
	w.poll(recentTurn)
	w.fine()
	want := []string{anOldIssuer(), anIssuer()}
	for n := range 3 {
		want = append(want, fmt.Sprintf("tile/0/%03d", n), fmt.Sprintf("tile/data/%03d", n))
	}
	for _, path := range want {
		if asked[path] != 1 || sent[path] != 0 && path != anIssuer() { // whole polls read the edge's issuers
			t.Errorf("%s was asked for %d times, and read in full %d times", path, asked[path], sent[path])
		}
	}
}

// Other bytes that mean the same are no fault, wherever they are.
func TestRecentRecompressed(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	w.cdn = &objects{list: w.store.clone()}
	w.conf.Storage, w.conf.Near = w.store, true
	w.watch()
	w.poll(2)
	for _, o := range []*objects{w.store, w.cdn} {
		b, _ := o.get("tile/data/001")
		var out bytes.Buffer
		z := must(gzip.NewWriterLevel(&out, gzip.NoCompression))
		must(z.Write(must(tiles.Gunzip(b))))
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		o.put("tile/data/001", out.Bytes())
		for range 2 * recentTurn {
			w.sign()
			b, _ := w.store.get("checkpoint")
			w.cdn.put("checkpoint", b)
			w.poll(1)
			w.fine()
		}
	}
	w.store.edit("tile/data/001", flip(200))
	(&planted{path: "tile/data/001", says: []string{"index 256 has hash"}}).check(t, w, withinPolls)
}

// What is remembered does not grow with the log.
func TestRecentIsBounded(t *testing.T) {
	t.Parallel()
	w := newOldWorld(t)
	w.watch().Recents(2)
	for range 6 {
		w.grow(256)
		w.poll(2)
		w.fine()
	}
	w.poll(recentTurn)
	w.fine()
	if got, most := w.w.Remembered(), 2*2+len(pki().issuers); got < 4 || got > most {
		t.Errorf("%d objects are remembered, want at most %d", got, most)
	}
}
