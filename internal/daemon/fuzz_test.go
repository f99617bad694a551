package daemon

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kiln/internal/chain"
	"kiln/internal/fuzztest"
	"kiln/tiles"
)

// FuzzRoute sends a request of any path and host to several logs. It reaches the
// one log whose prefix the path has, at the path below it, or none: no other
// spelling leads to a log.
func FuzzRoute(f *testing.F) {
	prefixes := map[string][]string{
		"one": {"/2026h2/"}, "two": {"/2027h1/", "/tiles/2027h1/"}, "three": {"/shared/"}, "four": {"/shared/"},
	}
	rt, err := newRouter([]site{
		testSite("one", "https://ct.example/2026h2/", "https://ct.example/2026h2/"),
		testSite("two", "https://ct.example/2027h1/", "https://mon.example/tiles/2027h1/"),
		testSite("three", "https://a.example:8443/shared/", "https://a.example:8443/shared/"),
		testSite("four", "https://b.example/shared/", "https://b.example/shared/"),
	}, echo("index"))
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range []string{
		"/", "/2026h2/checkpoint", "/2026h2", "//2026h2/checkpoint", "/2026h2/../2027h1/", "/2026h2//checkpoint", "/2026%682/", "/2026h2/ct/v1/add-chain?x=%41",
		"/tiles/2027h1/tile/0/000", "/2027h1/log.v3.json", "/shared/checkpoint", "*", "x", "",
	} {
		f.Add(path, "ct.example")
		f.Add(path, "B.example:443")
	}
	f.Fuzz(func(t *testing.T, target, host string) {
		r := httptest.NewRequest("GET", "/", nil)
		u, err := r.URL.Parse(target)
		if err != nil {
			return
		}
		r.URL, r.RequestURI, r.Host = u, target, host
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, r)
		if w.Code == http.StatusNotFound {
			return
		}
		name, rest, ok := strings.Cut(w.Body.String(), " ")
		if name == "index" {
			if u.Path != "/" {
				t.Fatalf("%q is the index", target)
			}
			return
		}
		_, below, _ := strings.Cut(rest, " ")
		if strings.ContainsRune(strings.SplitN(target, "?", 2)[0], '%') {
			t.Fatalf("%q reaches %s", target, name)
		}
		for _, prefix := range prefixes[name] {
			if ok && prefix+strings.TrimPrefix(below, "/") == u.Path {
				return
			}
		}
		t.Fatalf("%q of %q reaches %s at %q", target, host, name, below)
	})
}

// FuzzNewRoute makes routes of any URL: what is taken has a host, and a plain
// path between slashes.
func FuzzNewRoute(f *testing.F) {
	for _, s := range []string{"https://a.example/x/", "http://A:1/", "https:///x/", "https://a/x", "https://a/%41/", "https://a/?x#y", "", "::", "a/b/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r, err := newRoute(&site{name: "log"}, raw)
		if err != nil {
			fuzztest.Sentence(t, err, "log")
			return
		}
		if r.host == "" || r.host != strings.ToLower(r.host) || !strings.HasPrefix(r.prefix, "/") || !strings.HasSuffix(r.prefix, "/") {
			t.Fatalf("%q is %+v", raw, r)
		}
	})
}

// FuzzClientKey: a connection counts for its address, or for the network of one
// subscriber.
func FuzzClientKey(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "fe80::1", "", "abc"} {
		f.Add([]byte(net.ParseIP(s)), "eth0", 443)
	}
	f.Add([]byte{1, 2, 3}, "", -1)
	f.Fuzz(func(t *testing.T, ip []byte, zone string, port int) {
		got := clientKey(&net.TCPAddr{IP: ip, Zone: zone, Port: port})
		want, ok := netip.AddrFromSlice(ip)
		if want = want.Unmap(); ok && want.Is6() {
			whole := want.As16()
			clear(whole[8:])
			want = netip.AddrFrom16(whole)
		}
		if got != want {
			t.Fatalf("%x of zone %q is %v, want %v", ip, zone, got, want)
		}
		if got := clientKey(&net.UnixAddr{Name: zone}); got.IsValid() {
			t.Fatalf("a socket is %v", got)
		}
	})
}

// FuzzTLSFiles puts any bytes into the files of a certificate and its key, at the
// start and while it is served. What is served is a pair, and a pair that cannot
// be used leaves the old one in service.
func FuzzTLSFiles(f *testing.F) {
	c := writeCertificate(f, f.TempDir(), "log.example")
	certificate, err := os.ReadFile(c.CertFile)
	if err != nil {
		f.Fatal(err)
	}
	key, err := os.ReadFile(c.KeyFile)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(certificate, key)
	f.Add(key, certificate)
	f.Add(certificate[:len(certificate)/2], key)
	f.Add(append(certificate, certificate...), append(key, 0))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, certificate2, key2 []byte) {
		dir := t.TempDir()
		files := &certificateFiles{
			certFile: filepath.Join(dir, "cert.pem"), keyFile: filepath.Join(dir, "key.pem"),
			now: time.Now, log: slog.New(slog.DiscardHandler), metrics: newMetrics(nil, ""),
		}
		put := func(certificate, key []byte) {
			for path, data := range map[string][]byte{files.certFile: certificate, files.keyFile: key} {
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		put(certificate2, key2)
		err := files.load()
		if served := files.current.Load(); (err == nil) != (served != nil) || err == nil && (served.Leaf == nil || served.PrivateKey == nil) {
			t.Fatalf("load says %v, and %v is served", err, served)
		}
		put(certificate, key)
		if err := files.load(); err != nil {
			t.Fatal(err)
		}
		put(certificate2, key2)
		files.now = func() time.Time { return time.Now().Add(time.Hour) }
		if served, err := files.get(nil); err != nil || served == nil || served.Leaf == nil {
			t.Fatalf("%v is served, %v", served, err)
		}
	})
}

// FuzzHolder names the process that holds a lock file of any bytes.
func FuzzHolder(f *testing.F) {
	for _, s := range []string{"", "12\n", " 12", "x", "99999999999999999999", "-1", strings.Repeat("1", 100)} {
		f.Add([]byte(s))
	}
	form := regexp.MustCompile(`^pid (unknown|-?[0-9]+)$`)
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "lock")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if got := holder(file); !form.MatchString(got) || len(got) > 40 {
			t.Fatalf("%q is held by %q", content, got)
		}
	})
}

// TestEntriesFitTiles: what is admitted can be read back.
func TestEntriesFitTiles(t *testing.T) {
	t.Parallel()
	if chain.MaxEntrySize > tiles.MaxEntry {
		t.Errorf("entries of %d bytes are admitted, and at most %d are read back from a tile", chain.MaxEntrySize, tiles.MaxEntry)
	}
}
