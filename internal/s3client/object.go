package s3client

import (
	"bytes"
	"context"
	"crypto/md5" // S3's checksum of bodies, no protection against people
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// tagName is the name of user metadata that keeps Content.Tag: the header
// x-amz-meta-kiln-write.
const tagName = "kiln-write"

// Content is what a write puts in place of an object.
type Content struct {
	Body []byte // not modified or retained

	// Headers with which the object is served; empty ones are not set.
	ContentType, ContentEncoding, CacheControl string

	// Tag is kept with the object and comes back with it. A random one tells a
	// writer after an unknown outcome whether the object is of its own making,
	// which neither ETag nor bytes do. Empty is none.
	Tag string
}

// Object is what a read returns.
type Object struct {
	Content
	Info
}

// Info describes an object.
type Info struct {
	Key      string
	Size     int64
	Modified time.Time
	// ETag as the server gives it, quotes included. It names the bytes, not the
	// write: an object that is written again with the same bytes may have it again.
	ETag string
}

// Get reads an object, or returns ErrNotFound. The caller owns the body.
func (c *Client) Get(ctx context.Context, bucket, key string) (*Object, error) {
	var o *Object
	err := c.do(ctx, opGet, bucket, key, 0, func(a *attempt) error {
		out, err := c.api.GetObject(a, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
		if err != nil {
			return err
		}
		defer out.Body.Close()
		o = &Object{
			Content: Content{
				ContentType:     aws.ToString(out.ContentType),
				ContentEncoding: aws.ToString(out.ContentEncoding),
				CacheControl:    aws.ToString(out.CacheControl),
				Tag:             out.Metadata[tagName],
			},
			Info: Info{Key: key, Modified: aws.ToTime(out.LastModified), ETag: aws.ToString(out.ETag)},
		}
		if o.Body, err = readBody(a, out, c.timeout); err != nil {
			return err
		}
		o.Size = int64(len(o.Body))
		return c.checkSum(o, out)
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

type sizeKey struct{}

// WithSize returns a context with which a Get calls size with the length of the
// body before it takes memory for it; its error ends the Get. It may be called
// more than once, and from several goroutines.
func WithSize(ctx context.Context, size func(bytes int64) error) context.Context {
	return context.WithValue(ctx, sizeKey{}, size)
}

// ErrTooLarge says that a body is larger than a Get may read.
var ErrTooLarge = errors.New("object is too large")

type limitKey struct{}

// WithLimit returns a context with which a Get refuses a body of more than so
// many bytes, without reading it; [MaxBody] is the limit without it.
func WithLimit(ctx context.Context, bytes int64) context.Context {
	return context.WithValue(ctx, limitKey{}, bytes)
}

func limitOf(ctx context.Context) int64 {
	if limit, ok := ctx.Value(limitKey{}).(int64); ok {
		return min(limit, MaxBody)
	}
	return MaxBody
}

func announce(ctx context.Context, bytes int64) error {
	if size, ok := ctx.Value(sizeKey{}).(func(int64) error); ok {
		return size(bytes)
	}
	return nil
}

// readBody reads what was announced, no less and no more.
func readBody(a *attempt, out *s3.GetObjectOutput, timeout time.Duration) ([]byte, error) {
	size, limit := aws.ToInt64(out.ContentLength), limitOf(a)
	if size > limit {
		return nil, &Error{Class: Refused, Err: fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, size, limit)}
	}
	if out.ContentLength == nil {
		size = limit // as far as anybody knows
	}
	if err := announce(a, size); err != nil {
		return nil, &Error{Class: Refused, Err: err}
	}
	a.extend(timeout + transfer(size))
	n, body, err := readUpTo(out.Body, size, limit)
	switch {
	case err != nil:
		return nil, err
	case n > limit:
		return nil, &Error{Class: Refused, Err: fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)}
	case out.ContentLength != nil && n != size:
		return nil, &Error{Class: Damaged, Err: fmt.Errorf("body of %d bytes where %d were announced", n, size)}
	}
	return body, nil
}

// readUpTo reads a body of probably size bytes, and of no more than one over the
// limit. It takes memory for the size once a good part has come, and not by
// doubling, which takes twice as much.
func readUpTo(r io.Reader, size, limit int64) (int64, []byte, error) {
	const first = 16 << 20
	var b bytes.Buffer
	b.Grow(int(min(size, first)) + bytes.MinRead)
	n, err := b.ReadFrom(io.LimitReader(r, min(first, limit+1)))
	if err != nil || n < first {
		return n, b.Bytes(), err
	}
	b.Grow(int(size-min(size, n)) + bytes.MinRead)
	more, err := b.ReadFrom(io.LimitReader(r, limit+1-n))
	return n + more, b.Bytes(), err
}

// checkSum compares a body with its ETag where that is an MD5 sum: not for
// uploads in parts or under a customer's key, and not on servers that have
// another idea of it.
func (c *Client) checkSum(o *Object, out *s3.GetObjectOutput) error {
	encrypted := out.SSECustomerAlgorithm != nil || out.ServerSideEncryption != "" && out.ServerSideEncryption != types.ServerSideEncryptionAes256
	want := sumOfETag(o.ETag)
	if want == nil || encrypted || c.md5ETags.not.Load() {
		return nil
	}
	if got := md5.Sum(o.Body); !bytes.Equal(got[:], want) {
		return &Error{Class: Damaged, Err: fmt.Errorf("body has MD5 sum %x, its ETag is %s", got, o.ETag)}
	}
	return nil
}

// sumOfETag returns the MD5 sum that an ETag is, nil if it is none.
func sumOfETag(etag string) []byte {
	sum, err := hex.DecodeString(strings.Trim(etag, `"`))
	if err != nil || len(sum) != md5.Size {
		return nil
	}
	return sum
}

// etagKind learns from the answers to writes whether ETags are MD5 sums.
type etagKind struct{ not atomic.Bool }

// Head describes an object, or returns ErrNotFound. The Content has no body.
func (c *Client) Head(ctx context.Context, bucket, key string) (*Object, error) {
	var o *Object
	err := c.do(ctx, opHead, bucket, key, 0, func(a *attempt) error {
		out, err := c.api.HeadObject(a, &s3.HeadObjectInput{Bucket: &bucket, Key: &key})
		if err != nil {
			return err
		}
		o = &Object{
			Content: Content{
				ContentType:     aws.ToString(out.ContentType),
				ContentEncoding: aws.ToString(out.ContentEncoding),
				CacheControl:    aws.ToString(out.CacheControl),
				Tag:             out.Metadata[tagName],
			},
			Info: Info{Key: key, Size: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), ETag: aws.ToString(out.ETag)},
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// Put writes an object, over whatever is there, and returns its ETag.
func (c *Client) Put(ctx context.Context, bucket, key string, content Content) (etag string, err error) {
	return c.put(ctx, opPut, bucket, key, content, func(*s3.PutObjectInput) {})
}

// PutIfAbsent writes an object where none is, and returns its ETag. With
// [ErrPrecondition] there is one. A server that ignores conditions overwrites it.
func (c *Client) PutIfAbsent(ctx context.Context, bucket, key string, content Content) (etag string, err error) {
	return c.put(ctx, opPutIfAbsent, bucket, key, content, func(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") })
}

// PutIfMatch writes an object in place of one that has an ETag, given as a read
// or a write returned it, and returns the new one. With [ErrPrecondition] the
// object has another ETag. A missing object is an unknown outcome, as servers
// word it in ways that do not tell it from a race.
//
// Some servers match only an ETag in quotes, others only one without. Until one
// way has been seen to work, a 412 is asked again in the other.
func (c *Client) PutIfMatch(ctx context.Context, bucket, key, etag string, content Content) (newETag string, err error) {
	if strings.Trim(etag, `"`) == "" { // it would be no condition at all
		return "", &Error{Op: opPutIfMatch, Bucket: bucket, Key: key, Class: Refused, Err: errors.New("no ETag to match")}
	}
	forms := c.quotes.forms(etag)
	for i, form := range forms {
		newETag, err = c.put(ctx, opPutIfMatch, bucket, key, content, func(in *s3.PutObjectInput) { in.IfMatch = &form })
		if err == nil {
			c.quotes.worked(form)
		}
		if !errors.Is(err, ErrPrecondition) || i == len(forms)-1 {
			break
		}
	}
	return newETag, err
}

// quoting remembers in which form the server matches ETags.
type quoting struct{ known atomic.Int32 }

const (
	asGiven  = 1
	unquoted = 2
)

func (q *quoting) forms(etag string) []string {
	bare := strings.TrimSuffix(strings.TrimPrefix(etag, `"`), `"`)
	switch known := q.known.Load(); {
	case bare == etag || known == asGiven:
		return []string{etag}
	case known == unquoted:
		return []string{bare}
	default:
		return []string{etag, bare}
	}
}

func (q *quoting) worked(form string) {
	if strings.HasPrefix(form, `"`) {
		q.known.Store(asGiven)
	} else {
		q.known.Store(unquoted)
	}
}

func (c *Client) put(ctx context.Context, op, bucket, key string, content Content, condition func(*s3.PutObjectInput)) (etag string, err error) {
	if len(content.Body) > MaxBody {
		return "", &Error{Op: op, Bucket: bucket, Key: key, Class: Refused, Err: fmt.Errorf("body of %d bytes is too large", len(content.Body))}
	}
	sum := md5.Sum(content.Body)
	in := &s3.PutObjectInput{
		Bucket: &bucket, Key: &key, ContentMD5: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
		ContentLength: aws.Int64(int64(len(content.Body))),
		ContentType:   text(content.ContentType), ContentEncoding: text(content.ContentEncoding), CacheControl: text(content.CacheControl),
	}
	if content.Tag != "" {
		in.Metadata = map[string]string{tagName: content.Tag}
	}
	condition(in)
	err = c.do(ctx, op, bucket, key, len(content.Body), func(a *attempt) error {
		in.Body = bytes.NewReader(content.Body)
		out, err := c.api.PutObject(a, in)
		if err == nil {
			etag = aws.ToString(out.ETag)
		}
		return err
	})
	if got := sumOfETag(etag); got != nil && !bytes.Equal(got, sum[:]) && !c.md5ETags.not.Swap(true) {
		c.logger.WarnContext(ctx, "the ETags of this S3 server are not MD5 sums: bodies are not checked when read")
	}
	return etag, err
}

// text returns nil for an empty string.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// Delete removes an object. A missing one is fine.
func (c *Client) Delete(ctx context.Context, bucket, key string) error {
	err := c.do(ctx, opDelete, bucket, key, 0, func(a *attempt) error {
		_, err := c.api.DeleteObject(a, &s3.DeleteObjectInput{Bucket: &bucket, Key: &key})
		return err
	})
	if errors.Is(err, ErrNotFound) { // some say so
		return nil
	}
	return err
}

// Page is a part of a listing.
type Page struct {
	Items []Info
	Next  string // what the next call wants; empty at the end
}

// ListPage returns up to 1000 objects whose keys begin with prefix, from a place
// that the page before names, at first "".
func (c *Client) ListPage(ctx context.Context, bucket, prefix, from string) (Page, error) {
	var p Page
	err := c.do(ctx, opList, bucket, prefix, 0, func(a *attempt) error {
		out, err := c.api.ListObjectsV2(a, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: text(prefix), ContinuationToken: text(from)})
		if err != nil {
			return err
		}
		for _, o := range out.Contents {
			p.Items = append(p.Items, Info{
				Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size),
				Modified: aws.ToTime(o.LastModified), ETag: aws.ToString(o.ETag),
			})
		}
		if aws.ToBool(out.IsTruncated) {
			p.Next = aws.ToString(out.NextContinuationToken)
			if p.Next == "" || p.Next == from {
				return &Error{Class: Refused, Err: errors.New("the listing does not say where it goes on")}
			}
		}
		return nil
	})
	return p, err
}
