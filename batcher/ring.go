package batcher

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"kiln/entry"
	"kiln/internal/ring"
)

// Ring routes each entry to the one batcher that owns its key, so that all
// submissions of an entry meet. Members are known by their position: with one
// more at the end, 1/(n+1) of the keys move to it and no others. It is safe for
// concurrent use.
type Ring struct {
	members []*Batcher
	ring    *ring.Ring // nil if there are no members
}

// NewRing makes a ring of batchers. One without members is never available.
func NewRing(members []*Batcher) *Ring {
	names := make([]string, len(members))
	for i := range names {
		names[i] = "batcher " + strconv.Itoa(i)
	}
	owners, err := ring.New(names)
	if err != nil { // only if there are none: the names differ
		return &Ring{}
	}
	return &Ring{members: members, ring: owners}
}

// Lookup is [Batcher.Lookup] of the owner of the key.
func (r *Ring) Lookup(ctx context.Context, key entry.Key, digest entry.Digest) (entry.SCT, bool) {
	if r.ring == nil {
		return entry.SCT{}, false
	}
	return r.members[r.ring.Owner(key)].Lookup(ctx, key, digest)
}

// Add is [Batcher.Add] of the owner of the entry's key.
func (r *Ring) Add(ctx context.Context, p *entry.Pending) (entry.SCT, error) {
	if r.ring == nil {
		return entry.SCT{}, entry.ErrUnavailable
	}
	return r.members[r.ring.Owner(p.Key())].Add(ctx, p)
}

// Close closes all members at the same time.
func (r *Ring) Close() error {
	errs := make([]error, len(r.members))
	var wg sync.WaitGroup
	for i, b := range r.members {
		wg.Go(func() { errs[i] = b.Close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}
