package frontend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/entry"
	"kiln/internal/chain"
	"kiln/internal/logkey"
)

type vectors struct {
	Log struct {
		PEM   string `json:"private_key_pkcs8_pem"`
		LogID []byte `json:"log_id_b64"`
	} `json:"log"`
	Certs   map[string][]byte `json:"certs_b64"`
	Entries []struct {
		Name            string `json:"name"`
		Index           int64  `json:"index"`
		TimestampMillis int64  `json:"timestamp_ms"`
		ResponseJSON    string `json:"response_json"`
	} `json:"entries"`
	SubmissionCases struct {
		Cases []struct {
			Chain    []string `json:"chain"`
			Endpoint string   `json:"endpoint"`
			Status   string   `json:"status"`
			Why      string   `json:"why"`
		} `json:"cases"`
		RawBodies400 []string `json:"raw_bodies_400"`
	} `json:"submission_cases"`
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

// body returns a submission of the named certificates.
func (v *vectors) body(t testing.TB, names ...string) []byte {
	t.Helper()
	var req struct {
		Chain [][]byte `json:"chain"`
	}
	for _, name := range names {
		der, ok := v.Certs[name]
		if !ok {
			t.Fatalf("no certificate %q in the vectors", name)
		}
		req.Chain = append(req.Chain, der)
	}
	b, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fakeLog is a Batcher and Issuers in memory. It fails the test when an entry
// comes before its issuers are stored.
type fakeLog struct {
	t   testing.TB
	key *logkey.Key

	// add and put, if not nil, are called first; an error of theirs is returned.
	add func(context.Context, *entry.Pending) error
	put func(context.Context, []byte) error
	// at is the placement of the next entry, if not nil.
	at *entry.Placement

	mu      sync.Mutex
	issuers map[[32]byte]bool
	digests map[entry.Digest]entry.SCT
	entries map[entry.Key]entry.SCT
	added   int // calls of Add that came to an SCT
}

func (l *fakeLog) Lookup(_ context.Context, key entry.Key, digest entry.Digest) (entry.SCT, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sct, ok := l.digests[digest]
	return sct, ok
}

func (l *fakeLog) Add(ctx context.Context, p *entry.Pending) (entry.SCT, error) {
	if l.add != nil {
		if err := l.add(ctx, p); err != nil {
			return entry.SCT{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, print := range p.Chain() {
		if !l.issuers[print] {
			l.t.Errorf("entry came before its issuer %x was stored", print)
		}
	}
	l.added++
	sct, ok := l.entries[p.Key()]
	if !ok {
		sct.Placement = entry.Placement{Index: int64(len(l.entries)), TimestampMillis: 1_780_000_000_000}
		if l.at != nil {
			sct.Placement = *l.at
		}
		var err error
		if sct.Signature, err = l.key.Sign(p.AppendMerkleTreeLeaf(nil, sct.Placement)); err != nil {
			return entry.SCT{}, err
		}
	}
	l.entries[p.Key()] = sct
	l.digests[p.Digest()] = sct
	return sct, nil
}

func (l *fakeLog) PutIssuer(ctx context.Context, der []byte) error {
	if l.put != nil {
		if err := l.put(ctx, der); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.issuers[sha256.Sum256(der)] = true
	return nil
}

// size returns the number of entries and of calls of Add.
func (l *fakeLog) size() (entries, added int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.entries), l.added
}

// rig is a frontend over a fakeLog, with the configuration of the vectors.
type rig struct {
	*Frontend
	t    testing.TB
	v    *vectors
	back *fakeLog
	reg  *prometheus.Registry
	logs *lockedBuffer // lines of level WARN and above
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	v := readVectors(t)
	key, err := logkey.Parse([]byte(v.Log.PEM))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, v: v, reg: prometheus.NewRegistry(), logs: new(lockedBuffer)}
	r.back = &fakeLog{
		t: t, key: key,
		issuers: make(map[[32]byte]bool), digests: make(map[entry.Digest]entry.SCT), entries: make(map[entry.Key]entry.SCT),
	}
	validator, err := chain.New(chain.Config{
		NotAfterStart:     time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC),
		NotAfterLimit:     time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		RequireServerAuth: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := validator.SetRoots([][]byte{v.Certs["root"]}); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		LogID: key.LogID(), Validator: validator, Batcher: r.back, Issuers: r.back, Registerer: r.reg,
		Logger: slog.New(slog.NewTextHandler(r.logs, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if change != nil {
		change(&cfg)
	}
	if r.Frontend, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return r
}

// do runs one request without a network.
func (r *rig) do(method, path string, body []byte) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(method, path, bytes.NewReader(body)))
	return w
}

// server runs the frontend on a real connection.
func (r *rig) server() *httptest.Server {
	s := httptest.NewServer(r.Frontend)
	r.t.Cleanup(s.Close)
	return s
}

// counter returns the value of a counter or gauge by name and label values.
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
			if len(m.GetLabel()) != len(labels) {
				continue
			}
			for i, l := range m.GetLabel() {
				if l.GetValue() != labels[i] {
					continue next
				}
			}
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return 0
}

// checkError fails the test unless w is an error answer in the house's form.
func checkError(t *testing.T, code int, h http.Header, body []byte) {
	t.Helper()
	if got := h.Get("Content-Type"); got != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type of a %d is %q", code, got)
	}
	if got := h.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control of a %d is %q", code, got)
	}
	if h.Get("Content-Encoding") != "" {
		t.Errorf("a %d has a Content-Encoding", code)
	}
	if len(body) < 10 || len(body) > 1100 || bytes.Count(body, []byte("\n")) != 1 {
		t.Errorf("body of a %d is no short sentence: %q", code, body)
	}
	if code == http.StatusServiceUnavailable || code == http.StatusTooManyRequests {
		if s := h.Get("Retry-After"); s == "" || s == "0" || strings.Trim(s, "0123456789") != "" {
			t.Errorf("Retry-After of a %d is %q, want whole seconds", code, s)
		}
	}
}

func readAll(t *testing.T, resp *http.Response) []byte {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return b
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
