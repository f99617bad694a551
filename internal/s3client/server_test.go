package s3client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"kiln/internal/s3client"
	"kiln/internal/servers"
)

const bucket = "logs"

// server starts the one S3 server of this test binary; TestMain ends it.
var server = sync.OnceValues(func() (*servers.S3, error) {
	binary, err := servers.BuildTool(context.Background(), "versitygw")
	if err != nil {
		return nil, err
	}
	return servers.StartS3(context.Background(), servers.S3Config{Binary: binary, Dir: os.Getenv(dirVariable), Buckets: []string{bucket}})
})

const dirVariable = "KILN_TEST_S3_DIR"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kiln-s3client-")
	if err == nil {
		err = os.Setenv(dirVariable, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer func() {
		if s, err := server(); err == nil {
			_ = s.Kill()
		}
	}()
	return m.Run()
}

// newClient returns a client of the server, made by the test's wishes.
func newClient(t testing.TB, change func(*s3client.Config)) *s3client.Client {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	conf := s3client.Config{Endpoint: s.Endpoint, PathStyle: true, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey}
	if change != nil {
		change(&conf)
	}
	c, err := s3client.New(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func content(body string) s3client.Content {
	return s3client.Content{Body: []byte(body), ContentType: "text/plain; charset=utf-8", ContentEncoding: "gzip", CacheControl: "no-store", Tag: "tag of " + body}
}

func wantClass(t *testing.T, what string, err error, want s3client.Class) {
	t.Helper()
	if err == nil || s3client.ClassOf(err) != want {
		t.Errorf("%s: error %v of class %v, want %v", what, err, s3client.ClassOf(err), want)
	}
}

func TestObjects(t *testing.T) {
	t.Parallel()
	ctx, c, key := t.Context(), newClient(t, nil), t.Name()+"/a"
	_, err := c.Get(ctx, bucket, key)
	wantClass(t, "Get of nothing", err, s3client.NotFound)
	if !errors.Is(err, s3client.ErrNotFound) || !strings.Contains(err.Error(), bucket+"/"+key) {
		t.Errorf("Get of nothing: %v", err)
	}
	_, err = c.Head(ctx, bucket, key)
	wantClass(t, "Head of nothing", err, s3client.NotFound)
	if err := c.Delete(ctx, bucket, key); err != nil {
		t.Error(err)
	}
	first, err := c.PutIfAbsent(ctx, bucket, key, content("one"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.PutIfAbsent(ctx, bucket, key, content("two"))
	wantClass(t, "PutIfAbsent of what is there", err, s3client.Precondition)
	second, err := c.PutIfMatch(ctx, bucket, key, first, content("two"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.PutIfMatch(ctx, bucket, key, first, content("three"))
	wantClass(t, "PutIfMatch with an old ETag", err, s3client.Precondition)
	_, err = c.PutIfMatch(ctx, bucket, key+"-none", first, content("three"))
	wantClass(t, "PutIfMatch of nothing", err, s3client.Unknown)
	_, err = c.PutIfMatch(ctx, bucket, key, `""`, content("three"))
	wantClass(t, "PutIfMatch without an ETag", err, s3client.Refused)

	o, err := c.Get(ctx, bucket, key)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v", o.Content), fmt.Sprintf("%+v", content("two")); got != want || o.ETag != second || o.Size != 3 || o.Modified.IsZero() {
		t.Errorf("Get returned %s %+v, want %s with ETag %s", got, o.Info, want, second)
	}
	h, err := c.Head(ctx, bucket, key)
	if err != nil {
		t.Fatal(err)
	}
	if h.Info != o.Info || h.Tag != o.Tag || h.ContentType != o.ContentType || h.ContentEncoding != o.ContentEncoding || h.CacheControl != o.CacheControl {
		t.Errorf("Head returned %+v, Get %+v", h, o)
	}
	if _, err := c.Put(ctx, bucket, key, content("")); err != nil {
		t.Fatal(err)
	}
	if o, err := c.Get(ctx, bucket, key); err != nil || len(o.Body) != 0 {
		t.Errorf("an empty object is %+v, %v", o, err)
	}
	for range 2 {
		if err := c.Delete(ctx, bucket, key); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Get(ctx, bucket, key)
	wantClass(t, "Get after Delete", err, s3client.NotFound)
}
