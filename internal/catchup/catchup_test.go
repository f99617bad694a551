package catchup

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/storage/mem"
	"kiln/tiles"
)

// list is a cache that remembers in order, and covers what it was given.
type list struct {
	indexes []int64
	covered int64
	fail    error
}

func (l *list) Covered() int64 { return l.covered }

func (l *list) Put(_ context.Context, keys []entry.Key, placements []entry.Placement) error {
	if l.fail != nil {
		return l.fail
	}
	for _, pl := range placements {
		l.indexes = append(l.indexes, pl.Index)
		l.covered = max(l.covered, pl.Index+1)
	}
	return nil
}

// newTree returns a tree of n entries, each with a chain of its own.
func newTree(t *testing.T, n int) (*mem.Bucket, tlog.Tree) {
	t.Helper()
	bucket := mem.New()
	var entries []*entry.Pending
	for i := range n {
		e, err := entry.NewX509(binary.BigEndian.AppendUint64(nil, uint64(i)), [][32]byte{{byte(i), byte(i >> 8)}}, false)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, e)
	}
	edge, objects, err := tiles.NewEdge(false).Append(entries, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if err := bucket.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	return bucket, edge.Tree()
}

func newFiller(bucket *mem.Bucket, c Cache) *Filler {
	return &Filler{Bucket: bucket, Cache: c, Now: time.Now, Logger: slog.New(slog.DiscardHandler)}
}

// TestHooks are told of every entry before it is put, and of every Put.
func TestHooks(t *testing.T) {
	t.Parallel()
	bucket, tree := newTree(t, Batch+500)
	c := &list{}
	f := newFiller(bucket, c)
	var seen, nexts []int64
	f.Each = func(_ context.Context, e tiles.Entry) error {
		if len(c.indexes) > 0 && c.indexes[len(c.indexes)-1] >= e.Index {
			t.Errorf("entry %d was put before it was seen", e.Index)
		}
		if want := [32]byte{byte(e.Index), byte(e.Index >> 8)}; len(e.Chain) != 1 || e.Chain[0] != want {
			t.Errorf("entry %d names %x", e.Index, e.Chain)
		}
		seen = append(seen, e.Index)
		return nil
	}
	f.Put = func(n int, next int64) error {
		if int64(n) != next-max(100, int64(Batch+100)*int64(len(nexts))) {
			t.Errorf("put %d up to %d", n, next)
		}
		nexts = append(nexts, next)
		return nil
	}
	if err := f.From(t.Context(), tree, 100); err != nil {
		t.Fatal(err)
	}
	if len(seen) != Batch+400 || seen[0] != 100 || !slices.Equal(seen, c.indexes) || !slices.Equal(nexts, []int64{Batch + 100, Batch + 500}) {
		t.Errorf("seen %d entries, put %d, up to %v", len(seen), len(c.indexes), nexts)
	}
}

// TestHooksEnd a run; what was not approved is not put.
func TestHooksEnd(t *testing.T) {
	t.Parallel()
	bucket, tree := newTree(t, 300)
	stop := errors.New("stop")
	c := &list{}
	f := newFiller(bucket, c)
	f.Each = func(_ context.Context, e tiles.Entry) error {
		if e.Index == 270 {
			return stop
		}
		return nil
	}
	if err := f.All(t.Context(), tree); !errors.Is(err, stop) || len(c.indexes) != 0 {
		t.Errorf("%v, %d entries put", err, len(c.indexes))
	}
	f.Each, f.Put = nil, func(int, int64) error { return stop }
	if err := f.All(t.Context(), tree); !errors.Is(err, stop) || len(c.indexes) != 300 {
		t.Errorf("%v, %d entries put", err, len(c.indexes))
	}
}

// TestFaults of the cache are told from those of the tiles.
func TestFaults(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault   func(*mem.Bucket, *list) error
		ofCache bool
	}{
		"put": {func(_ *mem.Bucket, c *list) error { c.fail = errors.New("full"); return nil }, true},
		"tile": {func(b *mem.Bucket, _ *list) error {
			return b.Corrupt("tile/data/000", func(b []byte) []byte { return b[1:] })
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bucket, tree := newTree(t, 300)
			c := &list{}
			if err := test.fault(bucket, c); err != nil {
				t.Fatal(err)
			}
			err := newFiller(bucket, c).All(t.Context(), tree)
			var broken *CacheError
			if err == nil || errors.As(err, &broken) != test.ofCache {
				t.Errorf("%v, a fault of the cache: %v", err, !test.ofCache)
			}
		})
	}
}
