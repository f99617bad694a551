package s3

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/s3client"
	"kiln/internal/servers"
	"kiln/storage"
	"kiln/storage/storagetest"
	"kiln/tiles"
)

// TestHeaders holds what any web server before the bucket would send to the
// matrix of MON-01 to MON-24.
func TestHeaders(t *testing.T) {
	t.Parallel()
	const immutable = "public, max-age=31536000, immutable"
	client := newClient(t)
	b := openBucket(t, Config{Client: client, Prefix: "series/" + prefix(t)})
	object := func(level int) storage.Object {
		tile := tlog.Tile{H: tiles.Height, L: level, W: 17}
		contentType, encoding := tiles.Headers(tile)
		return storage.Object{Path: tiles.Path(tile), ContentType: contentType, ContentEncoding: encoding, CacheControl: tiles.CacheImmutable}
	}
	for _, c := range []struct {
		o                          storage.Object
		contentType, encoding, age string
	}{
		{object(0), "application/octet-stream", "", immutable},
		{object(tiles.LevelData), "application/octet-stream", "gzip", immutable},
		{object(tiles.LevelNames), "application/jsonl; charset=utf-8", "gzip", immutable},
		{tiles.IssuerObject([]byte("issuer")), "application/pkix-cert", "", immutable},
	} {
		if err := b.Create(t.Context(), c.o); err != nil {
			t.Fatal(err)
		}
		h, err := client.Head(t.Context(), bucketName, "series/"+prefix(t)+"/"+c.o.Path)
		if err != nil {
			t.Fatal(err)
		}
		if h.ContentType != c.contentType || h.ContentEncoding != c.encoding || h.CacheControl != c.age || h.Size != int64(len(c.o.Body)) {
			t.Errorf("%s has headers %+v", c.o.Path, h)
		}
	}
	checkpoint := storage.Object{Path: "checkpoint", ContentType: "text/plain; charset=utf-8", CacheControl: "no-store"}
	for i := range 3 {
		err := b.Update(t.Context(), checkpoint, func([]byte) ([]byte, error) { return fmt.Appendf(nil, "%d", i), nil })
		if err != nil {
			t.Fatal(err)
		}
		h, err := client.Head(t.Context(), bucketName, "series/"+prefix(t)+"/checkpoint")
		if err != nil || h.ContentType != checkpoint.ContentType || h.ContentEncoding != "" || h.CacheControl != "no-store" {
			t.Errorf("the checkpoint has headers %+v (%v)", h, err)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	client := newClient(t)
	for _, c := range []struct {
		name string
		conf Config
		want string // in the error; empty is none
	}{
		{"Prefix", Config{Client: client, Bucket: "b-1.2", Prefix: "a/b_c/d.e-F"}, ""},
		{"NoPrefix", Config{Client: client, Bucket: "logs"}, ""},
		{"NoClient", Config{Bucket: "logs"}, "no client"},
		{"NoBucket", Config{Client: client}, "name of a bucket"},
		{"ShortBucket", Config{Client: client, Bucket: "lo"}, "name of a bucket"},
		{"UpperBucket", Config{Client: client, Bucket: "Logs"}, "name of a bucket"},
		{"DotBucket", Config{Client: client, Bucket: "logs."}, "name of a bucket"},
		{"SlashBefore", Config{Client: client, Bucket: "logs", Prefix: "/a"}, "prefix"},
		{"SlashAfter", Config{Client: client, Bucket: "logs", Prefix: "a/"}, "prefix"},
		{"TwoSlashes", Config{Client: client, Bucket: "logs", Prefix: "a//b"}, "prefix"},
		{"Dots", Config{Client: client, Bucket: "logs", Prefix: "a/../b"}, "prefix"},
		{"Space", Config{Client: client, Bucket: "logs", Prefix: "a b"}, "prefix"},
		{"Long", Config{Client: client, Bucket: "logs", Prefix: strings.Repeat("a/", 256) + "b"}, "prefix"},
	} {
		b, err := Open(t.Context(), c.conf)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		case err == nil && b.Close() != nil:
			t.Error("Close failed")
		}
	}
	if storage.MaxObject > s3client.MaxBody {
		t.Error("the client does not take the largest object")
	}
}

// TestPrefixes keeps logs of one bucket apart, one below another included.
func TestPrefixes(t *testing.T) {
	t.Parallel()
	fake := new(fakeServer)
	client := fake.start(t)
	buckets := map[string]*Bucket{}
	for _, p := range []string{"", "a", "a/b", "ab"} {
		buckets[p] = openBucket(t, Config{Client: client, Prefix: p})
		put(t, buckets[p], "tile/0/000", "of "+p)
	}
	for p, b := range buckets {
		want(t, b, "tile/0/000", "of "+p)
		n := 0
		err := b.List(t.Context(), "tile/", func(storage.Info) error { n++; return nil })
		if err != nil || n != 1 {
			t.Errorf("%q lists %d tiles (%v)", p, n, err)
		}
	}
	if err := buckets["a"].Delete(t.Context(), "tile/0/000"); err != nil {
		t.Fatal(err)
	}
	want(t, buckets["a/b"], "tile/0/000", "of a/b")
}

// TestRoundTrips counts how often the latency of the network is paid.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute)
	r.proxy.SetLatency(5 * time.Millisecond)
	for _, h := range []*hedger{r.reads, r.creates} { // on a busy machine second requests would be counted
		h.credit, h.most = 0, 0
	}
	trips := func(what string, requests, chain int, do func()) {
		t.Helper()
		r.proxy.Trips()
		do()
		got := r.proxy.Trips()
		if len(got) != requests || servers.LongestChain(got) != chain {
			t.Errorf("%s: %d requests, %d in a row; want %d and %d: %+v", what, len(got), servers.LongestChain(got), requests, chain, got)
		}
	}
	trips("Create", 1, 1, func() { put(t, r, "staging/1", "body") })
	trips("Create of the same", 2, 2, func() { put(t, r, "staging/1", "body") })
	trips("Get", 1, 1, func() { want(t, r, "staging/1", "body") })
	trips("Update of nothing", 2, 2, func() { increment(t, r, "1") })
	trips("Update", 1, 1, func() { increment(t, r, "2") })
	trips("Update again", 1, 1, func() { increment(t, r, "3") })
	increment(t, &rig{Bucket: r.direct, direct: r.direct}, "4")
	trips("Update after another's", 3, 3, func() { increment(t, r, "5") })
	trips("Update that is refused", 1, 1, func() {
		errNext := errors.New("no")
		err := r.Update(t.Context(), storage.Object{Path: "checkpoint"}, func([]byte) ([]byte, error) { return nil, errNext })
		if !errors.Is(err, errNext) {
			t.Error(err)
		}
	})
	trips("Delete", 1, 1, func() {
		if err := r.Delete(t.Context(), "staging/1"); err != nil {
			t.Error(err)
		}
	})
	r.proxy.Trips()
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() { put(t, r, fmt.Sprintf("tile/0/%03d", i), "body") })
	}
	wg.Wait()
	if got := r.proxy.Trips(); len(got) != 64 || servers.LongestChain(got) > 10 {
		t.Errorf("64 Creates at once: %d requests, %d in a row", len(got), servers.LongestChain(got))
	}
}

// TestUpdateSeesTheTruth checks that what is remembered of the last Update is
// never believed over what is there.
func TestUpdateSeesTheTruth(t *testing.T) {
	t.Parallel()
	client := newClient(t)
	open := func() *Bucket { return openBucket(t, Config{Client: client, Prefix: prefix(t)}) }
	a, b := open(), open()
	set := func(b *Bucket, current, next string) error {
		return b.Update(t.Context(), storage.Object{Path: "checkpoint"}, func(got []byte) ([]byte, error) {
			if string(got) != current {
				return nil, fmt.Errorf("it is %q", got)
			}
			return []byte(next), nil
		})
	}
	for i, step := range []struct {
		b             *Bucket
		current, next string
	}{{a, "", "1"}, {a, "1", "2"}, {b, "2", "3"}, {a, "3", "4"}, {b, "4", "3"}, {b, "3", "5"}, {a, "5", "6"}} {
		if err := set(step.b, step.current, step.next); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	// What was remembered would be accepted, and is not there any more.
	if err := set(a, "6", "7"); err != nil {
		t.Fatal(err)
	}
	if err := set(b, "7", "8"); err != nil {
		t.Fatal(err)
	}
	if err := set(a, "7", "9"); err == nil || !strings.Contains(err.Error(), `it is "8"`) {
		t.Errorf("an Update of an outdated object: %v", err)
	}
	want(t, a, "checkpoint", "8")
	// Deleted meanwhile.
	if err := a.Delete(t.Context(), "checkpoint"); err != nil {
		t.Fatal(err)
	}
	if err := set(b, "", "10"); err != nil {
		t.Error(err)
	}
}

// TestMetrics reads what an operator would.
func TestMetrics(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute)
	reg := prometheus.NewRegistry()
	conf := Config{Client: r.client, Bucket: bucketName, Prefix: prefix(t), Registerer: reg}
	for range 2 { // Close makes room for another
		b, err := Open(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), conf); err == nil {
			t.Error("two buckets have the same metrics")
		}
		r.proxy.Inject(servers.Fault{AfterEffect: true})
		put(t, b, "tile/0/000", "body")
		if err := b.Create(t.Context(), storage.Object{Path: "tile/0/000"}); !errors.Is(err, storage.ErrDifferent) {
			t.Error(err)
		}
		got := counters(t, reg)
		for name, want := range map[string]float64{
			"kiln_storage_s3_existing_objects_total different": 1, "kiln_storage_s3_existing_objects_total same": 1,
			"kiln_storage_s3_retries_total create": 1,
		} {
			if got[name] != want {
				t.Errorf("%s is %v, want %v; there are %v", name, got[name], want, got)
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// counters returns their values by name and label.
func counters(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	m := make(map[string]float64)
	for _, f := range families {
		for _, c := range f.GetMetric() {
			if c.GetCounter() != nil {
				m[f.GetName()+" "+c.GetLabel()[0].GetValue()] = c.GetCounter().GetValue()
			}
		}
	}
	return m
}

// TestUntagged is an unknown outcome on a server that loses the tag.
func TestUntagged(t *testing.T) {
	t.Parallel()
	fake := &fakeServer{drop: []string{"X-Amz-Meta-Kiln-Write"}}
	fake.start(t)
	upstream := httptest.NewServer(fake)
	t.Cleanup(upstream.Close)
	p, err := servers.NewProxy(t.Context(), upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	b := openBucket(t, Config{Client: newClient(t, func(c *s3client.Config) { c.Endpoint = p.Endpoint })})
	for i := range 6 {
		p.Inject(servers.Fault{Method: http.MethodPut, AfterEffect: i%2 == 0})
		if err := storagetest.Increment(t.Context(), b, "checkpoint"); err != nil {
			t.Fatal(err)
		}
		want(t, b, "checkpoint", fmt.Sprint(i+1))
	}
}

func BenchmarkCreate(b *testing.B) {
	client := newClient(b)
	bucket := openBucket(b, Config{Client: client, Prefix: "bench/" + rand.Text()})
	body := make([]byte, 8<<10)
	b.SetBytes(int64(len(body)))
	b.SetParallelism(32)
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := next.Add(1)
			path := fmt.Sprintf("tile/%d/%d", n%256, n)
			if err := bucket.Create(b.Context(), storage.Object{Path: path, Body: body}); err != nil {
				b.Error(err)
			}
		}
	})
}
