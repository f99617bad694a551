// Package s3 is a [lock.Store] on S3-compatible storage: for logs whose
// sequencers run on several machines and that want no further service.
//
// Invariants: a cell is one object, created by If-None-Match and replaced by
// If-Match of its ETag; every content is unique (see [kiln/internal/cell]), so
// that an ETag, which is mostly the MD5 sum of the content, never comes back; no
// store exists on a server that was not seen to keep conditions in a race.
//
// The package never knows what the bytes mean, nor what else is in the bucket.
package s3

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"kiln/internal/cell"
	"kiln/internal/s3client"
	"kiln/lock"
)

// DefaultTimeout is how long a call may take.
const DefaultTimeout = 5 * time.Second

// Config says where the cells are. Client and Bucket are required.
type Config struct {
	Client *s3client.Client // stays open as long as the store is used
	Bucket string
	// Prefix is what the keys begin with: a cell is at PREFIX/ID.lock, or at
	// ID.lock if it is empty. In the ID all but a-z, 0-9, "-" and "." is escaped.
	Prefix string

	Timeout time.Duration // of a call; default DefaultTimeout
	Logger  *slog.Logger  // default: none
}

// Store is a lock store on S3. It is safe for concurrent use.
type Store struct {
	*cell.Store
	r *register
}

var _ lock.Store = (*Store)(nil)

// Open proves that the server keeps conditions, by a race of writers against
// each other on an object made for it and removed again, and returns the store.
// A server that does not is [ErrUnsafe]. It takes some twenty round trips, and
// writes below the prefix even if no cell is there yet.
func Open(ctx context.Context, conf Config) (*Store, error) {
	if conf.Client == nil || conf.Bucket == "" {
		return nil, errors.New("open lock on S3: client and bucket are required")
	}
	if conf.Timeout <= 0 {
		conf.Timeout = DefaultTimeout
	}
	if conf.Logger == nil {
		conf.Logger = slog.New(slog.DiscardHandler)
	}
	prefix := strings.TrimRight(conf.Prefix, "/")
	if prefix != "" {
		prefix += "/"
	}
	where := fmt.Sprintf("s3://%s/%s", conf.Bucket, prefix)
	r := &register{client: conf.Client, bucket: conf.Bucket, prefix: prefix}
	if err := prove(ctx, r, conf); err != nil {
		return nil, fmt.Errorf("open lock in %s: %w", where, err)
	}
	return &Store{Store: cell.NewStore(r, where, conf.Timeout, conf.Logger), r: r}, nil
}

// register is the [cell.Register] on S3: the place of a value is its ETag, and
// values that are not the same have different ones.
type register struct {
	client *s3client.Client
	bucket string
	prefix string
}

const (
	suffix = ".lock"
	// maxName is the longest last part of a key, without the suffix, in bytes:
	// servers that keep objects as files can have no longer ones.
	maxName = 200
)

// Read implements [cell.Register].
func (r *register) Read(ctx context.Context, id string) (cell.Value, error) {
	return r.get(ctx, r.key(id))
}

// Write implements [cell.Register].
func (r *register) Write(ctx context.Context, id string, old cell.Value, data []byte) (string, error) {
	return r.put(ctx, r.key(id), old.Place, data)
}

func (r *register) get(ctx context.Context, key string) (cell.Value, error) {
	o, err := r.client.Get(ctx, r.bucket, key)
	switch {
	case errors.Is(err, s3client.ErrNotFound):
		return cell.Value{}, lock.ErrNotFound
	case err != nil:
		return cell.Value{}, classify(err)
	case o.ETag == "":
		return cell.Value{}, fmt.Errorf("%w: it gives no ETag for %s", cell.ErrRejected, key)
	}
	return cell.Value{Data: o.Body, Place: o.ETag}, nil
}

// put writes an object in the place of the one with the ETag, or of none.
func (r *register) put(ctx context.Context, key, etag string, data []byte) (string, error) {
	content := s3client.Content{Body: data, ContentType: "application/octet-stream", CacheControl: "no-store"}
	var newETag string
	var err error
	if etag == "" {
		newETag, err = r.client.PutIfAbsent(ctx, r.bucket, key, content)
	} else {
		newETag, err = r.client.PutIfMatch(ctx, r.bucket, key, etag, content)
	}
	return newETag, classify(err)
}

// classify says in the words of [cell.Register] what is known after a request.
func classify(err error) error {
	if err == nil {
		return nil
	}
	switch s3client.ClassOf(err) {
	case s3client.Precondition:
		return fmt.Errorf("%w: %w", cell.ErrCondition, err)
	case s3client.Refused:
		return fmt.Errorf("%w: %w", cell.ErrRejected, err)
	}
	// Some servers word it so that there is nothing that could match.
	if e, ok := errors.AsType[*s3client.Error](err); ok && e.Status == 404 && e.Code == "NoSuchKey" {
		return fmt.Errorf("%w: %w", cell.ErrCondition, err)
	}
	return err
}

// key returns where a cell is. Not every name of a cell is a good key, and not
// every server keeps apart what S3 keeps apart: so only lower case, digits, "-"
// and "." stand for themselves, and any other byte becomes "_" and two digits.
// No key is the folder of another.
func (r *register) key(id string) string {
	var b strings.Builder
	b.WriteString(r.prefix)
	for i := range len(id) {
		c := id[i]
		if 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	key := b.String()
	if len(key)-len(r.prefix) > maxName {
		key = fmt.Sprintf("%s_sha256_%x", r.prefix, sha256.Sum256([]byte(id)))
	}
	return key + suffix
}
