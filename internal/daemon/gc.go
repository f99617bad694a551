package daemon

import (
	"context"
	"errors"
	"fmt"

	"kiln/checkpoint"
	"kiln/internal/gc"
	"kiln/storage"
)

// GC returns what package gc needs to clean up after this log. The caller may
// change what is not required.
func (p *Parts) GC() (gc.Config, error) {
	v, err := checkpoint.NewVerifier(p.Conf.Origin, p.Key.SPKI())
	if err != nil {
		return gc.Config{}, err
	}
	return gc.Config{
		Bucket: p.Bucket, Lister: p.Bucket, Verifier: v,
		Lock: func(ctx context.Context) ([]byte, error) {
			held, err := p.Lock.Load(ctx, p.LockID)
			return held.Body, err
		},
	}, nil
}

// Published returns the log's published checkpoint, verified.
func (p *Parts) Published(ctx context.Context) (checkpoint.Checkpoint, error) {
	raw, err := p.Bucket.Get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		return checkpoint.Checkpoint{}, fmt.Errorf("the storage has no checkpoint: %w", err)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("read published checkpoint: %w", err)
	}
	v, err := checkpoint.NewVerifier(p.Conf.Origin, p.Key.SPKI())
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return v.Open(raw)
}
