package daemon

import (
	"context"

	"kiln/checkpoint"
	"kiln/internal/gc"
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
