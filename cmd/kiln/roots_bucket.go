package main

import (
	"context"
	"errors"
	"sync"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/storage"
)

// lazyBucket is the storage of a log, opened when it is first used. A log that
// was not made yet has a storage that is empty and forgets.
type lazyBucket struct {
	cfg *config.Config
	log config.Log

	open  sync.Once // writes what follows
	parts *daemon.Parts
	err   error
}

var _ storage.Bucket = (*lazyBucket)(nil)

// bucket returns the storage, nil for that of a log that was not made yet.
func (l *lazyBucket) bucket(ctx context.Context) (storage.Bucket, error) {
	l.open.Do(func() {
		l.parts, l.err = daemon.OpenParts(ctx, l.cfg, l.log, daemon.Options{})
		if errors.Is(l.err, daemon.ErrNotCreated) {
			l.parts, l.err = nil, nil
		}
	})
	if l.err != nil || l.parts == nil {
		return nil, l.err
	}
	return l.parts.Bucket, nil
}

// close closes what was opened.
func (l *lazyBucket) close() error {
	l.open.Do(func() { l.err = errors.New("closed") })
	if l.parts == nil {
		return nil
	}
	return l.parts.Close()
}

// Create implements [storage.Bucket].
func (l *lazyBucket) Create(ctx context.Context, o storage.Object) error {
	b, err := l.bucket(ctx)
	if err != nil || b == nil {
		return err
	}
	return b.Create(ctx, o)
}

// Update implements [storage.Bucket].
func (l *lazyBucket) Update(ctx context.Context, o storage.Object, next func([]byte) ([]byte, error)) error {
	b, err := l.bucket(ctx)
	if err != nil || b == nil {
		return err
	}
	return b.Update(ctx, o, next)
}

// Get implements [storage.Bucket].
func (l *lazyBucket) Get(ctx context.Context, path string) ([]byte, error) {
	b, err := l.bucket(ctx)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, storage.ErrNotFound
	}
	return b.Get(ctx, path)
}

// Delete implements [storage.Bucket].
func (l *lazyBucket) Delete(ctx context.Context, path string) error {
	b, err := l.bucket(ctx)
	if err != nil || b == nil {
		return err
	}
	return b.Delete(ctx, path)
}
