package reader

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	typeJSON   = "application/json"
	typeText   = "text/plain; charset=utf-8"
	typeHTML   = "text/html; charset=utf-8"
	typeIssuer = "application/pkix-cert"

	allowed = "GET, HEAD"

	sentenceInternal = "the log failed to answer; its operator has been told"
)

// answer is a whole HTTP response before any of it is written.
type answer struct {
	code         int
	contentType  string
	body         []byte
	cacheControl string
	encoding     string // Content-Encoding
	vary         bool   // the body depends on Accept-Encoding
	retryAfter   int    // whole seconds, if > 0
	allow        string
	policy       string // Content-Security-Policy
	etag         string // set by conditional

	canceled bool  // the client has most likely gone
	err      error // for the log
}

// text is an answer of one sentence, which nobody may cache (MON-19).
func text(code int, sentence string) answer {
	return answer{code: code, contentType: typeText, body: []byte(sentence + "\n"), cacheControl: "no-store"}
}

func wrongMethod(method string) answer {
	if len(method) > 20 {
		method = method[:20] + "..."
	}
	a := text(http.StatusMethodNotAllowed, fmt.Sprintf("method %q is not for reading; want one of: %s", method, allowed))
	a.allow = allowed
	return a
}

func preflight() answer {
	return answer{code: http.StatusNoContent, allow: allowed, cacheControl: "no-store"}
}

// wholeSeconds rounds up to at least 1: clients in use parse only integers.
func wholeSeconds(d time.Duration) int {
	return max(1, int(math.Ceil(d.Seconds())))
}

// conditional gives a 200 its ETag, a strong one over the bytes as sent, and
// turns it into a 304 if the client has these (MON-23, RFC 9110 section 13.1.2).
func (a *answer) conditional(r *http.Request) {
	if a.code != http.StatusOK {
		return
	}
	sum := sha256.Sum256(a.body)
	a.etag = `"` + hex.EncodeToString(sum[:16]) + `"`
	for _, line := range r.Header.Values("If-None-Match") {
		for one := range strings.SplitSeq(line, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == a.etag {
				a.code = http.StatusNotModified
				a.contentType, a.encoding, a.body = "", "", nil
				return
			}
		}
	}
}

// label is the answer's code in metrics.
func (a *answer) label() string {
	if a.canceled {
		return "canceled"
	}
	return strconv.Itoa(a.code)
}

// write sends the answer and returns the number of body bytes taken by the
// connection. A Range is ignored, which RFC 9110 allows, and no known client
// asks for one.
func (a *answer) write(w http.ResponseWriter, r *http.Request) int {
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("X-Content-Type-Options", "nosniff")
	set := func(name, value string) {
		if value != "" {
			h.Set(name, value)
		}
	}
	set("Cache-Control", a.cacheControl)
	set("Content-Type", a.contentType)
	set("Content-Encoding", a.encoding)
	set("Content-Security-Policy", a.policy)
	set("Etag", a.etag)
	set("Allow", a.allow)
	if a.vary {
		h.Set("Vary", "Accept-Encoding")
	}
	if a.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(a.retryAfter))
	}
	switch a.code {
	case http.StatusNoContent:
		h.Set("Access-Control-Allow-Methods", allowed)
		h.Set("Access-Control-Allow-Headers", "If-None-Match")
		h.Set("Access-Control-Max-Age", "86400")
	case http.StatusNotModified:
	default:
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.code)
	if r.Method == http.MethodHead || len(a.body) == 0 {
		return 0
	}
	n, _ := w.Write(a.body) // an error is the client's: it has gone
	return n
}
