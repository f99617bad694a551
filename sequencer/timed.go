package sequencer

import (
	"context"
	"time"

	"kiln/lock"
	"kiln/storage"
)

// A call of storage or lock that neither succeeds nor fails would stop the log
// without a word. After its time its outcome is unknown, which is provided for.
const (
	callTimeout = 10 * time.Second
	slowestByte = time.Second / (1 << 20) // what is large may take longer
)

type timedBucket struct{ storage.Bucket }

func (b timedBucket) Create(ctx context.Context, o storage.Object) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+time.Duration(len(o.Body))*slowestByte)
	defer cancel()
	return b.Bucket.Create(ctx, o)
}

func (b timedBucket) Update(ctx context.Context, o storage.Object, next func([]byte) ([]byte, error)) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.Bucket.Update(ctx, o, next)
}

func (b timedBucket) Get(ctx context.Context, path string) ([]byte, error) {
	// How large the object is, is not known before.
	ctx, cancel := context.WithTimeout(ctx, 6*callTimeout)
	defer cancel()
	return b.Bucket.Get(ctx, path)
}

func (b timedBucket) Delete(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.Bucket.Delete(ctx, path)
}

type timedLock struct{ lock.Store }

func (l timedLock) Create(ctx context.Context, id string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.Store.Create(ctx, id, body)
}

func (l timedLock) Load(ctx context.Context, id string) (lock.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.Store.Load(ctx, id)
}

func (l timedLock) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.Store.Replace(ctx, held, body)
}
