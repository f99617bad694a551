package tiles

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
)

// Full is a full tile that was read back. Hashes and entries were proved against
// a tree; nothing vouches for names. It never changes and is safe for concurrent
// use.
type Full struct {
	tile tlog.Tile
	body []byte // not compressed
	ends []int  // where each hash, entry or line ends in body
}

// ReadFull reads the full tile n of a level ([LevelData], [LevelNames], or 0 to 5)
// and proves it against a tree that has it whole. A fault is a *CorruptError that
// names the object, wraps [ErrNotProved], or is of the bucket.
func ReadFull(ctx context.Context, bucket storage.Bucket, tree tlog.Tree, level int, n int64) (*Full, error) {
	f := &Full{tile: tlog.Tile{H: Height, L: level, N: n, W: Width}}
	if n < 0 || level < LevelNames || level >= levels || f.End() > tree.N {
		return nil, fmt.Errorf("read full tile: tile %d of level %d is not whole in a tree of %d", n, level, tree.N)
	}
	if err := f.read(ctx, bucket, tree); err != nil {
		return nil, fmt.Errorf("read full tile: %w", err)
	}
	return f, nil
}

// End returns the size of the smallest tree that has the tile whole.
func (f *Full) End() int64 { return FullEnd(f.tile) }

// FullEnd returns the size of the smallest tree in which the tile at this place,
// whatever its width here, is full.
func FullEnd(t tlog.Tile) int64 { return (t.N + 1) << (Height * (max(t.L, 0) + 1)) }

func (f *Full) read(ctx context.Context, bucket storage.Bucket, tree tlog.Tree) error {
	var hashes []tlog.Hash
	if f.tile.L != LevelNames {
		indexes := make([]int64, Width)
		for i := range indexes {
			indexes[i] = tlog.StoredHashIndex(Height*max(f.tile.L, 0), f.tile.N*Width+int64(i))
		}
		var err error
		if hashes, err = newHashReader(ctx, bucket, tree).ReadHashes(indexes); err != nil {
			return err
		}
	}
	if f.tile.L >= 0 {
		for _, h := range hashes {
			f.body = append(f.body, h[:]...)
			f.ends = append(f.ends, len(f.body))
		}
		return nil
	}
	raw, err := bucket.Get(ctx, Path(f.tile))
	if err != nil {
		return err
	}
	if f.tile.L == LevelData {
		if _, err := parseDataTile(f.tile, raw, hashes); err != nil {
			return err
		}
	}
	if f.body, err = GunzipTile(f.tile, raw); err != nil {
		return &CorruptError{Path: Path(f.tile), Detail: err.Error()}
	}
	return f.divide()
}

// divide finds the ends of the entries or lines.
func (f *Full) divide() error {
	for rest := f.body; len(rest) > 0; {
		var err error
		if f.tile.L == LevelData {
			_, rest, err = sunlight.ReadTileLeaf(rest)
		} else if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			rest = rest[i+1:]
		} else {
			err = errors.New("last line has no end")
		}
		if err != nil {
			return &CorruptError{Path: Path(f.tile), Detail: err.Error()}
		}
		f.ends = append(f.ends, len(f.body)-len(rest))
	}
	if len(f.ends) != Width {
		return &CorruptError{Path: Path(f.tile), Detail: fmt.Sprintf("has %d parts, want %d", len(f.ends), Width)}
	}
	return nil
}

// Covers returns nil if the tile holds, at its beginning, all that the partial
// tile of a width in [1, 255] at the same place holds. body is the partial tile
// as it is stored. A fault is a *CorruptError that names the partial tile.
func (f *Full) Covers(width int, body []byte) error {
	t := f.tile
	if t.W = width; width < 1 || width >= Width {
		return fmt.Errorf("width %d is not that of a partial tile", width)
	}
	want := f.body[:f.ends[width-1]]
	if t.L < 0 {
		var err error
		if body, err = GunzipTile(t, body); err != nil {
			return &CorruptError{Path: Path(t), Detail: err.Error()}
		}
	}
	if !bytes.Equal(body, want) {
		return &CorruptError{Path: Path(t), Detail: fmt.Sprintf("its %d bytes, decoded, are not the first %d of %s", len(body), len(want), Path(f.tile))}
	}
	return nil
}
