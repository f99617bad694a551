package tiles

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/storage"
)

// maxCachedTiles bounds the proven hash tiles that a reading keeps: the right
// edge and the parents of where it is.
const maxCachedTiles = 64

// bucketTiles reads hash tiles for [tlog.TileHashReader], which proves them
// against a tree head. It is for one goroutine.
type bucketTiles struct {
	ctx    context.Context // of the one reading it was made for
	bucket storage.Bucket
	proven map[tlog.Tile][]byte
	fresh  []string // paths of the tiles of the last reading that were not proven before
	err    error    // of the last reading from the bucket
}

// ErrNotProved says that stored hash tiles do not support the tree head.
var ErrNotProved = errors.New("stored hash tiles do not match the tree head")

func newHashReader(ctx context.Context, bucket storage.Bucket, tree tlog.Tree) tlog.HashReader {
	r := &bucketTiles{ctx: ctx, bucket: bucket, proven: make(map[tlog.Tile][]byte)}
	inner := tlog.TileHashReader(tree, r)
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		r.err = nil
		hashes, err := inner.ReadHashes(indexes)
		if err != nil && r.err == nil {
			// The tiles were read, so it is what they say.
			err = fmt.Errorf("%w of size %d: corrupt is one of %s: %w", ErrNotProved, tree.N, strings.Join(r.fresh, ", "), err)
		}
		return hashes, err
	})
}

// Height implements [tlog.TileReader].
func (r *bucketTiles) Height() int { return Height }

// ReadTiles implements [tlog.TileReader].
func (r *bucketTiles) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	r.fresh = nil
	for i, t := range tiles {
		if b, ok := r.proven[t]; ok {
			data[i] = b
			continue
		}
		b, err := readHashTile(r.ctx, r.bucket, t)
		if err != nil {
			r.err = err
			return nil, err
		}
		r.fresh = append(r.fresh, Path(t))
		data[i] = b
	}
	return data, nil
}

// SaveTiles implements [tlog.TileReader].
func (r *bucketTiles) SaveTiles(tiles []tlog.Tile, data [][]byte) {
	if len(r.proven)+len(tiles) > maxCachedTiles {
		clear(r.proven)
	}
	for i, t := range tiles {
		r.proven[t] = data[i]
	}
}

func readHashTile(ctx context.Context, bucket storage.Bucket, t tlog.Tile) ([]byte, error) {
	b, err := bucket.Get(ctx, Path(t))
	if err != nil {
		return nil, fmt.Errorf("read hash tile: %w", err)
	}
	if len(b) != t.W*tlog.HashSize {
		return nil, &CorruptError{Path: Path(t), Detail: fmt.Sprintf("has %d bytes, want %d", len(b), t.W*tlog.HashSize)}
	}
	return b, nil
}

// CorruptError says that a stored object is not what the tree head demands.
type CorruptError struct {
	Path   string
	Detail string
}

// Error implements error.
func (e *CorruptError) Error() string { return fmt.Sprintf("%s is corrupt: %s", e.Path, e.Detail) }

// LeafHash returns the leaf hash at an index, proved against the tree.
func LeafHash(ctx context.Context, bucket storage.Bucket, tree tlog.Tree, index int64) (tlog.Hash, error) {
	if index < 0 || index >= tree.N {
		return tlog.Hash{}, fmt.Errorf("read leaf hash: index %d is not in a tree of %d", index, tree.N)
	}
	h, err := newHashReader(ctx, bucket, tree).ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	if err != nil {
		return tlog.Hash{}, fmt.Errorf("read leaf hash %d: %w", index, err)
	}
	return h[0], nil
}

// Entry is what a data tile says of one entry.
type Entry struct {
	Key entry.Key
	entry.Placement
	Chain [][32]byte // fingerprints of the issuers it names; the tree does not prove them
}

// Entries calls yield for the entries [from, to) of a tree, in order. Each was
// proved against the tree before. It stops at the first error, be it of yield.
func Entries(ctx context.Context, bucket storage.Bucket, tree tlog.Tree, from, to int64, yield func(Entry) error) error {
	if from < 0 || to > tree.N || from > to {
		return fmt.Errorf("read entries: [%d, %d) is not in a tree of %d", from, to, tree.N)
	}
	hashes := newHashReader(ctx, bucket, tree)
	for n := from / Width; n*Width < to; n++ {
		t := dataTile(tree.N, n)
		want, err := hashes.ReadHashes(leafIndexes(n*Width, n*Width+int64(t.W)))
		if err != nil {
			return fmt.Errorf("prove hashes of %s: %w", Path(t), accuse(ctx, bucket, t, err))
		}
		body, err := bucket.Get(ctx, Path(t))
		if err != nil {
			return fmt.Errorf("read data tile: %w", err)
		}
		leaves, err := parseDataTile(t, body, want)
		if err != nil {
			return err
		}
		for i, l := range leaves {
			if index := n*Width + int64(i); index < from || index >= to {
				continue
			}
			if err := yield(Entry{Key: l.pending.Key(), Placement: l.placement, Chain: l.pending.Chain()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// accuse adds to hash tiles that are not proved the first entry of a data tile
// that contradicts the hash tile beside it, if there is one: then it is one of
// these two.
func accuse(ctx context.Context, bucket storage.Bucket, t tlog.Tile, err error) error {
	if !errors.Is(err, ErrNotProved) {
		return err
	}
	beside := tlog.Tile{H: Height, L: 0, N: t.N, W: t.W}
	stored, hashErr := readHashTile(ctx, bucket, beside)
	body, dataErr := bucket.Get(ctx, Path(t))
	if hashErr != nil || dataErr != nil {
		return err
	}
	hashes := make([]tlog.Hash, 0, t.W)
	for ; len(stored) > 0; stored = stored[tlog.HashSize:] {
		hashes = append(hashes, tlog.Hash(stored[:tlog.HashSize]))
	}
	if _, why := parseDataTile(t, body, hashes); why != nil {
		return fmt.Errorf("%w; %s, or %w", err, Path(beside), why)
	}
	return err
}

// dataTile returns data tile n of a tree, at its widest there.
func dataTile(size, n int64) tlog.Tile {
	return tlog.Tile{H: Height, L: LevelData, N: n, W: int(min(size-n*Width, Width))}
}

func leafIndexes(from, to int64) []int64 {
	indexes := make([]int64, 0, to-from)
	for i := from; i < to; i++ {
		indexes = append(indexes, tlog.StoredHashIndex(0, i))
	}
	return indexes
}

// leaf is an entry decoded from a data tile.
type leaf struct {
	pending   *entry.Pending
	placement entry.Placement
}

// parseDataTile returns the entries of a data tile, as [walkDataTile] finds them.
func parseDataTile(t tlog.Tile, body []byte, want []tlog.Hash) ([]leaf, error) {
	leaves := make([]leaf, 0, t.W)
	err := walkDataTile(t, body, want, func(l leaf) error {
		leaves = append(leaves, l)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return leaves, nil
}

// walkDataTile decodes a data tile as it is stored, with decoders that are not
// the encoders of this package, and compares each entry with its leaf hash and
// its index (MON-15). It calls each for one entry after the other, so that they
// need not all be in memory, and returns its first error.
func walkDataTile(t tlog.Tile, body []byte, want []tlog.Hash, each func(leaf) error) error {
	corrupt := func(format string, args ...any) error {
		return &CorruptError{Path: Path(t), Detail: fmt.Sprintf(format, args...)}
	}
	rest, err := GunzipTile(t, body)
	if err != nil {
		return corrupt("%v", err)
	}
	for i := range t.W {
		var e *sunlight.LogEntry
		if e, rest, err = sunlight.ReadTileLeaf(rest); err != nil {
			return corrupt("entry %d: %v", i, err)
		}
		if index := t.N*Width + int64(i); e.LeafIndex != index {
			return corrupt("entry %d says it is at index %d, want %d", i, e.LeafIndex, index)
		}
		if got := tlog.RecordHash(e.MerkleTreeLeaf()); got != want[i] {
			return corrupt("entry %d (index %d) has leaf hash %v, the hash tile says %v", i, e.LeafIndex, got, want[i])
		}
		p, err := pendingOf(e)
		if err != nil {
			return corrupt("entry %d: %v", i, err)
		}
		if err := each(leaf{p, entry.Placement{Index: e.LeafIndex, TimestampMillis: e.Timestamp}}); err != nil {
			return err
		}
	}
	if len(rest) != 0 {
		return corrupt("%d bytes after entry %d", len(rest), t.W-1)
	}
	return nil
}

func pendingOf(e *sunlight.LogEntry) (*entry.Pending, error) {
	if e.IsPrecert {
		return entry.NewPrecert(e.Certificate, e.IssuerKeyHash, e.PreCertificate, e.ChainFingerprints, false)
	}
	return entry.NewX509(e.Certificate, e.ChainFingerprints, false)
}

// Load reads the right edge of a tree from a bucket and proves it: the hash
// tiles against the root, the partial data tile against the hashes (CKP-20). A
// fault is a *CorruptError that names the object, or an error of the bucket.
func Load(ctx context.Context, bucket storage.Bucket, tree tlog.Tree, names bool) (*Edge, error) {
	e := NewEdge(names)
	e.size = tree.N
	for l := range levels {
		t := edgeTile(tree.N, l)
		if t.W == 0 {
			continue
		}
		b, err := readHashTile(ctx, bucket, t)
		if err != nil {
			return nil, fmt.Errorf("load right edge: %w", err)
		}
		for ; len(b) > 0; b = b[tlog.HashSize:] {
			e.hashes[l] = append(e.hashes[l], tlog.Hash(b[:tlog.HashSize]))
		}
	}
	if e.root() != tree.Hash {
		return nil, fmt.Errorf("load right edge: %w", diagnose(ctx, bucket, e, tree))
	}
	if len(e.hashes[0]) > 0 {
		if err := e.loadData(ctx, bucket); err != nil {
			return nil, fmt.Errorf("load right edge: %w", err)
		}
	}
	return e, nil
}

// edgeTile returns the partial tile of a level in a tree; its width is 0 if
// there is none.
func edgeTile(size int64, level int) tlog.Tile {
	return tlog.Tile{
		H: Height, L: level,
		N: size >> (Height * (level + 1)),
		W: int(size >> (Height * level) % Width),
	}
}

// EdgePaths returns the paths of the partial tiles on the right edge of a tree:
// the hash tile of each level, and the data tile. Names tiles, which nothing
// vouches for, are not among them.
func EdgePaths(size int64) []string {
	var paths []string
	for l := range levels {
		t := edgeTile(size, l)
		if t.W == 0 {
			continue
		}
		paths = append(paths, Path(t))
		if l == 0 {
			t.L = LevelData
			paths = append(paths, Path(t))
		}
	}
	return paths
}

// loadData reads the entries under the partial level-0 tile. Lines of names are
// made anew rather than read: nothing vouches for a stored names tile.
func (e *Edge) loadData(ctx context.Context, bucket storage.Bucket) error {
	t := dataTile(e.size, e.size/Width)
	body, err := bucket.Get(ctx, Path(t))
	if err != nil {
		return fmt.Errorf("read data tile: %w", err)
	}
	leaves, err := parseDataTile(t, body, e.hashes[0])
	if err != nil {
		return err
	}
	for _, l := range leaves {
		start := len(e.data)
		e.data = l.pending.AppendTileLeaf(e.data, l.placement)
		e.digests = append(e.digests, l.pending.Digest())
		if !e.withNames {
			continue
		}
		line, err := namesLine(e.data[start:], l.placement.TimestampMillis)
		if err != nil {
			return fmt.Errorf("names of entry %d: %w", l.placement.Index, err)
		}
		e.names = append(e.names, line...)
	}
	return nil
}

// diagnose finds the tile of a broken right edge, by computing each level again
// from the one below.
func diagnose(ctx context.Context, bucket storage.Bucket, e *Edge, tree tlog.Tree) error {
	if w := len(e.hashes[0]); w > 0 {
		t := dataTile(e.size, e.size/Width)
		body, err := bucket.Get(ctx, Path(t))
		if err != nil {
			return fmt.Errorf("root does not match, and read data tile: %w", err)
		}
		if _, err := parseDataTile(t, body, e.hashes[0]); err != nil {
			return fmt.Errorf("root does not match: %s or %w", Path(edgeTile(e.size, 0)), err)
		}
	}
	for l := 1; l < levels; l++ {
		t := edgeTile(e.size, l)
		for i, want := range e.hashes[l] {
			child := tlog.Tile{H: Height, L: l - 1, N: t.N*Width + int64(i), W: Width}
			b, err := readHashTile(ctx, bucket, child)
			if errors.Is(err, storage.ErrNotFound) {
				return &CorruptError{Path: Path(child), Detail: "is missing"}
			} else if err != nil {
				return err
			}
			hashes := make([]tlog.Hash, 0, Width)
			for ; len(b) > 0; b = b[tlog.HashSize:] {
				hashes = append(hashes, tlog.Hash(b[:tlog.HashSize]))
			}
			if got := subtree(hashes); got != want {
				return &CorruptError{Path: Path(t), Detail: fmt.Sprintf("hash %d is %v, but %s hashes to %v", i, want, Path(child), got)}
			}
		}
	}
	return &CorruptError{
		Path:   fmt.Sprintf("the right edge of size %d", tree.N),
		Detail: fmt.Sprintf("its tiles agree with each other and have root %v, the checkpoint says %v", e.root(), tree.Hash),
	}
}

// CheckConsistency proves from the bucket that one tree extends another. Every
// tree extends the empty one.
func CheckConsistency(ctx context.Context, bucket storage.Bucket, old, tree tlog.Tree) error {
	switch {
	case old.N > tree.N:
		return fmt.Errorf("check consistency: %w: a tree of %d cannot extend one of %d", ErrNotProved, tree.N, old.N)
	case old.N == tree.N && old.Hash != tree.Hash:
		return fmt.Errorf("check consistency: %w: two trees of %d entries, with roots %v and %v", ErrNotProved, tree.N, old.Hash, tree.Hash)
	case old.N == 0 || old.N == tree.N:
		return nil
	}
	proof, err := tlog.ProveTree(tree.N, old.N, newHashReader(ctx, bucket, tree))
	if err != nil {
		return fmt.Errorf("check consistency: prove size %d from size %d: %w", old.N, tree.N, err)
	}
	if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
		return fmt.Errorf("check consistency: %w: tree of %d does not extend the tree of %d: %w", ErrNotProved, tree.N, old.N, err)
	}
	return nil
}
