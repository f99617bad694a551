package tiles

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"kiln/entry"
	"kiln/internal/contain"
	"kiln/storage"
)

// Edge is the right edge of a tree: the partial tile at each level, with the
// entries under the lowest one. It never changes and is safe for concurrent use.
type Edge struct {
	size   int64
	hashes [levels][]tlog.Hash // of the partial tile at each level, fewer than Width

	data    []byte         // the TileLeafs of the partial data tile, not compressed
	digests []entry.Digest // of the entries in data
	names   []byte         // the lines of the partial names tile, if names are kept

	withNames  bool
	compressor *compressor
}

// NewEdge returns the edge of the empty tree. With names, rounds also make
// names tiles.
func NewEdge(names bool) *Edge {
	return &Edge{withNames: names, compressor: new(compressor)}
}

func (e *Edge) clone() *Edge {
	c := *e
	for l := range c.hashes {
		c.hashes[l] = slices.Clone(e.hashes[l])
	}
	// These only ever grow, and who appends to a clipped slice copies it.
	c.data = slices.Clip(e.data)
	c.digests = slices.Clip(e.digests)
	c.names = slices.Clip(e.names)
	return &c
}

// Size returns the number of entries in the tree.
func (e *Edge) Size() int64 { return e.size }

// Tree returns the size and the root of the tree.
func (e *Edge) Tree() tlog.Tree {
	return tlog.Tree{N: e.size, Hash: e.root()}
}

// root is the Merkle tree hash (RFC 6962 section 2.1): the full subtrees along
// the edge, left to right, folded from the right.
func (e *Edge) root() tlog.Hash {
	var full []tlog.Hash
	for l := levels - 1; l >= 0; l-- {
		h := e.hashes[l]
		for n := Width / 2; n > 0; n /= 2 {
			if len(h)&n != 0 {
				full = append(full, subtree(h[:n]))
				h = h[n:]
			}
		}
	}
	if len(full) == 0 {
		return sha256.Sum256(nil)
	}
	root := full[len(full)-1]
	for i := len(full) - 2; i >= 0; i-- {
		root = tlog.NodeHash(full[i], root)
	}
	return root
}

// subtree returns the root over a power of two of hashes.
func subtree(h []tlog.Hash) tlog.Hash {
	level := slices.Clone(h)
	for len(level) > 1 {
		for i := range len(level) / 2 {
			level[i] = tlog.NodeHash(level[2*i], level[2*i+1])
		}
		level = level[:len(level)/2]
	}
	return level[0]
}

// Append adds entries in order, all with one timestamp, and returns the new edge
// and the objects that the growth adds: each tile at most once, at its widest.
// The edge it is called on stays as it was.
func (e *Edge) Append(entries []*entry.Pending, timestampMillis int64) (*Edge, []storage.Object, error) {
	if e.size+int64(len(entries)) > MaxTree {
		return nil, nil, fmt.Errorf("append %d entries to a tree of %d: a log holds at most 2^40", len(entries), e.size)
	}
	if timestampMillis < 0 {
		return nil, nil, fmt.Errorf("append entries: timestamp %d is negative", timestampMillis)
	}
	b := builder{edge: e.clone()}
	for i, p := range entries {
		if i == 0 || b.edge.size%Width == 0 {
			b.makeRoom(entries[i:])
		}
		if err := b.add(p, timestampMillis); err != nil {
			return nil, nil, err
		}
	}
	b.partials()
	objects, err := b.objects()
	if err != nil {
		return nil, nil, err
	}
	return b.edge, objects, nil
}

// builder grows an edge and collects the tiles that the growth makes.
type builder struct {
	edge    *Edge
	changed [levels]bool
	made    []tileBody
}

type tileBody struct {
	tile tlog.Tile
	body []byte // not compressed
}

// makeRoom makes room for the entries that the current data tile will take: to
// grow entry by entry would copy a tile of large ones many times.
func (b *builder) makeRoom(entries []*entry.Pending) {
	const overhead = 64 // of a TileLeaf, besides what Size counts; more is only slower
	size := 0
	for _, p := range entries[:min(int64(len(entries)), Width-b.edge.size%Width)] {
		size += p.Size() + overhead
	}
	b.edge.data = slices.Grow(b.edge.data, size)
}

func (b *builder) add(p *entry.Pending, timestampMillis int64) error {
	e := b.edge
	pl := entry.Placement{Index: e.size, TimestampMillis: timestampMillis}
	leaf := len(e.data)
	e.data = p.AppendTileLeaf(e.data, pl)
	e.digests = append(e.digests, p.Digest())
	if e.withNames {
		line, err := namesLine(e.data[leaf:], timestampMillis)
		if err != nil {
			return fmt.Errorf("names of entry %d: %w", pl.Index, err)
		}
		e.names = append(e.names, line...)
	}
	e.size++
	b.push(0, p.LeafHash(pl))
	return nil
}

// push adds a hash at a tile level and carries full tiles upwards.
func (b *builder) push(level int, h tlog.Hash) {
	e := b.edge
	e.hashes[level] = append(e.hashes[level], h)
	b.changed[level] = true
	if len(e.hashes[level]) < Width {
		return
	}
	full := e.hashes[level]
	b.emit(level)
	e.hashes[level] = nil
	b.changed[level] = false
	b.push(level+1, subtree(full))
}

// emit adds the tile at the edge of a level, with its data and names at level 0.
func (b *builder) emit(level int) {
	e := b.edge
	w := len(e.hashes[level])
	t := tlog.Tile{H: Height, L: level, N: (e.size - 1) >> (Height * (level + 1)), W: w}
	body := make([]byte, 0, w*tlog.HashSize)
	for i := range e.hashes[level] {
		body = append(body, e.hashes[level][i][:]...)
	}
	b.made = append(b.made, tileBody{t, body})
	if level > 0 {
		return
	}
	t.L = LevelData
	b.made = append(b.made, tileBody{t, e.data})
	if e.withNames {
		t.L = LevelNames
		b.made = append(b.made, tileBody{t, e.names})
	}
	if w == Width {
		e.data, e.digests, e.names = nil, nil, nil
	}
}

// partials adds the partial tiles of the levels that grew.
func (b *builder) partials() {
	for level := range levels {
		if b.changed[level] {
			b.emit(level)
		}
	}
}

// objects compresses what is to be compressed, on all cores.
func (b *builder) objects() ([]storage.Object, error) {
	objects := make([]storage.Object, len(b.made))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, m := range b.made {
		if _, encoding := Headers(m.tile); encoding == "" {
			objects[i] = tileObject(m.tile, m.body)
			continue
		}
		g.Go(func() error {
			return contain.Run(func() error {
				body, err := b.edge.compressor.compress(m.body)
				if err != nil {
					return fmt.Errorf("%s: %w", Path(m.tile), err)
				}
				objects[i] = tileObject(m.tile, body)
				return nil
			})
		})
	}
	return objects, g.Wait()
}

// namesLine returns the names tile line of a TileLeaf (MON-24). A certificate
// whose names cannot be read gets a line with its timestamp alone: names tiles
// are a convenience and never stand in the way of an entry.
func namesLine(leaf []byte, timestampMillis int64) ([]byte, error) {
	trimmed := &sunlight.TrimmedEntry{Timestamp: timestampMillis}
	if e, _, err := sunlight.ReadTileLeaf(leaf); err == nil {
		if t, err := e.TrimmedEntry(); err == nil {
			trimmed = t
		}
	}
	line, err := json.Marshal(trimmed)
	if err != nil {
		return nil, err
	}
	return append(line, '\n'), nil
}
