package s3

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// fake is an S3 server in memory, as a http.RoundTripper, with the habits of
// servers that there are.
type fake struct {
	ignoreAbsent, ignoreMatch bool // conditions that it does not look at
	racy                      bool // looks at conditions, and then writes
	unquoted                  bool // matches only ETags without quotes
	unknown                   bool // does not implement conditions
	losers                    int  // status of writes whose condition does not hold; default 412
	etag                      func(body []byte, n int64) string
	latency                   time.Duration

	requests atomic.Int64
	mu       sync.Mutex // guards all below
	objects  map[string]object
}

type object struct {
	body []byte
	etag string
}

func (f *fake) RoundTrip(req *http.Request) (*http.Response, error) {
	time.Sleep(f.latency)
	w := httptest.NewRecorder()
	f.serve(w, req)
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>refused</Message></Error>", code)
}

func (f *fake) serve(w http.ResponseWriter, req *http.Request) {
	n := f.requests.Add(1)
	switch req.Method {
	case http.MethodGet:
		f.mu.Lock()
		o, ok := f.objects[req.URL.Path]
		f.mu.Unlock()
		if !ok {
			refuse(w, 404, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", o.etag)
		w.Header().Set("Content-Length", fmt.Sprint(len(o.body)))
		_, _ = w.Write(o.body)
	case http.MethodDelete:
		f.mu.Lock()
		delete(f.objects, req.URL.Path)
		f.mu.Unlock()
		w.WriteHeader(204)
	case http.MethodPut:
		body, err := io.ReadAll(req.Body)
		if err != nil {
			refuse(w, 400, "IncompleteBody")
			return
		}
		f.put(w, req, body, n)
	default:
		refuse(w, 405, "MethodNotAllowed")
	}
}

func (f *fake) put(w http.ResponseWriter, req *http.Request, body []byte, n int64) {
	etag := fmt.Sprintf(`"%x"`, md5.Sum(body))
	if f.etag != nil {
		etag = f.etag(body, n)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	absent, match := req.Header.Get("If-None-Match") == "*", req.Header.Get("If-Match")
	if f.unknown && (absent || match != "") {
		refuse(w, 501, "NotImplemented")
		return
	}
	now, there := f.objects[req.URL.Path]
	want := now.etag
	if f.unquoted {
		want = strings.Trim(want, `"`)
	}
	missed := absent && there && !f.ignoreAbsent || match != "" && match != want && !f.ignoreMatch
	switch {
	case missed && f.losers != 0:
		refuse(w, f.losers, "InternalError")
		return
	case missed && !there:
		refuse(w, 404, "NoSuchKey")
		return
	case missed:
		refuse(w, 412, "PreconditionFailed")
		return
	}
	if f.racy {
		f.mu.Unlock()
		time.Sleep(time.Millisecond)
		f.mu.Lock()
	}
	if f.objects == nil {
		f.objects = make(map[string]object)
	}
	f.objects[req.URL.Path] = object{body, etag}
	w.Header().Set("ETag", etag)
}

// lossy is a http.RoundTripper that does to requests what networks, and servers
// under load, do.
type lossy struct {
	http.RoundTripper
	fault atomic.Pointer[func(n int64) trouble]
	n     atomic.Int64
	did   atomic.Int64 // how many faults there were
}

type trouble struct {
	status int  // of an answer that is not the server's; 0 is none, -1 is a connection that is cut
	after  bool // when the server has done what was asked
	twice  bool // the request is sent twice
}

var errCut = errors.New("connection cut")

func (l *lossy) set(f func(n int64) trouble) { l.fault.Store(&f) }

func (l *lossy) RoundTrip(req *http.Request) (*http.Response, error) {
	f := l.fault.Load()
	if f == nil {
		return l.RoundTripper.RoundTrip(req)
	}
	tr := (*f)(l.n.Add(1))
	if tr != (trouble{}) {
		l.did.Add(1)
	}
	if tr.twice && req.GetBody != nil {
		first := req.Clone(req.Context())
		first.Body, _ = req.GetBody()
		if resp, err := l.RoundTripper.RoundTrip(first); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
	}
	if tr.status == 0 {
		return l.RoundTripper.RoundTrip(req)
	}
	if tr.after {
		resp, err := l.RoundTripper.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if tr.status < 0 {
		return nil, errCut
	}
	w := httptest.NewRecorder()
	refuse(w, tr.status, map[int]string{412: "PreconditionFailed", 409: "ConditionalRequestConflict", 503: "SlowDown"}[tr.status])
	resp := w.Result()
	resp.Request = req
	return resp, nil
}
