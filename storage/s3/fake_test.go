package s3

import (
	"bytes"
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/s3client"
)

// fakeServer is an S3 server that misbehaves as it is told. It knows no
// signatures and one bucket.
type fakeServer struct {
	ignoreAbsent bool     // If-None-Match
	ignoreMatch  bool     // If-Match
	neverMatch   bool     // If-Match, of any ETag
	refuse       bool     // conditional writes, with 501
	drop         []string // headers not kept
	noList       bool
	undeleted    bool // DELETE does nothing
	oddETags     bool // are no MD5 sums, but look so
	bareETags    bool // are matched without quotes only
	losersGet500 bool // rather than 412
	lies         bool // writes, and says 412
	racy         bool // conditions are checked well before the write
	damageReads  int  // how many bodies are altered on their way out

	mu      sync.Mutex // guards below
	objects map[string]fakeObject
}

type fakeObject struct {
	body   []byte
	header http.Header
	etag   string
}

// start serves the fake and returns a client of it.
func (f *fakeServer) start(t *testing.T) *s3client.Client {
	t.Helper()
	f.objects = make(map[string]fakeObject)
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	return newClient(t, func(c *s3client.Config) { c.Endpoint = srv.URL })
}

func (f *fakeServer) fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>the fake says so</Message></Error>", code)
}

func (f *fakeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/"+bucketName), "/")
	switch {
	case key == "":
		f.list(w, r)
	case r.Method == http.MethodPut:
		f.put(w, r, key, body)
	case r.Method == http.MethodDelete:
		if !f.undeleted {
			delete(f.objects, key)
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		f.get(w, key)
	}
}

func (f *fakeServer) get(w http.ResponseWriter, key string) {
	o, ok := f.objects[key]
	if !ok {
		f.fail(w, http.StatusNotFound, "NoSuchKey")
		return
	}
	for name, values := range o.header {
		w.Header()[name] = values
	}
	w.Header().Set("ETag", o.etag)
	w.Header().Set("Content-Length", fmt.Sprint(len(o.body)))
	w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
	if f.damageReads > 0 {
		f.damageReads--
		o.body = bytes.Clone(o.body)
		o.body[len(o.body)/2] ^= 1
	}
	_, _ = w.Write(o.body)
}

func (f *fakeServer) put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	absent, match := r.Header.Get("If-None-Match"), r.Header.Get("If-Match")
	o, there := f.objects[key]
	if f.bareETags {
		o.etag = strings.Trim(o.etag, `"`)
	}
	lost := absent != "" && there && !f.ignoreAbsent || match != "" && match != o.etag && !f.ignoreMatch || match != "" && f.neverMatch
	switch {
	case f.refuse && absent+match != "":
		f.fail(w, http.StatusNotImplemented, "NotImplemented")
		return
	case lost && f.losersGet500:
		f.fail(w, http.StatusInternalServerError, "InternalError")
		return
	case lost:
		if f.lies {
			f.objects[key] = fakeObject{body: body, etag: fmt.Sprintf(`"%x"`, md5.Sum(body))}
		}
		f.fail(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	if f.racy && absent+match != "" { // others come in between
		f.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
		f.mu.Lock()
	}
	n := fakeObject{body: body, header: make(http.Header)}
	for name, values := range r.Header {
		kept := slices.Contains([]string{"Content-Type", "Content-Encoding", "Cache-Control"}, name) || strings.HasPrefix(name, "X-Amz-Meta-")
		if kept && !slices.Contains(f.drop, name) {
			n.header[name] = values
		}
	}
	sum := md5.Sum(body)
	if f.oddETags {
		sum[0]++
	}
	n.etag = fmt.Sprintf(`"%x"`, sum)
	f.objects[key] = n
	w.Header().Set("ETag", n.etag)
}

func (f *fakeServer) list(w http.ResponseWriter, r *http.Request) {
	if f.noList {
		f.fail(w, http.StatusForbidden, "AccessDenied")
		return
	}
	type item struct {
		Key          string
		Size         int
		LastModified time.Time
	}
	result := struct {
		XMLName  xml.Name `xml:"ListBucketResult"`
		Contents []item
	}{}
	for key, o := range f.objects {
		if strings.HasPrefix(key, r.URL.Query().Get("prefix")) {
			result.Contents = append(result.Contents, item{key, len(o.body), time.Now()})
		}
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(result)
}
