package reader

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// FuzzHeaders asks for objects under any method and headers. A 200 holds the
// whole object, whatever range or coding was asked for, and a 304 comes only to
// who named the bytes.
func FuzzHeaders(f *testing.F) {
	paths := []string{"/tile/data/000.p/3", "/tile/0/000.p/3", "/checkpoint", "/log.v3.json", "/", "/tile/names/000.p/3"}
	rig := newRig(f, func(c *Config) { c.Names = true })
	for i, s := range []string{
		"", "gzip", "identity", "GZIP;Q=0", "gzip;\tq=0", "deflate, gzip;q=1.0", "*;q=0", "*", "identity;q=0, *;q=0.5", "gzip;foo=1;q=0", "x-gzip;q=0",
	} {
		f.Add(uint8(i), "GET", s, "", "")
		f.Add(uint8(i), "HEAD", s, "*", "bytes=0-0")
	}
	f.Add(uint8(0), "OPTIONS", "gzip", `W/"x"`, "bytes=1-")
	f.Add(uint8(1), "DELETE", "gzip", `W/"x"`, "bytes=1-")
	f.Add(uint8(2), "GET", "gzip", `"a", "b"`, "bytes=-1,0-9")
	f.Fuzz(func(t *testing.T, which uint8, method, accept, condition, ranges string) {
		path := paths[int(which)%len(paths)]
		r := httptest.NewRequest("GET", path, nil)
		plain := httptest.NewRecorder()
		r.Header.Set("Accept-Encoding", "identity")
		rig.ServeHTTP(plain, r)
		r = httptest.NewRequest("GET", path, nil)
		r.Method = method
		r.Header.Set("Accept-Encoding", accept)
		r.Header.Set("If-None-Match", condition)
		r.Header.Set("Range", ranges)
		r.Header.Set("If-Range", condition)
		w := httptest.NewRecorder()
		rig.ServeHTTP(w, r)
		etag := w.Header().Get("Etag")
		switch w.Code {
		case 200:
			if method != "GET" && method != "HEAD" {
				t.Fatalf("%s is answered with 200", method)
			}
			body := w.Body.Bytes()
			if w.Header().Get("Content-Encoding") == "gzip" && method == "GET" {
				body = unzip(t, body)
			}
			if refusesGzip(accept) && w.Header().Get("Content-Encoding") != "" {
				t.Fatalf("gzip to who refuses it: %q", accept)
			}
			if method == "GET" && !bytes.Equal(body, plain.Body.Bytes()) || method == "HEAD" && len(body) > 0 {
				t.Fatalf("%s %s with %q: another object", method, path, accept)
			}
			if listOfTags.MatchString(condition) && (condition == "*" || strings.Contains(condition, etag)) {
				t.Fatalf("%q names %s, and the answer is 200", condition, etag)
			}
		case 304:
			if !strings.Contains(condition, "*") && !strings.Contains(condition, etag) || w.Body.Len() > 0 {
				t.Fatalf("304 to %q, the tag is %s", condition, etag)
			}
		case 204:
			if method != "OPTIONS" {
				t.Fatalf("204 to %s", method)
			}
		case 405:
			checkError(t, path, w)
		default:
			t.Fatalf("%s: %d", method, w.Code)
		}
	})
}

// listOfTags is a well-formed If-None-Match; in others either answer will do.
var listOfTags = regexp.MustCompile(`^(\*|(W/)?"[!#-+\--~]*"([ \t]*,[ \t]*(W/)?"[!#-+\--~]*")*)$`)

// refusesGzip reports whether all that a header says of gzip, or of every coding
// if it does not name gzip, is that its weight is 0.
func refusesGzip(accept string) bool {
	var gzip, others []bool
	for one := range strings.SplitSeq(accept, ",") {
		parts := strings.Split(strings.ToLower(one), ";")
		zero := false
		for _, p := range parts[1:] {
			name, value, _ := strings.Cut(p, "=")
			zero = zero || strings.Trim(name, " \t") == "q" && strings.Trim(value, " \t0.") == ""
		}
		switch strings.Trim(parts[0], " \t") {
		case "gzip", "x-gzip":
			gzip = append(gzip, zero)
		case "*":
			others = append(others, zero)
		}
	}
	if len(gzip) == 0 {
		gzip = others
	}
	return len(gzip) > 0 && !slices.Contains(gzip, false)
}

func unzip(t *testing.T, body []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// FuzzClient: an address is a client of its own, an IPv6 network of one
// subscriber is one, and the memory for clients is bounded.
func FuzzClient(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1:1", "[2001:db8::1]:1", "[2001:db8:0:1::2]:1", "[::ffff:192.0.2.1]:1", "[fe80::1%eth0]:1", "@", "", "192.0.2.1", "x:y", "[::1]:99999",
	} {
		f.Add(s, "192.0.2.1:1")
		f.Add(s, "[2001:db8::2]:1")
	}
	l := newLimiter(1, 5, 8)
	now := time.Unix(1, 0)
	f.Fuzz(func(t *testing.T, a, b string) {
		same := clientOf(a) == clientOf(b)
		x, errX := netip.ParseAddrPort(a)
		y, errY := netip.ParseAddrPort(b)
		switch {
		case errX != nil || errY != nil:
			if same != (errX != nil && errY != nil) {
				t.Fatalf("%q and %q are one client: %v", a, b, same)
			}
		default:
			p, q := x.Addr().Unmap().As16(), y.Addr().Unmap().As16()
			bits := 8
			if x.Addr().Unmap().Is4() {
				bits = 16
			}
			if want := x.Addr().Unmap().Is4() == y.Addr().Unmap().Is4() && bytes.Equal(p[:bits], q[:bits]); same != want {
				t.Fatalf("%q and %q are one client: %v", a, b, same)
			}
		}
		for range 6 {
			l.take(clientOf(a), now)
		}
		if _, ok := l.take(clientOf(a), now); ok {
			t.Fatalf("%q has no end of tokens", a)
		}
		if _, ok := l.take(clientOf(b), now); ok && same {
			t.Fatalf("%q has no end of tokens", b)
		}
		if len(l.young)+len(l.old) > 8 {
			t.Fatalf("%d clients are remembered", len(l.young)+len(l.old))
		}
		now = now.Add(time.Second)
	})
}

// FuzzStoredCheckpoint serves any bytes that the storage gives for the checkpoint:
// a 200 is one that the log signed, whole, and never an older one.
func FuzzStoredCheckpoint(f *testing.F) {
	rig := newRig(f, nil)
	sound := []byte(rig.v.Checkpoints.Size3.Checkpoint)
	f.Add(sound)
	f.Add([]byte(rig.v.Checkpoints.Size0.Checkpoint))
	f.Add(append(bytes.Clone(sound), "— a AAAA\n"...))
	f.Add(sound[:len(sound)-5])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		fresh := newRig(t, nil)
		fresh.publish(raw)
		w := fresh.do("GET", "/checkpoint")
		if w.Code == http.StatusOK {
			c, err := fresh.signer.Verifier().Open(w.Body.Bytes())
			if err != nil || !bytes.Equal(w.Body.Bytes(), raw) || c.Origin != fresh.v.Log.Origin {
				t.Fatalf("served %q of %q: %v", w.Body, raw, err)
			}
		} else if checkError(t, "/checkpoint", w); w.Code != http.StatusServiceUnavailable {
			t.Fatalf("%d", w.Code)
		}
		// What was once served stands, if what is stored now is no newer one.
		fresh.publish(sound)
		fresh.do("GET", "/checkpoint")
		fresh.publish(raw)
		c, err := fresh.signer.Verifier().Open(fresh.do("GET", "/checkpoint").Body.Bytes())
		if err == nil && c.Tree.N < 3 {
			t.Fatalf("a checkpoint of size %d after one of size 3", c.Tree.N)
		}
	})
}
