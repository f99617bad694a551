package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"kiln/entry"
	"kiln/internal/chain"
)

const (
	typeJSON = "application/json"
	typeText = "text/plain; charset=utf-8"
)

const sentenceInternal = "the log failed to process the submission; its operator has been told"

// maxDrain bounds what is read of a body that nobody wants, to keep its
// connection in use; beyond, the connection is closed.
const maxDrain = 4 << 20

// answer is a whole HTTP response before any of it is written.
type answer struct {
	code         int
	contentType  string
	body         []byte
	cacheControl string
	retryAfter   int    // whole seconds, if > 0
	allow        string // methods, for 405 and preflight answers
	etag         string
	encoding     string // Content-Encoding
	vary         bool   // the body depends on Accept-Encoding

	unread   bool  // the request's body was not read to its end
	canceled bool  // the client has most likely gone
	err      error // for the log
}

// text is an answer of one sentence.
func text(code int, sentence string) answer {
	return answer{code: code, contentType: typeText, body: []byte(sentence + "\n"), cacheControl: "no-store"}
}

func wrongMethod(method, endpoint, allow string) answer {
	if len(method) > 20 {
		method = method[:20] + "..."
	}
	a := text(http.StatusMethodNotAllowed, fmt.Sprintf("method %q is not for %s; want one of: %s", method, endpoint, allow))
	a.allow = allow
	return a
}

// preflight answers what a browser asks before a cross-origin request (SUB-40).
func preflight(allow string) answer {
	return answer{code: http.StatusNoContent, allow: allow, cacheControl: "no-store"}
}

// failure is the answer to a request that failed: the one place where an error
// becomes an HTTP status. What the client is not to know goes to the log.
func (f *Frontend) failure(r *http.Request, endpoint string, err error) answer {
	var (
		a          answer
		request    *requestError
		rejected   *chain.RejectedError
		overloaded *entry.OverloadedError
	)
	switch {
	case errors.As(err, &request):
		f.metrics.rejections.WithLabelValues(request.reason).Inc()
		a = text(request.code, request.detail)
	case errors.As(err, &rejected):
		f.metrics.rejections.WithLabelValues(string(rejected.Reason)).Inc()
		a = text(http.StatusBadRequest, oneLine(rejected.Detail))
	case errors.As(err, &overloaded):
		a = text(http.StatusServiceUnavailable, "the log is at its limit; please try again after the time in Retry-After")
		a.retryAfter = wholeSeconds(overloaded.RetryAfter)
	case errors.Is(err, entry.ErrReadOnly):
		a = text(http.StatusGone, "the log is read-only and takes no more submissions")
	case errors.Is(err, entry.ErrUnavailable), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// A client that went away is nobody's fault: CAs drop the slower of two
		// logs. It still gets an answer, in case it only stopped sending.
		a = text(http.StatusServiceUnavailable, "the log could not finish in time; the same submission can be sent again and is logged only once")
		a.retryAfter = 2
		a.canceled = r.Context().Err() != nil
	case errors.Is(err, errPanic):
		a = text(http.StatusInternalServerError, sentenceInternal) // told already
	default:
		f.log.ErrorContext(r.Context(), "submission failed inside the log", "endpoint", endpoint, "err", err)
		a = text(http.StatusInternalServerError, sentenceInternal)
	}
	a.err = err
	return a
}

// oneLine keeps what a certificate says about itself from breaking a sentence.
func oneLine(s string) string {
	const most = 1000
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// wholeSeconds rounds up to at least 1: clients in use parse only integers.
func wholeSeconds(d time.Duration) int {
	return max(1, int(math.Ceil(d.Seconds())))
}

// label is the answer's code in metrics.
func (a *answer) label() string {
	if a.canceled {
		return "canceled"
	}
	return strconv.Itoa(a.code)
}

// write sends the answer. For one that was made without reading the request's
// body it does not wait for the body, but reads over it afterwards, within
// bounds, so that the client can use its connection again (SUB-06).
func (a *answer) write(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	// "Expect: 100-continue" must not be answered by reading, and a body over
	// the bound is not worth it: for these net/http closes the connection.
	drain := a.unread && r.ProtoMajor < 2 && r.Header.Get("Expect") == "" && r.ContentLength <= maxDrain && control.EnableFullDuplex() == nil
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
	set("Etag", a.etag)
	set("Allow", a.allow)
	if a.vary {
		h.Set("Vary", "Accept-Encoding")
	}
	if a.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(a.retryAfter))
	}
	if a.code == http.StatusNoContent {
		h.Set("Access-Control-Allow-Methods", a.allow)
		h.Set("Access-Control-Allow-Headers", "Content-Type")
		h.Set("Access-Control-Max-Age", "86400")
	} else if a.code != http.StatusNotModified {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.code)
	if r.Method != http.MethodHead {
		// An error is the client's: it has gone.
		_, _ = w.Write(a.body)
	}
	if a.unread && r.ProtoMajor >= 2 {
		// The server keeps what comes of it until the answer is out, which is for
		// the client to say. Its other requests do not need the rest.
		_ = r.Body.Close()
	}
	if drain && control.Flush() == nil {
		_ = control.SetReadDeadline(time.Now().Add(drainTimeout))
		if _, err := io.CopyN(io.Discard, r.Body, maxDrain); !errors.Is(err, io.EOF) {
			// What else comes would be taken for another request, or waited
			// for without end: the answer is out, so the connection goes.
			panic(http.ErrAbortHandler)
		}
		_ = control.SetReadDeadline(time.Time{})
	}
}

// drainTimeout bounds reading over an unwanted body.
const drainTimeout = 5 * time.Second
