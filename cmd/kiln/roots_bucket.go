package main

import (
	"context"
	"errors"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/lifecycle"
	"kiln/storage"
)

// lazyBucket is the storage of a log, opened when it is first used. A log that
// was not made yet, or is no more, has a storage that is empty and forgets.
// It is for one goroutine, as the opener is, which closes what was opened.
type lazyBucket struct {
	opener *daemon.Opener
	log    config.Log

	opened bool
	is     storage.Bucket // nil if the log is not there
	err    error
}

var _ storage.Bucket = (*lazyBucket)(nil)

// bucket returns the storage, nil for that of a log that is not there.
func (l *lazyBucket) bucket(ctx context.Context) (storage.Bucket, error) {
	if l.opened {
		return l.is, l.err
	}
	l.opened = true
	parts, err := l.opener.Open(ctx, l.log)
	switch {
	case errors.Is(err, daemon.ErrNotCreated), errors.Is(err, daemon.ErrRetired):
	case err != nil:
		l.err = err
	default:
		var state lifecycle.State
		if state, l.err = parts.State(ctx); l.err == nil && state.Retired == nil {
			l.is = parts.Bucket
		}
	}
	return l.is, l.err
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
