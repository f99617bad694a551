package frontend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
	"kiln/internal/chain"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	full := newRig(t, nil).cfg
	full.Registerer = nil
	if _, err := New(full); err != nil {
		t.Fatalf("New without a Registerer: %v", err)
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
	}{
		{"no Validator", func(c *Config) { c.Validator = nil }},
		{"no Batcher", func(c *Config) { c.Batcher = nil }},
		{"no Issuers", func(c *Config) { c.Issuers = nil }},
		{"negative", func(c *Config) { c.MaxBody = -1 }},
	} {
		cfg := full
		test.change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), test.name) {
			t.Errorf("%s: New says %v", test.name, err)
		}
	}
}

// TestVectorEntries holds answers against the vectors, byte for byte, and with
// them the SCT's signature input (SUB-07, SUB-10, SUB-12).
func TestVectorEntries(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for i, test := range []struct {
		path  string
		chain []string
	}{
		{"/ct/v1/add-chain", []string{"leaf_16", "intermediate"}},
		{"/ct/v1/add-pre-chain", []string{"precert_17", "intermediate", "root"}},
		{"/ct/v1/add-pre-chain", []string{"precert_18_by_psc", "precert_signing_cert", "intermediate", "root"}},
	} {
		e := r.v.Entries[i]
		r.back.at = &entry.Placement{Index: e.Index, TimestampMillis: e.TimestampMillis}
		for _, again := range []string{"", " again, from the short-term cache"} {
			w := r.do("POST", test.path, r.v.body(t, test.chain...))
			if w.Code != 200 || w.Body.String() != e.ResponseJSON {
				t.Errorf("%s%s: got %d %s, want 200 %s", e.Name, again, w.Code, w.Body, e.ResponseJSON)
			}
			if w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("%s%s: headers are %v", e.Name, again, w.Header())
			}
		}
	}
	if _, added := r.back.size(); added != 3 {
		t.Errorf("the batcher was asked %d times, want 3: the second of each is a hit", added)
	}
	if len(r.back.issuers) != 3 {
		t.Errorf("%d issuers are stored, want 3: root, intermediate, precertificate signing certificate", len(r.back.issuers))
	}
	if got := r.counter("kiln_frontend_requests_total", "200", "add-pre-chain"); got != 4 {
		t.Errorf("metrics count %v add-pre-chain requests, want 4", got)
	}
}

func TestSubmissionCases(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for _, c := range r.v.SubmissionCases.Cases {
		_, before := r.back.size()
		w := r.do("POST", "/ct/v1/"+c.Endpoint, r.v.body(t, c.Chain...))
		ok := fmt.Sprint(w.Code) == c.Status
		if strings.Contains(c.Status, "never 5xx") {
			ok = w.Code == 200 || w.Code == 400
		}
		if !ok {
			t.Errorf("%s: got %d %s, want %s", c.Why, w.Code, w.Body, c.Status)
		}
		if w.Code != 200 {
			checkError(t, w.Code, w.Header(), w.Body.Bytes())
			if _, after := r.back.size(); after != before {
				t.Errorf("%s: the batcher was asked about a refused submission (SUB-35)", c.Why)
			}
		}
	}
	for _, body := range r.v.SubmissionCases.RawBodies400 {
		for _, endpoint := range []string{addChain, addPreChain} {
			w := r.do("POST", "/ct/v1/"+endpoint, []byte(body))
			if w.Code != 400 {
				t.Errorf("%s %q: got %d %s, want 400", endpoint, body, w.Code, w.Body)
			}
			checkError(t, w.Code, w.Header(), w.Body.Bytes())
		}
	}
	rejections := 0.0
	for _, reason := range rejectionReasons() {
		rejections += r.counter("kiln_frontend_rejections_total", reason)
	}
	if got := r.counter("kiln_frontend_requests_total", "400", "add-chain") + r.counter("kiln_frontend_requests_total", "400", "add-pre-chain"); got != rejections || got == 0 {
		t.Errorf("metrics count %v requests answered 400 and %v rejections", got, rejections)
	}
}

func TestUnknownMembersAndNoContentType(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	body := r.v.body(t, "leaf_16", "intermediate")
	body = append([]byte(`{"x":{"chain":[1,2]},`), body[1:]...)
	req := httptest.NewRequest("POST", "/ct/v1/add-chain", bytes.NewReader(body))
	req.Header.Del("Content-Type")
	w := httptest.NewRecorder()
	if r.ServeHTTP(w, req); w.Code != 200 {
		t.Errorf("got %d %s, want 200 (SUB-04)", w.Code, w.Body)
	}
}

// TestMatrix has one request for each cell of the HTTP matrix that needs no
// fault; the others are in tests of their own.
func TestMatrix(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	closed := newRig(t, func(c *Config) {
		c.ReadOnlyAfter = time.Date(2027, 1, 8, 0, 0, 0, 0, time.UTC)
		c.Now = func() time.Time { return c.ReadOnlyAfter.Add(time.Second) }
	})
	switched := newRig(t, func(c *Config) { c.ReadOnly = func() bool { return true } })
	good := r.v.body(t, "leaf_16", "intermediate")
	large := bytes.Repeat([]byte(" "), DefaultMaxBody+1)
	tests := []struct {
		rig          *rig
		method, path string
		body         []byte
		code         int
		allow        string
	}{
		{r, "GET", "/ct/v1/get-roots", nil, 200, ""},
		{r, "HEAD", "/ct/v1/get-roots", nil, 200, ""},
		{r, "POST", "/ct/v1/get-roots", nil, 405, "GET, HEAD"},
		{r, "OPTIONS", "/ct/v1/get-roots", nil, 405, "GET, HEAD"},
		{r, "POST", "/ct/v1/add-chain", good, 200, ""},
		{r, "POST", "/ct/v1/add-chain", []byte("{}"), 400, ""},
		{r, "POST", "/ct/v1/add-chain", large, 413, ""},
		{r, "GET", "/ct/v1/add-chain", nil, 405, "POST, OPTIONS"},
		{r, "HEAD", "/ct/v1/add-chain", nil, 405, "POST, OPTIONS"},
		{r, "PUT", "/ct/v1/add-chain", good, 405, "POST, OPTIONS"},
		{r, "OPTIONS", "/ct/v1/add-chain", nil, 204, "POST, OPTIONS"},
		{r, "GET", "/ct/v1/add-pre-chain", nil, 405, "POST, OPTIONS"},
		{r, "POST", "/ct/v1/add-pre-chain", good, 400, ""},
		{r, "POST", "/ct/v1/add-pre-chain", r.v.body(t, "precert_17", "intermediate"), 200, ""},
		{r, "POST", "/ct/v1/add-pre-chain", large, 413, ""},
		{r, "OPTIONS", "/ct/v1/add-pre-chain", nil, 204, "POST, OPTIONS"},
		{closed, "POST", "/ct/v1/add-chain", good, 410, ""},
		{closed, "POST", "/ct/v1/add-pre-chain", good, 410, ""},
		{closed, "GET", "/ct/v1/get-roots", nil, 200, ""},
		{switched, "POST", "/ct/v1/add-chain", good, 410, ""},
		{r, "GET", "/ct/v1/get-sth", nil, 404, ""},
		{r, "GET", "/ct/v1/get-entries", nil, 404, ""},
		{r, "GET", "/", nil, 404, ""},
		{r, "POST", "/ct/v1/add-chain/", good, 404, ""},
		{r, "POST", "/ct/v1//add-chain", good, 404, ""},
		{r, "POST", "/ct/v1/add%2Dchain", good, 404, ""},
		{r, "POST", "/ct%2Fv1/add-chain", good, 404, ""},
		{r, "POST", "/ct/v1/x/../add-chain", good, 404, ""},
		{r, "POST", "/ct/v1/add-chain%00", good, 404, ""},
		{r, "POST", "/ct/v1/ADD-CHAIN", good, 404, ""},
	}
	for _, test := range tests {
		w := test.rig.do(test.method, test.path, test.body)
		name := test.method + " " + test.path
		if w.Code != test.code {
			t.Errorf("%s: got %d %s, want %d", name, w.Code, w.Body, test.code)
			continue
		}
		h := w.Header()
		if h.Get("Access-Control-Allow-Origin") != "*" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Location") != "" {
			t.Errorf("%s: headers are %v", name, h)
		}
		if h.Get("Allow") != test.allow {
			t.Errorf("%s: Allow is %q, want %q", name, h.Get("Allow"), test.allow)
		}
		switch {
		case test.code == 204:
			if h.Get("Access-Control-Allow-Headers") != "Content-Type" || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "POST") || w.Body.Len() != 0 {
				t.Errorf("%s: no preflight answer: %v", name, h)
			}
		case test.method == "HEAD":
			if w.Body.Len() != 0 {
				t.Errorf("%s: has a body", name)
			}
		case test.code >= 400:
			checkError(t, w.Code, h, w.Body.Bytes())
		}
	}
}

// TestFailures is the map from errors to HTTP statuses.
func TestFailures(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		err        error
		code       int
		retryAfter string
		told       bool // the operator is told
	}{
		{"overloaded", &entry.OverloadedError{What: "pool", RetryAfter: 1200 * time.Millisecond}, 503, "2", false},
		{"overloaded, soon", fmt.Errorf("add: %w", &entry.OverloadedError{What: "pool"}), 503, "1", false},
		{"read-only", fmt.Errorf("add: %w", entry.ErrReadOnly), 410, "", false},
		{"unavailable", fmt.Errorf("add: %w", entry.ErrUnavailable), 503, "2", false},
		{"rejected late", &chain.RejectedError{Detail: "this is wrong\nwith CN=\x00\x1b[0m; want that"}, 400, "", false},
		{"other", errors.New("secret/path: broken"), 500, "", true},
		{"index over 2^40", nil, 500, "", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, nil)
			r.back.add = func(context.Context, *entry.Pending) error { return test.err }
			r.back.at = &entry.Placement{Index: entry.MaxIndex}
			if test.err == nil {
				// A Batcher that hands out what the format cannot hold (SUB-14).
				r.Frontend.cfg.Batcher = wrapAround{}
			}
			w := r.do("POST", "/ct/v1/add-chain", r.v.body(t, "leaf_16", "intermediate"))
			if w.Code != test.code || w.Header().Get("Retry-After") != test.retryAfter {
				t.Errorf("got %d, Retry-After %q; want %d, %q", w.Code, w.Header().Get("Retry-After"), test.code, test.retryAfter)
			}
			checkError(t, w.Code, w.Header(), w.Body.Bytes())
			if strings.Contains(w.Body.String(), "secret") {
				t.Errorf("the answer tells about the inside: %s", w.Body)
			}
			if told := r.logs.String() != ""; told != test.told {
				t.Errorf("log says %q, want something: %v", r.logs, test.told)
			}
		})
	}
}

type wrapAround struct{}

func (wrapAround) Lookup(context.Context, entry.Key, entry.Digest) (entry.SCT, bool) {
	return entry.SCT{Placement: entry.Placement{Index: entry.MaxIndex + 1}}, true
}

func (wrapAround) Add(context.Context, *entry.Pending) (entry.SCT, error) { panic("not reached") }

// TestIssuerNotStored shows that no entry goes on without its issuers (SUB-37).
func TestIssuerNotStored(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	root := r.v.Certs["root"]
	r.back.put = func(_ context.Context, der []byte) error {
		if bytes.Equal(der, root) {
			return errors.New("disk full")
		}
		return nil
	}
	body := r.v.body(t, "leaf_16", "intermediate")
	w := r.do("POST", "/ct/v1/add-chain", body)
	if w.Code != 503 {
		t.Errorf("got %d, want 503", w.Code)
	}
	checkError(t, w.Code, w.Header(), w.Body.Bytes())
	if _, added := r.back.size(); added != 0 {
		t.Error("the entry went to the batcher")
	}
	if !strings.Contains(r.logs.String(), "disk full") {
		t.Errorf("the operator was not told: %q", r.logs)
	}
	r.back.put = nil
	if w := r.do("POST", "/ct/v1/add-chain", body); w.Code != 200 {
		t.Errorf("after the fault: got %d %s, want 200", w.Code, w.Body)
	}
}

// TestPanics shows that a bug in one request stays in it.
func TestPanics(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.server()
	body := r.v.body(t, "leaf_16", "intermediate")
	post := func() (int, []byte) {
		resp, err := s.Client().Post(s.URL+"/ct/v1/add-chain", "", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, readAll(t, resp)
	}
	r.back.put = func(context.Context, []byte) error { panic("bug in the issuer store") }
	if code, text := post(); code != 500 || bytes.Contains(text, []byte("bug")) {
		t.Errorf("panic in PutIssuer: got %d %s, want 500", code, text)
	}
	r.back.put = nil
	r.back.add = func(context.Context, *entry.Pending) error { panic("bug in the batcher") }
	if code, text := post(); code != 500 || bytes.Contains(text, []byte("bug")) {
		t.Errorf("panic in Add: got %d %s, want 500", code, text)
	}
	for _, bug := range []string{"bug in the issuer store", "bug in the batcher"} {
		if !strings.Contains(r.logs.String(), bug) {
			t.Errorf("the operator was not told of the %s: %s", bug, r.logs)
		}
	}
	if got := r.counter("kiln_frontend_panics_total"); got != 3 {
		t.Errorf("metrics count %v panics, want 3: two issuers and an entry", got)
	}
	r.back.add = nil
	if code, text := post(); code != 200 {
		t.Errorf("afterwards: got %d %s, want 200", code, text)
	}
	if got := r.counter("kiln_frontend_in_flight_requests"); got != 0 {
		t.Errorf("metrics count %v in flight, want 0", got)
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Timeout = 7 * time.Second })
		r.back.add = func(ctx context.Context, _ *entry.Pending) error {
			<-ctx.Done()
			return fmt.Errorf("add entry: %w", ctx.Err())
		}
		start := time.Now()
		w := r.do("POST", "/ct/v1/add-chain", r.v.body(t, "leaf_16", "intermediate"))
		if w.Code != 503 {
			t.Errorf("got %d, want 503", w.Code)
		}
		checkError(t, w.Code, w.Header(), w.Body.Bytes())
		if elapsed := time.Since(start); elapsed != 7*time.Second {
			t.Errorf("answered after %v, want 7s", elapsed)
		}
	})
}

// TestClientGone shows that clients which go away make no noise and are not
// counted as failures of the log (SUB-41).
func TestClientGone(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	r.back.add = func(ctx context.Context, _ *entry.Pending) error {
		cancel()
		<-ctx.Done()
		return fmt.Errorf("add entry: %w", ctx.Err())
	}
	req := httptest.NewRequest("POST", "/ct/v1/add-chain", bytes.NewReader(r.v.body(t, "leaf_16", "intermediate")))
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req.WithContext(ctx))
	if w.Code == 200 {
		t.Errorf("got 200 without an SCT: %s", w.Body)
	}
	if got := r.counter("kiln_frontend_requests_total", "canceled", "add-chain"); got != 1 {
		t.Errorf("metrics count %v canceled, want 1", got)
	}
	if r.logs.String() != "" {
		t.Errorf("log says %q, want nothing", r.logs)
	}
	r.back.add = nil
	if w := r.do("POST", "/ct/v1/add-chain", r.v.body(t, "leaf_16", "intermediate")); w.Code != 200 {
		t.Errorf("second try: got %d %s, want 200", w.Code, w.Body)
	}
}

func TestJSONEncoderAgrees(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	w := r.do("POST", "/ct/v1/add-chain", r.v.body(t, "leaf_16", "intermediate"))
	var sct struct {
		Version    int    `json:"sct_version"`
		ID         []byte `json:"id"`
		Timestamp  int64  `json:"timestamp"`
		Extensions []byte `json:"extensions"`
		Signature  []byte `json:"signature"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &sct); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(sct)
	if err != nil || !bytes.Equal(again, w.Body.Bytes()) {
		t.Errorf("encoding/json says %s, %v; the answer is %s", again, err, w.Body)
	}
	if !bytes.Equal(sct.ID, r.v.Log.LogID) || len(sct.Extensions) != entry.ExtensionsSize {
		t.Errorf("answer is %+v", sct)
	}
	if w.Header().Get("Content-Length") != fmt.Sprint(w.Body.Len()) || w.Code != http.StatusOK {
		t.Errorf("headers are %v", w.Header())
	}
}
