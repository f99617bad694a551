// Package catchup fills the long-term deduplication cache of a log from its
// tiles (design: "The commit, step by step", what follows a crash).
//
// Invariants: each entry was proved against the tree before it is put; entries
// are put in the order of their indexes, so that what the cache counts as covered
// is where a run that was cut off goes on; a fault of the cache and one of the
// tiles are told apart.
//
// The package never knows what the cache is kept in, who serves the log, or why
// it is filled.
package catchup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/storage"
	"kiln/tiles"
)

// Batch is how many entries a transaction of the cache has at most.
const Batch = 4096

// progressInterval is the time between INFO lines of a long run.
const progressInterval = 10 * time.Second

// Cache is what is filled; *dedup.Cache is one.
type Cache interface {
	// Covered is the index below which the cache has every entry.
	Covered() int64
	// Put puts entries, all or none.
	Put(ctx context.Context, keys []entry.Key, placements []entry.Placement) error
}

// CacheError says that the cache failed, and not the tiles.
type CacheError struct{ Err error }

// Error implements error.
func (e *CacheError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *CacheError) Unwrap() error { return e.Err }

// Filler fills the cache of one log. All but Each and Put is required. It is for
// one goroutine at a time.
type Filler struct {
	Bucket storage.Bucket
	Cache  Cache
	Now    func() time.Time
	Logger *slog.Logger

	// Each, if set, is called with each entry before it is put, in their order;
	// its error ends the run.
	Each func(ctx context.Context, e tiles.Entry) error
	// Put, if set, is told that n entries were put, the last of them at index
	// next-1; its error ends the run.
	Put func(n int, next int64) error
}

// All brings the cache up to a tree. A *CacheError means that the log has to do
// without the cache; any other error that a tile cannot be read or does not
// verify.
func (f *Filler) All(ctx context.Context, tree tlog.Tree) error {
	if err := f.Begin(ctx, tree); err != nil {
		return err
	}
	return f.From(ctx, tree, max(0, f.Cache.Covered()))
}

// ErrAhead says that the cache has entries that the tree does not: a log that was
// set back. Its SCTs of those are out, so that going on would fork it. The cache
// is the evidence, and stays as it is.
var ErrAhead = errors.New("the deduplication cache knows entries that the log does not: lock and storage were set back to an old copy, " +
	"and going on would fork the log; bring back the newest ones. If there are none the log is over. " +
	"Only if the cache cannot be of this log's own past, remove its file")

// Begin refuses a cache that is ahead of the tree, as ErrAhead.
func (f *Filler) Begin(_ context.Context, tree tlog.Tree) error {
	return CheckAhead(f.Cache, tree.N)
}

// CheckAhead returns ErrAhead if a cache has entries from a size on.
func CheckAhead(c Cache, size int64) error {
	if covered := c.Covered(); covered > size {
		return fmt.Errorf("cache with %d entries, log with %d: %w", covered, size, ErrAhead)
	}
	return nil
}

// From puts all entries from an index on, and makes sure that the cache then says
// that it has all. Those that it has already do no harm.
func (f *Filler) From(ctx context.Context, tree tlog.Tree, index int64) error {
	if err := f.Fill(ctx, tree, index, tree.N); err != nil {
		return err
	}
	if covered := f.Cache.Covered(); covered < tree.N {
		return &CacheError{fmt.Errorf("deduplication cache was given all %d entries and says it holds those below %d", tree.N, covered)}
	}
	return nil
}

// Fill puts the entries [from, to) into the cache.
func (f *Filler) Fill(ctx context.Context, tree tlog.Tree, from, to int64) error {
	if from >= to {
		return nil
	}
	r := &run{
		Filler: f, from: from, to: to, began: f.Now(), said: f.Now(),
		keys: make([]entry.Key, 0, Batch), placements: make([]entry.Placement, 0, Batch),
	}
	bucket := newAhead(ctx, f.Bucket, tree, to)
	defer bucket.close()
	err := tiles.Entries(ctx, bucket, tree, from, to, func(e tiles.Entry) error { return r.take(ctx, e) })
	if err == nil {
		err = r.flush(ctx)
	}
	if err != nil {
		return err
	}
	f.Logger.Info("caught up deduplication cache from the tiles", "entries", r.done, "leaf_index", from, "tree_size", to,
		"elapsed", f.Now().Sub(r.began))
	return nil
}

// run is one call of Fill.
type run struct {
	*Filler
	from, to   int64
	began      time.Time
	said       time.Time // when progress was logged last
	done       int64     // entries put
	keys       []entry.Key
	placements []entry.Placement
}

func (r *run) take(ctx context.Context, e tiles.Entry) error {
	if r.Each != nil {
		if err := r.Each(ctx, e); err != nil {
			return err
		}
	}
	r.keys, r.placements = append(r.keys, e.Key), append(r.placements, e.Placement)
	if len(r.keys) < Batch {
		return nil
	}
	return r.flush(ctx)
}

func (r *run) flush(ctx context.Context) error {
	n := len(r.keys)
	if n == 0 {
		return nil
	}
	if err := r.Cache.Put(ctx, r.keys, r.placements); err != nil {
		return &CacheError{fmt.Errorf("put %d entries into deduplication cache: %w", n, err)}
	}
	r.done += int64(n)
	r.keys, r.placements = r.keys[:0], r.placements[:0]
	if now := r.Now(); now.Sub(r.said) >= progressInterval {
		r.said = now
		r.Logger.Info(fmt.Sprintf("catching up deduplication cache from the tiles, %d%% done", 100*r.done/(r.to-r.from)),
			"entries", r.done, "tree_size", r.to, "elapsed", now.Sub(r.began))
	}
	if r.Put != nil {
		return r.Put(n, r.from+r.done)
	}
	return nil
}
