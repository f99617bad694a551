package s3

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"

	"kiln/internal/s3client"
	"kiln/storage"
)

// Update implements [storage.Bucket]. If the outcome of its write was unknown,
// and another writer has replaced the object before it could be looked at, next
// is called with what that one wrote, as if the write had not taken place.
//
// After an Update of the same object by this Bucket it is one request, as next
// is first asked about what was written then: if anything else is there now the
// swap fails, and the object is read.
func (b *Bucket) Update(ctx context.Context, o storage.Object, next func(current []byte) ([]byte, error)) error {
	ctx = s3client.WithLimit(ctx, storage.MaxAt(o.Path))
	return b.call("update", o.Path, func(key string) error {
		done, err := b.turns.take(ctx, key)
		if err != nil {
			return err
		}
		defer done()
		u := update{Bucket: b, key: key, content: content(o), next: next}
		u.content.Tag = rand.Text()
		if ok, err := u.guess(ctx); ok {
			return err
		}
		var backoff s3client.Backoff
		for {
			done, err := u.attempt(ctx)
			if done {
				return err
			}
			if err := b.again(ctx, "update", &backoff, err); err != nil {
				return hideNotFound(err)
			}
		}
	})
}

// update is one call of Update.
type update struct {
	*Bucket
	key     string
	content s3client.Content // Tag is of this call alone
	next    func([]byte) ([]byte, error)
	unknown bool // the outcome of the last write, whose body content has
}

// guess swaps what was last written, if that is known, without a look. ok says
// that this was enough.
func (u *update) guess(ctx context.Context) (ok bool, err error) {
	there, known := u.written.take(u.key)
	if !known || u.without.CompareAndSwap {
		return false, nil
	}
	if u.content.Body, err = u.next(there.Body); err != nil {
		return false, nil // it is asked again, about what is there
	}
	err = u.write(ctx, there)
	return err == nil || s3client.ClassOf(err) == s3client.Refused, err
}

// attempt reads, asks and swaps. done says that it is of no use to go on.
func (u *update) attempt(ctx context.Context) (done bool, err error) {
	there, err := u.client.Get(ctx, u.bucket, u.key)
	switch {
	case errors.Is(err, s3client.ErrNotFound):
		there = nil
	case err != nil:
		return !s3client.Retryable(err), err
	case u.isOurs(there):
		return true, nil
	}
	var current []byte
	if there != nil {
		current = there.Body
	}
	if u.content.Body, err = u.next(current); err != nil {
		return true, err
	}
	err = u.write(ctx, there)
	return !s3client.Retryable(err) && !errors.Is(err, s3client.ErrPrecondition), err
}

// write puts the content in place of what was there, nil for nothing.
func (u *update) write(ctx context.Context, there *s3client.Object) (err error) {
	var etag string
	switch {
	case u.without.CompareAndSwap:
		_, err = u.client.Put(ctx, u.bucket, u.key, u.content)
	case there == nil:
		etag, err = u.client.PutIfAbsent(ctx, u.bucket, u.key, u.content)
	default:
		etag, err = u.client.PutIfMatch(ctx, u.bucket, u.key, there.ETag, u.content)
	}
	u.unknown = s3client.OutcomeUnknown(err)
	if err == nil && etag != "" {
		u.written.put(u.key, etag, u.content.Body)
	}
	return err
}

// isOurs reports whether an earlier attempt made the object that is there. If
// the server lost the tag, the bytes have to do.
func (u *update) isOurs(there *s3client.Object) bool {
	if there.Tag != "" {
		return there.Tag == u.content.Tag
	}
	return u.unknown && bytes.Equal(there.Body, u.content.Body)
}

// Bounds of what is remembered: a log updates a checkpoint, and little else.
const (
	maxWritten     = 16
	maxWrittenBody = 64 << 10
)

// written remembers what Updates wrote last.
type written struct {
	mu      sync.Mutex // guards objects
	objects map[string]*s3client.Object
}

// take returns what was last written at a key, and forgets it: while the next
// write is on its way, nothing is known.
func (w *written) take(key string) (o *s3client.Object, known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o, known = w.objects[key]
	delete(w.objects, key)
	return o, known
}

func (w *written) put(key, etag string, body []byte) {
	if len(body) > maxWrittenBody {
		return
	}
	o := &s3client.Object{Content: s3client.Content{Body: bytes.Clone(body)}, Info: s3client.Info{Key: key, ETag: etag}}
	if o.Body == nil {
		o.Body = []byte{} // it is there, and empty
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.objects == nil || len(w.objects) >= maxWritten {
		w.objects = make(map[string]*s3client.Object, maxWritten)
	}
	w.objects[key] = o
}
