package s3

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"kiln/internal/s3client"
	"kiln/storage"
)

// answering is a transport that gives one answer to everything.
type answering string

func (a answering) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, Header: http.Header{"Content-Type": {"application/xml"}},
		Body: io.NopCloser(strings.NewReader(string(a))), ContentLength: int64(len(a)),
	}, nil
}

// FuzzList lists what a server names with any key: only what is below the prefix
// of the bucket, and has a path that every storage takes, is an object.
func FuzzList(f *testing.F) {
	for _, key := range []string{"logs/a/tile/0/000", "logs/a/", "logs/a/../b", "logs/b/x", "logs/a//x", "", "\x00", "logs/a/.x", "logs/a/tile", "logs/a/tile/\n"} {
		f.Add(key, "tile/")
		f.Add(key, "")
	}
	f.Fuzz(func(t *testing.T, key, prefix string) {
		var escaped bytes.Buffer
		if err := xml.EscapeText(&escaped, []byte(key)); err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`<ListBucketResult><Contents><Key>%s</Key><Size>3</Size></Contents></ListBucketResult>`, &escaped)
		client, err := s3client.New(t.Context(), s3client.Config{
			Endpoint: "http://s3.test", PathStyle: true, AccessKeyID: "id", SecretAccessKey: "secret", Transport: answering(body),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		b := openBucket(t, Config{Client: client, Bucket: "bucket", Prefix: "logs/a"})
		n := 0
		err = b.List(t.Context(), prefix, func(i storage.Info) error {
			if n++; !storage.ValidPath(i.Path) || !strings.HasPrefix(i.Path, prefix) || "logs/a/"+i.Path != key {
				t.Fatalf("%q below %q is listed as %q", key, prefix, i.Path)
			}
			return nil
		})
		path, ours := strings.CutPrefix(key, "logs/a/")
		if want := ours && storage.ValidPath(path) && strings.HasPrefix(path, prefix); err != nil || (n == 1) != want {
			t.Fatalf("%q below %q is listed %d times, %v", key, prefix, n, err)
		}
	})
}

// FuzzPrefix takes any names of a bucket and a prefix: what is taken makes a key
// of every path.
func FuzzPrefix(f *testing.F) {
	f.Add("bucket", "a/b")
	f.Add("ab", "")
	f.Add("Bucket", "/a")
	f.Add("a..b", "a/../b")
	f.Add("-ab-", strings.Repeat("a", 600))
	f.Fuzz(func(t *testing.T, bucket, prefix string) {
		if validBucket(bucket) && (len(bucket) < 3 || len(bucket) > 63 || strings.ContainsAny(bucket, "/ ?#%")) {
			t.Fatalf("bucket %q is taken", bucket)
		}
		if !validPrefix(prefix) {
			return
		}
		for _, path := range []string{"checkpoint", "tile/0/x001/000.p/3"} {
			if key := strings.TrimPrefix(prefix+"/"+path, "/"); len(key) > 1024 || strings.Contains(key, "//") || strings.Contains("/"+key, "/.") {
				t.Fatalf("with the prefix %q, %s is %q", prefix, path, key)
			}
		}
	})
}
