package fsck

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/tiles"
)

// FromNow lets a [Follower] begin at the size that the log has then.
const FromNow = -1

// Follower checks a log again and again: what was added since the last time, the
// right edge, and what it is told to look at again. All that it believes is in its
// memory, which outlives it if the caller keeps it. It is for one goroutine.
//
// Names tiles it leaves to [Run]: nothing that is signed vouches for them, and what
// two programs read out of an odd certificate is no reason to stop a log.
type Follower struct {
	source  Source
	opts    Options
	from    int64
	state   state
	issuers *issuers // of new entries
	older   *issuers // of entries that are looked at again

	// What the last pass has proved.
	head checkpoint.Checkpoint
	edge spine
	mmd  time.Duration // that the log declares
}

// NewFollower returns a follower with the memory of an earlier one on the same
// log, or nil. Without one it begins at entry from, or at [FromNow]; the entries
// below, the checkpoint vouches for. Options.State and OnlyNew are not for it.
func NewFollower(source Source, opts Options, from int64, memory []byte) (*Follower, error) {
	opts = opts.complete()
	opts.State, opts.OnlyNew = "", true
	f := &Follower{source: source, opts: opts, from: from, issuers: new(issuers), older: new(issuers)}
	if memory == nil {
		return f, nil
	}
	s, err := parseState(memory)
	if err != nil {
		return nil, fmt.Errorf("memory of a follower: %w", err)
	}
	if opts.Origin != "" && s.Origin != opts.Origin || len(opts.SPKI) > 0 && string(s.Key) != string(opts.SPKI) {
		return nil, fmt.Errorf("memory of a follower: it is of the log %s with log ID %x", shown(s.Origin), sha256.Sum256(s.Key))
	}
	f.state = *s
	f.opts.Origin, f.opts.SPKI = s.Origin, s.Key
	return f, nil
}

// With returns a copy with the same memory that reads from another source, and
// trusts no issuer that was read before.
func (f *Follower) With(source Source) *Follower {
	g := *f
	g.source, g.issuers, g.older = source, new(issuers), new(issuers)
	return &g
}

// Memory returns what NewFollower takes.
func (f *Follower) Memory() ([]byte, error) { return f.state.encode() }

// Head returns the newest checkpoint that was checked with all that it covers, or
// the zero value.
func (f *Follower) Head() checkpoint.Checkpoint { return f.head }

// Identity returns the origin and the key of the log, DER; empty before the first
// pass of a follower that was not told.
func (f *Follower) Identity() (origin string, spki []byte) { return f.opts.Origin, f.opts.SPKI }

// Seen returns the newest checkpoint that was found consistent with all before,
// of this follower or of those whose memory it has; ok is whether there is one.
func (f *Follower) Seen() (c checkpoint.Checkpoint, ok bool, err error) {
	if f.state.Checkpoint == "" {
		return c, false, nil
	}
	v, err := checkpoint.NewVerifier(f.opts.Origin, f.opts.SPKI)
	if err != nil {
		return c, false, err
	}
	c, err = v.Open([]byte(f.state.Checkpoint))
	return c, err == nil, err
}

// MergeDelay returns the maximum merge delay that the log declares, if the follower
// had to ask who it is, else the longest there is.
func (f *Follower) MergeDelay() time.Duration {
	if f.mmd == 0 {
		return day
	}
	return f.mmd
}

// Forget makes what comes read all issuers again.
func (f *Follower) Forget() { f.issuers, f.older = new(issuers), new(issuers) }

// checker returns a run with what the follower knows.
func (f *Follower) checker() (*checker, error) {
	c := newChecker(f.source, f.opts)
	c.following, c.from, c.state, c.issuers = true, f.from, f.state, f.issuers
	c.checkpoint, c.tree, c.edge = f.head, f.head.Tree, f.edge
	c.state.Conflicts = slices.Clip(c.state.Conflicts)
	if f.mmd > 0 {
		c.mmd = f.mmd
	}
	var err error
	if len(f.opts.SPKI) > 0 && f.opts.Origin != "" {
		c.verifier, err = checkpoint.NewVerifier(f.opts.Origin, f.opts.SPKI)
	}
	return c, err
}

// Pass reads the checkpoint and the right edge, proves them consistent with the
// newest checkpoint before, and checks all entries that were added since. Errors
// are those of [Run]. After a fault it remembers what it remembered before, but
// for the checkpoint, if that was not at fault.
func (f *Follower) Pass(ctx context.Context) (*Report, error) {
	c, err := f.checker()
	if err != nil {
		return nil, err
	}
	c.edge = spine{}
	err = c.guarded(ctx, c.run)
	f.opts.Origin, f.opts.SPKI = c.opts.Origin, c.opts.SPKI
	f.state = c.state
	if err == nil {
		f.head, f.edge = c.checkpoint, c.edge
	}
	f.mmd = c.mmd
	return &c.report, err
}

// Extends reads the checkpoint and the right edge, and only proves that they
// extend what is remembered.
func (f *Follower) Extends(ctx context.Context) error {
	c, err := f.checker()
	if err != nil {
		return err
	}
	c.edge = spine{}
	return c.guarded(ctx, func(ctx context.Context) error {
		for _, step := range []func(context.Context) error{c.identify, c.readCheckpoint, c.checkSigned, c.readEdge, c.checkConsistency} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		if c.unproved {
			return &UnknownError{Path: "tile/", Err: errUnproved}
		}
		return nil
	})
}

// Edge reads the right edge of the tree of [Follower.Head] again: it compares all
// of it with the root, and its entries with its hashes.
func (f *Follower) Edge(ctx context.Context) error {
	c, err := f.checker()
	if err != nil {
		return err
	}
	return c.guarded(ctx, func(ctx context.Context) error {
		if err := c.readEdge(ctx); err != nil {
			return err
		}
		t := widest(c.tree.N, 0, c.tree.N/tiles.Width)
		if t.W == 0 {
			return nil
		}
		return settled(c.checkEntries(ctx, t, c.edge.levels[0]))
	})
}

// settled turns a clash with a hash tile that was proved into the fault that it is.
func settled(err error) error {
	var x *clash
	if errors.As(err, &x) {
		return x.proved()
	}
	return err
}

// Older returns how many full data tiles [Follower.Tile] can check.
func (f *Follower) Older() int64 { return f.head.Tree.N / tiles.Width }

// Tile checks a full data tile again, with the hash tiles from it up to the right
// edge, and its issuers. It has to be below [Follower.Older].
func (f *Follower) Tile(ctx context.Context, n int64) error {
	if n < 0 || n >= f.Older() {
		return fmt.Errorf("data tile %d is not one of the %d full ones", n, f.Older())
	}
	c, err := f.checker()
	if err != nil {
		return err
	}
	c.issuers = f.older
	return c.guarded(ctx, func(ctx context.Context) error {
		t := widest(c.tree.N, 0, n)
		want, err := c.provenTile(ctx, t)
		if err != nil {
			return err
		}
		return settled(c.checkEntries(ctx, t, want))
	})
}

// provenTile reads a hash tile, proved by those above it up to the right edge,
// each of which is proved before the next one is read.
func (c *checker) provenTile(ctx context.Context, t tlog.Tile) ([]tlog.Hash, error) {
	if t.W < tiles.Width {
		return c.edge.levels[t.L], nil
	}
	hashes, err := c.hashes(ctx, t)
	if err != nil {
		return nil, err
	}
	up := widest(c.tree.N, t.L+1, t.N/tiles.Width)
	above, err := c.provenTile(ctx, up)
	if err != nil {
		return nil, err
	}
	if got, want := subtree(hashes), above[t.N%tiles.Width]; got != want {
		return nil, mismatch(tiles.Path(t), firstEntry(t, 0), hexOf(got), hexOf(want),
			"the root over its hashes is not hash %d of %s, which the checkpoint proves", t.N%tiles.Width, tiles.Path(up))
	}
	return hashes, nil
}

// Leaf returns the leaf hash at an index of the tree of [Follower.Head], proved.
func (f *Follower) Leaf(ctx context.Context, index int64) (hash tlog.Hash, err error) {
	if index < 0 || index >= f.head.Tree.N {
		return hash, fmt.Errorf("index %d is not in a tree of %d", index, f.head.Tree.N)
	}
	c, err := f.checker()
	if err != nil {
		return hash, err
	}
	err = c.guarded(ctx, func(ctx context.Context) error {
		hashes, err := c.provenTile(ctx, widest(c.tree.N, 0, index/tiles.Width))
		if err == nil {
			hash = hashes[index%tiles.Width]
		}
		return err
	})
	return hash, err
}

// Timestamp returns the timestamp of the entry at an index as its data tile has
// it, in milliseconds since 1970 UTC.
func (f *Follower) Timestamp(ctx context.Context, index int64) (millis int64, err error) {
	c, err := f.checker()
	if err != nil {
		return 0, err
	}
	err = c.guarded(ctx, func(ctx context.Context) error {
		t := dataOf(widest(c.tree.N, 0, index/tiles.Width))
		return c.eachEntry(ctx, t, func(_ string, i int, l *leaf) error {
			if firstEntry(t, i) == index {
				millis = int64(l.timestamp)
			}
			return nil
		})
	})
	return millis, err
}

// begin makes the spine of a follower that remembers nothing.
func (c *checker) begin(ctx context.Context) error {
	size := c.from
	if size == FromNow || size > c.tree.N {
		size = c.tree.N
	}
	size = size / tiles.Width * tiles.Width
	if size == 0 {
		return nil
	}
	s := spine{size: size}
	hashes, p := c.provenHashes(ctx)
	for l := 1; l < levels; l++ {
		n := size >> (tiles.Height * l)
		var indexes []int64
		for i := n / tiles.Width * tiles.Width; i < n; i++ {
			indexes = append(indexes, tlog.StoredHashIndex(tiles.Height*l, i))
		}
		if len(indexes) == 0 {
			continue
		}
		var err error
		s.levels[l], err = hashes.ReadHashes(indexes)
		switch {
		case p.err != nil:
			return p.err
		case err != nil:
			return &UnknownError{Path: "tile/", Err: errUnproved}
		}
	}
	c.spine = s
	c.report.ResumedAt = size
	return nil
}
