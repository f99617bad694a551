package tiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/storage"
	"kiln/storage/mem"
)

func TestSyntheticTree(t *testing.T) {
	t.Parallel()
	v := readVectors(t).Synthetic
	for _, c := range v.Roots {
		b := growRecords(NewEdge(false), c.Size)
		if got := b.edge.Tree(); got.N != c.Size || hex.EncodeToString(got.Hash[:]) != c.Root {
			t.Errorf("root of %d is %v, want %s", c.Size, got, c.Root)
		}
		if got := describe(b.made); !slices.Equal(got, c.Tiles) {
			t.Errorf("tiles of %d are %q, want %q", c.Size, got, c.Tiles)
		}
		if c.Size != 70000 {
			continue
		}
		found := 0
		for _, m := range b.made {
			want, ok := v.Tiles[Path(m.tile)]
			if !ok {
				continue
			}
			found++
			if sum := sha256.Sum256(m.body); hex.EncodeToString(sum[:]) != want {
				t.Errorf("%s hashes to %x, want %s", Path(m.tile), sum, want)
			}
		}
		if found != len(v.Tiles) || found == 0 {
			t.Errorf("%d of the %d tiles of the vectors were made", found, len(v.Tiles))
		}
	}
}

// describe lists the hash tiles as vectors.json does.
func describe(made []tileBody) []string {
	var full, seen [levels]int
	var partial [levels]string
	for _, m := range made {
		switch l := m.tile.L; {
		case l < 0:
			continue
		case m.tile.W == Width:
			full[l]++
			seen[l]++
		default:
			partial[l] = ", partial " + Path(m.tile)
			seen[l]++
		}
	}
	var lines []string
	for l := range levels {
		if seen[l] > 0 {
			lines = append(lines, fmt.Sprintf("level %d: %d full%s", l, full[l], partial[l]))
		}
	}
	return lines
}

// TestSyntheticStepwise reaches the same trees, and tiles, in many steps.
func TestSyntheticStepwise(t *testing.T) {
	t.Parallel()
	want := make(map[string][]byte)
	for _, m := range growRecords(NewEdge(false), 70000).made {
		if m.tile.L >= 0 {
			want[Path(m.tile)] = m.body
		}
	}
	e, got := NewEdge(false), make(map[string][]byte)
	for step := int64(1); e.size < 70000; step = step*3%1021 + 1 {
		to := min(e.size+step, 70000)
		b := growRecords(e, to)
		required := make(map[string]bool)
		for _, tile := range tlog.NewTiles(Height, e.size, to) {
			required[Path(tile)] = true
		}
		for _, m := range b.made {
			if m.tile.L < 0 {
				continue
			}
			path := Path(m.tile)
			if !required[path] {
				t.Fatalf("from %d to %d: %s is made twice or not needed", e.size, to, path)
			}
			delete(required, path)
			got[path] = m.body
		}
		if len(required) != 0 {
			t.Fatalf("from %d to %d: %v are not made", e.size, to, required)
		}
		e = b.edge
	}
	for path, body := range want {
		if !bytes.Equal(got[path], body) {
			t.Errorf("%s differs when made in steps", path)
		}
	}
}

func TestSyntheticProofs(t *testing.T) {
	t.Parallel()
	v := readVectors(t).Synthetic
	trees := make(map[int64]tlog.Tree)
	bucket := mem.New()
	e := NewEdge(false)
	for _, size := range []int64{3, 4, 6, 7, 255, 256, 69999, 70000} {
		b := growRecords(e, size)
		storeHashes(t, bucket, b)
		e = b.edge
		trees[size] = e.Tree()
	}
	for name, want := range v.Consistency {
		var from, to int64
		if _, err := fmt.Sscanf(name, "%d->%d", &from, &to); err != nil {
			t.Fatal(err)
		}
		proof, err := tlog.ProveTree(to, from, newHashReader(context.Background(), bucket, trees[to]))
		compareProof(t, name, proof, err, want)
		if err := CheckConsistency(context.Background(), bucket, trees[from], trees[to]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range v.Inclusion {
		var index, size int64
		if _, err := fmt.Sscanf(name, "index %d in %d", &index, &size); err != nil {
			t.Fatal(err)
		}
		proof, err := tlog.ProveRecord(size, index, newHashReader(context.Background(), bucket, trees[size]))
		compareProof(t, name, proof, err, want)
	}
	for _, index := range []int64{0, 1, 255, 256, 65535, 65536, 69887, 69888, 69999} {
		if h, err := LeafHash(context.Background(), bucket, trees[70000], index); err != nil || h != recordHash(index) {
			t.Errorf("leaf hash %d is %v, %v", index, h, err)
		}
	}
}

func compareProof(t *testing.T, name string, got []tlog.Hash, err error, want [][]byte) {
	t.Helper()
	if err != nil || len(got) != len(want) {
		t.Errorf("%s: proof of %d hashes, %v, want %d", name, len(got), err, len(want))
		return
	}
	for i := range want {
		if !bytes.Equal(got[i][:], want[i]) {
			t.Errorf("%s: hash %d is %v, want %x", name, i, got[i], want[i])
		}
	}
}

func TestEmptyTree(t *testing.T) {
	t.Parallel()
	empty := tlog.Tree{Hash: sha256.Sum256(nil)}
	if got := NewEdge(true).Tree(); got != empty {
		t.Errorf("empty tree is %v", got)
	}
	e, err := Load(context.Background(), mem.New(), empty, true)
	if err != nil {
		t.Fatal(err)
	}
	compareEdges(t, e, NewEdge(true))
	if _, err := Load(context.Background(), mem.New(), tlog.Tree{Hash: tlog.Hash{1}}, true); err == nil {
		t.Error("empty tree with another root loads")
	}
}

// TestAssetsAtSize3 compares what a log of the three entries of the vectors
// stores, byte for byte.
func TestAssetsAtSize3(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	certs := []string{"leaf_16", "precert_17", "precert_18_by_psc"}
	e := NewEdge(true)
	var objects []storage.Object
	for i, ve := range v.Entries {
		var chain [][32]byte
		for _, fp := range ve.Chain {
			chain = append(chain, [32]byte(unhex(t, fp)))
		}
		p, err := entry.NewX509(v.Certs[certs[i]], chain, false)
		if ve.IssuerKeyHash != "" {
			p, err = entry.NewPrecert(ve.TBS, [32]byte(unhex(t, ve.IssuerKeyHash)), v.Certs[certs[i]], chain, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		e, objects = round(t, e, []*entry.Pending{p}, ve.Timestamp)
	}
	if root := e.Tree().Hash; !bytes.Equal(root[:], v.Assets.Root) {
		t.Errorf("root is %v, want %x", root, v.Assets.Root)
	}
	bodies := make(map[string][]byte)
	for _, o := range objects {
		bodies[o.Path] = o.Body
		if o.ContentEncoding != "gzip" {
			continue
		}
		var err error
		if bodies[o.Path], err = Gunzip(o.Body); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range v.Assets.Paths {
		body, ok := bodies[a.Path]
		if strings.HasPrefix(a.Path, "issuer/") {
			continue // see TestIssuerVectors
		}
		sum := sha256.Sum256(body)
		if !ok || len(body) != a.Bytes || a.Identity != "" && hex.EncodeToString(sum[:]) != a.Identity || a.Hex != "" && hex.EncodeToString(body) != a.Hex {
			t.Errorf("%s has %d bytes with SHA-256 %x, want %d, %s", a.Path, len(body), sum, a.Bytes, a.Identity)
		}
	}
	if line, _, _ := strings.Cut(string(bodies["tile/names/000.p/3"]), "\n"); line != v.Assets.NamesLine {
		t.Errorf("names line is %s, want %s", line, v.Assets.NamesLine)
	}
	if len(objects) != 3 {
		t.Errorf("%d objects, want 3", len(objects))
	}
}

// realRoot is the root of the first 1024 entries of navigli2025h2, as published.
const realRoot = "EMfGG85uIddeOXt5/wdQGP3IQd0COCqoLg9Q6CsPLJA="

type realEntry struct {
	pending   *entry.Pending
	timestamp int64
}

func realEntries(t testing.TB) []realEntry {
	t.Helper()
	var entries []realEntry
	for n := range 4 {
		rest := readTestdata(t, fmt.Sprintf("navigli2025h2/tile/data/%03d", n))
		for len(rest) > 0 {
			var e *sunlight.LogEntry
			var err error
			if e, rest, err = sunlight.ReadTileLeaf(rest); err != nil {
				t.Fatal(err)
			}
			p, err := pendingOf(e)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, realEntry{p, e.Timestamp})
		}
	}
	if len(entries) != 1024 {
		t.Fatalf("%d real entries, want 1024", len(entries))
	}
	return entries
}

// compareReal compares objects with those of the real log, and returns how many
// it has.
func compareReal(t *testing.T, objects []storage.Object) (compared int) {
	t.Helper()
	for _, o := range objects {
		tile, err := ParsePath(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		if tile.L > 0 || tile.W != Width && (tile.N != 3 || tile.W != 10) {
			continue // not among the test data
		}
		body := o.Body
		if o.ContentEncoding == "gzip" {
			if body, err = Gunzip(body); err != nil {
				t.Fatal(err)
			}
		}
		compared++
		if !bytes.Equal(body, readTestdata(t, "navigli2025h2/"+o.Path)) {
			t.Errorf("%s is not that of the real log", o.Path)
		}
	}
	return compared
}

// TestRealLog grows the real log again, in batches of odd sizes, each entry with
// its own timestamp.
func TestRealLog(t *testing.T) {
	t.Parallel()
	entries := realEntries(t)
	e, compared := NewEdge(true), 0
	for _, end := range []int{1, 3, 10, 17, 254, 255, 257, 390, 511, 512, 513, 778, 1023, 1024} {
		b := builder{edge: e.clone()}
		for _, r := range entries[e.size:end] {
			if err := b.add(r.pending, r.timestamp); err != nil {
				t.Fatal(err)
			}
		}
		b.partials()
		objects, err := b.objects()
		if err != nil {
			t.Fatal(err)
		}
		compared += compareReal(t, objects)
		e = b.edge
	}
	if root := e.Tree().Hash.String(); root != realRoot {
		t.Errorf("root is %s, want %s", root, realRoot)
	}
	if compared != 15 {
		t.Errorf("%d tiles were compared, want 15", compared)
	}
}

// TestRealRounds grows the begin of the real log in rounds of entries with one
// timestamp, each verified, stored and at the end read back.
func TestRealRounds(t *testing.T) {
	t.Parallel()
	entries := realEntries(t)[:300]
	bucket, e, compared := mem.New(), NewEdge(true), 0
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && entries[n].timestamp == entries[0].timestamp {
			n++
		}
		var batch []*entry.Pending
		for _, r := range entries[:n] {
			batch = append(batch, r.pending)
		}
		next, objects := round(t, e, batch, entries[0].timestamp)
		compared += compareReal(t, objects)
		store(t, bucket, objects)
		e, entries = next, entries[n:]
	}
	if compared != 3 {
		t.Errorf("%d tiles were compared, want 3", compared)
	}
	loaded, err := Load(context.Background(), bucket, e.Tree(), true)
	if err != nil {
		t.Fatal(err)
	}
	compareEdges(t, loaded, e)
}
