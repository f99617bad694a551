// Package s3 is a [storage.Bucket] in a bucket of an S3-compatible server.
//
// Invariants: an object is one S3 object with the key PREFIX/PATH and the
// headers it is to be served with; Create never writes over anything and Update
// never over what it did not see, both by conditional writes of the server (see
// [Config.Without] for servers that have none); after an outcome that is not
// known the object is read, and what is there decides. Every call is bounded in
// attempts, and ends with its context.
//
// Any number of buckets, in any number of processes, may be open on one prefix.
//
// The package never knows what the objects are, but for the folders whose
// objects never change, and never AWS' SDK.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/internal/s3client"
	"kiln/storage"
)

// maxPrefix leaves room for a path in S3's 1024 bytes of a key.
const maxPrefix = 512

// largeBody is what is not sent a second time without need, in bytes.
const largeBody = 1 << 20

// Config says where the objects are. Client and Bucket are required.
type Config struct {
	Client *s3client.Client
	Bucket string // exists already
	Prefix string // of all keys, without a slash at either end; empty is the whole bucket

	// Without names what the server does not do, as [Probe] found out.
	//
	// Without create-only writes, Create looks before it writes and again after:
	// of two writers of different bytes at the same time the later one wins, and
	// the other may not learn of it. Without compare-and-swap, Update writes
	// right after it has looked: a writer that was slow in between, or a request
	// that hung, can put an older object over a newer one. Calls of one Bucket
	// never do that to each other.
	Without Lacks

	Logger     *slog.Logger          // default: none
	Registerer prometheus.Registerer // may be nil
}

// Lacks are the conditional writes that a server does not do.
type Lacks struct{ CreateOnly, CompareAndSwap bool }

// Bucket is a prefix in an S3 bucket. It is safe for concurrent use.
type Bucket struct {
	client  *s3client.Client
	bucket  string
	prefix  string // ends with a slash unless empty
	without Lacks
	logger  *slog.Logger
	metrics *metrics
	reg     prometheus.Registerer
	reads   *hedger // of objects that never change
	creates *hedger

	// turns are held by Updates, so that those of one process do not fail each
	// other's swaps, and by Creates that have no conditional write to rely on.
	turns   turns
	written written
}

var (
	_ storage.Bucket = (*Bucket)(nil)
	_ storage.Lister = (*Bucket)(nil)
)

// Open returns a bucket. It makes no request: whether the server is there and
// does conditional writes is for [Probe] to say. The caller calls Close.
func Open(_ context.Context, conf Config) (*Bucket, error) {
	b, err := open(conf)
	if err != nil {
		return nil, fmt.Errorf("open bucket s3://%s/%s: %w", conf.Bucket, conf.Prefix, err)
	}
	if err := b.metrics.register(b.reg); err != nil {
		return nil, err
	}
	return b, nil
}

func open(conf Config) (*Bucket, error) {
	switch {
	case conf.Client == nil:
		return nil, errors.New("no client")
	case !validBucket(conf.Bucket):
		return nil, errors.New("not the name of a bucket: 3 to 63 characters of a-z 0-9 . and -")
	case !validPrefix(conf.Prefix):
		return nil, errors.New("the prefix is to have the form of a path: characters A-Z a-z 0-9 . _ - and single slashes between them")
	}
	b := &Bucket{
		client: conf.Client, bucket: conf.Bucket, prefix: conf.Prefix, without: conf.Without,
		logger: conf.Logger, metrics: newMetrics(), reg: conf.Registerer,
		reads: newHedger(), creates: newHedger(),
	}
	if b.prefix != "" {
		b.prefix += "/"
	}
	if b.logger == nil {
		b.logger = slog.New(slog.DiscardHandler)
	}
	return b, nil
}

// Close takes the metrics back. The client stays open.
func (b *Bucket) Close() error {
	b.metrics.unregister(b.reg)
	return nil
}

// validBucket holds a name to what every server takes.
func validBucket(name string) bool {
	return len(name) >= 3 && len(name) <= 63 &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") == "" &&
		strings.Trim(name, ".-") == name
}

func validPrefix(prefix string) bool {
	if prefix == "" {
		return true
	}
	for element := range strings.SplitSeq(prefix, "/") {
		if !storage.ValidPath(element) {
			return false
		}
	}
	return len(prefix) <= maxPrefix
}

// call checks a path, runs the work on its key, and names both in errors.
func (b *Bucket) call(op, path string, work func(key string) error) error {
	if !storage.ValidPath(path) {
		return fmt.Errorf("%s object: invalid path %q", op, path)
	}
	start := time.Now()
	err := work(b.prefix + path)
	b.metrics.duration.WithLabelValues(op).Observe(time.Since(start).Seconds())
	if err != nil {
		return fmt.Errorf("%s object %s: %w", op, path, err)
	}
	return nil
}

// persist makes attempts until one does not fail in a way that another one may
// not.
func (b *Bucket) persist(ctx context.Context, op string, attempt func() error) error {
	var backoff s3client.Backoff
	for {
		err := attempt()
		if err == nil || !s3client.Retryable(err) {
			return err
		}
		if err := b.again(ctx, op, &backoff, err); err != nil {
			return err
		}
	}
}

// again waits for the next attempt, and counts it.
func (b *Bucket) again(ctx context.Context, op string, backoff *s3client.Backoff, err error) error {
	if err := backoff.Wait(ctx, err); err != nil {
		return err
	}
	b.metrics.retries.WithLabelValues(op).Inc()
	return nil
}

func content(o storage.Object) s3client.Content {
	return s3client.Content{Body: o.Body, ContentType: o.ContentType, ContentEncoding: o.ContentEncoding, CacheControl: o.CacheControl}
}

// Create implements [storage.Bucket].
func (b *Bucket) Create(ctx context.Context, o storage.Object) error {
	return b.call("create", o.Path, func(key string) error {
		var backoff s3client.Backoff
		look := false
		for {
			err := b.tryCreate(ctx, key, o, look)
			if err == nil || errors.Is(err, storage.ErrDifferent) {
				return err
			}
			// What was refused as being there, and is not, was deleted meanwhile.
			if !s3client.Retryable(err) && !errors.Is(err, s3client.ErrNotFound) {
				return err
			}
			look = s3client.OutcomeUnknown(err) && len(o.Body) > largeBody
			if err := b.again(ctx, "create", &backoff, err); err != nil {
				return hideNotFound(err)
			}
		}
	})
}

// tryCreate is one attempt. After an unknown outcome another one tells more than
// a look: if this one took place, the next is told that the object is there. But
// a large body is better not sent again for nothing; and a server that refuses
// it before it has read all may cut the connection, so that no answer arrives.
func (b *Bucket) tryCreate(ctx context.Context, key string, o storage.Object, look bool) error {
	if b.without.CreateOnly {
		return b.createBlindly(ctx, key, o)
	}
	if look {
		if err := b.compare(ctx, key, o.Body); !errors.Is(err, s3client.ErrNotFound) {
			return err
		}
	}
	err := b.writeHedged(ctx, key, o)
	if !errors.Is(err, s3client.ErrPrecondition) {
		return err
	}
	return b.compare(ctx, key, o.Body)
}

// writeHedged makes a write that can take place only once, and changes nothing
// that is there. If it is late it is made again, unless it is large.
func (b *Bucket) writeHedged(ctx context.Context, key string, o storage.Object) error {
	request := func(ctx context.Context) (string, error) {
		return b.client.PutIfAbsent(ctx, b.bucket, key, content(o))
	}
	var err error
	if len(o.Body) > largeBody {
		_, err = request(ctx)
	} else {
		_, err = hedged(ctx, b.creates, b.metrics, b.client.Pressed, request)
	}
	return err
}

// createBlindly does without conditional writes. If what it finds afterwards is
// another's, that one stays.
func (b *Bucket) createBlindly(ctx context.Context, key string, o storage.Object) error {
	done, err := b.turns.take(ctx, key)
	if err != nil {
		return err
	}
	defer done()
	if err = b.compare(ctx, key, o.Body); !errors.Is(err, s3client.ErrNotFound) {
		return err
	}
	if _, err := b.client.Put(ctx, b.bucket, key, content(o)); err != nil {
		return err
	}
	return b.compare(ctx, key, o.Body)
}

// compare tells what is there from what is to be there. What can be read from
// S3 is durable.
func (b *Bucket) compare(ctx context.Context, key string, body []byte) error {
	there, err := b.client.Get(ctx, b.bucket, key)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(there.Body, body):
		b.metrics.existing.WithLabelValues("different").Inc()
		return storage.ErrDifferent
	}
	b.metrics.existing.WithLabelValues("same").Inc()
	return nil
}

// Get implements [storage.Bucket].
func (b *Bucket) Get(ctx context.Context, path string) (body []byte, err error) {
	err = b.call("get", path, func(key string) error {
		return b.persist(ctx, "get", func() error {
			o, err := b.read(ctx, path, key)
			if err != nil {
				return err
			}
			body = o.Body
			return nil
		})
	})
	if errors.Is(err, s3client.ErrNotFound) {
		return nil, fmt.Errorf("get object %s: %w", path, storage.ErrNotFound)
	}
	if errors.Is(err, s3client.ErrTooLarge) {
		return nil, fmt.Errorf("%w: %w", storage.ErrTooLarge, err)
	}
	return body, err
}

func (b *Bucket) read(ctx context.Context, path, key string) (*s3client.Object, error) {
	ctx = s3client.WithLimit(ctx, storage.MaxAt(path))
	request := func(ctx context.Context) (*s3client.Object, error) { return b.client.Get(ctx, b.bucket, key) }
	if immutable(path) {
		o, err := hedged(s3client.WithSize(ctx, func(bytes int64) error {
			if bytes > mostHedged && strings.HasPrefix(path, "tile/") {
				return errUnhedged
			}
			return storage.Announce(ctx, bytes)
		}), b.reads, b.metrics, b.client.Pressed, request)
		if !errors.Is(err, errUnhedged) {
			return o, err
		}
	}
	return request(s3client.WithSize(ctx, func(bytes int64) error { return storage.Announce(ctx, bytes) }))
}

// mostHedged is the largest tile that is asked for twice at a time: both
// answers take memory.
const mostHedged = 16 << 20

var errUnhedged = errors.New("too large to be asked for twice")

// immutable reports whether an object never changes, so that of two answers to
// one question either will do.
func immutable(path string) bool {
	return strings.HasPrefix(path, "tile/") || strings.HasPrefix(path, "issuer/") || strings.HasPrefix(path, "staging/")
}

// Delete implements [storage.Bucket].
func (b *Bucket) Delete(ctx context.Context, path string) error {
	return b.call("delete", path, func(key string) error {
		return b.persist(ctx, "delete", func() error { return b.client.Delete(ctx, b.bucket, key) })
	})
}

// hideNotFound cuts what would be taken for an answer of Get.
func hideNotFound(err error) error {
	if errors.Is(err, s3client.ErrNotFound) {
		return errors.New(err.Error())
	}
	return err
}
