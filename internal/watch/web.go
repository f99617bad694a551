package watch

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"kiln/internal/fsck"
	"kiln/storage"
)

const (
	// objectTimeout bounds the reading of one object, beside the time limit for
	// each piece of it: a body that drips would never end.
	objectTimeout = 30 * time.Second
	// maxObject bounds what is read only to be compared, in bytes as sent.
	maxObject = 64 << 20
	// maxSeen bounds the objects whose digests are kept: a right edge has 8.
	maxSeen = 64
	// maxRead bounds those of one check of a full tile.
	maxRead = 1024
)

// web is a log behind its monitoring URL, reached as every monitor does: by DNS,
// through whatever stands between. It never follows a redirect, as monitors do
// not. It is safe for concurrent use.
type web struct {
	prefix string // without trailing slash
	agent  string
	client *http.Client
	fresh  bool     // asks caches not to answer
	seen   *digests // of the right edge
	full   *digests // of full tiles and issuers, since they were forgotten last
}

var _ fsck.Source = (*web)(nil)

func newWeb(prefix, agent string, parallel int) (*web, error) {
	u, err := url.Parse(prefix)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the http or https URL of a monitoring prefix", prefix)
	}
	transport := &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, Resolver: resolver()}).DialContext,
		// A client of its own: what it sees must not depend on others' connections.
		ForceAttemptHTTP2: true, MaxIdleConnsPerHost: parallel, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
		DisableCompression: true, // gzip is decoded where it is judged
	}
	return &web{
		prefix: strings.TrimRight(u.String(), "/"), agent: agent, seen: newDigests(maxSeen), full: newDigests(maxRead),
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// resolver asks DNS and, other than the usual one, lets go of a server that does
// not answer as soon as nobody wants to know any more: a shutdown must leave
// nothing behind.
func resolver() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, address)
			if err == nil {
				context.AfterFunc(ctx, func() { c.Close() })
			}
			return c, err
		},
	}
}

// freshly returns the same log past all caches that obey.
func (w *web) freshly() *web {
	f := *w
	f.fresh, f.seen, f.full = true, newDigests(maxSeen), newDigests(maxRead)
	return &f
}

// String implements [fsck.Source].
func (w *web) String() string { return w.prefix + "/" }

func (w *web) close() { w.client.CloseIdleConnections() }

// Open implements [fsck.Source].
func (w *web) Open(ctx context.Context, path string) (*fsck.Object, error) {
	resp, cancel, err := w.get(ctx, path, "")
	if err != nil {
		return nil, err
	}
	if err := judgeStatus(resp); err != nil {
		discard(resp, cancel)
		return nil, err
	}
	o := &fsck.Object{Encoding: fsck.EncodingPlain}
	switch e := strings.ToLower(strings.TrimSpace(resp.Header.Get("Content-Encoding"))); e {
	case "gzip", "x-gzip":
		o.Encoding = fsck.EncodingGzip
	case "", "identity":
	default:
		discard(resp, cancel)
		return nil, &notLogError{fmt.Sprintf("Content-Encoding is %s; clients know gzip and identity", fsck.Shown(e))}
	}
	b := &body{ReadCloser: resp.Body, cancel: cancel}
	if list := w.listOf(path); list != nil {
		b.sum = sha256.New()
		b.done = func(sum [32]byte) { list.put(path, digest{etag: resp.Header.Get("Etag"), sum: sum}) }
	}
	o.Body = b
	return o, nil
}

// listOf returns where the digest of an object is kept, nil for nowhere.
func (w *web) listOf(path string) *digests {
	switch {
	case strings.Contains(path, ".p/"):
		return w.seen
	case strings.HasPrefix(path, "tile/"), isIssuer(path):
		return w.full
	}
	return nil
}

// get sends a request. The caller closes the body and calls cancel after.
func (w *web) get(ctx context.Context, path, etag string) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, objectTimeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.prefix+"/"+path, nil)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	req.Header.Set("User-Agent", w.agent)
	req.Header.Set("Accept-Encoding", "identity")
	if fsck.Compressed(path) {
		req.Header.Set("Accept-Encoding", "gzip, identity")
	}
	if w.fresh {
		req.Header.Set("Cache-Control", "no-cache")
		req.Header.Set("Pragma", "no-cache")
	}
	if etag != "" {
		req.Header.Set("If-None-Match", etag)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return resp, cancel, nil
}

// notLogError says that an answer is none of a log's: an error page, a captive
// portal. It proves nothing of the log.
type notLogError struct{ why string }

// Error implements error.
func (e *notLogError) Error() string { return e.why }

// judgeStatus returns what an answer without the object means, nil if it is one.
func judgeStatus(resp *http.Response) error {
	status := errors.New("the server says " + fsck.Shown(resp.Status))
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		if typ, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && (typ == "text/html" || typ == "application/xhtml+xml") {
			return &notLogError{"the answer is a page of " + typ + ", and no object of a log"}
		}
		return nil
	case code == http.StatusNotFound, code == http.StatusGone:
		return fmt.Errorf("%w: %w", storage.ErrNotFound, status)
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return &fsck.BusyError{After: fsck.RetryAfter(resp.Header.Get("Retry-After"), time.Now()), Err: &statusError{status}}
	case code >= 300 && code < 400:
		return &notLogError{fmt.Sprintf("the server redirects to %s, which monitors do not follow", fsck.Shown(resp.Header.Get("Location")))}
	}
	return &statusError{status}
}

// statusError is an answer that says that there will be none now.
type statusError struct{ error }

// Unwrap returns the cause.
func (e *statusError) Unwrap() error { return e.error }

// discard reads a little of a body, so that the connection can be used again.
func discard(resp *http.Response, cancel context.CancelFunc) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	resp.Body.Close()
	cancel()
}

// unchanged reports whether an object has the bytes that were last read of it to
// their end. It asks for them only if they are others.
func (w *web) unchanged(ctx context.Context, path string) (bool, error) {
	last, ok := w.seen.get(path)
	if !ok {
		return false, nil
	}
	return w.same(ctx, path, last)
}

// same reports whether an object has the bytes of a digest, as unchanged does.
func (w *web) same(ctx context.Context, path string, last digest) (bool, error) {
	resp, cancel, err := w.get(ctx, path, last.etag)
	if err != nil {
		return false, err
	}
	defer discard(resp, cancel)
	if last.etag != "" && resp.StatusCode == http.StatusNotModified {
		return true, nil
	}
	if err := judgeStatus(resp); err != nil {
		if errors.Is(err, storage.ErrNotFound) {
			return false, nil // the full tile may stand in for it by now
		}
		return false, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(resp.Body, maxObject)); err != nil {
		return false, err
	}
	return last.sum == [32]byte(h.Sum(nil)), nil
}

// digest is what is remembered of an object.
type digest struct {
	etag string
	sum  [32]byte // of the bytes as sent
}

// digests are those of some objects. They are safe for concurrent use.
type digests struct {
	most int

	mu   sync.Mutex
	list map[string]digest // guarded by mu; at most most
}

func newDigests(most int) *digests { return &digests{most: most} }

func (d *digests) get(path string) (digest, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.list[path]
	return v, ok
}

func (d *digests) put(path string, v digest) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.list == nil || len(d.list) >= d.most {
		d.list = make(map[string]digest)
	}
	d.list[path] = v
}

func (d *digests) forget() { d.all() }

// all returns the digests, and forgets them.
func (d *digests) all() map[string]digest {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.list
	d.list = nil
	return list
}

// body is the body of an answer, digested while it is read.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
	sum    hash.Hash          // nil: not wanted
	done   func(sum [32]byte) // called at the end, if it comes to it
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.sum != nil {
		b.sum.Write(p[:n])
		if err == io.EOF {
			b.done([32]byte(b.sum.Sum(nil)))
			b.sum = nil
		}
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}
