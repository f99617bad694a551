package frontend

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// rootsPage is the get-roots answer for one set of roots. It never changes.
type rootsPage struct {
	roots      [][]byte // as the Validator returned them
	plain      answer
	compressed answer
}

// getRoots answers with the roots that are accepted at this moment (SUB-02).
func (f *Frontend) getRoots(r *http.Request) answer {
	page := f.roots.Load()
	if roots := f.cfg.Validator.Roots(); page == nil || !sameSlice(page.roots, roots) {
		// Two requests may do this at once, to the same effect.
		var err error
		if page, err = newRootsPage(roots); err != nil {
			return f.failure(r, getRoots, err)
		}
		f.roots.Store(page)
	}
	a := page.plain
	if takesGzip(r) {
		a = page.compressed
	}
	if matchesETag(r, a.etag) {
		return answer{code: http.StatusNotModified, etag: a.etag, cacheControl: a.cacheControl, vary: true}
	}
	return a
}

// sameSlice reports whether two slices are one: the Validator returns the same
// as long as its roots are the same.
func sameSlice(a, b [][]byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func newRootsPage(roots [][]byte) (*rootsPage, error) {
	body := []byte(`{"certificates":[`)
	for i, der := range roots {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, '"')
		body = base64.StdEncoding.AppendEncode(body, der)
		body = append(body, '"')
	}
	body = append(body, `]}`...)

	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(body); err != nil {
		return nil, fmt.Errorf("compress roots: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compress roots: %w", err)
	}
	plain := answer{
		code: http.StatusOK, contentType: typeJSON, body: body, etag: etagOf(body), vary: true,
		cacheControl: "public, max-age=60",
	}
	compressed := plain
	compressed.body, compressed.etag, compressed.encoding = zipped.Bytes(), etagOf(zipped.Bytes()), "gzip"
	return &rootsPage{roots: roots, plain: plain, compressed: compressed}, nil
}

// etagOf is a strong validator of a body as it is sent.
func etagOf(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// matchesETag reports whether the client has what it asks for (RFC 9110,
// section 13.1.2).
func matchesETag(r *http.Request, etag string) bool {
	for _, line := range r.Header.Values("If-None-Match") {
		for one := range strings.SplitSeq(line, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == etag {
				return true
			}
		}
	}
	return false
}

// takesGzip reports whether the client asks for gzip by name.
func takesGzip(r *http.Request) bool {
	for _, line := range r.Header.Values("Accept-Encoding") {
		for one := range strings.SplitSeq(line, ",") {
			name, params, _ := strings.Cut(one, ";")
			if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
				continue
			}
			return weighs(params)
		}
	}
	return false
}

// weighs reports whether the parameters of a coding give it a weight over 0.
func weighs(params string) bool {
	for one := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(one, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "q") {
			continue
		}
		weight, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
		return err == nil && weight > 0
	}
	return true
}
