package testlogs

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/internal/chain"
	"kiln/internal/fuzztest"
	"kiln/internal/logkey"
)

// fuzzChains calls add with precertificates and their issuers of every sort.
func fuzzChains(t testing.TB, add func(leaf, issuer, final []byte)) {
	t.Helper()
	certs := fuzztest.Certificates(t)
	for _, name := range []string{"precert_17", "precert_18_by_psc", "leaf_16", "two_poisons", "poison_not_null"} {
		if der := certs[name]; der != nil {
			add(der, certs["intermediate"], certs["root"])
			add(der, certs["precert_signing_cert"], certs["intermediate"])
		}
	}
	seen := make(map[string]bool)
	for _, name := range []string{"real-chains.jsonl.gz", "odd-chains.jsonl.gz"} {
		lines := json.NewDecoder(bytes.NewReader(fuzztest.File(t, name)))
		for lines.More() {
			var c struct {
				Chain            [][]byte `json:"chain"`
				Endpoint, SigAlg string
				Kind             string `json:"kind"`
			}
			if err := lines.Decode(&c); err != nil {
				t.Fatal(err)
			}
			if key := c.Endpoint + c.SigAlg + c.Kind; len(c.Chain) > 2 && !seen[key] {
				seen[key] = true
				add(c.Chain[0], c.Chain[1], c.Chain[2])
			}
		}
	}
}

// FuzzSignedEntry makes what is logged for any chain, by this package's own
// reading of the rules, and holds it to that of the log.
func FuzzSignedEntry(f *testing.F) {
	fuzzChains(f, func(leaf, issuer, final []byte) { f.Add(leaf, issuer, final, true) })
	f.Add([]byte{0x30, 0}, []byte{0x30, 0}, []byte{}, true)
	f.Add([]byte{}, []byte{}, []byte{}, false)
	nothing := wrap(0x30, append(wrap(0x30, bytes.Repeat([]byte{0xa3, 2, 0x30, 0}, 7)), 0x30, 0, 3, 1, 0)) // seven lists of extensions, and no field
	few := wrap(0x30, append(wrap(0x30, bytes.Repeat([]byte{0xa0, 2, 0x30, 0}, 7)), 0x30, 0, 3, 1, 0))
	f.Add(nothing, nothing, nothing, true)
	f.Add(few, nothing, few, true)
	f.Fuzz(func(t *testing.T, leaf, issuer, final []byte, precert bool) {
		got, err := newSignedEntry([][]byte{leaf, issuer, final}, precert)
		if err != nil || !precert {
			return
		}
		ours, err := chain.ReadLogged(leaf)
		if err != nil {
			return
		}
		parent, err := chain.ReadLogged(issuer)
		if err != nil {
			return
		}
		hash := parent.KeyHash()
		var signer *chain.Logged
		if parent.SignsPrecerts() {
			signer = &parent
			top, err := chain.ReadLogged(final)
			if err != nil {
				return
			}
			hash = top.KeyHash()
		}
		tbs, err := chain.PrecertTBS(ours, signer)
		if err != nil {
			return // the log takes none without a single answer
		}
		want := appendUint24Prefixed(append([]byte{0, 1}, hash[:]...), tbs)
		if !bytes.Equal(got, want) && !odd(leaf) && !odd(issuer) {
			t.Fatalf("signed entry is\n%x, the log has\n%x", got, want)
		}
	})
}

// odd reports whether a certificate is one that no log takes as a precertificate
// or its issuer, so that the two readings need not agree: extensions that stand
// twice, or pieces after them.
func odd(der []byte) bool {
	c, err := parseCert(der)
	if err != nil {
		return true
	}
	seen := make(map[string]bool)
	for _, e := range c.extensions {
		if id := e.id.String(); seen[id] {
			return true
		} else {
			seen[id] = true
		}
	}
	return len(c.extensions) == 0
}

// FuzzDataTile reads a data tile of any bytes: as many entries as the tile has,
// each at its place, and nothing left over.
func FuzzDataTile(f *testing.F) {
	f.Add(fuzztest.File(f, "navigli2025h2/tile/data/003.p/10"), int64(3), 16)
	f.Add([]byte{}, int64(0), 0)
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\xff\xff\xffx"), int64(0), 1)
	f.Fuzz(func(t *testing.T, body []byte, n int64, width int) {
		if n < 0 || n >= 1<<32 || width < 1 || width > 256 {
			return
		}
		tile := tlog.Tile{H: 8, L: -1, N: n, W: width}
		entries, err := parseDataTile(tile, body)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		size := 0
		for i, e := range entries {
			if e.LeafIndex != n*256+int64(i) {
				t.Fatalf("entry %d is at %d", i, e.LeafIndex)
			}
			size += len(e.Certificate) + len(e.PreCertificate) + 32*len(e.ChainFingerprints)
		}
		if len(entries) != width || size > len(body) {
			t.Fatalf("%d entries of %d bytes in %d", len(entries), size, len(body))
		}
	})
}

// FuzzCheckpoint opens checkpoints as the auditor does, and as the log does: what
// the log's reading takes, the auditor's does too, and both read the same.
func FuzzCheckpoint(f *testing.F) {
	key, err := logkey.Generate()
	if err != nil {
		f.Fatal(err)
	}
	const origin = "log.example/test"
	signer, err := checkpoint.NewSigner(origin, key, true)
	if err != nil {
		f.Fatal(err)
	}
	for n := range int64(3) {
		raw, err := signer.Sign(tlog.Tree{N: n, Hash: sha256.Sum256([]byte{byte(n)})}, 1_700_000_000_000+n)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte("log.example/test\n3\n"))
	a, err := NewAuditor(AuditorConfig{URL: "http://x/", Origin: origin, SPKI: key.SPKI()})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := a.open(raw)
		want, wantErr := signer.Verifier().Open(raw)
		if err != nil {
			if wantErr == nil {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		if wantErr == nil && (got.Tree != want.Tree || got.TimestampMillis != want.TimestampMillis) {
			t.Fatalf("%+v, the log reads %+v", got, want)
		}
		if got.TimestampMillis < 1_700_000_000_000 || got.TimestampMillis > 1_700_000_000_002 {
			t.Fatalf("forged: %+v", got)
		}
	})
}

// fixed answers every request in one way.
type fixed struct {
	status              int
	body                []byte
	contentType, header string
}

func (a fixed) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, ContentLength: -1,
		Header: http.Header{"Content-Type": {a.contentType}, "Retry-After": {a.header}}, Body: io.NopCloser(bytes.NewReader(a.body)),
	}, nil
}

// FuzzAnswer gives the client any answer to a submission and to get-roots. An SCT
// is one that the log signed for this chain.
func FuzzAnswer(f *testing.F) {
	key, err := logkey.Generate()
	if err != nil {
		f.Fatal(err)
	}
	leaf := fuzztest.Certificates(f)["leaf_16"]
	submitted := Chain{Certificates: [][]byte{leaf}}
	entry, err := newSignedEntry(submitted.Certificates, false)
	if err != nil {
		f.Fatal(err)
	}
	const timestamp = 1_700_000_000_000
	extensions := []byte{0, 0, 5, 0, 0, 0, 0, 7}
	signature, err := key.Sign(entry.merkleTreeLeaf(timestamp, extensions))
	if err != nil {
		f.Fatal(err)
	}
	id := key.LogID()
	sound, err := json.Marshal(map[string]any{"sct_version": 0, "id": id[:], "timestamp": timestamp, "extensions": extensions, "signature": signature})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(200, sound, "application/json", "")
	f.Add(200, bytes.Replace(sound, []byte("1700000000000"), []byte("1700000000001"), 1), "application/json", "")
	f.Add(200, []byte(`{"certificates":["AAAA",null,""]}`), "application/json", "")
	f.Add(200, []byte(`{"sct_version":null}`), "application/json", "")
	f.Add(503, []byte("later\n"), "text/plain", "99999999999999999999")
	f.Add(429, []byte{}, "", "-1")
	f.Fuzz(func(t *testing.T, status int, body []byte, contentType, retry string) {
		if status < 100 || status > 999 || status >= 300 && status < 400 { // net/http follows
			return
		}
		c, err := NewClient("http://log.example/x/", key.SPKI(), &http.Client{Transport: fixed{status, body, contentType, retry}})
		if err != nil {
			t.Fatal(err)
		}
		sct, err := c.Submit(t.Context(), submitted)
		if err == nil && (status != 200 || sct.Index != 7 || sct.TimestampMillis != timestamp || !bytes.Equal(sct.Extensions, extensions) ||
			!key.Verify(entry.merkleTreeLeaf(timestamp, extensions), sct.Signature)) {
			t.Fatalf("forged: %+v", sct)
		}
		if roots, err := c.Roots(t.Context()); err == nil && len(roots) > len(body) {
			t.Fatalf("%d roots of %d bytes", len(roots), len(body))
		}
	})
}

// FuzzCA loads a test CA from files of any bytes.
func FuzzCA(f *testing.F) {
	dir := f.TempDir()
	ca, err := NewCA(CAOptions{})
	if err != nil {
		f.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		f.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for i := range files {
		for j, script := range fuzztest.Edits() {
			if j%4 == i%4 {
				f.Add(uint8(i), script)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, script []byte) {
		broken := t.TempDir()
		for i, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if i == int(which)%len(files) {
				data = fuzztest.Edit(data, script)
			}
			if err := os.WriteFile(filepath.Join(broken, filepath.Base(path)), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		loaded, err := LoadCA(broken)
		if err != nil {
			if !strings.Contains(err.Error(), broken) && !strings.Contains(err.Error(), "CA") {
				t.Fatalf("error does not say what cannot be loaded: %v", err)
			}
			return
		}
		if _, err := loaded.Leaf(LeafOptions{NotAfter: time.Now().Add(time.Hour)}); err != nil && fmt.Sprint(err) == "" {
			t.Fatal(err)
		}
	})
}
