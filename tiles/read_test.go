package tiles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
	"kiln/storage/mem"
)

// storedLog is a log of real shape in a bucket: full tiles, and partial ones at
// two levels.
func storedLog(t testing.TB) (*mem.Bucket, tlog.Tree) {
	t.Helper()
	bucket, e := mem.New(), NewEdge(true)
	for i, size := range []int{200, 300, 560} {
		next, objects := round(t, e, cheap(t, int(e.size), size), int64(i+1))
		store(t, bucket, objects)
		e = next
	}
	return bucket, e.Tree()
}

// readings are the functions that read a log.
var readings = map[string]func(context.Context, storage.Bucket, tlog.Tree) error{
	"Load": func(ctx context.Context, b storage.Bucket, tree tlog.Tree) error {
		_, err := Load(ctx, b, tree, true)
		return err
	},
	"Entries": func(ctx context.Context, b storage.Bucket, tree tlog.Tree) error {
		return Entries(ctx, b, tree, 0, tree.N, func(Entry) error { return nil })
	},
	"LeafHash": func(ctx context.Context, b storage.Bucket, tree tlog.Tree) error {
		_, err := LeafHash(ctx, b, tree, 7)
		return err
	},
}

// pathsRead returns the objects that a reading asks for.
func pathsRead(t *testing.T, bucket *mem.Bucket, read func() error) []string {
	t.Helper()
	var mu sync.Mutex
	var paths []string
	bucket.SetFaults(func(op mem.Op, path string) mem.Fault {
		mu.Lock()
		defer mu.Unlock()
		if op != mem.OpGet {
			t.Errorf("reading does %s of %s", op, path)
		}
		paths = append(paths, path)
		return mem.Fault{}
	})
	defer bucket.SetFaults(nil)
	if err := read(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

func flipByte(at func(n int) int) func([]byte) []byte {
	return func(b []byte) []byte { b[at(len(b))] ^= 0x20; return b }
}

// damages are what happens to a stored object.
var damages = map[string]func([]byte) []byte{
	"first byte flipped":  flipByte(func(int) int { return 0 }),
	"middle byte flipped": flipByte(func(n int) int { return n / 2 }),
	"last byte flipped":   flipByte(func(n int) int { return n - 1 }),
	"truncated by a byte": func(b []byte) []byte { return b[:len(b)-1] },
	"truncated to half":   func(b []byte) []byte { return b[:len(b)/2] },
	"emptied":             func([]byte) []byte { return []byte{} },
	"lengthened":          func(b []byte) []byte { return append(b, 0) },
	"zeroed":              func(b []byte) []byte { clear(b); return b },
	"removed":             func([]byte) []byte { return nil },
}

// TestDamage damages each object that a reading needs, in turn. The error names
// the object.
func TestDamage(t *testing.T) {
	t.Parallel()
	bucket, tree := storedLog(t)
	expected := map[string]int{"Load": 3, "Entries": 7, "LeafHash": 3}
	for name, read := range readings {
		paths := pathsRead(t, bucket, func() error { return read(context.Background(), bucket, tree) })
		if len(paths) != expected[name] {
			t.Errorf("%s reads %q, want %d objects", name, paths, expected[name])
		}
		for _, path := range paths {
			for damage, f := range damages {
				damaged := bucket.CrashClone()
				if err := damaged.Corrupt(path, f); err != nil {
					t.Fatal(err)
				}
				err := read(context.Background(), damaged, tree)
				if err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("%s with %s %s: error %v, want one that names it", name, path, damage, err)
					continue
				}
				var corrupt *CorruptError
				if !errors.As(err, &corrupt) && !errors.Is(err, ErrNotProved) && !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("%s with %s %s: error %v is of no kind", name, path, damage, err)
				}
				if damage == "removed" && name != "Load" && !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("%s with %s removed: %v is not ErrNotFound", name, path, err)
				}
			}
		}
	}
}

// TestBucketFailure: an error of the bucket is passed on, and is not taken for
// damage.
func TestBucketFailure(t *testing.T) {
	t.Parallel()
	bucket, tree := storedLog(t)
	broken := errors.New("disk on fire")
	for name, read := range readings {
		for _, path := range pathsRead(t, bucket, func() error { return read(context.Background(), bucket, tree) }) {
			bucket.SetFaults(func(_ mem.Op, p string) mem.Fault {
				if p == path {
					return mem.Fault{Before: broken}
				}
				return mem.Fault{}
			})
			err := read(context.Background(), bucket, tree)
			bucket.SetFaults(nil)
			var corrupt *CorruptError
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), path) || errors.Is(err, ErrNotProved) || errors.As(err, &corrupt) {
				t.Errorf("%s with a broken %s: %v", name, path, err)
			}
		}
	}
}

// TestLoadDamagedEdge damages hash tiles of the edge of a higher tree, where the
// level below tells which tile is wrong.
func TestLoadDamagedEdge(t *testing.T) {
	t.Parallel()
	bucket := mem.New()
	b := growRecords(NewEdge(false), 65536+3*Width)
	storeHashes(t, bucket, b)
	tree := b.edge.Tree()
	loaded, err := Load(context.Background(), bucket, tree, false)
	if err != nil {
		t.Fatal(err)
	}
	compareEdges(t, loaded, b.edge)
	for _, path := range []string{"tile/1/001.p/3", "tile/2/000.p/1"} {
		for at := 0; at < len(b.edge.hashes[1])*tlog.HashSize && (at < 32 || path == "tile/1/001.p/3"); at += 31 {
			damaged := bucket.CrashClone()
			if err := damaged.Corrupt(path, func(b []byte) []byte { b[at] ^= 1; return b }); err != nil {
				t.Fatal(err)
			}
			_, err := Load(context.Background(), damaged, tree, false)
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) || corrupt.Path != path {
				t.Errorf("%s with byte %d flipped: %v, want a CorruptError of it", path, at, err)
			}
		}
	}
}

// TestLoadOtherTree loads with tree heads that are not of the stored log.
func TestLoadOtherTree(t *testing.T) {
	t.Parallel()
	bucket, tree := storedLog(t)
	for name, c := range map[string]struct {
		tree tlog.Tree
		want string
	}{
		"other root":  {tlog.Tree{N: tree.N, Hash: tlog.Hash{1}}, "agree with each other"},
		"one more":    {tlog.Tree{N: tree.N + 1, Hash: tree.Hash}, "not found"},
		"older size":  {tlog.Tree{N: 300, Hash: tree.Hash}, "agree with each other"},
		"much larger": {tlog.Tree{N: 1 << 39, Hash: tree.Hash}, "not found"},
	} {
		if _, err := Load(context.Background(), bucket, c.tree, true); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
		for reading, read := range readings {
			if err := read(context.Background(), bucket, c.tree); err == nil {
				t.Errorf("%s of a tree with %s passes", reading, name)
			}
		}
	}
	if _, err := Load(context.Background(), bucket, tree, true); err != nil {
		t.Error(err)
	}
}

// TestDataTileUnderOtherHashes puts the right bytes in the wrong place, and
// entries that a leaf hash does not cover in part.
func TestDataTileUnderOtherHashes(t *testing.T) {
	t.Parallel()
	bucket, tree := storedLog(t)
	repack := func(path string, f func([]byte) []byte) func([]byte) []byte {
		return func(body []byte) []byte {
			data, err := Gunzip(body)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			return zip(t, f(data))
		}
	}
	for name, c := range map[string]struct {
		path string
		f    func([]byte) []byte
		want string
	}{
		"tile of another place": {"tile/data/001", func([]byte) []byte {
			body, err := bucket.Get(context.Background(), "tile/data/000")
			if err != nil {
				t.Fatal(err)
			}
			return body
		}, "at index 0, want 256"},
		"certificate":   {"tile/data/001", repack("", func(b []byte) []byte { flipIn(t, b, "certificate 310"); return b }), "entry 54 (index 310) has leaf hash"},
		"timestamp":     {"tile/data/000", repack("", func(b []byte) []byte { b[0] ^= 1; return b }), "entry 0"},
		"trailing byte": {"tile/data/000", repack("", func(b []byte) []byte { return append(b, 1) }), "1 bytes after entry 255"},
		"entry lost":    {"tile/data/000", repack("", func(b []byte) []byte { return b[bytes.Index(b, []byte("certificate 0")):] }), "entry 0"},
	} {
		damaged := bucket.CrashClone()
		if err := damaged.Corrupt(c.path, c.f); err != nil {
			t.Fatal(err)
		}
		err := readings["Entries"](context.Background(), damaged, tree)
		if err == nil || !strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error about %s with %q", name, err, c.path, c.want)
		}
	}
}

// TestEntriesYieldsOnlyProven: nothing of a damaged tile is given out.
func TestEntriesYieldsOnlyProven(t *testing.T) {
	t.Parallel()
	bucket, tree := storedLog(t)
	if err := bucket.Corrupt("tile/data/001", flipByte(func(n int) int { return n / 2 })); err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	err := Entries(context.Background(), bucket, tree, 0, tree.N, func(e Entry) error {
		if e.Index != last+1 {
			return fmt.Errorf("entry %d after %d", e.Index, last)
		}
		last = e.Index
		return nil
	})
	if err == nil || last != 255 {
		t.Errorf("the last entry is %d, %v, want 255 and an error", last, err)
	}
}

// TestLongReading reads more tiles than are kept as proven.
func TestLongReading(t *testing.T) {
	t.Parallel()
	bucket := mem.New()
	b := growRecords(NewEdge(false), 66000)
	storeHashes(t, bucket, b)
	cache := &bucketTiles{ctx: context.Background(), bucket: bucket, proven: make(map[tlog.Tile][]byte)}
	r := tlog.TileHashReader(b.edge.Tree(), cache)
	for n := range int64(66000 / Width) {
		hashes, err := r.ReadHashes(leafIndexes(n*Width, n*Width+Width))
		if err != nil {
			t.Fatal(err)
		}
		if hashes[1] != recordHash(n*Width+1) {
			t.Fatalf("hash %d is %v", n*Width+1, hashes[1])
		}
		if len(cache.proven) > maxCachedTiles {
			t.Fatalf("%d tiles are kept, at most %d are to be", len(cache.proven), maxCachedTiles)
		}
	}
}
