package gc

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"kiln/storage"
)

const (
	tries     = 5
	firstWait = 200 * time.Millisecond
	// retryInterval is the least time between two repeated calls of a run: a
	// storage that is in trouble gets no storm on top.
	retryInterval = 50 * time.Millisecond
)

// call runs one call of the storage or the lock within the bound of those at
// work, again within bounds if it fails.
func (c *collector) call(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := c.once(ctx, do)
		if err == nil || try == tries || errors.Is(err, storage.ErrNotFound) || ctx.Err() != nil {
			return err
		}
		if c.pace.wait(ctx, firstWait<<(try-1)) != nil {
			return err
		}
	}
}

func (c *collector) once(ctx context.Context, do func() error) error {
	select {
	case c.calls <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.calls }()
	return do()
}

// reader is the bucket whose reads are repeated: what package tiles reads takes
// many.
type reader struct {
	storage.Bucket
	c *collector
}

func (r reader) Get(ctx context.Context, path string) ([]byte, error) { return r.c.get(ctx, path) }

func (c *collector) get(ctx context.Context, path string) (body []byte, err error) {
	err = c.call(ctx, func() (err error) {
		body, err = c.cfg.Bucket.Get(ctx, path)
		return err
	})
	return body, err
}

// delete is the only place from which anything is deleted.
func (c *collector) delete(ctx context.Context, i storage.Info) error {
	path := i.Path
	if _, ok := partialOf(i); !ok && !bundleOf(i) {
		return fmt.Errorf("delete %s: it is no partial tile and no bundle", path)
	}
	return c.call(ctx, func() error { return c.cfg.Bucket.Delete(ctx, path) })
}

// pace spaces out repeated calls. The zero value is ready.
type pace struct {
	mu   sync.Mutex
	next time.Time // before which no call is repeated
}

func (p *pace) wait(ctx context.Context, least time.Duration) error {
	p.mu.Lock()
	now := time.Now()
	at := now.Add(least)
	if at.Before(p.next) {
		at = p.next
	}
	p.next = at.Add(retryInterval)
	p.mu.Unlock()
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
