package catchup

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/contain"
	"kiln/storage"
	"kiln/tiles"
)

// aheadTiles is how many tiles of a level are fetched before they are asked for.
// Full data tiles have about a megabyte; what may have far more waits until it is
// asked for, when those that wait have aheadBytes.
const (
	aheadTiles = 16
	aheadBytes = 64 << 20
)

// errLater says that an object is too large to be fetched ahead.
var errLater = errors.New("too large to be fetched ahead")

// ahead is a bucket whose data tiles, and hash tiles of level 0, are read in their
// order: it fetches those that come next while the last is looked at, for each
// costs a round trip.
type ahead struct {
	storage.Bucket
	last int64 // number of the last tile of these levels that is wanted
	size int64 // of the tree

	ctx    context.Context // ends the fetches
	cancel context.CancelFunc
	runs   sync.WaitGroup

	mu      sync.Mutex
	fetched map[string]*fetch // not asked for yet
	held    int64             // bytes of these
}

// fetch is one object that is on its way.
type fetch struct {
	done chan struct{} // closed when body and err are set
	body []byte
	err  error

	asked bool  // guarded by ahead.mu: it counts no more
	size  int64 // guarded by ahead.mu: as it counts
}

// newAhead returns the bucket for one reading of the entries below to of a tree.
// The caller closes it.
func newAhead(ctx context.Context, b storage.Bucket, tree tlog.Tree, to int64) *ahead {
	a := &ahead{Bucket: b, size: tree.N, last: (to - 1) / tiles.Width, fetched: make(map[string]*fetch)}
	a.ctx, a.cancel = context.WithCancel(ctx)
	return a
}

// close ends what is still on its way.
func (a *ahead) close() {
	a.cancel()
	a.runs.Wait()
}

// Get implements [storage.Bucket].
func (a *ahead) Get(ctx context.Context, path string) ([]byte, error) {
	t, err := tiles.ParsePath(path)
	if err != nil || t.L != tiles.LevelData && t.L != 0 || t.N > a.last || a.path(t.L, t.N) != path {
		return a.Bucket.Get(ctx, path)
	}
	f := a.start(t.L, t.N)
	select {
	case <-f.done:
		if errors.Is(f.err, errLater) {
			return a.Bucket.Get(ctx, path)
		}
		return f.body, f.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// start begins to fetch tile n of a level and those after it, as far as they were not
// begun, and takes the first out.
func (a *ahead) start(level int, n int64) *fetch {
	a.mu.Lock()
	defer a.mu.Unlock()
	for m := n; m <= min(n+aheadTiles, a.last); m++ {
		path := a.path(level, m)
		if a.fetched[path] != nil {
			continue
		}
		f := &fetch{done: make(chan struct{})}
		a.fetched[path] = f
		a.runs.Go(func() {
			defer close(f.done)
			f.err = contain.Run(func() (err error) {
				ctx := storage.WithSize(a.ctx, func(bytes int64) error { return a.take(f, bytes) })
				f.body, err = a.Bucket.Get(ctx, path)
				return err
			})
		})
	}
	first := a.path(level, n)
	f := a.fetched[first]
	delete(a.fetched, first) // a second reading fetches again
	a.held -= f.size
	f.asked, f.size = true, 0
	return f
}

// take counts the bytes of a fetch, or refuses them if nobody waits for it yet
// and there are too many.
func (a *ahead) take(f *fetch, bytes int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f.asked {
		return nil
	}
	if a.held-f.size+bytes > aheadBytes {
		return errLater
	}
	a.held += bytes - f.size
	f.size = bytes
	return nil
}

func (a *ahead) path(level int, n int64) string {
	return tiles.Path(tlog.Tile{H: tiles.Height, L: level, N: n, W: int(min(a.size-n*tiles.Width, tiles.Width))})
}
