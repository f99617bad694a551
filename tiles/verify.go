package tiles

import (
	"bytes"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/storage"
)

// Round is what [Verify] judges: a step from one tree to the next.
type Round struct {
	Old, New        tlog.Tree        // the committed tree, and the one about to be signed
	Edge            *Edge            // the edge of Old
	Bundle          []byte           // the bytes about to be staged
	Entries         []*entry.Pending // as admitted, in the order of their indexes
	TimestampMillis int64            // of every new entry
}

// Verify gives the second opinion on a round before anything is signed. From the
// bytes of the bundle it decodes the objects, every entry and every leaf hash
// with code that did not make them (the standard library's gzip, sunlight's
// TileLeaf decoder, x/mod's tlog), and checks that
//
//   - the objects are exactly those that the step must add,
//   - the hash tiles support the new root, and the new tree extends the old one,
//   - each entry hashes to its leaf, has its index and timestamp, and is byte for
//     byte what was admitted, by the digest taken then.
//
// It returns the objects of the bundle, whose bodies alias it.
func Verify(r Round) ([]storage.Object, error) {
	if r.New.N != r.Old.N+int64(len(r.Entries)) || r.Edge.Size() != r.Old.N {
		return nil, fmt.Errorf("verify round: %d entries from size %d (edge at %d) do not give size %d",
			len(r.Entries), r.Old.N, r.Edge.Size(), r.New.N)
	}
	objects, err := DecodeBundle(r.Bundle)
	if err != nil {
		return nil, fmt.Errorf("verify round: %w", err)
	}
	v := verifier{round: r, bodies: make(map[tlog.Tile][]byte, len(objects)), proven: make(map[tlog.Tile]bool)}
	for _, step := range []func([]storage.Object) error{v.checkObjects, v.checkTree, v.checkEntries} {
		if err := step(objects); err != nil {
			return nil, fmt.Errorf("verify round: %w", err)
		}
	}
	return objects, nil
}

// VerifyTree gives the second opinion on a round without entries: the edge still
// supports the committed tree.
func VerifyTree(e *Edge, tree tlog.Tree) error {
	if e.Size() != tree.N {
		return fmt.Errorf("verify tree: edge is at size %d, tree at %d", e.Size(), tree.N)
	}
	if tree.N == 0 {
		if root := e.root(); root != tree.Hash {
			return fmt.Errorf("verify tree: empty tree has root %v", tree.Hash)
		}
		return nil
	}
	v := verifier{round: Round{Old: tree, New: tree, Edge: e}, proven: make(map[tlog.Tile]bool)}
	if _, err := tlog.TileHashReader(tree, &v).ReadHashes(nil); err != nil {
		return fmt.Errorf("verify tree of %d: the edge in memory does not support its root: %w", tree.N, err)
	}
	return nil
}

// verifier is the [tlog.TileReader] of a round: the new tiles, and the parts of
// the old edge that the round leaves as they are.
type verifier struct {
	round  Round
	bodies map[tlog.Tile][]byte
	proven map[tlog.Tile]bool
	leaves []tlog.Hash // of every index from the first new or rewritten data tile
}

// Height implements [tlog.TileReader].
func (v *verifier) Height() int { return Height }

// ReadTiles implements [tlog.TileReader].
func (v *verifier) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, t := range tiles {
		body, ok := v.bodies[t]
		if !ok && t == edgeTile(v.round.Old.N, t.L) {
			for _, h := range v.round.Edge.hashes[t.L] {
				body = append(body, h[:]...)
			}
			ok = true
		}
		if !ok {
			return nil, fmt.Errorf("%s is needed, but neither new nor on the edge", Path(t))
		}
		data[i] = body
	}
	return data, nil
}

// SaveTiles implements [tlog.TileReader].
func (v *verifier) SaveTiles(tiles []tlog.Tile, _ [][]byte) {
	for _, t := range tiles {
		v.proven[t] = true
	}
}

// StepTiles returns the tiles that a step from one tree size to another writes,
// by their paths: each hash tile that tlog names, with data (and names) beside
// level 0.
func StepTiles(oldSize, newSize int64, names bool) map[string]tlog.Tile {
	tiles := make(map[string]tlog.Tile)
	for _, t := range tlog.NewTiles(Height, oldSize, newSize) {
		tiles[Path(t)] = t
		if t.L != 0 {
			continue
		}
		t.L = LevelData
		tiles[Path(t)] = t
		if names {
			t.L = LevelNames
			tiles[Path(t)] = t
		}
	}
	return tiles
}

// checkObjects compares the paths of the bundle with those that the step must
// add: each tile that tlog names, with data (and names) beside level 0.
func (v *verifier) checkObjects(objects []storage.Object) error {
	want := StepTiles(v.round.Old.N, v.round.New.N, v.round.Edge.withNames)
	for _, o := range objects {
		t, ok := want[o.Path]
		if !ok {
			return fmt.Errorf("bundle has %s, which a step from %d to %d does not write", o.Path, v.round.Old.N, v.round.New.N)
		}
		ct, ce := Headers(t)
		if o.ContentType != ct || o.ContentEncoding != ce || o.CacheControl != CacheImmutable {
			return fmt.Errorf("%s has wrong headers %q %q %q", o.Path, o.ContentType, o.ContentEncoding, o.CacheControl)
		}
		if ce != "" && !bytes.HasPrefix(o.Body, []byte(memberHeader)) {
			return fmt.Errorf("%s has a gzip header that was not made here", o.Path)
		}
		v.bodies[t] = o.Body
		delete(want, o.Path)
	}
	for path := range want {
		return fmt.Errorf("bundle lacks %s", path)
	}
	return nil
}

// checkTree proves all new hash tiles against the new root, and the old root
// from the new tree.
func (v *verifier) checkTree([]storage.Object) error {
	hashes := tlog.TileHashReader(v.round.New, v)
	first := v.round.Old.N / Width * Width
	var err error
	if v.leaves, err = hashes.ReadHashes(leafIndexes(first, v.round.New.N)); err != nil {
		return fmt.Errorf("hash tiles do not support root %v of size %d: %w", v.round.New.Hash, v.round.New.N, err)
	}
	for t := range v.bodies {
		if t.L >= 0 && !v.proven[t] {
			return fmt.Errorf("%s was not proved", Path(t))
		}
	}
	if v.round.Old.N == 0 {
		return nil // every tree extends the empty one
	}
	proof, err := tlog.ProveTree(v.round.New.N, v.round.Old.N, hashes)
	if err != nil {
		return fmt.Errorf("prove size %d from size %d: %w", v.round.Old.N, v.round.New.N, err)
	}
	if err := tlog.CheckTree(proof, v.round.New.N, v.round.New.Hash, v.round.Old.N, v.round.Old.Hash); err != nil {
		return fmt.Errorf("tree of %d does not extend the committed tree of %d: %w", v.round.New.N, v.round.Old.N, err)
	}
	return nil
}

// checkEntries decodes every data tile of the bundle and compares its entries
// with the proven leaf hashes and the digests of admission.
func (v *verifier) checkEntries([]storage.Object) error {
	first := v.round.Old.N / Width * Width
	for t, body := range v.bodies {
		switch t.L {
		case LevelNames:
			if err := checkNames(t, body); err != nil {
				return err
			}
		case LevelData:
			start := t.N*Width - first
			err := walkDataTile(t, body, v.leaves[start:start+int64(t.W)], func(l leaf) error {
				if err := v.checkEntry(l); err != nil {
					return fmt.Errorf("%s: %w", Path(t), err)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *verifier) checkEntry(l leaf) error {
	index := l.placement.Index
	if index < v.round.Old.N {
		// Older entries of a tile that grew: the leaf hash does not cover chain
		// and precertificate, the digest does.
		if l.pending.Digest() != v.round.Edge.digests[index%Width] {
			return fmt.Errorf("entry %d is not what it was when the tile was last written", index)
		}
		return nil
	}
	if l.pending.Digest() != v.round.Entries[index-v.round.Old.N].Digest() {
		return fmt.Errorf("entry %d is not what was admitted: some of its bytes changed since", index)
	}
	if l.placement.TimestampMillis != v.round.TimestampMillis {
		return fmt.Errorf("entry %d has timestamp %d, want %d", index, l.placement.TimestampMillis, v.round.TimestampMillis)
	}
	return nil
}

func checkNames(t tlog.Tile, body []byte) error {
	lines, err := GunzipTile(t, body)
	if err != nil {
		return fmt.Errorf("%s: %w", Path(t), err)
	}
	if n := bytes.Count(lines, []byte("\n")); n != t.W {
		return fmt.Errorf("%s has %d lines, want %d", Path(t), n, t.W)
	}
	return nil
}
