package tiles

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/storage"
)

// trial is a round whose parts a test damages: before Append, in its objects, or
// in what Verify is told.
type trial struct {
	old     *Edge
	tree    tlog.Tree // committed
	parts   []parts   // of the new entries; changing them is a change after admission
	entries []*entry.Pending
	next    *Edge
	objects []storage.Object
	round   Round
}

const trialTime = 77

// newTrial prepares the round that brings a log of from entries to to entries.
func newTrial(t testing.TB, from, to int) *trial {
	t.Helper()
	e, _ := round(t, NewEdge(true), cheap(t, 0, from), 1)
	r := &trial{old: e, tree: e.Tree()}
	for i := from; i < to; i++ {
		p := newParts(i)
		r.parts = append(r.parts, p)
		r.entries = append(r.entries, p.pending(t))
	}
	return r
}

// run does the steps of a round, with two chances to break something.
func (r *trial) run(t testing.TB, before func(*trial), after func(*trial)) error {
	t.Helper()
	if before != nil {
		before(r)
	}
	next, objects, err := r.old.Append(r.entries, trialTime)
	if err != nil {
		t.Fatal(err)
	}
	r.next, r.objects = next, objects
	r.round = Round{Old: r.tree, New: next.Tree(), Edge: r.old, Entries: r.entries, TimestampMillis: trialTime}
	if after != nil {
		after(r)
	}
	if r.round.Bundle == nil {
		r.round.Bundle = encode(t, r.objects...)
	}
	_, err = Verify(r.round)
	return err
}

func (r *trial) object(t testing.TB, path string) *storage.Object {
	t.Helper()
	for i := range r.objects {
		if r.objects[i].Path == path {
			return &r.objects[i]
		}
	}
	t.Fatalf("no object %s among %d", path, len(r.objects))
	return nil
}

// repack replaces the content of a compressed object.
func (r *trial) repack(t testing.TB, path string, f func([]byte) []byte) {
	t.Helper()
	o := r.object(t, path)
	data, err := Gunzip(o.Body)
	if err != nil {
		t.Fatal(err)
	}
	o.Body = zip(t, f(data))
}

// flipIn flips a bit of the one place in data that holds text.
func flipIn(t testing.TB, data []byte, text string) {
	t.Helper()
	if bytes.Count(data, []byte(text)) != 1 {
		t.Fatalf("%q is not once in the data", text)
	}
	data[bytes.Index(data, []byte(text))] ^= 1
}

type fault struct {
	name   string
	before func(*testing.T, *trial)
	after  func(*testing.T, *trial)
	want   string // part of the error
}

// A trial from 300 to 560 entries writes tile/0/001, tile/0/002.p/48 and
// tile/1/000.p/2; of the old entries, 256 to 299 are written again.
const trialFrom, trialTo = 300, 560

func runFaults(t *testing.T, faults []fault) {
	t.Helper()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			bind := func(step func(*testing.T, *trial)) func(*trial) {
				return func(r *trial) {
					if step != nil {
						step(t, r)
					}
				}
			}
			err := newTrial(t, trialFrom, trialTo).run(t, bind(f.before), bind(f.after))
			if err == nil || !strings.Contains(err.Error(), f.want) {
				t.Errorf("error is %v, want one with %q", err, f.want)
			}
		})
	}
}

func TestVerifyTakesTheTrial(t *testing.T) {
	t.Parallel()
	if err := newTrial(t, trialFrom, trialTo).run(t, nil, nil); err != nil {
		t.Error(err)
	}
}

// TestVerifyMemory plants faults in what a round is made of: entries changed
// after admission, and the edge kept between rounds.
func TestVerifyMemory(t *testing.T) {
	t.Parallel()
	faults := []fault{
		{"certificate", func(_ *testing.T, r *trial) { r.parts[4].cert[0] ^= 1 }, nil, "entry 304 is not what was admitted"},
		{"TBS", func(_ *testing.T, r *trial) { r.parts[5].cert[2] ^= 0x40 }, nil, "entry 305 is not what was admitted"},
		{"precertificate", func(_ *testing.T, r *trial) { r.parts[259].precert[3] ^= 1 }, nil, "entry 559 is not what was admitted"},
		{"chain", func(_ *testing.T, r *trial) { r.parts[0].chain[1][31] ^= 1 }, nil, "entry 300 is not what was admitted"},
		{"certificate after encoding", nil, func(t *testing.T, r *trial) {
			e := newParts(trialFrom).pending(t)
			r.round.Entries = append([]*entry.Pending{r.entries[1], e}, r.entries[2:]...)
		}, "is not what was admitted"},
		{"entries in another order", nil, func(_ *testing.T, r *trial) {
			r.round.Entries = slices.Clone(r.entries)
			r.round.Entries[7], r.round.Entries[8] = r.entries[8], r.entries[7]
		}, "entry 307 is not what was admitted"},

		{"old certificate", func(t *testing.T, r *trial) { flipIn(t, r.old.data, "certificate 298") }, nil, "leaf hash"},
		{"old precertificate", func(t *testing.T, r *trial) { flipIn(t, r.old.data, "precertificate 257") }, nil, "entry 257 is not what it was"},
		{"old chain", func(_ *testing.T, r *trial) { r.old.data[len(r.old.data)-1] ^= 1 }, nil, "entry 299 is not what it was"},
		{"old timestamp", func(_ *testing.T, r *trial) { r.old.data[7] ^= 1 }, nil, "leaf hash"},
		{"old digest", func(_ *testing.T, r *trial) { r.old.digests[43][0] ^= 1 }, nil, "entry 299 is not what it was"},
		{"old entry lost", func(_ *testing.T, r *trial) { r.old.data = r.old.data[len(r.old.data)/44:] }, nil, "tile/data/001"},
		{"old data doubled", func(_ *testing.T, r *trial) { r.old.data = append(r.old.data, r.old.data...) }, nil, "tile/data/001"},
		{"old names lost", func(_ *testing.T, r *trial) { r.old.names = nil }, nil, "lines"},
	}
	for level, n := range map[int]int{0: 44, 1: 1} {
		for _, i := range []int{0, n / 2, n - 1} {
			faults = append(faults, fault{
				fmt.Sprintf("edge hash %d of level %d", i, level),
				func(_ *testing.T, r *trial) { r.old.hashes[level][i][9] ^= 4 }, nil, "does not extend",
			})
		}
	}
	runFaults(t, faults)
}

// TestVerifyRound plants faults in what Verify is told.
func TestVerifyRound(t *testing.T) {
	t.Parallel()
	runFaults(t, []fault{
		{"old root", nil, func(_ *testing.T, r *trial) { r.round.Old.Hash[0] ^= 1 }, "does not extend"},
		{"new root", nil, func(_ *testing.T, r *trial) { r.round.New.Hash[0] ^= 1 }, "do not support"},
		{"old size", nil, func(_ *testing.T, r *trial) { r.round.Old.N-- }, "do not give size"},
		{"new size", nil, func(_ *testing.T, r *trial) { r.round.New.N++ }, "do not give size"},
		{"edge of another size", nil, func(_ *testing.T, r *trial) { r.round.Edge = r.next }, "do not give size"},
		{"old and new size", nil, func(_ *testing.T, r *trial) { r.round.Old.N--; r.round.New.N-- }, "do not give size"},
		{"entry too many", nil, func(_ *testing.T, r *trial) { r.round.Entries = append(r.round.Entries, r.entries[0]) }, "do not give size"},
		{"entry too few", nil, func(_ *testing.T, r *trial) { r.round.Entries = r.round.Entries[1:] }, "do not give size"},
		{"timestamp", nil, func(_ *testing.T, r *trial) { r.round.TimestampMillis++ }, "timestamp 77, want 78"},
		{"new tree is the old one", nil, func(_ *testing.T, r *trial) { r.round.New.Hash = r.round.Old.Hash }, "do not support"},
	})
}

// TestVerifyObjects plants faults in the objects, with a right checksum.
func TestVerifyObjects(t *testing.T) {
	t.Parallel()
	paths := []string{
		"tile/0/001", "tile/data/001", "tile/names/001",
		"tile/0/002.p/48", "tile/data/002.p/48", "tile/names/002.p/48", "tile/1/000.p/2",
	}
	add := func(o storage.Object) func(*testing.T, *trial) {
		return func(_ *testing.T, r *trial) { r.objects = append(r.objects, o) }
	}
	tile := func(l int, n int64, w int) storage.Object {
		return tileObject(tlog.Tile{H: Height, L: l, N: n, W: w}, make([]byte, 32))
	}
	swap := func(a, b string) func(*testing.T, *trial) {
		return func(t *testing.T, r *trial) {
			x, y := r.object(t, a), r.object(t, b)
			x.Body, y.Body = y.Body, x.Body
		}
	}
	repack := func(path string, f func([]byte) []byte) func(*testing.T, *trial) {
		return func(t *testing.T, r *trial) { r.repack(t, path, f) }
	}
	raw := func(path string, f func([]byte) []byte) func(*testing.T, *trial) {
		return func(t *testing.T, r *trial) { o := r.object(t, path); o.Body = f(slices.Clone(o.Body)) }
	}
	extra := func(b []byte) []byte { return append(b, 0) }
	faults := []fault{
		{"no objects", nil, func(_ *testing.T, r *trial) { r.objects = nil }, "bundle lacks"},
		{"extra full tile", nil, add(tile(0, 0, Width)), "does not write"},
		{"extra partial tile", nil, add(tile(0, 1, 44)), "does not write"},
		{"extra tile of another level", nil, add(tile(2, 0, 1)), "does not write"},
		{"extra issuer", nil, add(IssuerObject([]byte("der"))), "does not write"},
		{"checkpoint", nil, add(storage.Object{Path: "checkpoint"}), "does not write"},
		{"object twice", nil, func(_ *testing.T, r *trial) { r.objects = append(r.objects, r.objects[0]) }, "repeated path"},
		{"swapped data tiles", nil, swap("tile/data/001", "tile/data/002.p/48"), "is corrupt"},
		{"swapped hash tiles", nil, swap("tile/0/001", "tile/0/002.p/48"), "do not support"},
		{"swapped names tiles", nil, swap("tile/names/001", "tile/names/002.p/48"), "lines"},
		{"names in the place of data", nil, swap("tile/names/001", "tile/data/001"), ""},
		{"names tile without a line", nil, repack("tile/names/001", func(b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] }), "has 255 lines, want 256"},
		{"names tile without the last newline", nil, repack("tile/names/002.p/48", func(b []byte) []byte { return b[:len(b)-1] }), "has 47 lines, want 48"},
		{"names tile with an empty line", nil, repack("tile/names/002.p/48", func(b []byte) []byte { return append(b, '\n') }), "has 49 lines, want 48"},
		{"data tile with a trailing byte", nil, repack("tile/data/001", extra), "1 bytes after entry 255"},
		{"data tile without the last byte", nil, repack("tile/data/002.p/48", func(b []byte) []byte { return b[:len(b)-1] }), "entry 47"},
		{"empty data tile", nil, repack("tile/data/001", func([]byte) []byte { return nil }), "entry 0"},
		{"data tile from index 512", nil, repack("tile/data/001", func(b []byte) []byte { return shiftIndex(b) }), "says it is at index 512, want 256"},
		{"data tile not compressed", nil, raw("tile/data/001", func(b []byte) []byte { d, _ := Gunzip(b); return d }), "gzip header"},
		{"data tile of two members", nil, raw("tile/data/001", func(b []byte) []byte { return append(b, b...) }), "after the gzip member"},
		{"data tile with a trailing byte of gzip", nil, raw("tile/data/001", extra), "after the gzip member"},
		{"data tile with a date", nil, raw("tile/data/001", func(b []byte) []byte { b[4] = 1; return b }), "gzip header"},
		{"names tile with a flag", nil, raw("tile/names/001", func(b []byte) []byte { b[3] = 0x80; return b }), "gzip header"},
		{"hash tile with a trailing byte", nil, raw("tile/0/001", extra), "hash tiles"},
		{"hash tile without a hash", nil, raw("tile/1/000.p/2", func(b []byte) []byte { return b[32:] }), "hash tiles"},
	}
	for _, path := range paths {
		damage := func(name string, f func(*storage.Object)) {
			faults = append(faults, fault{name + " of " + path, nil, func(t *testing.T, r *trial) { f(r.object(t, path)) }, ""})
		}
		damage("content type", func(o *storage.Object) { o.ContentType = "text/plain" })
		damage("content encoding", func(o *storage.Object) { o.ContentEncoding += "gzip" })
		damage("cache control", func(o *storage.Object) { o.CacheControl = "" })
		damage("path", func(o *storage.Object) { o.Path = "tile/0/000" })
		damage("body", func(o *storage.Object) { o.Body = nil })
		faults = append(faults, fault{"missing " + path, nil, func(_ *testing.T, r *trial) {
			r.objects = slices.DeleteFunc(r.objects, func(o storage.Object) bool { return o.Path == path })
		}, "bundle lacks " + path})
	}
	runFaults(t, faults)
}

// shiftIndex makes the first entry of a data tile say index 512, not 256.
func shiftIndex(data []byte) []byte {
	at := bytes.Index(data, []byte{0, 8, 0, 0, 5, 0, 0, 0, 1, 0})
	data[at+8]++
	return data
}

// TestVerifyFlips flips every bit of a small bundle, and some of a large one,
// and makes the checksum right again. What may pass is a flip that no reader
// can see: bits of padding in a deflate stream, or another of two ways to say
// the same in it.
func TestVerifyFlips(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, to, step int }{{3, 5, 1}, {255, 257, 211}} {
		r := newTrial(t, c.from, c.to)
		if err := r.run(t, nil, nil); err != nil {
			t.Fatal(err)
		}
		good, passed := r.round.Bundle, 0
		for bit := 0; bit < 8*(len(good)-32); bit += c.step {
			bad := slices.Clone(good)
			bad[bit/8] ^= 1 << (bit % 8)
			bad = seal(bad)
			r.round.Bundle = bad
			objects, err := Verify(r.round)
			if err != nil {
				continue
			}
			passed++
			if !invisible(t, r.objects, objects) {
				t.Errorf("from %d to %d: bit %d of byte %d passes", c.from, c.to, bit%8, bit/8)
			}
		}
		if bits := 8 * len(good) / c.step; passed > bits/200 {
			t.Errorf("from %d to %d: %d of %d flips pass", c.from, c.to, passed, bits)
		}
	}
}

// invisible reports whether objects differ at most within deflate streams, and
// two readers find the same content in them.
func invisible(t testing.TB, want, got []storage.Object) bool {
	t.Helper()
	for i := range want {
		w, g := want[i].Body, got[i].Body
		if bytes.Equal(w, g) {
			continue
		}
		const header, trailer = len(memberHeader), 8
		if want[i].ContentEncoding != "gzip" || len(g) != len(w) || !bytes.Equal(w[:header], g[:header]) ||
			!bytes.Equal(w[len(w)-trailer:], g[len(g)-trailer:]) {
			return false
		}
		content, err := Gunzip(w)
		if err != nil {
			t.Fatal(err)
		}
		r, err := gzip.NewReader(bytes.NewReader(g))
		if err != nil {
			return false
		}
		other, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(other, content) {
			return false
		}
		if again, err := Gunzip(g); err != nil || !bytes.Equal(again, content) {
			return false
		}
	}
	return true
}

func TestVerifyChecksum(t *testing.T) {
	t.Parallel()
	err := newTrial(t, 3, 5).run(t, nil, func(r *trial) {
		r.round.Bundle = encode(t, r.objects...)
		r.round.Bundle[len(r.round.Bundle)-1] ^= 1
	})
	if err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("error is %v, want one about the checksum", err)
	}
}

// TestVerifyEdge flips the edge after the round was made from it: where the
// round leaves a tile of the edge as it is, the new root does not hold.
func TestVerifyEdge(t *testing.T) {
	t.Parallel()
	e := growRecords(NewEdge(false), 65536+2*Width).edge // levels 1 and 2, none at 0
	for level := 1; level <= 2; level++ {
		r := &trial{old: e.clone(), tree: e.Tree(), entries: cheap(t, 0, 3)}
		if err := r.run(t, nil, func(r *trial) { r.old.hashes[level][0][0] ^= 1 }); err == nil {
			t.Errorf("edge with a hash of level %d flipped passes", level)
		}
	}
	r := &trial{old: e, tree: e.Tree(), entries: cheap(t, 0, 3)}
	if err := r.run(t, nil, nil); err != nil {
		t.Errorf("edge as it was: %v", err)
	}
}

func TestVerifyTree(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 1, 2, 3, 255, 256, 257, 700, 65535, 65536, 65537, 70000} {
		e := growRecords(NewEdge(false), size).edge
		tree := e.Tree()
		if err := VerifyTree(e, tree); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
		for name, bad := range map[string]tlog.Tree{
			"root": {N: size, Hash: tlog.NodeHash(tree.Hash, tree.Hash)}, "size": {N: size + 1, Hash: tree.Hash}, "smaller": {N: size - 1, Hash: tree.Hash},
		} {
			if VerifyTree(e, bad) == nil {
				t.Errorf("size %d: tree with another %s passes", size, name)
			}
		}
		for level := range levels {
			for i := range e.hashes[level] {
				flipped := e.clone()
				flipped.hashes[level][i][i%32] ^= 1 << (i % 8)
				if VerifyTree(flipped, tree) == nil {
					t.Errorf("size %d: edge with hash %d of level %d flipped passes", size, i, level)
				}
			}
			if len(e.hashes[level]) > 0 {
				short := e.clone()
				short.hashes[level] = short.hashes[level][1:]
				if VerifyTree(short, tree) == nil {
					t.Errorf("size %d: edge without a hash of level %d passes", size, level)
				}
			}
		}
	}
}
