package fsck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"kiln/storage"
)

// longCache is the least max-age that spec B2 wants of what never changes,
// shortCache the most that a checkpoint may have.
const (
	longCache  = 604800
	shortCache = 10
)

// URL is a log behind its monitoring prefix. It is safe for concurrent use.
type URL struct {
	prefix string // without trailing slash
	agent  string
	client *http.Client
}

var _ Source = (*URL)(nil)

// OpenURL returns the log behind a monitoring prefix. parallel is how many
// objects will be read at a time. Logs may serve clients faster whose agent
// names a way to reach a person: an address of e-mail or of a web page.
func OpenURL(prefix, agent string, parallel int) (*URL, error) {
	u, err := url.Parse(prefix)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("open log: %q is not the http or https URL of a monitoring prefix", prefix)
	}
	transport, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		transport = new(http.Transport)
	}
	transport = transport.Clone()
	transport.DisableCompression = true // what is sent is judged
	transport.MaxIdleConnsPerHost = parallel
	transport.MaxResponseHeaderBytes = 64 << 10
	return &URL{
		prefix: strings.TrimRight(u.String(), "/"), agent: agent,
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close lets go of idle connections.
func (u *URL) Close() error {
	u.client.CloseIdleConnections()
	return nil
}

// String implements [Source].
func (u *URL) String() string { return u.prefix + "/" }

// Open implements [Source].
func (u *URL) Open(ctx context.Context, path string) (*Object, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.prefix+"/"+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", u.agent)
	req.Header.Set("Accept-Encoding", "identity")
	if Compressed(path) {
		req.Header.Set("Accept-Encoding", "gzip, identity")
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return nil, err
	}
	o, err := answer(path, resp)
	if err != nil {
		// A little of the body, so that the connection can be used again.
		_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
		resp.Body.Close()
		return nil, err
	}
	return o, nil
}

func answer(path string, resp *http.Response) (*Object, error) {
	status := errors.New("the server says " + shown(resp.Status))
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
		o := &Object{Body: resp.Body}
		return o, judgeHeaders(o, path, resp.Header)
	case code == http.StatusNotFound, code == http.StatusGone:
		return nil, fmt.Errorf("%w: %w", storage.ErrNotFound, status)
	case code == http.StatusForbidden, code == http.StatusUnauthorized:
		return nil, fmt.Errorf("%w: %w", ErrRefused, status)
	case code >= 300 && code < 400:
		return nil, faultf(path, "the server redirects (%d to %s); clients do not follow", code, shown(resp.Header.Get("Location")))
	case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return nil, &BusyError{After: RetryAfter(resp.Header.Get("Retry-After"), time.Now()), Err: status}
	case code >= 500, code == http.StatusRequestTimeout, code == http.StatusTooEarly:
		return nil, status
	}
	return nil, &UnknownError{Path: path, Err: status}
}

// RetryAfter reads a Retry-After: seconds or a date. What it cannot read is 0.
func RetryAfter(header string, now time.Time) time.Duration {
	header = strings.TrimSpace(header)
	if s, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(header); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// kind is what is at a path, as far as headers go.
func kind(path string) (contentType string, must bool) {
	switch {
	case path == "checkpoint":
		return "text/plain; charset=utf-8", true
	case path == "log.v3.json":
		return "application/json", false
	case strings.HasPrefix(path, "issuer/"):
		return "application/pkix-cert", true
	case strings.HasPrefix(path, "tile/names/"):
		return "application/jsonl; charset=utf-8", false
	}
	return "application/octet-stream", true
}

// Compressed reports whether an object at a path may be sent as gzip (MON-16).
func Compressed(path string) bool {
	return strings.HasPrefix(path, "tile/data/") || strings.HasPrefix(path, "tile/names/")
}

// judgeHeaders compares the headers of an answer with those of spec B2: what must be is
// a *Fault, what should be a note.
func judgeHeaders(o *Object, path string, h http.Header) error {
	note := func(format string, args ...any) { o.Notes = append(o.Notes, fmt.Sprintf(format, args...)) }
	switch encoding := strings.ToLower(strings.TrimSpace(strings.Join(h.Values("Content-Encoding"), ","))); encoding {
	case "gzip", "x-gzip":
		o.Encoding = EncodingGzip
		if !Compressed(path) {
			note("Content-Encoding is gzip though identity was asked for")
		}
	case "", "identity":
		if Compressed(path) {
			note("data or names tile is not compressed, gzip should be")
		}
	default:
		return faultf(path, "Content-Encoding is %s; clients know gzip and identity", shown(encoding))
	}
	if want, must := kind(path); !sameType(h.Get("Content-Type"), want) {
		got := shown(h.Get("Content-Type"))
		if must {
			return mismatch(path, -1, got, want, "wrong Content-Type")
		}
		note("Content-Type is %q, should be %q", got, want)
	}
	age, cached := maxAge(h)
	switch {
	case path == "log.v3.json":
	case path == "checkpoint" && (!cached || age > shortCache):
		note("Cache-Control is %q; it should keep the checkpoint from being cached for longer than seconds", shown(h.Get("Cache-Control")))
	case path != "checkpoint" && age < longCache:
		note("Cache-Control is %q; what never changes should have a max-age of %d or more", shown(h.Get("Cache-Control")), longCache)
	}
	if h.Get("Access-Control-Allow-Origin") == "" {
		note("there is no Access-Control-Allow-Origin, so browsers cannot read the log")
	}
	return nil
}

// sameType compares media types with the parameters that want has.
func sameType(got, want string) bool {
	gotType, gotParams, err := mime.ParseMediaType(got)
	wantType, wantParams, wantErr := mime.ParseMediaType(want)
	if err != nil || wantErr != nil || gotType != wantType {
		return false
	}
	for k, v := range wantParams {
		if !strings.EqualFold(gotParams[k], v) {
			return false
		}
	}
	return true
}

// maxAge returns for how many seconds an answer may be cached; said is whether
// it says so.
func maxAge(h http.Header) (seconds int64, said bool) {
	for _, line := range h.Values("Cache-Control") {
		for d := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(d)), "=")
			switch name {
			case "no-store", "no-cache":
				return 0, true
			case "max-age":
				n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64)
				if err != nil || n < 0 {
					return 0, false
				}
				seconds, said = n, true
			}
		}
	}
	return seconds, said
}
