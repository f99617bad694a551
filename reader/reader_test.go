package reader

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/storage"
	"kiln/tiles"
)

const immutable = "public, max-age=31536000, immutable"

// TestMatrix has a request for each kind of object and method in the HTTP
// matrix.
func TestMatrix(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Names = true })
	issuer := "/" + tiles.IssuerObject(r.v.Certs["root"]).Path
	tests := []struct{ path, contentType, encoding, cache string }{
		{"/checkpoint", "text/plain; charset=utf-8", "", "no-store"},
		{"/tile/0/000.p/3", "application/octet-stream", "", immutable},
		{"/tile/0/x001/000", "application/octet-stream", "", immutable},
		{"/tile/data/000.p/3", "application/octet-stream", "gzip", immutable},
		{"/tile/names/000.p/3", "application/jsonl; charset=utf-8", "gzip", immutable},
		{issuer, "application/pkix-cert", "", immutable},
		{"/log.v3.json", "application/json", "", "public, max-age=300"},
		{"/", "text/html; charset=utf-8", "", "no-store"},
	}
	for _, test := range tests {
		get := r.do("GET", test.path)
		h := get.Header()
		if get.Code != 200 || h.Get("Content-Type") != test.contentType || h.Get("Content-Encoding") != test.encoding ||
			h.Get("Cache-Control") != test.cache || h.Get("Content-Length") != fmt.Sprint(get.Body.Len()) || get.Body.Len() == 0 {
			t.Errorf("GET %s: got %d, %v", test.path, get.Code, h)
		}
		checkCommon(t, test.path, h)
		if (h.Get("Vary") == "Accept-Encoding") != (test.encoding == "gzip") {
			t.Errorf("GET %s: Vary is %q", test.path, h.Get("Vary"))
		}

		head := r.do("HEAD", test.path)
		if head.Code != 200 || head.Body.Len() != 0 || fmt.Sprint(head.Header()) != fmt.Sprint(h) {
			t.Errorf("HEAD %s: got %d, %v; GET has %v", test.path, head.Code, head.Header(), h)
		}

		etag := h.Get("Etag")
		if len(etag) != 34 || etag[0] != '"' {
			t.Errorf("GET %s: ETag is %s, want a strong one", test.path, etag)
		}
		for _, method := range []string{"GET", "HEAD"} {
			w := r.do(method, test.path, "If-None-Match", `"x", W/`+etag)
			if w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("Etag") != etag || w.Header().Get("Cache-Control") != test.cache ||
				w.Header().Get("Content-Encoding") != "" || w.Header().Get("Vary") != h.Get("Vary") {
				t.Errorf("%s %s again: got %d, %v", method, test.path, w.Code, w.Header())
			}
		}
		if w := r.do("GET", test.path, "If-None-Match", `"x"`, "Range", "bytes=0-1"); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), get.Body.Bytes()) {
			t.Errorf("GET %s with Range and another ETag: got %d with %d bytes", test.path, w.Code, w.Body.Len())
		}
		if w := r.do("GET", test.path+"?x=1"); w.Code != 200 {
			t.Errorf("GET %s with a query: got %d", test.path, w.Code)
		}

		for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"} {
			w := r.do(method, test.path)
			if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: got %d, %v", method, test.path, w.Code, w.Header())
			}
			checkError(t, method+" "+test.path, w)
		}
		w := r.do("OPTIONS", test.path, "Access-Control-Request-Method", "GET")
		if w.Code != 204 || w.Header().Get("Access-Control-Allow-Methods") != "GET, HEAD" || w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("preflight of %s: got %d, %v", test.path, w.Code, w.Header())
		}
	}
	if got := r.counter("kiln_reader_requests_total", "304", "data"); got != 2 {
		t.Errorf("metrics count %v data tiles answered 304, want 2", got)
	}
}

// TestAssets holds the objects of the vectors against what a client gets that
// refuses gzip, and one that does not (MON-16, MON-17).
func TestAssets(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, a := range r.v.Assets.Paths {
		w := r.do("GET", "/"+a.Path, "Accept-Encoding", "identity")
		body := w.Body.Bytes()
		if w.Code != 200 || w.Header().Get("Content-Encoding") != "" {
			t.Errorf("%s: got %d, %v", a.Path, w.Code, w.Header())
			continue
		}
		sum := sha256.Sum256(body)
		name, isIssuer := strings.CutPrefix(a.Path, "issuer/")
		switch {
		case isIssuer && name != hex.EncodeToString(sum[:]):
			t.Errorf("%s: body has SHA-256 %x", a.Path, sum)
		case a.SHA256 != "" && (a.SHA256 != hex.EncodeToString(sum[:]) || a.Bytes != len(body)):
			t.Errorf("%s: %d bytes with SHA-256 %x, want %d with %s", a.Path, len(body), sum, a.Bytes, a.SHA256)
		case a.Hex != "" && a.Hex != hex.EncodeToString(body):
			t.Errorf("%s: body is %x, want %s", a.Path, body, a.Hex)
		}
		plain, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		zipped := r.do("GET", "/"+a.Path, "Accept-Encoding", "gzip")
		if zipped.Header().Get("Content-Encoding") != "gzip" {
			continue
		}
		stored, err := r.bucket.Get(t.Context(), a.Path)
		if err != nil || !bytes.Equal(zipped.Body.Bytes(), stored) {
			t.Errorf("%s: gzip is not served as stored (%v)", a.Path, err)
		}
		if got, err := tiles.Gunzip(zipped.Body.Bytes()); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: gzip decodes to something else (%v)", a.Path, err)
		}
		if zipped.Header().Get("Etag") == w.Header().Get("Etag") {
			t.Errorf("%s: both encodings have one ETag", a.Path)
		}
	}
}

func TestAcceptEncoding(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, test := range []struct {
		accept string
		gzip   bool
	}{
		{"gzip", true},
		{"gzip, deflate, br, zstd", true},
		{"deflate, GZIP;q=0.1", true},
		{"*", true},
		{"br;q=1, *;q=0.5", true},
		{"identity, x-gzip", true},
		{"gzip ; q=1", true},
		{"", false},
		{"identity", false},
		{"br", false},
		{"gzip;q=0", false},
		{"*, gzip;q=0", false},
		{"*;q=0", false},
		{"gzip;Q=0.0, *", false},
		{"gzip;q=nonsense", false},
	} {
		w := r.do("GET", "/tile/data/000.p/3", "Accept-Encoding", test.accept)
		if got := w.Header().Get("Content-Encoding") == "gzip"; w.Code != 200 || got != test.gzip {
			t.Errorf("%q: got %d, gzip %v, want %v", test.accept, w.Code, got, test.gzip)
		}
	}
	// Without the line, gzip: TestMatrix.
}

// hostilePaths have to be 404 whatever is in the bucket.
var hostilePaths = []string{
	"/tile", "/tile/", "/tile/0", "/tile/0/", "/tile/data", "/tile/data/", "/issuer", "/issuer/", "/checkpoint/", "//checkpoint", "/./checkpoint",
	"/staging/3-abc", "/staging/", "/staging", "/_roots.pem", "/index.html", "/favicon.ico", "/robots.txt", "/metrics", "/debug/pprof/",
	"/tile/0/../../checkpoint", "/tile/0/000.p/3/../3", "/tile//0/000.p/3", "/tile/0//000.p/3", "/tile/0/000.p//3",
	"/%2e%2e/checkpoint", "/tile/%2e%2e/checkpoint", "/tile%2f0/000.p/3", "/tile/0%2F000.p%2F3", "/check%70oint", "/tile/0/%30%30%30.p/3",
	"/checkpoint%00", "/%00", "/tile/0/000.p/3%00", "/tile/0/000%2ep/3", "/checkpoint%0a", "/checkpoint%20", "/checkpoint;x", "/CHECKPOINT",
	"/tile/0/000.p/3/", "/tile/data/000.p/3.gz", "/tile/entries/000", "/tile/6/000", "/tile/63/000", "/tile/names/000.p/3", "/tile/names/000",
	"/tile/0/x004/x294/x967/296", "/tile/5/001", "/tile/0/" + strings.Repeat("x000/", 20) + "000", "/issuer/" + strings.Repeat("0", 64) + "/",
	"/issuer/" + strings.Repeat("0", 63), "/issuer/" + strings.Repeat("0", 65), "/issuer/" + strings.Repeat("g", 64), "/log.v3.json/", "/logs.json",
}

func TestPaths(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	paths := hostilePaths
	for _, p := range r.v.TilePaths.Must404 {
		paths = append(paths, "/"+p)
	}
	for _, p := range r.v.TilePaths.Also404 {
		p, _, _ = strings.Cut(p, " ")
		paths = append(paths, "/"+p)
	}
	paths = append(paths, strings.ToUpper("/"+tiles.IssuerObject(r.v.Certs["root"]).Path))
	paths = append(paths, "/issuer/"+strings.ToUpper(strings.TrimPrefix(tiles.IssuerObject(r.v.Certs["root"]).Path, "issuer/")))
	for _, p := range paths {
		w := r.do("GET", p)
		if w.Code != 404 {
			t.Errorf("%s: got %d", p, w.Code)
		}
		checkError(t, p, w)
	}
	for _, reads := range []string{epHashes, epData, epNames, epIssuer, epCheckpoint, epInfo, epHome} {
		if got := r.counter("kiln_reader_requests_total", "404", reads); got != 0 {
			t.Errorf("%v of the paths were taken for a %s", got, reads)
		}
	}

	for _, valid := range r.v.TilePaths.Valid {
		if _, err := r.bucket.Get(t.Context(), valid.Path); errors.Is(err, storage.ErrNotFound) {
			w := r.do("GET", "/"+valid.Path)
			if w.Code != 404 {
				t.Errorf("%s, which is not there: got %d", valid.Path, w.Code)
			}
			checkError(t, valid.Path, w)
			r.put(valid.Path, zip(t, []byte("something")))
		}
		if w := r.do("GET", "/"+valid.Path); w.Code != 200 {
			t.Errorf("%s: got %d", valid.Path, w.Code)
		}
	}
	// Other spellings of a request target, which only a handler can see.
	for _, path := range []string{"", "*", "checkpoint", "tile/0/000.p/3"} {
		req := httptest.NewRequest("GET", "/", nil)
		req.URL.Path = path
		w := httptest.NewRecorder()
		if r.ServeHTTP(w, req); w.Code != 404 {
			t.Errorf("target %q: got %d", path, w.Code)
		}
	}
}

// FuzzPath shows that no path reads from the bucket anything but what the
// monitoring API has, under the very name of the object.
func FuzzPath(f *testing.F) {
	for _, p := range hostilePaths {
		f.Add(p)
	}
	for _, p := range []string{"/", "/checkpoint", "/log.v3.json", "/tile/0/x001/000", "/tile/data/000.p/3", "/tile/names/273", "/issuer/" + strings.Repeat("0a", 32), "/issuer/" + strings.Repeat("0A", 32)} {
		f.Add(p)
	}
	bucket := &spyBucket{Bucket: newRig(f, nil).bucket}
	rd := newRig(f, func(c *Config) { c.Bucket, c.Names = bucket, true })
	f.Fuzz(func(t *testing.T, path string) {
		req := httptest.NewRequest("GET", "/", nil)
		u, err := req.URL.Parse(path)
		if err != nil {
			return
		}
		req.URL = u
		w := httptest.NewRecorder()
		bucket.paths = nil
		rd.ServeHTTP(w, req)
		for _, read := range bucket.paths {
			public := read == "checkpoint" || strings.HasPrefix(read, "issuer/") && len(read) == 7+64 && read == strings.ToLower(read)
			if tile, err := tiles.ParsePath(read); err == nil {
				public = tiles.Path(tile) == read
			}
			if !public || !storage.ValidPath(read) {
				t.Fatalf("%q reads %q", path, read)
			}
			if read != "checkpoint" && u.EscapedPath() != "/"+read {
				t.Fatalf("%q is another name of %q", path, read)
			}
		}
		if w.Code != 200 && w.Code != 404 {
			t.Fatalf("%q: got %d", path, w.Code)
		}
		if w.Code == 404 {
			checkError(t, path, w)
		}
	})
}

// spyBucket notes what is read.
type spyBucket struct {
	storage.Bucket
	paths []string
}

func (b *spyBucket) Get(ctx context.Context, path string) ([]byte, error) {
	b.paths = append(b.paths, path)
	return b.Bucket.Get(ctx, path)
}

// faultyBucket fails and panics on demand.
type faultyBucket struct {
	storage.Bucket
	get func(ctx context.Context, path string) ([]byte, error)
}

func (b *faultyBucket) Get(ctx context.Context, path string) ([]byte, error) { return b.get(ctx, path) }

func TestStorageFaults(t *testing.T) {
	t.Parallel()
	bucket := &faultyBucket{get: func(context.Context, string) ([]byte, error) { return nil, errors.New("secret disk: I/O error") }}
	r := newRig(t, func(c *Config) { c.Bucket = bucket })
	objects := []string{"/checkpoint", "/tile/0/000.p/3", "/tile/data/000.p/3", "/issuer/" + strings.Repeat("0", 64)}
	for _, path := range objects {
		w := r.do("GET", path)
		if w.Code != 503 || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%s: got %d %s, want 503", path, w.Code, w.Body)
		}
		checkError(t, path, w)
	}
	if n := strings.Count(r.logs.String(), "secret disk"); n != len(objects) {
		t.Errorf("the operator was told %d times, want %d", n, len(objects))
	}
	for _, path := range []string{"/", "/log.v3.json"} {
		if w := r.do("GET", path); w.Code != 200 {
			t.Errorf("%s: got %d, want 200", path, w.Code)
		}
	}

	bucket.get = func(context.Context, string) ([]byte, error) { return []byte("not gzip"), nil }
	if w := r.do("GET", "/tile/data/000", "Accept-Encoding", "identity"); w.Code != 503 {
		t.Errorf("broken tile for a client without gzip: got %d, want 503", w.Code)
	}
	bucket.get = func(context.Context, string) ([]byte, error) { panic("bug in the bucket") }
	for _, path := range append(objects, "/") {
		w := r.do("GET", path)
		if w.Code != 500 || strings.Contains(w.Body.String(), "bug") {
			t.Errorf("%s with a panic: got %d %s, want 500", path, w.Code, w.Body)
		}
		checkError(t, path, w)
	}
	if !strings.Contains(r.logs.String(), "bug in the bucket") {
		t.Error("the operator was not told of the panics")
	}
}

// TestMaxInFlight fills the only slot: tiles are refused, the rest goes on.
func TestMaxInFlight(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	bucket := new(faultyBucket)
	r := newRig(t, func(c *Config) { c.Bucket, c.MaxInFlight = bucket, 1 })
	bucket.get = func(ctx context.Context, path string) ([]byte, error) {
		if path == "tile/0/000.p/3" {
			entered <- struct{}{}
			<-leave
		}
		return r.bucket.Get(ctx, path)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if w := r.do("GET", "/tile/0/000.p/3"); w.Code != 200 {
			t.Errorf("first: got %d", w.Code)
		}
	})
	<-entered
	w := r.do("GET", "/tile/data/000.p/3")
	if w.Code != 503 {
		t.Errorf("second: got %d, want 503", w.Code)
	}
	checkError(t, "second", w)
	for _, path := range []string{"/checkpoint", "/log.v3.json", "/"} {
		if w := r.do("GET", path); w.Code != 200 {
			t.Errorf("%s: got %d, want 200", path, w.Code)
		}
	}
	close(leave)
	wg.Wait()
	if w := r.do("GET", "/tile/data/000.p/3"); w.Code != 200 {
		t.Errorf("afterwards: got %d, want 200", w.Code)
	}
}

func TestClientGone(t *testing.T) {
	t.Parallel()
	bucket := &faultyBucket{get: func(ctx context.Context, _ string) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }}
	r := newRig(t, func(c *Config) { c.Bucket = bucket })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, path := range []string{"/checkpoint", "/tile/0/000"} {
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil).WithContext(ctx))
	}
	if r.logs.String() != "" {
		t.Errorf("log says %q, want nothing", r.logs)
	}
	if r.counter("kiln_reader_requests_total", "canceled", "checkpoint") != 1 || r.counter("kiln_reader_requests_total", "canceled", "tile") != 1 {
		t.Error("metrics do not count both as canceled")
	}
}

// TestOverHTTP reads with net/http's client, which asks for gzip and decodes it
// behind the scenes, on one connection.
func TestOverHTTP(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := httptest.NewServer(r.Reader)
	defer s.Close()
	for _, a := range r.v.Assets.Paths {
		resp, err := s.Client().Get(s.URL + "/" + a.Path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || a.Bytes != 0 && len(body) != a.Bytes {
			t.Errorf("%s: got %d with %d bytes, %v", a.Path, resp.StatusCode, len(body), err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	full := newRig(t, nil).cfg
	full.Registerer = nil
	if _, err := New(full); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no Bucket":        func(c *Config) { c.Bucket = nil },
		"is negative":      func(c *Config) { c.ClientRate = -1 },
		"no origin":        func(c *Config) { c.Info.Origin = "" },
		"SHA-256 of the":   func(c *Config) { c.Info.LogID[0]++ },
		"parse public key": func(c *Config) { c.Info.SPKI, c.Info.LogID = []byte("x"), [32]byte{} },
		"trailing slash":   func(c *Config) { c.Info.MonitoringURL = "https://mon.example.net/2026h2" },
		"is empty":         func(c *Config) { c.Info.NotAfterLimit = c.Info.NotAfterStart },
		"whole seconds":    func(c *Config) { c.Info.MMD = time.Millisecond },
		"intended use":     func(c *Config) { c.Info.IntendedUse = "fun" },
	} {
		cfg := full
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: New says %v", name, err)
		}
	}
}
