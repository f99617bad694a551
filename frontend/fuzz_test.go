package frontend

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"kiln/internal/fuzztest"
)

// FuzzRequest sends any request to the submission API. It is answered with a
// status of a closed set, never a 5xx, and errors are one sentence; an SCT comes
// of a POST to one of two paths, and of a chain in its body, alone.
func FuzzRequest(f *testing.F) {
	rig := newRig(f, nil)
	for _, c := range rig.v.SubmissionCases.Cases {
		f.Add("POST", "/ct/v1/"+c.Endpoint, rig.v.body(f, c.Chain...), "", "", "192.0.2.1:1234")
	}
	for _, body := range rig.v.SubmissionCases.RawBodies400 {
		f.Add("POST", "/ct/v1/add-chain", []byte(body), "text/plain", "gzip;q=0", "[2001:db8::1]:443")
	}
	f.Add("GET", "/ct/v1/get-roots", []byte{}, `"00", W/"1", *`, "gzip, identity;q=0.5", "@")
	f.Add("OPTIONS", "/ct/v1/add-chain", []byte{}, "*", "*", "")
	f.Add("POST", "/ct/v1/../v1/add-chain", []byte("{}"), "", "", "x")
	f.Add("POST", "/ct/v1/add%2dchain", rig.v.body(f, "leaf_16", "intermediate"), "", "", "x")
	f.Add("FOO BAR", "/%63t/v1/add-chain?x", []byte("{}"), "", "", "x")
	f.Fuzz(func(t *testing.T, method, path string, body []byte, condition, accept, remote string) {
		rig.t, rig.back.t = t, t
		before, _ := rig.back.size()
		r := httptest.NewRequest("GET", "/", bytes.NewReader(body))
		u, err := r.URL.Parse(path)
		if err != nil {
			return
		}
		r.Method, r.URL, r.RemoteAddr = method, u, remote
		r.Header.Set("If-None-Match", condition)
		r.Header.Set("Accept-Encoding", accept)
		r.Header.Set("Access-Control-Request-Method", accept)
		w := httptest.NewRecorder()
		rig.ServeHTTP(w, r)
		after, _ := rig.back.size()
		submission := method == "POST" && (path == "/ct/v1/add-chain" || path == "/ct/v1/add-pre-chain")
		if after != before && (w.Code != 200 || !submission) {
			t.Fatalf("%s %s: an entry was made, and the answer is %d", method, path, w.Code)
		}
		switch w.Code {
		case 200:
			if method == "POST" && !submission {
				t.Fatalf("POST %s is answered with an SCT", path)
			}
			if !json.Valid(w.Body.Bytes()) && w.Header().Get("Content-Encoding") != "gzip" && method != "HEAD" {
				t.Fatalf("%s %s: 200 without JSON: %q", method, path, w.Body)
			}
		case 204, 304:
			if w.Body.Len() != 0 {
				t.Fatalf("%s %s: %d with a body", method, path, w.Code)
			}
		case 400, 404, 405, 413:
			checkError(t, w.Code, w.Header(), w.Body.Bytes())
		default:
			t.Fatalf("%s %s: %d", method, path, w.Code)
		}
	})
}

// FuzzClient: whoever can have one address of a network of one subscriber has
// them all, and no two clients are taken for one.
func FuzzClient(f *testing.F) {
	for _, s := range []string{
		"192.0.2.1:1", "192.0.2.1:65535", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8:0:1::2]:1", "[::ffff:192.0.2.1]:1", "[fe80::1%eth0]:1",
		"@", "", "192.0.2.1", "[::1]", "x:y",
	} {
		f.Add(s, "192.0.2.1:1")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		same := clientOf(a) == clientOf(b)
		x, errX := netip.ParseAddrPort(a)
		y, errY := netip.ParseAddrPort(b)
		if errX != nil || errY != nil {
			if same && a != b && errX != nil && errY != nil {
				t.Fatalf("%q and %q are one client", a, b)
			}
			return
		}
		p, q := x.Addr().Unmap().As16(), y.Addr().Unmap().As16()
		bits := 16
		if x.Addr().Unmap().Is6() {
			bits = 8
		}
		want := x.Addr().Unmap().Is4() == y.Addr().Unmap().Is4() && bytes.Equal(p[:bits], q[:bits])
		if same != want {
			t.Fatalf("%q and %q are one client: %v", a, b, same)
		}
	})
}

// FuzzNegotiation holds the two headers that get-roots looks at to a second
// reading of RFC 9110, and the one of conditions to net/http.
func FuzzNegotiation(f *testing.F) {
	const etag = `"0123456789abcdef0123456789abcdef"`
	for _, s := range []string{
		"", "gzip", "GZIP;q=0", "gzip;Q=0", "gzip;\tq=0", "gzip ; q=0.000", "deflate, gzip;q=1.0", "*", "*;q=0", "identity", "gzip;q=", "gzip;q=x",
		"gzip;q=0,gzip", "x-gzip", "gzip;q=NaN", "gzip;q=0x1p-1",
	} {
		f.Add(s, etag)
	}
	for _, s := range []string{"*", "W/" + etag, `"a", ` + etag, `"a"` + etag, etag[1:], " * ", `"a",,` + etag, "*, " + etag} {
		f.Add("gzip", s)
	}
	f.Fuzz(func(t *testing.T, accept, condition string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Accept-Encoding"] = []string{accept}
		r.Header["If-None-Match"] = []string{condition}
		if got, want := takesGzip(r), acceptsGzip(accept); got && !want {
			t.Fatalf("%q is taken to accept gzip: %v", accept, got)
		}
		w := httptest.NewRecorder()
		w.Header().Set("Etag", etag)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader("x"))
		if want := w.Code == http.StatusNotModified; listOfTags.MatchString(condition) && want != matchesETag(r, etag) {
			t.Fatalf("If-None-Match %q: net/http says %v", condition, want)
		}
		if matchesETag(r, etag) && !strings.Contains(condition, "*") && !strings.Contains(condition, etag) {
			t.Fatalf("If-None-Match %q matches", condition)
		}
	})
}

// listOfTags is a well-formed If-None-Match; in others either answer will do.
var listOfTags = regexp.MustCompile(`^(\*|(W/)?"[!#-+\--~]*"([ \t]*,[ \t]*(W/)?"[!#-+\--~]*")*)$`)

// acceptsGzip reports whether a header names gzip with a weight that is not 0,
// and no other time with 0: read in the way least in favour of gzip.
func acceptsGzip(accept string) bool {
	found := false
	for one := range strings.SplitSeq(accept, ",") {
		parts := strings.Split(one, ";")
		if !strings.EqualFold(strings.Trim(parts[0], " \t"), "gzip") {
			continue
		}
		for _, p := range parts[1:] {
			name, value, _ := strings.Cut(strings.ToLower(strings.Trim(p, " \t")), "=")
			if strings.Trim(name, " \t") == "q" && strings.Trim(value, " \t0.") == "" {
				return found
			}
		}
		found = true
	}
	return found
}

// TestParseBodyBounded: members and nesting cost no memory before they are judged.
func TestParseBodyBounded(t *testing.T) { //nolint:paralleltest // it measures what is allocated
	for name, body := range map[string]string{
		"empty strings": `{"chain":[` + strings.Repeat(`"",`, 1<<17),
		"members":       `{` + strings.Repeat(`"a":0,`, 1<<16),
		"nesting":       strings.Repeat(`{"a":`, 1<<16),
		"escapes":       `{"chain":["` + strings.Repeat(`\u0041`, 1<<16) + `"]}`,
		"numbers":       `{"a":` + strings.Repeat("1", 1<<19) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			fuzztest.Bounded(t, 4*len(body), func() { _, _ = parseBody([]byte(body), testMaxChain) })
		})
	}
}
