package fsck

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/tiles"
)

// checkTile checks data tile n with its hash tile and its names tile, and the
// issuers that its entries name. It returns the leaf hashes.
func (c *checker) checkTile(ctx context.Context, n int64) ([]tlog.Hash, error) {
	t := widest(c.tree.N, 0, n)
	want := c.edge.levels[0] // proved, and read by nobody else
	if t.W == tiles.Width {
		var err error
		if want, err = c.hashes(ctx, t); err != nil {
			return nil, err
		}
	}
	if err := c.checkEntries(ctx, t, want); err != nil {
		return nil, err
	}
	return want, nil
}

// checkEntries checks the data tile beside a hash tile, which holds these hashes,
// its names tile, and the issuers that its entries name.
func (c *checker) checkEntries(ctx context.Context, t tlog.Tile, want []tlog.Hash) error {
	names := make([]nameSum, 0, t.W)
	err := c.eachEntry(ctx, dataOf(t), func(path string, i int, l *leaf) error {
		if i == 0 {
			names = names[:0] // of an earlier attempt
		}
		index := firstEntry(t, i)
		if l.hash != want[i] {
			return &clash{tile: t, i: i, stored: want, below: l.hash, path: path}
		}
		if l.timestamp > uint64(c.checkpoint.TimestampMillis) {
			return mismatch(path, index, fmt.Sprint(l.timestamp), fmt.Sprintf("at most %d", c.checkpoint.TimestampMillis),
				"timestamp of entry %d (index %d) is after the checkpoint's", i, index)
		}
		if c.names {
			names = append(names, sumNames(l))
		}
		return c.checkChain(ctx, path, index, l)
	})
	if err != nil {
		return missing(tiles.Path(dataOf(t)), firstEntry(t, 0), err)
	}
	c.counts.dataTiles.Add(1)
	c.counts.entries.Add(int64(t.W))
	if c.names {
		t.L = tiles.LevelNames
		return c.checkNames(ctx, t, names)
	}
	return nil
}

// eachEntry decodes the t.W entries of a data tile, which may be served as the
// full tile, and has each looked at. Every entry is checked to be one, and to
// have its place as leaf_index.
func (c *checker) eachEntry(ctx context.Context, t tlog.Tile, look func(path string, i int, l *leaf) error) error {
	return c.tile(ctx, t, func(served tlog.Tile, r *bufio.Reader) error {
		path := tiles.Path(served)
		var l leaf
		for i := range t.W {
			index := firstEntry(t, i)
			if err := l.read(r); err != nil {
				return &Fault{Path: path, Index: index, Detail: fmt.Sprintf("entry %d (index %d) is malformed: %v", i, index, err)}
			}
			if l.index != index {
				return mismatch(path, index, fmt.Sprint(l.index), fmt.Sprint(index), "leaf_index of entry %d (index %d) is not its place", i, index)
			}
			if err := look(path, i, &l); err != nil {
				return err
			}
		}
		if served.W > t.W {
			return nil // what follows is not the checkpoint's
		}
		if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
			return &Fault{Path: path, Index: firstEntry(t, t.W-1), Detail: fmt.Sprintf("bytes follow entry %d, its last", t.W-1)}
		}
		return nil
	})
}

// leafHashes computes the leaf hashes of a data tile.
func (c *checker) leafHashes(ctx context.Context, t tlog.Tile) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, t.W)
	err := c.eachEntry(ctx, dataOf(t), func(_ string, i int, l *leaf) error {
		hashes[i] = l.hash
		return nil
	})
	if err != nil {
		return nil, missing(tiles.Path(dataOf(t)), firstEntry(t, 0), err)
	}
	return hashes, nil
}
