package fsck

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/tiles"
)

// levels is the number of tile levels of a tree of 2^40 entries.
const levels = 6

// spine is what is known of a growing tree: at each tile level the hashes of the
// tile that is not full yet. For a tree of size s they are those of its partial
// tiles. It is for one goroutine.
type spine struct {
	size   int64
	levels [levels][]tlog.Hash
}

// push adds a hash at a level. If the tile there is full now it is returned, and
// the caller has to push its [subtree] one level up.
func (s *spine) push(level int, h tlog.Hash) (full []tlog.Hash) {
	s.levels[level] = append(s.levels[level], h)
	if len(s.levels[level]) < tiles.Width {
		return nil
	}
	full = s.levels[level]
	s.levels[level] = nil
	return full
}

// root computes the Merkle tree hash as a list of perfect subtrees, merged as
// soon as two neighbours have one size.
func (s *spine) root() tlog.Hash {
	type perfect struct {
		height int
		hash   tlog.Hash
	}
	var stack []perfect
	for l := levels - 1; l >= 0; l-- {
		for _, h := range s.levels[l] {
			p := perfect{l * tiles.Height, h}
			for len(stack) > 0 && stack[len(stack)-1].height == p.height {
				p = perfect{p.height + 1, tlog.NodeHash(stack[len(stack)-1].hash, p.hash)}
				stack = stack[:len(stack)-1]
			}
			stack = append(stack, p)
		}
	}
	if len(stack) == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	root := stack[len(stack)-1].hash
	for _, p := range slices.Backward(stack[:len(stack)-1]) {
		root = tlog.NodeHash(p.hash, root)
	}
	return root
}

// subtree returns the root over a full tile of hashes, or over any power of two.
func subtree(hashes []tlog.Hash) tlog.Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return tlog.NodeHash(subtree(hashes[:half]), subtree(hashes[half:]))
}

// widest returns tile n of a level as a tree of some size has it; its width is 0
// if the tree has none. A data tile is as wide as its hash tile.
func widest(size int64, level int, n int64) tlog.Tile {
	hashes := size >> (tiles.Height * max(level, 0))
	return tlog.Tile{H: tiles.Height, L: level, N: n, W: int(max(0, min(hashes-n*tiles.Width, tiles.Width)))}
}

// fullOf returns the full tile of a partial one.
func fullOf(t tlog.Tile) tlog.Tile {
	t.W = tiles.Width
	return t
}

// firstEntry returns the index of the first entry under hash i of a tile.
func firstEntry(t tlog.Tile, i int) int64 {
	return (t.N*tiles.Width + int64(i)) << (tiles.Height * max(t.L, 0))
}

// tile reads a tile; use gets what it really is, as the full tile may stand in
// for a partial one that is gone (MON-09).
func (c *checker) tile(ctx context.Context, t tlog.Tile, use func(t tlog.Tile, r *bufio.Reader) error) error {
	read := func(t tlog.Tile) error {
		return c.read(ctx, tiles.Path(t), maxTile, func(r *bufio.Reader) error { return use(t, r) })
	}
	err := read(t)
	if t.W == tiles.Width || err == nil || !absent(err) {
		return err
	}
	return orRefused(err, read(fullOf(t)))
}

// orRefused returns what reading the full tile instead of an absent partial one
// has come to. If both are absent it is only certain that there is none if the
// source said so of both.
func orRefused(partial, full error) error {
	if full != nil && absent(full) && errors.Is(partial, ErrRefused) {
		return partial
	}
	return full
}

// hashes reads the first t.W hashes of a hash tile.
func (c *checker) hashes(ctx context.Context, t tlog.Tile) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	err := c.tile(ctx, t, func(served tlog.Tile, r *bufio.Reader) error {
		path, want := tiles.Path(served), served.W*tlog.HashSize
		body := make([]byte, want)
		if n, err := io.ReadFull(r, body); err != nil {
			return mismatch(path, firstEntry(served, n/tlog.HashSize), fmt.Sprintf("%d bytes", n), fmt.Sprintf("%d bytes", want), "wrong length")
		}
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			return mismatch(path, -1, fmt.Sprintf("more than %d bytes", want), fmt.Sprintf("%d bytes", want), "wrong length")
		}
		hashes = make([]tlog.Hash, t.W)
		for i := range hashes {
			hashes[i] = tlog.Hash(body[i*tlog.HashSize:])
		}
		return nil
	})
	if err != nil {
		return nil, missing(tiles.Path(t), firstEntry(t, 0), err)
	}
	c.counts.hashTiles.Add(1)
	return hashes, nil
}

// proven reads hashes that are proved against the checkpoint. It is for one
// goroutine.
type proven struct {
	c     *checker
	ctx   context.Context // of the one reading it was made for
	cache map[tlog.Tile][]byte
	err   error // of the source
}

// provenHashes returns a reader of hashes that the checkpoint vouches for.
func (c *checker) provenHashes(ctx context.Context) (tlog.HashReader, *proven) {
	return c.hashesOf(ctx, c.tree)
}

// hashesOf is provenHashes for another tree of the log.
func (c *checker) hashesOf(ctx context.Context, tree tlog.Tree) (tlog.HashReader, *proven) {
	p := &proven{c: c, ctx: ctx, cache: make(map[tlog.Tile][]byte)}
	return tlog.TileHashReader(tree, p), p
}

// Height implements [tlog.TileReader].
func (p *proven) Height() int { return tiles.Height }

// ReadTiles implements [tlog.TileReader].
func (p *proven) ReadTiles(list []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(list))
	for i, t := range list {
		if data[i] = p.cache[t]; data[i] != nil {
			continue
		}
		hashes, err := p.c.hashes(p.ctx, t)
		if err != nil {
			p.err = err
			return nil, err
		}
		for _, h := range hashes {
			data[i] = append(data[i], h[:]...)
		}
	}
	return data, nil
}

// SaveTiles implements [tlog.TileReader].
func (p *proven) SaveTiles(list []tlog.Tile, data [][]byte) {
	for i, t := range list {
		p.cache[t] = data[i]
	}
}

// errUnproved says that hash tiles do not fit the checkpoint. Which of them it is
// the walk over the entries will find.
var errUnproved = errors.New("hash tiles do not fit the checkpoint")

// rootAt returns the root of the log's tree at an earlier size, proved against
// the checkpoint, or errUnproved.
func (c *checker) rootAt(ctx context.Context, size int64) (tlog.Hash, error) {
	hashes, p := c.provenHashes(ctx)
	return rootOf(hashes, p, size)
}

func rootOf(hashes tlog.HashReader, p *proven, size int64) (tlog.Hash, error) {
	root, err := tlog.TreeHash(size, hashes)
	switch {
	case p.err != nil:
		return root, p.err
	case err != nil:
		return root, errUnproved
	}
	return root, nil
}

// edge reads the partial hash tiles of the checkpoint's tree and compares the
// root over them with the checkpoint's.
func (c *checker) readEdge(ctx context.Context) error {
	c.edge = spine{size: c.tree.N}
	for l := range levels {
		t := widest(c.tree.N, l, c.tree.N>>(tiles.Height*(l+1)))
		if t.W == 0 {
			continue
		}
		var err error
		if c.edge.levels[l], err = c.hashes(ctx, t); err != nil {
			return err
		}
	}
	if c.edge.root() == c.tree.Hash {
		return nil
	}
	return c.blameEdge(ctx)
}
