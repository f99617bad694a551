package frontend

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http/httptest"
	"slices"
	"testing"
)

// roots asks get-roots with the given header lines, "Name", "value", ....
func (r *rig) getRootsWith(method string, header ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, "/ct/v1/get-roots", nil)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	return w
}

func decodeRoots(t *testing.T, body []byte) [][]byte {
	t.Helper()
	var got struct {
		Certificates [][]byte `json:"certificates"`
	}
	if err := json.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	return got.Certificates
}

func TestGetRoots(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	want := [][]byte{r.v.Certs["root"]}
	w := r.getRootsWith("GET")
	if got := decodeRoots(t, w.Body.Bytes()); w.Code != 200 || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("got %d, %d roots; want the one root", w.Code, len(got))
	}
	h := w.Header()
	if h.Get("Content-Type") != "application/json" || h.Get("Content-Encoding") != "" || h.Get("Vary") != "Accept-Encoding" ||
		h.Get("Cache-Control") != "public, max-age=60" {
		t.Errorf("headers are %v", h)
	}

	// The list is the one used for validation at that moment (SUB-02).
	leaf := r.v.body(t, "leaf_unknown_root", "unknown_root")
	if w := r.do("POST", "/ct/v1/add-chain", leaf); w.Code != 400 {
		t.Errorf("unlisted root: got %d, want 400", w.Code)
	}
	want = append(want, r.v.Certs["unknown_root"])
	if err := r.cfg.Validator.SetRoots(want); err != nil {
		t.Fatal(err)
	}
	if got := decodeRoots(t, r.getRootsWith("GET").Body.Bytes()); !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("after the change there are %d roots, want 2", len(got))
	}
	if w := r.do("POST", "/ct/v1/add-chain", leaf); w.Code != 200 {
		t.Errorf("listed root: got %d %s, want 200", w.Code, w.Body)
	}
}

func TestGetRootsNegotiates(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	plain := r.getRootsWith("GET")
	for _, test := range []struct {
		accept string
		gzip   bool
	}{
		{"gzip", true},
		{"GZIP", true},
		{"br, gzip;q=0.5", true},
		{"gzip; q=1.0", true},
		{"", false},
		{"identity", false},
		{"br", false},
		{"gzip;q=0", false},
		{"gzip;q=0.000, identity", false},
		{"*", false},
	} {
		w := r.getRootsWith("GET", "Accept-Encoding", test.accept)
		body := w.Body.Bytes()
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != test.gzip {
			t.Errorf("%q: gzip is %v, want %v", test.accept, got, test.gzip)
			continue
		}
		if test.gzip {
			z, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			if body, err = io.ReadAll(z); err != nil {
				t.Fatal(err)
			}
			if w.Header().Get("Etag") == plain.Header().Get("Etag") {
				t.Errorf("%q: both encodings have one ETag", test.accept)
			}
		}
		if !bytes.Equal(body, plain.Body.Bytes()) {
			t.Errorf("%q: body is %s", test.accept, body)
		}
	}
}

func TestGetRootsConditions(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	get := r.getRootsWith("GET")
	etag := get.Header().Get("Etag")
	head := r.getRootsWith("HEAD")
	if head.Code != 200 || head.Body.Len() != 0 || head.Header().Get("Content-Length") != get.Header().Get("Content-Length") {
		t.Errorf("HEAD: got %d, %v", head.Code, head.Header())
	}
	for _, condition := range []string{etag, "W/" + etag, `"other", ` + etag, "*"} {
		w := r.getRootsWith("GET", "If-None-Match", condition)
		if w.Code != 304 || w.Body.Len() != 0 || w.Header().Get("Etag") != etag || w.Header().Get("Content-Type") != "" {
			t.Errorf("If-None-Match %s: got %d, %v", condition, w.Code, w.Header())
		}
	}
	if w := r.getRootsWith("GET", "If-None-Match", `"other"`); w.Code != 200 {
		t.Errorf("another ETag: got %d, want 200", w.Code)
	}
	w := r.getRootsWith("OPTIONS", "Access-Control-Request-Method", "GET", "Origin", "https://example.net")
	if w.Code != 204 || w.Header().Get("Access-Control-Allow-Methods") != "GET, HEAD" {
		t.Errorf("preflight: got %d, %v", w.Code, w.Header())
	}
}
