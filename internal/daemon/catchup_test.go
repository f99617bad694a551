package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/internal/catchup"
	"kiln/internal/config"
	"kiln/internal/logkey"
	lockmem "kiln/lock/mem"
	"kiln/storage/mem"
	"kiln/tiles"
)

// growingTree is a tree in memory.
type growingTree struct {
	bucket *mem.Bucket
	edge   *tiles.Edge
	keys   []entry.Key
}

func newGrowingTree() *growingTree {
	return &growingTree{bucket: mem.New(), edge: tiles.NewEdge(false)}
}

func (g *growingTree) grow(t *testing.T, n int) {
	t.Helper()
	var entries []*entry.Pending
	for range n {
		der := binary.BigEndian.AppendUint64([]byte("not a certificate"), uint64(len(g.keys)))
		p, err := entry.NewX509(der, [][32]byte{{1}}, false)
		if err != nil {
			t.Fatal(err)
		}
		entries, g.keys = append(entries, p), append(g.keys, p.Key())
	}
	edge, objects, err := g.edge.Append(entries, int64(len(g.keys)))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if err := g.bucket.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	g.edge = edge
}

// fakeCache remembers in memory, and fails when told to.
type fakeCache struct {
	mu      sync.Mutex
	rows    map[entry.Key]entry.Placement
	covered int64
	fail    error
}

func newFakeCache() *fakeCache { return &fakeCache{rows: make(map[entry.Key]entry.Placement)} }

func (c *fakeCache) Covered() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.covered
}

func (c *fakeCache) Put(_ context.Context, keys []entry.Key, placements []entry.Placement) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return c.fail
	}
	for i, k := range keys {
		c.rows[k] = placements[i]
		if placements[i].Index == c.covered {
			c.covered++
		}
	}
	return nil
}

func (c *fakeCache) setFail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

// wantHeld fails unless the cache holds every entry of the tree up to n.
func (c *fakeCache) wantHeld(t *testing.T, g *growingTree, n int) {
	t.Helper()
	if got := c.Covered(); got != int64(n) {
		t.Errorf("covered %d, want %d", got, n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, k := range g.keys[:n] {
		if pl, ok := c.rows[k]; !ok || pl.Index != int64(i) {
			t.Errorf("entry %d: cache says %v, %v", i, pl, ok)
		}
	}
}

func newCatchUp(g *growingTree, c catchup.Cache, log *slog.Logger) *catchUp {
	return &catchUp{
		bucket: g.bucket, cache: c, now: time.Now, log: log,
		metrics: newLogMetrics(nil, func() float64 { return 0 }),
	}
}

func TestCatchUpAtStart(t *testing.T) {
	t.Parallel()
	g := newGrowingTree()
	g.grow(t, catchup.Batch+300)
	c := newFakeCache()
	u := newCatchUp(g, c, slog.New(slog.DiscardHandler))
	if err := u.start(t.Context(), g.edge.Tree()); err != nil {
		t.Fatal(err)
	}
	c.wantHeld(t, g, catchup.Batch+300)

	// The next start reads only what is new.
	clear(c.rows)
	g.grow(t, 5)
	if err := u.start(t.Context(), g.edge.Tree()); err != nil {
		t.Fatal(err)
	}
	if len(c.rows) != 5 || c.Covered() != catchup.Batch+305 {
		t.Errorf("%d rows put, covered %d", len(c.rows), c.Covered())
	}
}

// A cache that knows more than the tree is evidence that the log was set back:
// it stops the start, and stays.
func TestCatchUpRefusesTheFuture(t *testing.T) {
	t.Parallel()
	g := newGrowingTree()
	g.grow(t, 10)
	c := newFakeCache()
	c.covered, c.rows[entry.Key{1}] = 11, entry.Placement{Index: 10}
	err := newCatchUp(g, c, slog.New(slog.DiscardHandler)).start(t.Context(), g.edge.Tree())
	if broken := new(catchup.CacheError); !errors.Is(err, catchup.ErrAhead) || errors.As(err, &broken) {
		t.Errorf("error %v", err)
	}
	if len(c.rows) != 1 || c.covered != 11 {
		t.Errorf("the cache was changed: %d rows, covered %d", len(c.rows), c.covered)
	}
}

// A fault of the cache and one of the tiles must not be taken for each other:
// the first costs the cache, the second stops the start.
func TestCatchUpTellsCacheFromTiles(t *testing.T) {
	t.Parallel()
	damage := func(path string) func(*testing.T, *growingTree, *fakeCache) {
		return func(t *testing.T, g *growingTree, _ *fakeCache) {
			err := g.bucket.Corrupt(path, func(b []byte) []byte {
				b = bytes.Clone(b)
				b[len(b)/2] ^= 1
				return b
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := map[string]struct {
		fault    func(*testing.T, *growingTree, *fakeCache)
		ofCache  bool
		wantText string
	}{
		"put fails":         {func(_ *testing.T, _ *growingTree, c *fakeCache) { c.fail = errors.New("disk full") }, true, "disk full"},
		"cache lies":        {func(_ *testing.T, _ *growingTree, c *fakeCache) { c.covered = -1 << 40 }, true, "entries"},
		"data tile damaged": {damage("tile/data/000"), false, "tile/data/000"},
		"data tile gone": {func(t *testing.T, g *growingTree, _ *fakeCache) {
			if err := g.bucket.Delete(t.Context(), "tile/data/000"); err != nil {
				t.Fatal(err)
			}
		}, false, "tile/data/000"},
		"hash tile damaged": {damage("tile/0/000"), false, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, c := newGrowingTree(), newFakeCache()
			g.grow(t, 300)
			test.fault(t, g, c)
			err := newCatchUp(g, c, slog.New(slog.DiscardHandler)).start(t.Context(), g.edge.Tree())
			if err == nil || !strings.Contains(err.Error(), test.wantText) {
				t.Fatalf("%v, want an error with %q", err, test.wantText)
			}
			if broken := new(catchup.CacheError); errors.As(err, &broken) != test.ofCache {
				t.Errorf("%v: taken for a fault of the cache: %v, want %v", err, !test.ofCache, test.ofCache)
			}
		})
	}
}

func TestCatchUpCalledOff(t *testing.T) {
	t.Parallel()
	g := newGrowingTree()
	g.grow(t, 300)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newCatchUp(g, newFakeCache(), slog.New(slog.DiscardHandler)).start(ctx, g.edge.Tree()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
}

func TestGapsAreClosedWhileRunning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g, c := newGrowingTree(), newFakeCache()
		var mu sync.Mutex // guards g.edge
		latest := func() tlog.Tree {
			mu.Lock()
			defer mu.Unlock()
			return g.edge.Tree()
		}
		grow := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			g.grow(t, n)
		}
		grow(10)
		var lines bytes.Buffer
		u := newCatchUp(g, c, slog.New(slog.NewTextHandler(&lines, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			u.run(ctx, latest)
		}()
		wait := func() {
			time.Sleep(repairInterval) // of the bubble: takes no time
			synctest.Wait()
		}
		wait() // the 10 were there at the start
		c.wantHeld(t, g, 10)
		grow(10)
		wait() // the newest may still be on their way into the cache
		c.wantHeld(t, g, 10)
		wait()
		c.wantHeld(t, g, 20)

		c.setFail(errors.New("disk full"))
		grow(10)
		for range 5 {
			wait()
		}
		c.setFail(nil)
		wait()
		c.wantHeld(t, g, 30)
		cancel()
		<-done
		if got := strings.Count(lines.String(), "disk full"); got != 1 {
			t.Errorf("a lasting fault was told %d times, want once:\n%s", got, &lines)
		}
	})
}

func TestRepairIsBounded(t *testing.T) {
	t.Parallel()
	g, c := newGrowingTree(), newFakeCache()
	g.grow(t, repairLimit+1)
	u := newCatchUp(g, c, slog.New(slog.DiscardHandler))
	if err := u.repair(t.Context(), g.edge.Tree(), repairLimit+1); err != nil {
		t.Fatal(err)
	}
	if got := c.Covered(); got != repairLimit {
		t.Errorf("one pass put %d entries, want %d", got, repairLimit)
	}
}

// Which faults cost a log its long-term cache, and which its start.
func TestOpenDedup(t *testing.T) {
	t.Parallel()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		path           string
		tile           string // damaged
		starts, cached bool
	}{
		"sound":        {filepath.Join(t.TempDir(), "dedup.db"), "", true, true},
		"no cache":     {filepath.Join(file, "dedup.db"), "", true, false},
		"tile damaged": {filepath.Join(t.TempDir(), "dedup.db"), "tile/data/000", false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGrowingTree()
			g.grow(t, 300)
			if test.tile != "" {
				err := g.bucket.Corrupt(test.tile, func(b []byte) []byte { return b[1:] })
				if err != nil {
					t.Fatal(err)
				}
			}
			l := &runningLog{
				conf: config.Log{Name: "one", Storage: "the storage", Dedup: test.path}, key: key,
				now: time.Now, log: slog.New(slog.DiscardHandler), bucket: g.bucket, latest: g.edge.Tree,
				metrics: newLogMetrics(nil, func() float64 { return 0 }),
			}
			l.parts = &Parts{Conf: l.conf, Key: key, Lock: lockmem.New(), LockID: "one"}
			if err := l.parts.Lock.Create(t.Context(), "one", []byte("what the sequencer says")); err != nil {
				t.Fatal(err)
			}
			err := l.openCache(t.Context())
			if err == nil {
				err = l.openDedup(t.Context())
			}
			if (err == nil) != test.starts || (l.dedup != nil) != test.cached {
				t.Errorf("%v, with cache: %v; want start %v, cache %v", err, l.dedup != nil, test.starts, test.cached)
			}
			if err != nil && (!strings.Contains(err.Error(), "the storage") || !strings.Contains(err.Error(), test.tile)) {
				t.Errorf("error names neither storage nor tile: %v", err)
			}
			if l.dedup != nil && l.dedup.Covered() != 300 {
				t.Errorf("covered %d, want 300", l.dedup.Covered())
			}
			if err := l.close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A lock that cannot be read at the moment may answer the sequencer a moment
// later: without it there is no telling whether the log was set back.
func TestOpenCacheWithoutLock(t *testing.T) {
	t.Parallel()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	cells, broken := lockmem.New(), errors.New("broken")
	cells.SetFaults(func(lockmem.Op, string) lockmem.Fault { return lockmem.Fault{Before: broken} })
	l := &runningLog{
		conf: config.Log{Name: "one", Dedup: filepath.Join(t.TempDir(), "dedup.db")}, key: key,
		log: slog.New(slog.DiscardHandler), parts: &Parts{Key: key, Lock: cells, LockID: "one"},
	}
	if err := l.openCache(t.Context()); !errors.Is(err, broken) {
		t.Errorf("openCache: %v", err)
	}
	if err := l.close(); err != nil {
		t.Error(err)
	}
}
