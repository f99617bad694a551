package catchup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
	"kiln/storage/mem"
	"kiln/tiles"
)

// counting counts the reads of each path.
type counting struct {
	storage.Bucket
	mu    sync.Mutex
	reads map[string]int
}

func (c *counting) Get(ctx context.Context, path string) ([]byte, error) {
	c.mu.Lock()
	c.reads[path]++
	c.mu.Unlock()
	return c.Bucket.Get(ctx, path)
}

// TestAhead reads what is there, each tile once, and what is beside them as ever.
func TestAhead(t *testing.T) {
	t.Parallel()
	bucket := mem.New()
	const size = 60*tiles.Width + 7
	path := func(level int, n int64) string {
		return tiles.Path(tlog.Tile{H: tiles.Height, L: level, N: n, W: int(min(size-n*tiles.Width, tiles.Width))})
	}
	for n := range int64(61) {
		for _, level := range []int{0, tiles.LevelData} {
			if n == 50 && level == 0 {
				continue
			}
			if err := bucket.Create(t.Context(), storage.Object{Path: path(level, n), Body: fmt.Appendf(nil, "%d %d", level, n)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := &counting{Bucket: bucket, reads: make(map[string]int)}
	a := newAhead(t.Context(), c, tlog.Tree{N: size}, size)
	for n := range int64(61) {
		for _, level := range []int{0, tiles.LevelData} {
			body, err := a.Get(t.Context(), path(level, n))
			if n == 50 && level == 0 {
				if !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("a missing tile is %q, %v", body, err)
				}
				continue
			}
			if want := fmt.Sprintf("%d %d", level, n); string(body) != want || err != nil {
				t.Errorf("got %q, %v; want %q", body, err, want)
			}
		}
		if len(a.fetched) > 2*aheadTiles {
			t.Fatalf("%d tiles are held", len(a.fetched))
		}
	}
	for _, other := range []string{"tile/data/000.p/3", "tile/1/000", "checkpoint"} {
		if _, err := a.Get(t.Context(), other); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s: %v", other, err)
		}
	}
	a.close()
	for path, n := range c.reads {
		if n != 1 {
			t.Errorf("%s was read %d times", path, n)
		}
	}
	if body, err := a.Get(t.Context(), path(0, 0)); err == nil {
		t.Errorf("after close: %q", body)
	}
}
