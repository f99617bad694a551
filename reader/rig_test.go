package reader

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/checkpoint"
	"kiln/internal/logkey"
	"kiln/storage"
	"kiln/storage/mem"
	"kiln/tiles"
)

type vectors struct {
	Log struct {
		PEM    string `json:"private_key_pkcs8_pem"`
		LogID  []byte `json:"log_id_b64"`
		Origin string `json:"origin"`
		Prefix string `json:"submission_prefix"`
	} `json:"log"`
	Certs   map[string][]byte `json:"certs_b64"`
	Entries []struct {
		TileLeaf []byte `json:"tile_leaf_b64"`
	} `json:"entries"`
	Assets struct {
		NamesLine string `json:"names_tile_line_entry_0"`
		Paths     []struct {
			Path   string `json:"path"`
			Bytes  int    `json:"bytes"`
			SHA256 string `json:"sha256_identity"`
			Hex    string `json:"hex"`
		} `json:"paths"`
	} `json:"assets_at_size_3"`
	Checkpoints struct {
		Size0 struct {
			Checkpoint string `json:"checkpoint"`
		} `json:"size_0"`
		Size3 struct {
			Checkpoint      string `json:"checkpoint"`
			TimestampMillis int64  `json:"timestamp_ms"`
		} `json:"size_3"`
	} `json:"checkpoints"`
	TilePaths struct {
		Also404 []string `json:"also_404"`
		Must404 []string `json:"server_must_404"`
		Valid   []struct {
			Path string `json:"path"`
		} `json:"valid"`
	} `json:"tile_paths"`
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	data, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
	return v
}

// rig is a reader over a bucket in memory that holds the log of the vectors at
// size 3, with a names tile, a bundle and a full tile besides.
type rig struct {
	*Reader
	t      testing.TB
	v      *vectors
	bucket *mem.Bucket
	signer *checkpoint.Signer
	reg    *prometheus.Registry
	logs   *lockedBuffer // lines of level WARN and above
}

// signedAt is the time of the vectors' checkpoint of size 3.
func (r *rig) signedAt() time.Time { return time.UnixMilli(r.v.Checkpoints.Size3.TimestampMillis) }

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	v := readVectors(t)
	key, err := logkey.Parse([]byte(v.Log.PEM))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, v: v, bucket: mem.New(), reg: prometheus.NewRegistry(), logs: new(lockedBuffer)}
	if r.signer, err = checkpoint.NewSigner(v.Log.Origin, key, false); err != nil {
		t.Fatal(err)
	}
	var data []byte
	for _, e := range v.Entries {
		data = append(data, e.TileLeaf...)
	}
	r.put("tile/data/000.p/3", zip(t, data))
	r.put("tile/names/000.p/3", zip(t, []byte(v.Assets.NamesLine+"\n")))
	r.put("tile/0/x001/000", bytes.Repeat([]byte{7}, 8192))
	r.put("staging/3-abc", []byte("bundle"))
	for _, a := range v.Assets.Paths {
		if hash, err := hex.DecodeString(a.Hex); err == nil && len(hash) > 0 {
			r.put(a.Path, hash)
		}
	}
	for _, name := range []string{"root", "intermediate", "precert_signing_cert"} {
		r.put(tiles.IssuerObject(v.Certs[name]).Path, v.Certs[name])
	}
	r.publish([]byte(v.Checkpoints.Size3.Checkpoint))

	cfg := Config{
		Bucket: r.bucket, Registerer: r.reg, Now: func() time.Time { return r.signedAt().Add(1500 * time.Millisecond) },
		Logger: slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Info: Info{
			Name: "example2026h2", Origin: v.Log.Origin, SPKI: key.SPKI(), LogID: key.LogID(),
			SubmissionURL: v.Log.Prefix, MonitoringURL: "https://mon.example.net/2026h2/",
			NotAfterStart: time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC), NotAfterLimit: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		},
	}
	if change != nil {
		change(&cfg)
	}
	if r.Reader, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) put(path string, body []byte) {
	r.t.Helper()
	if err := r.bucket.Create(r.t.Context(), storage.Object{Path: path, Body: body}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) publish(raw []byte) {
	r.t.Helper()
	next := func([]byte) ([]byte, error) { return raw, nil }
	if err := r.bucket.Update(r.t.Context(), storage.Object{Path: "checkpoint"}, next); err != nil {
		r.t.Fatal(err)
	}
}

// do runs a request with header lines "Name", "value", ....
func (r *rig) do(method, path string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w
}

// counter returns the value of a counter by name and label values.
func (r *rig) counter(name string, labels ...string) float64 {
	r.t.Helper()
	families, err := r.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	next:
		for _, m := range family.GetMetric() {
			for i, l := range m.GetLabel() {
				if l.GetValue() != labels[i] {
					continue next
				}
			}
			return m.GetCounter().GetValue()
		}
	}
	return 0
}

func zip(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// checkError fails the test unless w is an error answer in the house's form,
// which no cache may keep (MON-19).
func checkError(t testing.TB, what string, w *httptest.ResponseRecorder) {
	t.Helper()
	h := w.Header()
	if h.Get("Content-Type") != "text/plain; charset=utf-8" || h.Get("Cache-Control") != "no-store" ||
		h.Get("Content-Encoding") != "" || h.Get("Etag") != "" || h.Get("Location") != "" {
		t.Errorf("%s: headers of a %d are %v", what, w.Code, h)
	}
	if b := w.Body.String(); len(b) < 10 || len(b) > 300 || strings.Count(b, "\n") != 1 {
		t.Errorf("%s: body of a %d is no short sentence: %q", what, w.Code, b)
	}
	if w.Code == http.StatusServiceUnavailable || w.Code == http.StatusTooManyRequests {
		if s := h.Get("Retry-After"); s == "" || s == "0" || strings.Trim(s, "0123456789") != "" {
			t.Errorf("%s: Retry-After of a %d is %q, want whole seconds", what, w.Code, s)
		}
	}
	checkCommon(t, what, h)
}

// checkCommon checks what every answer has (MON-22).
func checkCommon(t testing.TB, what string, h http.Header) {
	t.Helper()
	if h.Get("Access-Control-Allow-Origin") != "*" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s: headers are %v", what, h)
	}
}

// lockedBuffer is a buffer for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
