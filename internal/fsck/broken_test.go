package fsck_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/fsck"
	"kiln/internal/logkey"
)

// broken is one way to break a log, and the fault that it is.
type broken struct {
	name  string
	big   bool
	do    func(l *log) *log // returns l, or another log in its place
	path  string
	index int64
	says  string // part of the detail
	pair  bool   // got and want are told
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 1
		return b
	}
}

func drop(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }

func add(s string) func([]byte) []byte { return func(b []byte) []byte { return append(b, s...) } }

func edit(path string, change func([]byte) []byte) func(*log) *log {
	return func(l *log) *log {
		l.objects.edit(path, change)
		return l
	}
}

func remove(path string) func(*log) *log {
	return func(l *log) *log {
		if _, ok := l.objects[path]; !ok {
			panic("no " + path)
		}
		delete(l.objects, path)
		return l
	}
}

// stored changes the bytes of an object as it is stored.
func stored(path string, change func([]byte) []byte) func(*log) *log {
	return func(l *log) *log {
		l.objects[path] = change(bytes.Clone(l.objects[path]))
		return l
	}
}

// lines changes the lines of a names tile.
func lines(path string, change func([][]byte) [][]byte) func(*log) *log {
	return edit(path, func(b []byte) []byte { return bytes.Join(change(bytes.SplitAfter(b, []byte("\n"))), nil) })
}

// entries changes the TileLeafs of a data tile.
func entries(path string, change func([][]byte) [][]byte) func(*log) *log {
	return func(l *log) *log {
		all := l.leaves()
		n := must(hexless(path))
		part := all[n*256 : min(n*256+256, len(all))]
		l.objects[path] = zip(bytes.Join(change(slices.Clone(part)), nil))
		return l
	}
}

// hexless is the number of one of the first ten data tiles.
func hexless(path string) (int, error) {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "tile/data/00"), ".p")
	return int(name[0] - '0'), nil
}

// forged signs what change makes of the entries.
func forged(change func(leaves [][]byte)) func(*log) *log {
	return func(l *log) *log {
		leaves := l.leaves()
		for i := range leaves {
			leaves[i] = bytes.Clone(leaves[i])
		}
		change(leaves)
		return l.forge(leaves, l.tree.N)
	}
}

// issuersOf returns the fingerprints at the end of a TileLeaf of the small log,
// whose chains are of the given length.
func issuersOf(leaf []byte, n int) []byte { return leaf[len(leaf)-32*n:] }

// firstIssuer is the path of the intermediate.
func firstIssuer() string {
	return "issuer/" + hex.EncodeToString(issuersOf(small().leaves()[0], 2)[:32])
}

// precert cuts the parts of a precertificate entry out of its TileLeaf.
func precert(leaf []byte) (keyHash, tbs, submitted []byte) {
	keyHash = leaf[10:42]
	field := func(at int) ([]byte, int) {
		end := at + 3 + int(leaf[at])<<16 + int(leaf[at+1])<<8 + int(leaf[at+2])
		return leaf[at+3 : end], end
	}
	tbs, at := field(42)
	submitted, _ = field(at + 10)
	return keyHash, tbs, submitted
}

// splice replaces part of a leaf by another of any length, with lengths of three
// bytes before both.
func splice(leaf, old, with []byte) []byte {
	at := bytes.Index(leaf, old)
	n := len(with)
	return slices.Concat(leaf[:at-3], []byte{byte(n >> 16), byte(n >> 8), byte(n)}, with, leaf[at+len(old):])
}

var brokenData = []broken{
	{"bit in a certificate", false, edit("tile/data/001", flip(100)), "tile/data/001", 256, "the checkpoint proves the hash tile", true},
	{"bit in the edge's data tile", false, edit("tile/data/002.p/44", flip(100)), "tile/data/002.p/44", 512, "the checkpoint proves the hash tile", true},
	{"two entries swapped", false, entries("tile/data/001", func(e [][]byte) [][]byte {
		e[5], e[6] = e[6], e[5]
		return e
	}), "tile/data/001", 261, "leaf_index of entry 5 (index 261)", true},
	{"entry of another place with its index put right", false, entries("tile/data/000", func(e [][]byte) [][]byte {
		other := bytes.Clone(e[10])
		at := bytes.Index(other, []byte{0, 8, 0, 0, 5, 0, 0, 0, 0, 10})
		other[at+9] = 9
		e[9] = other
		return e
	}), "tile/data/000", 9, "the checkpoint proves the hash tile", true},
	{"data tile of another place", false, func(l *log) *log {
		l.objects["tile/data/000"] = l.objects["tile/data/001"]
		return l
	}, "tile/data/000", 0, "leaf_index", true},
	{"entry missing at the end", false, entries("tile/data/001", func(e [][]byte) [][]byte { return e[:255] }), "tile/data/001", 511, "it ends here", false},
	{"entry too many", false, entries("tile/data/001", func(e [][]byte) [][]byte { return append(e, e[0]) }), "tile/data/001", 511, "bytes follow", false},
	{"byte missing at the end", false, edit("tile/data/000", drop(1)), "tile/data/000", 255, "1 bytes early", false},
	{"byte too many at the end", false, edit("tile/data/002.p/44", add("x")), "tile/data/002.p/44", 555, "bytes follow", false},
	{"unknown entry type", false, edit("tile/data/000", func(b []byte) []byte { b[9] = 2; return b }), "tile/data/000", 0, "entry type is 2", false},
	{"fingerprints of odd length", false, entries("tile/data/000", func(e [][]byte) [][]byte {
		last := bytes.Clone(e[3][:len(e[3])-1])
		binary.BigEndian.PutUint16(last[len(last)-65:], 63)
		e[3] = last
		return e
	}), "tile/data/000", 3, "want a multiple of 32", false},
	{"length beyond the end", false, edit("tile/data/000", func(b []byte) []byte { b[10] = 0xff; return b }), "tile/data/000", 0, "bytes early", false},
	{"gzip checksum", false, stored("tile/data/000", flip(-6)), "tile/data/000", 0, "gzip: invalid checksum", false},
	{"gzip cut off", false, stored("tile/data/001", drop(100)), "tile/data/001", 256, "gzip does not decode", false},
	{"bytes after gzip", false, stored("tile/data/001", add("garbage")), "tile/data/001", 256, "gzip", false},
	{"garbage for gzip", false, stored("tile/data/001", func([]byte) []byte { return []byte("\x1f\x8bgarbage") }), "tile/data/001", 256, "gzip", false},
	{"empty data tile", false, stored("tile/data/001", func([]byte) []byte { return nil }), "tile/data/001", 256, "it ends here", false},
	{"data tile missing", false, remove("tile/data/001"), "tile/data/001", 256, "is missing", false},
	{"edge's data tile missing", false, remove("tile/data/002.p/44"), "tile/data/002.p/44", 512, "is missing", false},
}

var brokenForged = []broken{
	{"wrong leaf_index, signed", false, forged(func(e [][]byte) {
		at := bytes.Index(e[300], []byte{0, 8, 0, 0, 5, 0, 0, 0, 1, 44})
		e[300][at+9] = 45
	}), "tile/data/001", 300, "leaf_index of entry 44 (index 300)", true},
	{"leaf_index twice, signed", false, forged(func(e [][]byte) {
		ext := []byte{0, 8, 0, 0, 5, 0, 0, 0, 1, 44}
		e[300] = bytes.Replace(e[300], ext, append([]byte{0, 16}, bytes.Repeat(ext[2:], 2)...), 1)
	}), "tile/data/001", 300, "repeated", false},
	{"no leaf_index, signed", false, forged(func(e [][]byte) {
		e[300] = bytes.Replace(e[300], []byte{0, 8, 0, 0, 5, 0, 0, 0, 1, 44}, []byte{0, 0}, 1)
	}), "tile/data/001", 300, "no leaf_index", false},
	{"timestamp after the checkpoint's, signed", false, forged(func(e [][]byte) {
		binary.BigEndian.PutUint64(e[17], uint64(small().millis+1))
	}), "tile/data/000", 17, "after the checkpoint's", true},
	{"timestamp of the far future, signed", false, forged(func(e [][]byte) { e[18][0] = 0xff }), "tile/data/000", 18, "after the checkpoint's", true},
	{"issuer key hash, signed", false, forged(func(e [][]byte) { e[1][10] ^= 1 }), "tile/data/000", 1, "issuer key hash of index 1", true},
	{"issuer key hash below a precertificate signer, signed", false, forged(func(e [][]byte) { e[2][10] ^= 1 }), "tile/data/000", 2, "issuer key hash of index 2", true},
	{"TBSCertificate of another, signed", false, forged(func(e [][]byte) {
		_, tbs, _ := precert(e[1])
		_, other, _ := precert(e[4])
		e[1] = splice(e[1], tbs, other)
	}), "tile/data/000", 1, "does not follow from its precertificate", true},
	{"TBSCertificate with a bit flipped, signed", false, forged(func(e [][]byte) {
		_, tbs, _ := precert(e[1])
		tbs[bytes.Index(tbs, []byte("example.org"))] ^= 1
	}), "tile/data/000", 1, "it has other extensions", true},
	{"no TBSCertificate, signed", false, forged(func(e [][]byte) {
		_, tbs, _ := precert(e[1])
		e[1] = splice(e[1], tbs, []byte("no TBSCertificate"))
	}), "tile/data/000", 1, "is no TBSCertificate", true},
	// The rest is not covered by the tree.
	{"precertificate of another", false, entries("tile/data/000", func(e [][]byte) [][]byte {
		_, _, mine := precert(e[1])
		_, _, other := precert(e[4])
		e[1] = splice(e[1], mine, other)
		return e
	}), "tile/data/000", 1, "does not follow from its precertificate", true},
	{"fingerprints in another order", false, entries("tile/data/000", func(e [][]byte) [][]byte {
		e[3] = bytes.Clone(e[3])
		f := issuersOf(e[3], 2)
		first, second := bytes.Clone(f[:32]), bytes.Clone(f[32:])
		copy(f, second)
		copy(f[32:], first)
		return e
	}), "tile/data/000", 3, "as the issuer of its certificate, which it is not", false},
	{"root in place of nothing", false, entries("tile/data/000", func(e [][]byte) [][]byte {
		e[3] = bytes.Clone(e[3])
		f := issuersOf(e[3], 2)
		copy(f[32:], f[:32])
		return e
	}), "tile/data/000", 3, "as the issuer of issuer/", false},
	{"fingerprint of nothing", false, entries("tile/data/002.p/44", func(e [][]byte) [][]byte {
		e[43] = bytes.Clone(e[43])
		f := issuersOf(e[43], 1)
		clear(f)
		return e
	}), "issuer/" + strings.Repeat("00", 32), 555, "is missing; index 555 names it", false},
}

var brokenTree = []broken{
	{"hash tile cut off", false, edit("tile/0/001", drop(5)), "tile/0/001", 511, "wrong length", true},
	{"hash tile too long", false, edit("tile/0/001", add("x")), "tile/0/001", -1, "wrong length", true},
	{"hash at level 0", false, edit("tile/0/001", flip(32*7)), "tile/0/001", 263, "the checkpoint refutes the hash tile", true},
	{"hash at level 0 on the edge", false, edit("tile/0/002.p/44", flip(32*7)), "tile/0/002.p/44", 519, "with that the root is the checkpoint's", true},
	{"hash at level 1 on the edge", false, edit("tile/1/000.p/2", flip(32)), "tile/1/000.p/2", 256, "with that the root is the checkpoint's", true},
	{"hash tile missing", false, remove("tile/0/000"), "tile/0/000", 0, "is missing", false},
	{"edge's hash tile missing", false, remove("tile/1/000.p/2"), "tile/1/000.p/2", 0, "is missing", false},
	{"hash tile of another place", false, func(l *log) *log {
		l.objects["tile/0/000"] = l.objects["tile/0/001"]
		return l
	}, "tile/0/000", 0, "the checkpoint refutes the hash tile", true},
	{"history rewritten below a full hash tile", false, func(l *log) *log {
		leaves := l.leaves()
		leaves[3] = bytes.Clone(leaves[3])
		leaves[3][7] ^= 1 // its timestamp
		f := l.forge(leaves, l.tree.N)
		for _, path := range []string{"tile/0/000", "tile/data/000"} {
			l.objects[path] = f.objects[path]
		}
		for path := range l.objects {
			if strings.HasPrefix(path, "tile/names/") {
				delete(l.objects, path)
			}
		}
		return l
	}, "tile/0/000", 0, "the checkpoint proves the hash tile", true},
	{"history rewritten far below", true, func(l *log) *log {
		leaves := l.leaves()
		leaves[51200] = flip(7)(bytes.Clone(leaves[51200]))
		f := l.forge(leaves, l.tree.N)
		for _, path := range []string{"tile/0/200", "tile/data/200"} {
			l.objects[path] = f.objects[path]
		}
		return l
	}, "tile/0/200", 51200, "the checkpoint proves the hash tile", true},

	{"full tile at level 1", true, edit("tile/1/000", flip(32*200)), "tile/1/000", 200 * 256, "the checkpoint refutes the hash tile", true},
	{"full tile at level 1 cut off", true, edit("tile/1/000", drop(32)), "tile/1/000", 255 * 256, "wrong length", true},
	{"full tile at level 1 missing", true, remove("tile/1/000"), "tile/1/000", 0, "is missing", false},
	{"edge at level 1", true, edit("tile/1/001.p/1", flip(3)), "tile/1/001.p/1", 1 << 16, "with that the root is the checkpoint's", true},
	{"edge at level 2", true, edit("tile/2/000.p/1", flip(3)), "tile/2/000.p/1", 0, "with that the root is the checkpoint's", true},
	{"deep inside", true, edit("tile/data/200", flip(15)), "tile/data/200", 200 * 256, "the checkpoint proves the hash tile", true},
	{"deep inside, hash", true, edit("tile/0/200", flip(-1)), "tile/0/200", 200*256 + 255, "the checkpoint refutes the hash tile", true},
}

var brokenOther = []broken{
	{"issuer missing", false, func(l *log) *log { return remove(firstIssuer())(l) }, "issuer/", 0, "is missing; index 0 names it", false},
	{"bit in an issuer", false, func(l *log) *log { return edit(firstIssuer(), flip(200))(l) }, "issuer/", 0, "SHA-256 of its", true},
	{"byte after an issuer", false, func(l *log) *log { return edit(firstIssuer(), add("x"))(l) }, "issuer/", 0, "SHA-256 of its", true},

	{"older partial hash tile", false, edit("tile/0/000.p/100", flip(32*70)), "tile/0/000.p/100", 70, "is not the beginning of tile/0/000", true},
	{"older partial hash tile cut off", false, edit("tile/0/000.p/100", drop(32)), "tile/0/000.p/100", 99, "ends before", false},
	{"older partial hash tile too long", false, edit("tile/0/001.p/44", add("x")), "tile/0/001.p/44", 299, "has more than", false},
	{"older partial data tile", false, edit("tile/data/001.p/44", flip(-1)), "tile/data/001.p/44", 299, "is not the beginning of tile/data/001", true},
	{"older partial names tile", false, lines("tile/names/000.p/100", func(b [][]byte) [][]byte {
		b[3], b[4] = b[4], b[3]
		return b
	}), "tile/names/000.p/100", 3, "is not the beginning of tile/names/000", true},
	{"older partial tile at level 1", false, edit("tile/1/000.p/1", flip(0)), "tile/1/000.p/1", 0, "is not the beginning of tile/1/000.p/2", true},

	{"names line missing", false, lines("tile/names/001", func(b [][]byte) [][]byte { return b[:255] }), "tile/names/001", 511, "is missing", true},
	{"names line too many", false, lines("tile/names/001", func(b [][]byte) [][]byte { return append(b[:256], b[0]) }), "tile/names/001", 511, "lines follow", true},
	{"names line without its end", false, lines("tile/names/001", func(b [][]byte) [][]byte {
		b[255] = bytes.TrimSpace(b[255])
		return b
	}), "tile/names/001", 511, "no end", true},
	{"names lines swapped", false, lines("tile/names/001", func(b [][]byte) [][]byte {
		b[8], b[9] = b[9], b[8]
		return b
	}), "tile/names/001", 264, "other names than the certificate", true},
	{"names line with another timestamp", false, lines("tile/names/000", func(b [][]byte) [][]byte {
		b[7] = bytes.Replace(b[7], []byte(`{"Timestamp":1`), []byte(`{"Timestamp":2`), 1)
		return b
	}), "tile/names/000", 7, "another timestamp", true},
	{"names line of garbage", false, lines("tile/names/002.p/44", func(b [][]byte) [][]byte {
		b[7] = []byte("garbage\n")
		return b
	}), "tile/names/002.p/44", 519, "no JSON object", false},
	{"names tile with a broken gzip", false, stored("tile/names/000", flip(-6)), "tile/names/000", 0, "invalid checksum", false},

	{"checkpoint missing", false, remove("checkpoint"), "checkpoint", -1, "is missing", false},
	{"checkpoint's signature", false, edit("checkpoint", func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte(" "+origin+" "), []byte(" "+origin+" AAAA"))
	}), "checkpoint", -1, "does not open", false},
	{"checkpoint's root", false, edit("checkpoint", flip(len(origin)+1+4+3)), "checkpoint", -1, "does not open", false},
	{"checkpoint's size", false, edit("checkpoint", flip(len(origin)+1)), "checkpoint", -1, "does not open", false},
	{"checkpoint of another origin", false, edit("checkpoint", func(b []byte) []byte {
		return bytes.ReplaceAll(b, []byte(origin), []byte("ct.example.com/2026h2"))
	}), "checkpoint", -1, "does not open", false},
	{"checkpoint of another key", false, func(l *log) *log {
		other := &log{objects: l.objects, notes: map[int64]string{}, key: must(logkey.Generate())}
		other.sign(l.tree, l.millis)
		return l
	}, "checkpoint", -1, "no signature by the key", false},
	{"checkpoint of another root, signed", false, func(l *log) *log {
		tree := l.tree
		tree.Hash[0] ^= 1
		l.sign(tree, l.millis)
		return l
	}, "checkpoint", -1, "the root of size 556 is not the one of the partial tiles", true},
	{"checkpoint of more entries, signed", false, func(l *log) *log {
		l.sign(tlog.Tree{N: 600, Hash: l.tree.Hash}, l.millis)
		return l
	}, "tile/0/002.p/88", 512, "is missing", false},
	{"empty tree with a root, signed", false, func(l *log) *log {
		l.sign(tlog.Tree{N: 0, Hash: l.tree.Hash}, l.millis)
		return l
	}, "checkpoint", -1, "the root of size 0", true},
}

// Each way to break a good log is found, and told with its place.
func TestBroken(t *testing.T) {
	t.Parallel()
	all := slices.Concat(brokenData, brokenForged, brokenTree, brokenOther)
	seen := map[string]bool{}
	for _, b := range all {
		if seen[b.name] {
			t.Errorf("two cases are named %q", b.name)
		}
		seen[b.name] = true
		t.Run(strings.ReplaceAll(b.name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			whole := small
			if b.big {
				whole = big
			}
			l := b.do(whole().clone())
			_, err := check(t, l.objects, l.options())
			b.compare(t, err)
		})
	}
}

func (b *broken) compare(t *testing.T, err error) {
	t.Helper()
	var f *fsck.Fault
	if !errors.As(err, &f) {
		t.Fatalf("error is %v, want a fault", err)
	}
	t.Logf("%v", f)
	if f.Path != b.path && !(strings.HasSuffix(b.path, "/") && strings.HasPrefix(f.Path, b.path)) {
		t.Errorf("path is %s, want %s", f.Path, b.path)
	}
	if f.Index != b.index {
		t.Errorf("index is %d, want %d", f.Index, b.index)
	}
	if !strings.Contains(f.Error(), b.says) || !strings.HasPrefix(f.Error(), f.Path+": ") {
		t.Errorf("it says %q, want %q in it", f, b.says)
	}
	if told := f.Got != "" && f.Want != ""; told != b.pair || f.Got == f.Want && told {
		t.Errorf("got %q, want %q; want both and different: %v", f.Got, f.Want, b.pair)
	}
	if b.pair && (!strings.Contains(f.Detail, f.Got) || !strings.Contains(f.Detail, f.Want)) {
		t.Errorf("it says %q without %s and %s", f, f.Got, f.Want)
	}
}
