package s3client_test

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"kiln/internal/s3client"
)

// transport is a server within a function.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	return f(r)
}

func response(r *http.Request, status int, body string, header ...string) *http.Response {
	resp := &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
	resp.Header.Set("Content-Length", fmt.Sprint(len(body)))
	for i := 0; i < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

func errorBody(code string) string {
	return "<Error><Code>" + code + "</Code><Message>text of the server</Message></Error>"
}

// clientOf returns a client of a transport.
func clientOf(t testing.TB, f transport, changes ...func(*s3client.Config)) *s3client.Client {
	t.Helper()
	conf := s3client.Config{Endpoint: "http://s3.test", PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret", Transport: f}
	for _, change := range changes {
		change(&conf)
	}
	c, err := s3client.New(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// operations are all requests, by the names that errors have.
var operations = map[string]func(context.Context, *s3client.Client) error{
	"get":    func(ctx context.Context, c *s3client.Client) error { _, err := c.Get(ctx, bucket, "key"); return err },
	"head":   func(ctx context.Context, c *s3client.Client) error { _, err := c.Head(ctx, bucket, "key"); return err },
	"delete": func(ctx context.Context, c *s3client.Client) error { return c.Delete(ctx, bucket, "key") },
	"list": func(ctx context.Context, c *s3client.Client) error {
		_, err := c.ListPage(ctx, bucket, "key", "")
		return err
	},
	"put": func(ctx context.Context, c *s3client.Client) error {
		_, err := c.Put(ctx, bucket, "key", content("x"))
		return err
	},
	"put_if_absent": func(ctx context.Context, c *s3client.Client) error {
		_, err := c.PutIfAbsent(ctx, bucket, "key", content("x"))
		return err
	},
	"put_if_match": func(ctx context.Context, c *s3client.Client) error {
		_, err := c.PutIfMatch(ctx, bucket, "key", "bare", content("x"))
		return err
	},
}

// TestClasses holds what is known after an answer to what the answer says.
func TestClasses(t *testing.T) {
	t.Parallel()
	const (
		refused, damaged, slow, unknown = s3client.Refused, s3client.Damaged, s3client.Slow, s3client.Unknown
		notFound, precondition          = s3client.NotFound, s3client.Precondition
	)
	for _, c := range []struct {
		status     int
		body       string
		want       s3client.Class
		exceptions map[string]s3client.Class // by operation; 0 is success
	}{
		{404, errorBody("NoSuchKey"), notFound, map[string]s3client.Class{"put_if_match": unknown, "delete": 0}},
		{404, errorBody("NoSuchBucket"), refused, nil},
		{404, "", unknown, map[string]s3client.Class{"head": notFound}},
		{404, "<html>a load balancer</html>", unknown, nil},
		{404, errorBody("Odd"), unknown, nil},
		{412, errorBody("PreconditionFailed"), precondition, nil},
		{412, "", precondition, nil},
		{409, errorBody("ConditionalRequestConflict"), unknown, nil},
		{409, errorBody("OperationAborted"), unknown, nil},
		{409, errorBody("ExistingObjectIsDirectory"), refused, nil},
		{400, errorBody("InvalidArgument"), refused, nil},
		{400, errorBody("RequestTimeout"), unknown, nil},
		{400, errorBody("BadDigest"), damaged, nil},
		{400, errorBody("XAmzContentSHA256Mismatch"), damaged, nil},
		{403, errorBody("AccessDenied"), refused, nil},
		{403, errorBody("SignatureDoesNotMatch"), refused, nil},
		{301, errorBody("PermanentRedirect"), refused, nil},
		{307, errorBody("TemporaryRedirect"), refused, nil},
		{405, "", refused, nil},
		{408, "", unknown, nil},
		{429, "", slow, nil},
		{500, errorBody("InternalError"), unknown, nil},
		{500, errorBody("SlowDown"), slow, nil},
		{501, errorBody("NotImplemented"), refused, nil},
		{502, "<html>", unknown, nil},
		{503, errorBody("SlowDown"), slow, nil},
		{503, "<html>", slow, nil},
		{504, "", unknown, nil},
	} {
		for op, do := range operations {
			requests := 0
			client := clientOf(t, func(r *http.Request) (*http.Response, error) {
				requests++
				if r.Method == http.MethodHead { // has no body
					return response(r, c.status, "", "Location", "http://elsewhere.test/"), nil
				}
				return response(r, c.status, c.body, "Location", "http://elsewhere.test/"), nil
			})
			want, ok := c.exceptions[op]
			if !ok {
				want = c.want
			}
			if op == "head" && c.body != "" { // its code is made from the status
				continue
			}
			name := fmt.Sprintf("%s answered by %d %s", op, c.status, c.body)
			err := do(t.Context(), client)
			if want == 0 {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			} else {
				wantClass(t, name, err, want)
				if !strings.Contains(fmt.Sprint(err), "key: "+fmt.Sprint(c.status)) {
					t.Errorf("%s: error %q does not name key and status", name, err)
				}
			}
			if requests != 1 {
				t.Errorf("%s: %d requests", name, requests)
			}
		}
	}
}

// TestDispositions is about what callers do with classes.
func TestDispositions(t *testing.T) {
	t.Parallel()
	for class, want := range map[s3client.Class]struct{ retryable, unknown bool }{
		s3client.NotFound: {}, s3client.Precondition: {}, s3client.Refused: {},
		s3client.Damaged:   {retryable: true},
		s3client.Slow:      {retryable: true, unknown: true},
		s3client.Unknown:   {retryable: true, unknown: true},
		s3client.Cancelled: {unknown: true},
	} {
		err := fmt.Errorf("wrapped: %w", &s3client.Error{Class: class, Err: errors.New("x")})
		if s3client.Retryable(err) != want.retryable || s3client.OutcomeUnknown(err) != want.unknown {
			t.Errorf("%v: retryable %v, outcome unknown %v, want %v", class, s3client.Retryable(err), s3client.OutcomeUnknown(err), want)
		}
		if errors.Is(err, s3client.ErrNotFound) != (class == s3client.NotFound) || errors.Is(err, s3client.ErrPrecondition) != (class == s3client.Precondition) {
			t.Errorf("%v is the wrong sentinel", class)
		}
	}
	if s3client.Retryable(nil) || s3client.OutcomeUnknown(nil) {
		t.Error("success is taken for a failure")
	}
}

// TestNetwork is about requests without an answer, or with half of one.
func TestNetwork(t *testing.T) {
	t.Parallel()
	errNetwork := errors.New("network is down")
	short := func(r *http.Request, body string, length int) *http.Response {
		resp := response(r, http.StatusOK, body)
		resp.ContentLength = int64(length)
		resp.Header.Set("Content-Length", fmt.Sprint(length))
		return resp
	}
	for _, c := range []struct {
		name   string
		answer transport
		class  s3client.Class
		text   string
	}{
		{"Down", func(*http.Request) (*http.Response, error) { return nil, errNetwork }, s3client.Unknown, "key: network is down"},
		{"Short", func(r *http.Request) (*http.Response, error) { return short(r, "half", 8), nil }, s3client.Damaged, "4 bytes where 8 were announced"},
		{"TooLarge", func(r *http.Request) (*http.Response, error) { return short(r, "", s3client.MaxBody+1), nil }, s3client.Refused, "too large"},
		{"Altered", func(r *http.Request) (*http.Response, error) {
			return response(r, http.StatusOK, "altered", "ETag", fmt.Sprintf(`"%x"`, md5.Sum([]byte("good")))), nil
		}, s3client.Damaged, "its ETag is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o, err := clientOf(t, c.answer).Get(t.Context(), bucket, "key")
			wantClass(t, c.name, err, c.class)
			if o != nil || !strings.Contains(fmt.Sprint(err), c.text) {
				t.Errorf("object %v, error %v, want one with %q", o, err, c.text)
			}
		})
	}
}

// TestETagsThatAreNoSums are not held against a body.
func TestETagsThatAreNoSums(t *testing.T) {
	t.Parallel()
	sum := fmt.Sprintf(`"%x"`, md5.Sum([]byte("good")))
	for _, c := range []struct {
		name   string
		header []string
	}{
		{"None", nil},
		{"Right", []string{"ETag", fmt.Sprintf(`"%x"`, md5.Sum([]byte("body")))}},
		{"Bare", []string{"ETag", fmt.Sprintf(`%x`, md5.Sum([]byte("body")))}},
		{"Parts", []string{"ETag", strings.TrimSuffix(sum, `"`) + `-2"`}},
		{"KMS", []string{"ETag", sum, "x-amz-server-side-encryption", "aws:kms"}},
		{"CustomerKey", []string{"ETag", sum, "x-amz-server-side-encryption-customer-algorithm", "AES256"}},
	} {
		client := clientOf(t, func(r *http.Request) (*http.Response, error) {
			return response(r, http.StatusOK, "body", c.header...), nil
		})
		if o, err := client.Get(t.Context(), bucket, "key"); err != nil || string(o.Body) != "body" {
			t.Errorf("%s: %v", c.name, err)
		}
	}

	// A server whose ETags only look like sums is found out by a write.
	var log strings.Builder
	client := clientOf(t, func(r *http.Request) (*http.Response, error) {
		return response(r, http.StatusOK, "body", "ETag", sum), nil
	},
		func(c *s3client.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	if _, err := client.Get(t.Context(), bucket, "key"); err == nil {
		t.Error("an altered body was taken")
	}
	for range 2 {
		if _, err := client.Put(t.Context(), bucket, "key", content("body")); err != nil {
			t.Error(err)
		}
	}
	if _, err := client.Get(t.Context(), bucket, "key"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "are not MD5 sums"); n != 1 {
		t.Errorf("it was told %d times: %s", n, &log)
	}
}

// TestUpload looks at a write as the server sees it.
func TestUpload(t *testing.T) {
	t.Parallel()
	var got *http.Request
	client := clientOf(t, func(r *http.Request) (*http.Response, error) {
		got = r
		return response(r, http.StatusOK, "", "ETag", `"1"`), nil
	})
	if _, err := client.PutIfAbsent(t.Context(), bucket, "a/b.p/17", content("body")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip", "Cache-Control": "no-store",
		"If-None-Match": "*", "Content-Md5": "hBotaJrYa9FhFEdFPCLG/A==", "X-Amz-Meta-Kiln-Write": "tag of body",
		"X-Amz-Trailer": "", "X-Amz-Sdk-Checksum-Algorithm": "", "X-Amz-Decoded-Content-Length": "",
	} {
		if h := got.Header.Get(name); h != want {
			t.Errorf("%s: %q, want %q", name, h, want)
		}
	}
	if got.URL.Path != "/"+bucket+"/a/b.p/17" || got.ContentLength != 4 || len(got.TransferEncoding) != 0 {
		t.Errorf("PUT %s with %d bytes, transfer encoding %q", got.URL, got.ContentLength, got.TransferEncoding)
	}
	if auth := got.Header.Get("Authorization"); !strings.Contains(auth, "if-none-match") || !strings.Contains(auth, "content-md5") {
		t.Errorf("the condition and the sum are not signed: %s", auth)
	}
	big := s3client.Content{Body: make([]byte, s3client.MaxBody+1)}
	if _, err := client.Put(t.Context(), bucket, "key", big); s3client.ClassOf(err) != s3client.Refused {
		t.Errorf("a body that is too large: %v", err)
	}
}

// TestQuotes is about servers that match ETags in quotes, without, or in both
// forms: the right one is found, once, and a lost race stays one.
func TestQuotes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		match func(sent, etag string) bool
		want  int // requests of three writes, of which one is refused
	}{
		{"Quoted", func(sent, etag string) bool { return sent == etag }, 3},
		{"Bare", func(sent, etag string) bool { return sent == strings.Trim(etag, `"`) }, 4},
		{"Both", func(sent, etag string) bool { return strings.Trim(sent, `"`) == strings.Trim(etag, `"`) }, 3},
	} {
		requests, etag := 0, `"1"`
		client := clientOf(t, func(r *http.Request) (*http.Response, error) {
			requests++
			if !c.match(r.Header.Get("If-Match"), etag) {
				return response(r, http.StatusPreconditionFailed, errorBody("PreconditionFailed")), nil
			}
			etag = fmt.Sprintf(`"%d"`, requests)
			return response(r, http.StatusOK, "", "ETag", etag), nil
		})
		now, err := client.PutIfMatch(t.Context(), bucket, "key", etag, content("1"))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, err = client.PutIfMatch(t.Context(), bucket, "key", `"wrong"`, content("2"))
		wantClass(t, c.name, err, s3client.Precondition)
		if _, err = client.PutIfMatch(t.Context(), bucket, "key", now, content("3")); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if requests != c.want {
			t.Errorf("%s: %d requests, want %d", c.name, requests, c.want)
		}
	}
}
