package tiles

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"filippo.io/sunlight"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/fuzztest"
	"kiln/storage"
)

// FuzzGunzip holds the decoder to another one, and to its bound.
func FuzzGunzip(f *testing.F) {
	const limit = 1 << 16
	f.Add([]byte{})
	for _, size := range []int{0, 1, 1000, limit, limit + 1, 8 << 20} {
		f.Add(fuzztest.Gzip(make([]byte, size)))
	}
	member := fuzztest.Gzip([]byte("a member"))
	f.Add(append(bytes.Clone(member), member...))
	f.Add(fuzztest.Gzip(fuzztest.File(f, "navigli2025h2/tile/data/003.p/10"))[:limit/8])
	f.Fuzz(func(t *testing.T, body []byte) {
		var data []byte
		var err error
		fuzztest.Bounded(t, 8*limit, func() { data, err = gunzip(body, limit) })
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		rest := bytes.NewReader(body)
		z, err := gzip.NewReader(rest)
		if err != nil {
			t.Fatalf("the other decoder says %v", err)
		}
		z.Multistream(false)
		want, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(data, want) || rest.Len() != 0 || len(data) > limit {
			t.Fatalf("%d bytes, the other decoder says %d and %v, and leaves %d", len(data), len(want), err, rest.Len())
		}
	})
}

// FuzzDataTile reads a data tile of any bytes whose hashes are those of another
// decoder. What is taken is, byte for byte, what this package would write.
func FuzzDataTile(f *testing.F) {
	real := fuzztest.File(f, "navigli2025h2/tile/data/003.p/10")
	if plain, err := Gunzip(real); err == nil {
		real = plain
	}
	f.Add(real, int64(3))
	for size := 1; size < 5; size++ {
		e, _ := round(f, NewEdge(false), cheap(f, 0, size), 1)
		f.Add(e.data, int64(0))
	}
	e, _ := round(f, NewEdge(false), cheap(f, 0, 1), 1)
	f.Add(bytes.Replace(e.data, []byte{0, 8, 0, 0, 5, 0, 0, 0, 0, 0}, []byte{0, 12, 0, 0, 5, 0, 0, 0, 0, 0, 7, 0, 1, 9}, 1), int64(0))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\xff\xff\xffx"), int64(0))
	f.Fuzz(func(t *testing.T, data []byte, n int64) {
		if n < 0 || n >= MaxTree/Width {
			return
		}
		tile := tlog.Tile{H: Height, L: LevelData, N: n}
		var want []tlog.Hash
		for rest := data; len(rest) > 0 && len(want) < Width; {
			e, after, err := sunlight.ReadTileLeaf(rest)
			if err != nil {
				break
			}
			want, rest = append(want, tlog.RecordHash(e.MerkleTreeLeaf())), after
		}
		if tile.W = len(want); tile.W == 0 {
			return
		}
		body := fuzztest.Gzip(data)
		var leaves []leaf
		var err error
		fuzztest.Bounded(t, 16*len(data), func() { leaves, err = parseDataTile(tile, body, want) })
		if err != nil {
			fuzztest.Sentence(t, err, Path(tile))
			return
		}
		var again []byte
		for i, l := range leaves {
			again = l.pending.AppendTileLeaf(again, l.placement)
			if l.placement.Index != n*Width+int64(i) || tlog.Hash(l.pending.LeafHash(l.placement)) != want[i] {
				t.Fatalf("entry %d is at %+v", i, l.placement)
			}
		}
		if !bytes.Equal(again, data) {
			t.Fatalf("%x was taken, which is written as %x", data, again)
		}
		for i := range want {
			want[i][0] ^= 1
			if _, err := parseDataTile(tile, body, want); err == nil {
				t.Fatalf("entry %d was taken under another hash", i)
			}
			want[i][0] ^= 1
		}
	})
}

// hostile is a bucket that gives other bytes for some objects.
type hostile struct {
	storage.Bucket
	bodies map[string][]byte
}

func (h hostile) Get(ctx context.Context, path string) ([]byte, error) {
	if body, ok := h.bodies[path]; ok {
		return bytes.Clone(body), nil
	}
	return h.Bucket.Get(ctx, path)
}

// edited returns an object's body after a script of edits, which apply to what is
// inside of a compressed one if asked to.
func edited(body, script []byte, inside bool) []byte {
	if plain, err := Gunzip(body); inside && err == nil {
		return fuzztest.Gzip(fuzztest.Edit(plain, script))
	}
	return fuzztest.Edit(body, script)
}

// FuzzLoad reads a log whose storage gives other bytes for two objects than were
// stored. Whatever is read from it is true, or it is an error that says what
// kind of fault it is.
func FuzzLoad(f *testing.F) {
	bucket, tree := storedLog(f)
	paths := slices.DeleteFunc(bucket.Paths(), func(p string) bool { _, err := ParsePath(p); return err != nil })
	slices.Sort(paths)
	truth, err := Load(f.Context(), bucket, tree, true)
	if err != nil {
		f.Fatal(err)
	}
	var entries []Entry
	if err := Entries(f.Context(), bucket, tree, 0, tree.N, func(e Entry) error { entries = append(entries, e); return nil }); err != nil {
		f.Fatal(err)
	}
	for i := range paths {
		for j, script := range fuzztest.Edits() {
			if j%8 == i%8 {
				f.Add(uint8(i), j%2 == 0, script, uint8(j), []byte(nil))
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, inside bool, script []byte, other uint8, otherScript []byte) {
		b := hostile{bucket, make(map[string][]byte)}
		for i, path := range []string{paths[int(other)%len(paths)], paths[int(which)%len(paths)]} {
			body, err := bucket.Get(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			b.bodies[path] = edited(body, [][]byte{otherScript, script}[i], inside)
		}
		checkHostile(t, b, tree, truth, entries)
	})
}

func checkHostile(t *testing.T, b storage.Bucket, tree tlog.Tree, truth *Edge, entries []Entry) {
	t.Helper()
	ctx := t.Context()
	if e, err := Load(ctx, b, tree, true); err == nil {
		if e.Tree() != tree || !slices.Equal(e.hashes[0], truth.hashes[0]) || len(e.digests) != len(truth.digests) {
			t.Fatalf("the edge of another tree was taken: %v", e.Tree())
		}
	} else {
		wantFault(t, err)
	}
	n := 0
	err := Entries(ctx, b, tree, 0, tree.N, func(e Entry) error {
		if e.Key != entries[n].Key || e.Placement != entries[n].Placement {
			t.Fatalf("entry %d is %+v, want %+v", n, e, entries[n])
		}
		n++
		return nil
	})
	if err != nil {
		wantFault(t, err)
	} else if n != len(entries) {
		t.Fatalf("%d entries", n)
	}
	for _, index := range []int64{0, 255, tree.N - 1} {
		h, err := LeafHash(ctx, b, tree, index)
		if err != nil {
			wantFault(t, err)
		} else if i := index % Width; index == tree.N-1 && h != truth.hashes[0][i] {
			t.Fatalf("leaf hash %d is %v", index, h)
		}
	}
	for level := LevelNames; level < 2; level++ {
		full, err := ReadFull(ctx, b, tree, level, 0)
		if err != nil {
			if level < 1 { // there is no full tile above
				wantFault(t, err)
			}
			continue
		}
		body, err := b.Get(ctx, Path(tlog.Tile{H: Height, L: level, N: 0, W: 200}))
		if err != nil {
			t.Fatal(err)
		}
		if err := full.Covers(200, body); err != nil {
			wantFault(t, err)
		}
	}
}

// wantFault fails unless an error is of a kind that callers know.
func wantFault(t *testing.T, err error) {
	t.Helper()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) && !errors.Is(err, ErrNotProved) && !errors.Is(err, storage.ErrNotFound) {
		t.Fatalf("error is of no kind: %v", err)
	}
}

// FuzzVerify changes the bytes of a round after they were made. What the second
// opinion takes says the same as what was made, names apart, for which nothing
// vouches.
func FuzzVerify(f *testing.F) {
	r := newTrial(f, trialFrom, trialTo)
	if err := r.run(f, nil, nil); err != nil {
		f.Fatal(err)
	}
	for i := range r.objects {
		for j, script := range fuzztest.Edits() {
			if j%8 == i%8 {
				f.Add(uint8(i), j%2 == 0, script, false)
			}
		}
	}
	f.Add(uint8(0), false, []byte{0, 0, 0, 40, 0, 1}, true)
	f.Fuzz(func(t *testing.T, which uint8, inside bool, script []byte, whole bool) {
		objects := slices.Clone(r.objects)
		bundle := r.round.Bundle
		if whole { // of the bundle, with a checksum that holds
			bundle = fuzztest.Edit(bundle, script)
			if len(bundle) < 32 {
				return
			}
			bundle = seal(bundle)
		} else {
			o := &objects[int(which)%len(objects)]
			o.Body = edited(o.Body, script, inside)
			bundle = encode(t, objects...)
		}
		changed := r.round
		changed.Bundle = bundle
		got, err := Verify(changed)
		if err != nil {
			return
		}
		if len(got) != len(r.objects) {
			t.Fatalf("%d objects were taken, want %d", len(got), len(r.objects))
		}
		for i, o := range got {
			compareObject(t, o, r.objects[i])
		}
	})
}

func compareObject(t *testing.T, got, want storage.Object) {
	t.Helper()
	tile, err := ParsePath(want.Path)
	if err != nil || got.Path != want.Path || got.ContentType != want.ContentType || got.ContentEncoding != want.ContentEncoding ||
		got.CacheControl != want.CacheControl {
		t.Fatalf("%s was taken for %s", got.Path, want.Path)
	}
	switch tile.L {
	case LevelNames:
	case LevelData:
		a, errA := Gunzip(got.Body)
		b, errB := Gunzip(want.Body)
		if errors.Join(errA, errB) != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s was taken with other entries", got.Path)
		}
	default:
		if !bytes.Equal(got.Body, want.Body) {
			t.Fatalf("%s was taken with other hashes", got.Path)
		}
	}
}

// TestBombs: what an object of the storage decodes to is bounded by what its tile
// can hold, not by what is in it.
func TestBombs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tile tlog.Tile
		size int
		ok   bool
	}{
		{tlog.Tile{H: Height, L: LevelData, W: 1}, MaxEntry, true},
		{tlog.Tile{H: Height, L: LevelData, W: 1}, MaxEntry + 1, false},
		{tlog.Tile{H: Height, L: LevelData, W: 3}, 3*MaxEntry + 1, false},
		{tlog.Tile{H: Height, L: LevelNames, W: 1}, maxNamesLine, true},
		{tlog.Tile{H: Height, L: LevelNames, W: 1}, maxNamesLine + 1, false},
	} {
		if got, err := GunzipTile(c.tile, zip(t, make([]byte, c.size))); (err == nil) != c.ok || c.ok && len(got) != c.size {
			t.Errorf("%+v of %d bytes: %d bytes, %v", c.tile, c.size, len(got), err)
		}
	}
	bomb := zip(t, make([]byte, 8*MaxEntry))
	var corrupt *CorruptError
	if _, err := parseDataTile(tlog.Tile{H: Height, L: LevelData, W: 1}, bomb, make([]tlog.Hash, 1)); !errors.As(err, &corrupt) {
		t.Errorf("a bomb in the place of a data tile: %v", err)
	}
}
