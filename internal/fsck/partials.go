package fsck

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"kiln/tiles"
)

// maxPrefixes bounds the wide tiles that are remembered for their partial ones.
const maxPrefixes = 64

// prefixes are the hashes of the beginnings of a tile: at [w-1] that of its first
// w entries, hashes or lines, decoded.
type prefixes struct {
	widest int // of the tile they are of
	sums   [][32]byte
	ends   []int64 // bytes that each sum covers
}

// checkPartials compares every partial tile that the source lists with the
// widest tile of its place: what was once served never changes (MON-09, MON-17).
// Those of the checkpoint itself were checked before; those of a later one are
// left alone.
func (c *checker) checkPartials(ctx context.Context) error {
	lister, ok := c.source.(Lister)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	known := &prefixCache{c: c, of: make(map[tlog.Tile]*prefixSlot)}
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(c.opts.Parallel)
	done := int64(0)
	err := lister.List(ctx, "tile/", func(path string) error {
		c.beat.Add(1)
		t, err := tiles.ParsePath(path)
		if err != nil {
			c.counts.note(path, "object below tile/ has the path of no tile")
			return nil
		}
		wide := widest(c.tree.N, t.L, t.N)
		if t.W >= wide.W || t.L == tiles.LevelNames && !c.names {
			return nil
		}
		done++
		c.progress("checking partial tiles", done, 0)
		workers.Go(func() error { return c.checkPartial(ctx, known, t, wide) })
		return ctx.Err()
	})
	if werr := workers.Wait(); werr != nil {
		return werr // the first; the list ends for it too
	}
	if err != nil && ctx.Err() == nil {
		return &UnknownError{Path: "tile/", Err: err}
	}
	return err
}

// checkRemembered does so for the tiles that a remembered checkpoint needs,
// which must be there as long as there is no full tile.
func (c *checker) checkRemembered(ctx context.Context) error {
	size := c.report.SinceSize
	known := &prefixCache{c: c, of: make(map[tlog.Tile]*prefixSlot)}
	for l := tiles.LevelNames; l < levels; l++ {
		n := size >> (tiles.Height * (max(l, 0) + 1))
		t, wide := widest(size, l, n), widest(c.tree.N, l, n)
		if t.W == 0 || t.W == wide.W || l == tiles.LevelNames && !c.names {
			continue
		}
		if err := c.checkPartial(ctx, known, t, wide); err != nil {
			return err
		}
	}
	return nil
}

// checkPartial compares a partial tile with a wider one.
func (c *checker) checkPartial(ctx context.Context, known *prefixCache, t, wide tlog.Tile) error {
	got, err := c.readPrefixes(ctx, t)
	if absent(err) {
		if wide.W == tiles.Width || t.L == tiles.LevelNames {
			return nil // it may go once the full tile is there, which was checked
		}
		return c.missingPartial(ctx, t, err)
	}
	if err != nil {
		return err
	}
	want, err := known.get(ctx, wide)
	if t.L == tiles.LevelNames && absent(err) {
		return nil // as was noted
	}
	if err != nil {
		return missing(tiles.Path(wide), firstEntry(wide, 0), err)
	}
	path := tiles.Path(t)
	for i := range got.sums {
		if got.sums[i] != want.sums[i] || got.ends[i] != want.ends[i] {
			return mismatch(path, firstEntry(t, i), hexOf(got.sums[i]), hexOf(want.sums[i]),
				"is not the beginning of %s: they part at %d (index %d), and up to there their SHA-256 differ", tiles.Path(wide), i, firstEntry(t, i))
		}
	}
	c.counts.partials.Add(1)
	return nil
}

// missingPartial is the fault of a partial tile that is not there, unless its
// full tile is: the log may have grown since.
func (c *checker) missingPartial(ctx context.Context, t tlog.Tile, err error) error {
	full := c.read(ctx, tiles.Path(fullOf(t)), maxTile, func(*bufio.Reader) error { return nil })
	return missing(tiles.Path(t), firstEntry(t, 0), orRefused(err, full))
}

// readPrefixes reads a tile of exactly this width, or the full one if the
// narrower is gone and it is not what is to be judged.
func (c *checker) readPrefixes(ctx context.Context, t tlog.Tile) (*prefixes, error) {
	var p *prefixes
	err := c.read(ctx, tiles.Path(t), maxTile, func(r *bufio.Reader) error {
		var err error
		p, err = sumPrefixes(t, r, t.W)
		if err != nil {
			return err
		}
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			return &Fault{Path: tiles.Path(t), Index: firstEntry(t, t.W-1), Detail: fmt.Sprintf("has more than its %d entries, hashes or lines", t.W)}
		}
		return nil
	})
	return p, err
}

// sumPrefixes reads the first width pieces of a tile.
func sumPrefixes(t tlog.Tile, r *bufio.Reader, width int) (*prefixes, error) {
	p := &prefixes{widest: width, sums: make([][32]byte, 0, width), ends: make([]int64, 0, width)}
	h := sha256.New()
	size := int64(0)
	var l leaf
	for i := range width {
		piece, err := readPiece(t.L, &l, r)
		if err != nil {
			return nil, &Fault{Path: tiles.Path(t), Index: firstEntry(t, i), Detail: fmt.Sprintf("ends before or is malformed at %d (index %d), it should have %d: %v", i, firstEntry(t, i), t.W, err)}
		}
		h.Write(piece)
		size += int64(len(piece))
		p.sums = append(p.sums, [32]byte(h.Sum(nil)))
		p.ends = append(p.ends, size)
	}
	return p, nil
}

// readPiece reads one entry, hash or line.
func readPiece(level int, l *leaf, r *bufio.Reader) ([]byte, error) {
	switch level {
	case tiles.LevelData:
		err := l.read(r)
		return l.buf, err
	case tiles.LevelNames:
		return readLine(r)
	}
	hash := make([]byte, tlog.HashSize)
	_, err := io.ReadFull(r, hash)
	return hash, err
}

// prefixCache remembers the prefixes of wide tiles. It is safe for concurrent use.
type prefixCache struct {
	c  *checker
	mu sync.Mutex // guards of
	of map[tlog.Tile]*prefixSlot
}

type prefixSlot struct {
	once sync.Once
	p    *prefixes
	err  error
}

func (k *prefixCache) get(ctx context.Context, t tlog.Tile) (*prefixes, error) {
	k.mu.Lock()
	slot := k.of[t]
	if slot == nil {
		if len(k.of) >= maxPrefixes {
			clear(k.of)
		}
		slot = new(prefixSlot)
		k.of[t] = slot
	}
	k.mu.Unlock()
	slot.once.Do(func() {
		slot.err = k.c.tile(ctx, t, func(served tlog.Tile, r *bufio.Reader) (err error) {
			slot.p, err = sumPrefixes(served, r, t.W)
			return err
		})
	})
	return slot.p, slot.err
}
