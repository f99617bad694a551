package fsck

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/tiles"
)

// blameEdge says which tile of the right edge does not fit the checkpoint, by
// computing each level again from the one below.
func (c *checker) blameEdge(ctx context.Context) error {
	for l := 1; l < levels; l++ {
		t := widest(c.tree.N, l, c.tree.N>>(tiles.Height*(l+1)))
		for i, got := range c.edge.levels[l] {
			child := tlog.Tile{H: tiles.Height, L: l - 1, N: t.N*tiles.Width + int64(i), W: tiles.Width}
			below, err := c.hashes(ctx, child)
			if err != nil {
				return err
			}
			if want := subtree(below); got != want {
				return c.blamed(mismatchHash(t, i, got, want, "the root over "+tiles.Path(child)), l, i, want)
			}
		}
	}
	if t := widest(c.tree.N, 0, c.tree.N/tiles.Width); t.W > 0 {
		got, err := c.leafHashes(ctx, t)
		if err != nil {
			return err
		}
		for i, h := range c.edge.levels[0] {
			if h != got[i] {
				return c.blamed(mismatchHash(t, i, h, got[i], "the entry in "+tiles.Path(dataOf(t))), 0, i, got[i])
			}
		}
	}
	return mismatch("checkpoint", -1, hexOf(c.tree.Hash), hexOf(c.edge.root()),
		"the root of size %d is not the one of the partial tiles on the right edge, which agree with what is below them", c.tree.N)
}

// blamed completes a fault on the right edge: with the right hash in its place
// the root may be the checkpoint's, and then nothing else is wrong there.
func (c *checker) blamed(f *Fault, level, i int, right tlog.Hash) *Fault {
	c.edge.levels[level][i] = right
	if c.edge.root() == c.tree.Hash {
		f.Detail += "; with that the root is the checkpoint's"
	} else {
		f.Detail += "; with neither is the root the checkpoint's"
	}
	return f
}

func mismatchHash(t tlog.Tile, i int, got, want tlog.Hash, than string) *Fault {
	under := fmt.Sprintf("index %d", firstEntry(t, i))
	if t.L > 0 {
		under = fmt.Sprintf("entries %d to %d", firstEntry(t, i), firstEntry(t, i+1)-1)
	}
	return mismatch(tiles.Path(t), firstEntry(t, i), hexOf(got), hexOf(want), "hash %d (%s) is not that of %s", i, under, than)
}

// clash is a hash in a full tile that differs from the one of what is below it:
// one of the two is wrong.
type clash struct {
	tile   tlog.Tile   // the hash tile
	i      int         // which of its hashes
	stored []tlog.Hash // the whole tile
	below  tlog.Hash   // what hash i should be, going by what is below
	path   string      // of what is below
}

// judge makes the fault of a clash. Which of the two is wrong shows in the tile
// above, if that one can be proved against the checkpoint; of the right edge
// that was proved already.
func (c *checker) judge(ctx context.Context, x *clash) *Fault {
	const refuted = "the checkpoint refutes the hash tile"
	above := x.fault()
	below := mismatchHash(x.tile, x.i, x.stored[x.i], x.below, x.path)
	if x.tile.W < tiles.Width {
		return x.proved()
	}
	hashes, _ := c.provenHashes(ctx)
	want, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(tiles.Height*(x.tile.L+1), x.tile.N)})
	switch {
	case err != nil:
		above.Detail += "; the tiles above, which could tell which is right, do not fit the checkpoint or could not be read"
		return above
	case subtree(x.stored) == want[0]:
		return x.proved()
	}
	below.Detail += "; " + refuted
	return below
}

// fault makes the fault of what is below.
func (x *clash) fault() *Fault {
	return &Fault{
		Path: x.path, Index: firstEntry(x.tile, x.i), Got: hexOf(x.below), Want: hexOf(x.stored[x.i]),
		Detail: fmt.Sprintf("index %d has hash %s, but %s says %s", firstEntry(x.tile, x.i), hexOf(x.below), tiles.Path(x.tile), hexOf(x.stored[x.i])),
	}
}

// proved is fault where the hash tile is known to be right.
func (x *clash) proved() *Fault {
	f := x.fault()
	f.Detail += "; the checkpoint proves the hash tile"
	return f
}

// Error implements error, for the way from where a clash is found to where it is
// judged.
func (x *clash) Error() string {
	return fmt.Sprintf("%s and %s disagree", tiles.Path(x.tile), x.path)
}

// settle turns a clash into the fault that it is.
func (c *checker) settle(ctx context.Context, err error) error {
	var x *clash
	if errors.As(err, &x) {
		return c.judge(ctx, x)
	}
	return err
}

func dataOf(t tlog.Tile) tlog.Tile {
	t.L = tiles.LevelData
	return t
}
