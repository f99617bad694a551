package s3client_test

import (
	"bytes"
	"crypto/md5"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"kiln/internal/fuzztest"
	"kiln/internal/s3client"
)

// FuzzList gives any listing. A page has no more objects than the answer can name,
// and says where the next one begins, or that there is none.
func FuzzList(f *testing.F) {
	const head = `<?xml version="1.0"?><ListBucketResult>`
	for _, body := range []string{
		head + `<Contents><Key>a/b</Key><Size>3</Size><ETag>"x"</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents><IsTruncated>false</IsTruncated></ListBucketResult>`,
		head + `<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken></ListBucketResult>`,
		head + `<IsTruncated>true</IsTruncated></ListBucketResult>`,
		head + `<IsTruncated>true</IsTruncated><NextContinuationToken>here</NextContinuationToken></ListBucketResult>`,
		head + `<Contents><Size>-1</Size><LastModified>x</LastModified></Contents></ListBucketResult>`,
		head + strings.Repeat(`<Contents>`, 1000), head, "", "<", "\xff", "<!DOCTYPE a [<!ENTITY b \"c\">]><ListBucketResult>&b;</ListBucketResult>",
		head + `<EncodingType>url</EncodingType><Contents><Key>%2</Key></Contents></ListBucketResult>`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		client := clientOf(t, func(r *http.Request) (*http.Response, error) { return response(r, 200, body), nil })
		var page s3client.Page
		var err error
		fuzztest.Bounded(t, 256*len(body), func() { page, err = client.ListPage(t.Context(), bucket, "prefix", "here") })
		if err != nil {
			fuzztest.Sentence(t, err, "prefix")
			return
		}
		if len(page.Items) > strings.Count(body, "Contents") || page.Next == "here" {
			t.Fatalf("%d objects, then %q", len(page.Items), page.Next)
		}
	})
}

// FuzzGet gives any answer to a read, of any length and ETag. A body is that
// which was announced and which its ETag names, or an error.
func FuzzGet(f *testing.F) {
	sum := fmt.Sprintf(`"%x"`, md5.Sum([]byte("body")))
	f.Add("body", "4", sum, "")
	f.Add("body", "5", sum, "")
	f.Add("body", "3", sum, "")
	f.Add("body", "-1", sum, "")
	f.Add("body", "9223372036854775807", sum, "")
	f.Add("bod", "3", sum, "")
	f.Add("body", "4", `"`+strings.Repeat("0", 32)+`-2"`, "aws:kms")
	f.Add("", "0", "", "")
	f.Fuzz(func(t *testing.T, body, length, etag, encryption string) {
		client := clientOf(t, func(r *http.Request) (*http.Response, error) {
			resp := response(r, 200, body, "ETag", etag, "X-Amz-Server-Side-Encryption", encryption)
			resp.ContentLength = -1
			resp.Header.Set("Content-Length", length)
			return resp, nil
		})
		var o *s3client.Object
		var err error
		fuzztest.Bounded(t, 64*len(body)+32<<20, func() { o, err = client.Get(t.Context(), bucket, "key") })
		if err != nil {
			if errors.Is(err, s3client.ErrNotFound) {
				t.Fatalf("a 200 says that there is none: %v", err)
			}
			if text := err.Error(); len(text) > 4096 || !strings.Contains(text, "key") {
				t.Fatalf("error is %q", text)
			}
			return
		}
		if !bytes.Equal(o.Body, []byte(body)) || o.Size != int64(len(body)) {
			t.Fatalf("%d bytes of %d", len(o.Body), len(body))
		}
		if n, err := strconv.ParseInt(length, 10, 64); err == nil && n >= 0 && n != int64(len(body)) {
			t.Fatalf("%d bytes where %d were announced", len(body), n)
		}
		// An ETag that looks like a sum is one, unless a key of the customer is in it.
		if got := fmt.Sprintf("%x", md5.Sum(o.Body)); len(strings.Trim(etag, `"`)) == 32 && encryption == "" && hexadecimal(strings.Trim(etag, `"`)) && !strings.EqualFold(strings.Trim(etag, `"`), got) {
			t.Fatalf("a body with sum %s was taken under %s", got, etag)
		}
	})
}

func hexadecimal(s string) bool { return strings.Trim(s, "0123456789abcdefABCDEF") == "" }
