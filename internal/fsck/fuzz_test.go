package fsck

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// What this package decodes, another decoder decodes to the same; what it
// refuses is refused there too, but for entries that are odd in ways that the
// other does not look at.
func FuzzLeaf(f *testing.F) {
	data := must(os.ReadFile("../../testdata/navigli2025h2/tile/data/003.p/10"))
	f.Add(data)
	f.Add(data[:1000])
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01x\x00\x08\x00\x00\x05\x00\x00\x00\x00\x07\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bufio.NewReader(bytes.NewReader(data))
		var l leaf
		rest := data
		for {
			err := l.read(r)
			e, after, otherErr := sunlight.ReadTileLeaf(rest)
			if err != nil || otherErr != nil {
				if err == nil && l.index >= 0 && !bytes.Contains(l.buf, []byte{0, 8, 0, 0, 5}) {
					return // further extensions, which the other may not know
				}
				if otherErr == nil && err != nil {
					t.Fatalf("refused: %v", err)
				}
				return
			}
			if int(l.size) != len(rest)-len(after) || l.index != e.LeafIndex || l.timestamp != uint64(e.Timestamp) || l.precert != e.IsPrecert ||
				!bytes.Equal(l.certificate, e.Certificate) || !bytes.Equal(l.submitted, e.PreCertificate) || len(l.chain) != len(e.ChainFingerprints) {
				t.Fatalf("read %+v, want %+v", l, e)
			}
			if got := tlog.RecordHash(e.MerkleTreeLeaf()); got != l.hash {
				t.Fatalf("hash is %x, want %x", l.hash, got)
			}
			rest = after
		}
	})
}

// Lengths that are only claimed cost no memory.
func TestLeafOfManyPromises(t *testing.T) {
	t.Parallel()
	data := append(make([]byte, 10), 0xff, 0xff, 0xff)
	var l leaf
	if err := l.read(bufio.NewReader(bytes.NewReader(data))); err == nil || cap(l.buf) > 4<<20 {
		t.Errorf("error is %v, and %d bytes were set aside", err, cap(l.buf))
	}
}

func FuzzState(f *testing.F) {
	f.Add(must(Seal([]byte(`{"kiln_fsck":1}`))))
	f.Add(append(must(Seal([]byte(`{"kiln_fsck":1}`))), `{}`...))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, d := range [][]byte{data, sealed(data)} {
			s, err := parseState(d)
			if err != nil {
				continue
			}
			if !json.Valid(d) {
				t.Fatalf("something follows the state in %q", d)
			}
			spine, err := s.Pass.spine()
			if err != nil {
				t.Fatal(err)
			}
			if p := passOf(&spine, s.Pass.Done); p.Entries != s.Pass.Entries {
				t.Fatalf("%d entries became %d", s.Pass.Entries, p.Entries)
			}
			spine.root() // must not panic
		}
	})
}

func sealed(data []byte) []byte {
	s, err := Seal(data)
	if err != nil {
		return nil
	}
	return s
}

func FuzzMetadata(f *testing.F) {
	f.Add([]byte(`{"key":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEojTN4VooyhB9LSBkVd/0ARz7I794iG02qjIJpBiq6mSyHyfdwe8AuDe1ANeiOyRuQrBO2x0Mx+xLwF36LrJIiQ==","submission_url":"https://example.org/log/"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMetadata(data)
		if err == nil && (m.origin() == "" || strings.HasSuffix(m.origin(), "/") || len(m.Key) == 0) {
			t.Fatalf("took %+v", m)
		}
	})
}

func FuzzPublicKey(f *testing.F) {
	f.Add([]byte("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEojTN4VooyhB9LSBkVd/0ARz7I794iG02qjIJpBiq6mSyHyfdwe8AuDe1ANeiOyRuQrBO2x0Mx+xLwF36LrJIiQ=="))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if der, err := ParsePublicKey(data); err == nil {
			if again, err := ParsePublicKey(der); err != nil || !bytes.Equal(again, der) {
				t.Fatalf("its DER is read as %x, %v", again, err)
			}
		}
	})
}

func FuzzHeaders(f *testing.F) {
	f.Add("checkpoint", "text/plain; charset=utf-8", "max-age=5, no-cache", "gzip")
	f.Add("tile/data/000", "application/octet-stream", "public, max-age=\"604800\"", "")
	f.Fuzz(func(t *testing.T, path, contentType, cache, encoding string) {
		h := http.Header{"Content-Type": {contentType}, "Cache-Control": {cache}, "Content-Encoding": {encoding}}
		o := new(Object)
		_ = judgeHeaders(o, path, h)
		for _, n := range o.Notes {
			if len(n) > 1200 {
				t.Fatalf("note of %d bytes", len(n))
			}
		}
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "-7": 0, "7.5": 0, "x": 0, "99999999999999999999": 0,
		now.Add(time.Minute).Format(http.TimeFormat):  time.Minute,
		now.Add(-time.Minute).Format(http.TimeFormat): 0,
	} {
		if got := RetryAfter(header, now); got != want {
			t.Errorf("%q is %v, want %v", header, got, want)
		}
	}
}

func TestMaxAge(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]struct {
		seconds int64
		said    bool
	}{
		"": {}, "public": {}, "max-age=5": {5, true}, "public, Max-Age=5, immutable": {5, true}, `max-age="5"`: {5, true},
		"no-store, max-age=5": {0, true}, "max-age=5, no-cache": {0, true}, "max-age=x": {}, "s-maxage=5": {},
	} {
		h := http.Header{"Cache-Control": {line}}
		if seconds, said := maxAge(h); seconds != want.seconds || said != want.said {
			t.Errorf("%q is %d, %v; want %v", line, seconds, said, want)
		}
	}
}

// The spine computes the roots that tlog does.
func TestSpine(t *testing.T) {
	t.Parallel()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (list []tlog.Hash, err error) {
		for _, i := range indexes {
			list = append(list, stored[i])
		}
		return list, nil
	})
	var s spine
	for n := range int64(1<<16 + 700) {
		if n < 600 || n > 1<<16-3 {
			want, err := tlog.TreeHash(n, reader)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.root(); got != want {
				t.Fatalf("root of size %d is %v, want %v", n, got, want)
			}
		}
		h := tlog.RecordHash([]byte{byte(n), byte(n >> 8), byte(n >> 16)})
		stored = append(stored, must(tlog.StoredHashesForRecordHash(n, h, reader))...)
		for l, full := 1, s.push(0, h); full != nil; l++ {
			full = s.push(l, subtree(full))
		}
		s.size++
	}
	p := passOf(&s, false)
	again, err := p.spine()
	if err != nil {
		t.Fatal(err)
	}
	if want, err := tlog.TreeHash(p.Entries, reader); err != nil || again.root() != want {
		t.Errorf("root of the saved pass is %v, want %v, %v", again.root(), want, err)
	}
}
