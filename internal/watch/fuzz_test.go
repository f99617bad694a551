package watch

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/fsck"
	"kiln/internal/fuzztest"
)

var fuzzSecret = sealingKey([]byte("secret"))

// goodState is a state with all that one can have.
func goodState(f *testing.F) []byte {
	f.Helper()
	r := Receipt{Digest: make([]byte, 32), Index: 3, TimestampMillis: 4, LeafHash: make([]byte, 32), Rank: 5}
	s := state{
		Origin: "example.org/log", Key: []byte("key"), Memory: []byte("memory"), Swept: 7, Recent: []Receipt{r}, Old: []Receipt{r, r},
		Fault: &faultNote{Check: checkNote{Kind: checkReceipt, Receipt: &r}, Path: "checkpoint", Index: -1, Detail: "differs", At: "2026-01-01T00:00:00Z"},
	}
	data, err := s.encode(fuzzSecret)
	if err != nil {
		f.Fatal(err)
	}
	return data
}

// FuzzState reads a state as it is, and with the seal that would be right. What is
// taken is written and read again as the same, and a follower judges its memory.
func FuzzState(f *testing.F) {
	good := goodState(f)
	f.Add(good)
	f.Add([]byte(`{"kiln_watch":1,"swept":-1}`))
	f.Add([]byte(`{"kiln_watch":1,"origin":"","key":null,"swept":0,"fault":{"check":{"kind":"tile","tile":-1}}}`))
	f.Add([]byte(`{"kiln_watch":1,"fault":{"check":{"kind":"sct"}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseState(data, fuzzSecret); err == nil && !bytes.Equal(s.MAC, s.mac(fuzzSecret)) {
			t.Fatal("a state without its seal was taken")
		}
		if _, err := parseState(data, sealingKey([]byte("another"))); err == nil {
			t.Fatal("a state of another log was taken")
		}
		var s state
		if json.Unmarshal(data, &s) != nil {
			return
		}
		sealed, err := s.encode(fuzzSecret)
		if err != nil {
			return
		}
		got, err := parseState(sealed, fuzzSecret)
		if err != nil {
			return
		}
		if again, err := got.encode(fuzzSecret); err != nil || !bytes.Equal(again, sealed) {
			t.Fatalf("it became %s, %v", again, err)
		}
		sample := newSample(nil)
		sample.restore(got.Recent, got.Old)
		if recent, old := sample.all(); len(recent) > maxRecent || len(old) > maxOld {
			t.Fatalf("%d and %d receipts", len(recent), len(old))
		}
		_, _ = fsck.NewFollower(nil, fsck.Options{}, 0, got.Memory) // must not panic
	})
}

// FuzzStateFile reads a file of any bytes: it is a state, or it is moved aside.
func FuzzStateFile(f *testing.F) {
	f.Add(goodState(f))
	f.Add([]byte(nil))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, aside, bad, err := readState(path, fuzzSecret)
		if err != nil {
			t.Fatal(err)
		}
		if (s == nil) != (bad != nil) || (aside == "") != (bad == nil) {
			t.Fatalf("state %v, moved to %q for %v", s, aside, bad)
		}
		if bad == nil {
			return
		}
		fuzztest.Sentence(t, bad)
		if kept, err := os.ReadFile(aside); err != nil || !bytes.Equal(kept, data) {
			t.Fatalf("it became %q, %v", kept, err)
		}
	})
}

// answers is a transport with one answer for all.
type answers func() *http.Response

// RoundTrip implements [http.RoundTripper].
func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp := a()
	resp.Request = r
	return resp, nil
}

// FuzzAnswer opens an object that a server answers with anything, and asks again
// whether it has changed.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "application/octet-stream", "gzip", `"x"`, "5", "https://example.org/", []byte("body"))
	f.Add(200, "text/html; charset=utf-8", "", "", "", "", []byte("<h1>"))
	f.Add(302, "", "br", "", "Wed, 21 Oct 2015 07:28:00 GMT", "/\x1b[2J", []byte(nil))
	f.Add(429, "x/y/z;", "identity", "", "-1", "", []byte(nil))
	f.Fuzz(func(t *testing.T, status int, typ, encoding, etag, retry, location string, sent []byte) {
		if status < 100 || status > 999 {
			return
		}
		site, err := newWeb("http://log.example/x/", "test", 1)
		if err != nil {
			t.Fatal(err)
		}
		site.client.Transport = answers(func() *http.Response {
			h := http.Header{"Content-Type": {typ}, "Content-Encoding": {encoding}, "Etag": {etag}, "Retry-After": {retry}, "Location": {location}}
			return &http.Response{Status: http.StatusText(status), StatusCode: status, Header: h, Body: io.NopCloser(bytes.NewReader(sent))}
		})
		const path = "tile/0/000.p/4"
		o, err := site.Open(t.Context(), path)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x1b\x00\r\n") {
				t.Fatalf("it says %q", err)
			}
			return
		}
		if status != http.StatusOK {
			t.Fatalf("%d is taken for an object", status)
		}
		b := body{ReadCloser: o.Body, cancel: func() {}}
		got := make([]byte, 0, len(sent))
		for piece := make([]byte, 7); ; {
			n, err := b.Read(piece)
			got = append(got, piece[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.Equal(got, sent) || b.Close() != nil {
			t.Fatalf("read %q", got)
		}
		if same, err := site.unchanged(t.Context(), path); err != nil || !same {
			t.Fatalf("unchanged is %v, %v", same, err)
		}
	})
}
