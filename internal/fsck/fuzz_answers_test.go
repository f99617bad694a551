package fsck

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"kiln/internal/fuzztest"
	"kiln/tiles"
)

// FuzzDecode decodes a body of any bytes and says how it is encoded. What comes
// out is what another decoder makes of it, up to the limit; a bomb costs its limit
// in time and nothing in memory.
func FuzzDecode(f *testing.F) {
	const limit = 1 << 20
	bomb := fuzztest.Gzip(make([]byte, 16<<20))
	f.Add(bomb, byte(EncodingGzip))
	f.Add(bomb, byte(EncodingUnknown))
	f.Add(append(fuzztest.Gzip([]byte("a")), fuzztest.Gzip([]byte("b"))...), byte(EncodingUnknown))
	f.Add([]byte("\x1f\x8b"), byte(EncodingUnknown))
	f.Add([]byte("plain"), byte(EncodingPlain))
	f.Add([]byte("plain"), byte(EncodingGzip))
	f.Add([]byte{}, byte(EncodingUnknown))
	f.Fuzz(func(t *testing.T, body []byte, encoding byte) {
		e := Encoding(encoding % 3)
		var size int64
		var fault *Fault
		fuzztest.Bounded(t, limit, func() {
			d, err := decode("tile/data/000", bytes.NewReader(body), e, limit)
			if err != nil {
				if !errors.As(err, &fault) {
					t.Fatalf("error is no fault: %v", err)
				}
				fuzztest.Sentence(t, err, "tile/data/000")
				return
			}
			n, err := io.Copy(io.Discard, d.buf)
			if size = n; n > limit+1 || d.over() != (n > limit) {
				t.Fatalf("%d bytes came, over the limit: %v", n, d.over())
			}
			if err != nil && d.broken() == nil {
				t.Fatalf("broken off with %v", err)
			}
		})
		if e == EncodingPlain && size != min(int64(len(body)), limit+1) {
			t.Fatalf("%d bytes of %d", size, len(body))
		}
		if e != EncodingGzip || fault != nil {
			return
		}
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			t.Fatalf("it was taken, and: %v", err)
		}
		if n, _ := io.Copy(io.Discard, io.LimitReader(z, limit+1)); n != size {
			t.Fatalf("%d bytes, the other decoder has %d", size, n)
		}
	})
}

// FuzzNames checks a names tile of any bytes against an entry: it says what the
// entry says, or a fault names the line.
func FuzzNames(f *testing.F) {
	want := nameSum{timestamp: 7, readable: true}
	want.sum, want.text = certNames{CommonName: "a", DNS: []string{"a"}}.sum()
	for _, s := range []string{
		`{"Timestamp":7,"Subject":{"CommonName":"a"},"DNS":["a"]}`, `{"Timestamp":8,"Subject":{"CommonName":"a"},"DNS":["a"]}`, `{"Timestamp":7}`, `{}`, `null`, `[]`, "", "\x00",
		`{"Timestamp":7,"DNS":["\u0000","\ud800"]}`, `{"timestamp":7,"dns":null}`, strings.Repeat("[", 100000), `{"Timestamp":1e1}`,
	} {
		f.Add([]byte(s + "\n"))
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(data), 64)
		for rest := data; ; {
			var line []byte
			var err error
			fuzztest.Bounded(t, 8*len(data), func() { line, err = readLine(r) })
			end := bytes.IndexByte(rest, '\n')
			if err != nil {
				if end >= 0 {
					t.Fatalf("%q has a line more: %v", rest, err)
				}
				return
			}
			if end < 0 || !bytes.Equal(line, rest[:end]) {
				t.Fatalf("line is %q of %q", line, rest)
			}
			rest = rest[end+1:]
			c := &checker{counts: new(tally)}
			if err := c.checkLine("tile/names/000", 3, line, want); err != nil {
				var fault *Fault
				if !errors.As(err, &fault) || fault.Index != 3 {
					t.Fatalf("error is no fault: %v", err)
				}
				fuzztest.Sentence(t, err, "tile/names/000")
				continue
			}
			var said struct{ Timestamp uint64 }
			if json.Unmarshal(line, &said) != nil || said.Timestamp != 7 {
				t.Fatalf("%q was taken", line)
			}
		}
	})
}

// FuzzServer gives any answer of a server: only a 200 has a body, only what says
// so is absent, and nobody waits longer than so long.
func FuzzServer(f *testing.F) {
	for _, status := range []int{200, 204, 301, 403, 404, 410, 429, 500, 503} {
		f.Add(status, "checkpoint", "120", "text/plain; charset=utf-8", "gzip")
		f.Add(status, "tile/data/000", "Wed, 21 Oct 2099 07:28:00 GMT", "application/octet-stream", "br")
	}
	f.Add(200, "tile/0/000", "-1", "\x00", "gzip, gzip")
	f.Fuzz(func(t *testing.T, status int, path, retry, contentType, encoding string) {
		h := http.Header{
			"Retry-After": {retry}, "Content-Type": {contentType}, "Content-Encoding": {encoding}, "Location": {contentType}, "Cache-Control": {retry},
		}
		resp := &http.Response{StatusCode: status, Status: contentType, Header: h, Body: io.NopCloser(strings.NewReader("body"))}
		o, err := answer(path, resp)
		if err == nil {
			if status != 200 {
				t.Fatalf("%d has a body", status)
			}
			for _, n := range o.Notes {
				fuzztest.Sentence(t, errors.New(n))
			}
			return
		}
		if text := strings.ReplaceAll(err.Error(), path, ""); len(text) > 4096 || strings.ContainsAny(text, "\r\n\x1b\x00") {
			t.Fatalf("error is no short line: %q", text)
		}
		if absent(err) && status != 404 && status != 410 && status != 401 && status != 403 {
			t.Fatalf("%d says that there is none", status)
		}
		var busy *BusyError
		if errors.As(err, &busy) && (busy.After < 0 || status != 429 && status != 503) {
			t.Fatalf("%d: wait %v", status, busy.After)
		}
	})
}

// FuzzWaits reads the headers that hold a time, and never one below zero.
func FuzzWaits(f *testing.F) {
	for _, s := range []string{"", "7", "-7", "99999999999999999999", "max-age=5", "max-age=-5", "max-age=9223372036854775807", "no-store, max-age=5", `MAX-AGE="5"`, "Wed, 21 Oct 2015 07:28:00 GMT"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if d := RetryAfter(s, now); d < 0 {
			t.Fatalf("%q is %v", s, d)
		}
		if age, said := maxAge(http.Header{"Cache-Control": {s}}); age < 0 || !said && age != 0 {
			t.Fatalf("%q is %d, %v", s, age, said)
		}
		_ = sameType(s, "text/plain; charset=utf-8")
		if kind, _ := kind(s); kind == "" {
			t.Fatalf("%q has no type", s)
		}
		if place := placeOf(s); place >= 0 {
			if _, err := tiles.ParsePath(s); err != nil {
				t.Fatalf("%q begins at entry %d", s, place)
			}
		}
	})
}

// FuzzOpenURL takes any text as the address of a log: objects are asked for below
// it, on the same host.
func FuzzOpenURL(f *testing.F) {
	for _, s := range []string{"https://log.example/a/", "http://a:1", "https://a?x", "https://a/#f", "ftp://a", "https://a b/", "https://u:p@a/", "https:///x", "", "::"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, prefix string) {
		u, err := OpenURL(prefix, "agent", 1)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		defer u.Close()
		if strings.ContainsAny(u.prefix, "?#") || !strings.HasPrefix(u.prefix, "http") {
			t.Fatalf("%q is asked for below %q", prefix, u.prefix)
		}
		req, err := http.NewRequest(http.MethodGet, u.prefix+"/checkpoint", nil)
		if err != nil || req.URL.Host == "" || !strings.HasSuffix(req.URL.Path, "/checkpoint") || req.URL.RawQuery != "" {
			t.Fatalf("%q leads to %v, %v", prefix, req, err)
		}
	})
}
