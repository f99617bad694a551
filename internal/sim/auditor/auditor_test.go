package auditor

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// An honest log through several tile widths is never accused.
func TestHonest(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	for _, n := range []int{1, 2, 250, 3, 1, 255, 300} {
		d.grow(n)
	}
	d.honest(d.a.Final())
	if size, root := d.a.Tree(); size != 812 || root != d.edge.Tree().Hash || d.a.Size() != 812 {
		t.Errorf("size %d, root %x", size, root)
	}
	if d.a.SCTs() != 812 || d.a.Checkpoints() != 8 || d.a.Repeated() != 0 {
		t.Errorf("%d SCTs, %d checkpoints, %d repeated", d.a.SCTs(), d.a.Checkpoints(), d.a.Repeated())
	}
	// Old partial tiles may go once the full tile is there, and bundles when
	// their round is public.
	d.honest(d.show("tile/data/000.p/3", nil), d.show("tile/0/000.p/3", nil))
	for _, p := range d.paths("staging/") {
		d.honest(d.show(p, nil))
	}
	// A fresh checkpoint of the same tree, and the same answers again.
	raw := d.sign(d.edge, d.now+1)
	d.honest(d.a.Committed(raw), d.a.Committed(raw), d.show("checkpoint", raw), d.show("checkpoint", raw))
	d.honest(d.a.Returned(d.submission(7), d.answer(d.entries[7], d.scts[7])), d.a.Check(), d.a.Final())
}

// A second place for one entry is allowed, and counted.
func TestRepeated(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	chains := d.someChains(3)
	for _, c := range chains {
		d.honest(d.a.Submitted(Submission{c.Submitted(), c.Precert}))
	}
	d.growBy(chains)
	d.growBy(chains[:2])
	if d.honest(d.a.Final()); d.a.Repeated() != 2 {
		t.Errorf("%d entries are repeated, want 2", d.a.Repeated())
	}
}

// What the world breaks is not held against the log, until it is repaired.
func TestBrokenByTheWorld(t *testing.T) {
	t.Parallel()
	d := newDemo(t)
	d.grow(5)
	body := d.bodies["tile/0/000.p/5"]
	d.a.Corrupted("tile/0/000.p/5")
	d.honest(d.show("tile/0/000.p/5", flipped(body)), d.show("tile/0/000.p/5", nil))
	d.grow(3)
	d.honest(d.a.Repaired("tile/0/000.p/5", body), d.a.Final())

	// Broken as it was written: nothing can be said of what follows from it.
	chains := d.someChains(2)
	s := d.plan(chains)
	d.commit(s)
	d.a.Corrupted("tile/data/000.p/10")
	d.tiles(s)
	d.honest(d.show("checkpoint", s.raw))
	d.finish(s)
	d.honest(d.a.Returned(d.submission(8), d.answer(d.entries[8], d.scts[8])), d.a.Check(), d.a.Final())
	for _, o := range s.objects {
		if o.Path == "tile/data/000.p/10" {
			d.honest(d.a.Repaired(o.Path, o.Body))
		}
	}
	d.honest(d.a.Final())

	// A checkpoint that the world set back may be replaced by a newer one.
	old := d.bodies["checkpoint"]
	d.grow(1)
	newest := d.bodies["checkpoint"]
	d.a.Corrupted("checkpoint")
	d.honest(d.a.Repaired("checkpoint", newest))
	if err := d.show("checkpoint", old); err == nil {
		t.Error("after the repair the checkpoint may go back")
	}
}

// A wrong repair is a fault, and so is a promise that it makes void.
func TestWrongRepair(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		body func([]byte) []byte
	}{
		{"other bytes", flipped},
		{"gone", func([]byte) []byte { return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := newDemo(t)
			d.grow(5)
			d.a.Corrupted("tile/0/000.p/5")
			if err := d.a.Repaired("tile/0/000.p/5", test.body(d.bodies["tile/0/000.p/5"])); err == nil || d.a.Check() == nil {
				t.Error("not noticed")
			}
		})
	}
}

// vectors are bytes that other code made.
type vectors struct {
	Synthetic struct {
		Roots []struct {
			Size int64
			Root string `json:"root_hex"`
		}
	} `json:"synthetic_tree"`
	Certs map[string][]byte `json:"certs_b64"`
	Log   struct {
		SPKI []byte `json:"spki_der_b64"`
	}
	Entries []struct {
		Index    int64
		TileLeaf []byte `json:"tile_leaf_b64"`
		Hash     string `json:"merkle_leaf_hash_hex"`
		Response string `json:"response_json"`
	}
	Checkpoints struct {
		Size0 struct{ Checkpoint string }        `json:"size_0"`
		Size3 struct{ Checkpoint string }        `json:"size_3"`
		Multi struct{ Checkpoint string }        `json:"size_3_multi_signature"`
		Bad   []struct{ Checkpoint, Why string } `json:"must_not_verify"`
	}
	Assets struct {
		Paths []struct{ Path, Hex string }
	} `json:"assets_at_size_3"`
	Paths struct {
		Valid []struct {
			Path  string
			Width int64
		}
		Bad []string `json:"server_must_404"`
	} `json:"tile_paths"`
}

func readVectors(t *testing.T) (v vectors, a *Auditor) {
	t.Helper()
	data, err := os.ReadFile("../../../testdata/vectors.json")
	if err == nil {
		err = json.Unmarshal(data, &v)
	}
	if err != nil {
		t.Fatal(err)
	}
	return v, must(New(Config{Origin: "log.example.net/2026h2", SPKI: v.Log.SPKI}))(t)
}

func TestVectors(t *testing.T) {
	t.Parallel()
	v, a := readVectors(t)
	var tr tree
	for i := range uint64(70000) {
		tr.append(leafHash(nil, binary.BigEndian.AppendUint64(nil, i)))
	}
	for _, r := range v.Synthetic.Roots {
		if root := tr.root(r.Size); hex.EncodeToString(root[:]) != r.Root {
			t.Errorf("root of %d is %x, want %s", r.Size, root, r.Root)
		}
	}
	for _, raw := range []string{v.Checkpoints.Size0.Checkpoint, v.Checkpoints.Size3.Checkpoint, v.Checkpoints.Multi.Checkpoint} {
		if _, err := a.open([]byte(raw)); err != nil {
			t.Errorf("%q: %v", raw, err)
		}
	}
	for _, bad := range v.Checkpoints.Bad {
		if _, err := a.open([]byte(bad.Checkpoint)); err == nil {
			t.Errorf("a bad checkpoint was taken: %s", bad.Why)
		}
	}
	for _, p := range v.Paths.Valid {
		if got, ok := parseTile(p.Path); !ok || got.width != p.Width {
			t.Errorf("%s is %+v, %v", p.Path, got, ok)
		}
	}
	for _, p := range v.Paths.Bad {
		if got, ok := parseTile(p); ok {
			t.Errorf("%s was taken for %+v", p, got)
		}
	}
	if len(v.Synthetic.Roots) < 5 || len(v.Checkpoints.Bad) < 5 || len(v.Paths.Valid) < 5 || len(v.Paths.Bad) < 5 {
		t.Error("the vectors were not read")
	}
}

// The log of three entries that the vectors hold, told as it would happen.
func TestForeignLog(t *testing.T) {
	t.Parallel()
	v, a := readVectors(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(a.Committed([]byte(v.Checkpoints.Size0.Checkpoint)))
	check(a.Changed("checkpoint", []byte(v.Checkpoints.Size0.Checkpoint)))
	var data bytes.Buffer
	zip := gzip.NewWriter(&data)
	submissions := []Submission{
		{Chain: [][]byte{v.Certs["leaf_16"], v.Certs["intermediate"]}},
		{Chain: [][]byte{v.Certs["precert_17"], v.Certs["intermediate"], v.Certs["root"]}, Precert: true},
		{Chain: [][]byte{v.Certs["precert_18_by_psc"], v.Certs["precert_signing_cert"], v.Certs["intermediate"], v.Certs["root"]}, Precert: true},
	}
	for i, e := range v.Entries {
		check(a.Submitted(submissions[i]))
		if _, err := zip.Write(e.TileLeaf); err != nil {
			t.Fatal(err)
		}
		got, rest, err := parseEntry(e.TileLeaf)
		if err != nil || len(rest) > 0 || got.index != e.Index {
			t.Fatalf("entry %d: %+v, %v", e.Index, got, err)
		}
		if h := leafHash([]byte{0, 0}, got.leaf); hex.EncodeToString(h[:]) != e.Hash {
			t.Errorf("leaf hash of entry %d is %x, want %s", e.Index, h, e.Hash)
		}
	}
	check(zip.Close())
	raw := []byte(v.Checkpoints.Size3.Checkpoint)
	h, err := a.open(raw)
	check(err)
	check(a.Changed(bundlePath(h), []byte("bundle")))
	check(a.Committed(raw))
	for _, name := range []string{"intermediate", "root", "precert_signing_cert"} {
		check(a.Changed(issuerPath(sha256.Sum256(v.Certs[name])), v.Certs[name]))
	}
	for _, o := range v.Assets.Paths {
		if strings.HasPrefix(o.Path, "tile/0/") {
			check(a.Changed(o.Path, must(hex.DecodeString(o.Hex))(t)))
		}
	}
	check(a.Changed("tile/data/000.p/3", data.Bytes()))
	check(a.Changed("checkpoint", raw))
	for i, e := range v.Entries {
		check(a.Returned(submissions[i], []byte(e.Response)))
		if err := a.keep(e.Index, promise{}); err == nil {
			t.Error("an empty promise was taken")
		}
	}
	check(a.Final())
	if a.Size() != 3 || a.SCTs() != 3 {
		t.Errorf("size %d, %d SCTs", a.Size(), a.SCTs())
	}
}

// The tiles of a real log that other software made hash to each other.
func TestForeignTiles(t *testing.T) {
	t.Parallel()
	dir := "../../../testdata/navigli2025h2/"
	var zip gunzipper
	var tr tree
	for n := range int64(4) {
		data, err := os.ReadFile(dir + tile{levelData, n, 256}.path())
		if err == nil && bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
			data, err = zip.decode(data)
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range int64(256) {
			var e logged
			if e, data, err = parseEntry(data); err != nil || e.index != n*256+i {
				t.Fatalf("entry %d: index %d, %v", n*256+i, e.index, err)
			}
			tr.append(leafHash([]byte{0, 0}, e.leaf))
		}
		want, err := os.ReadFile(dir + tile{0, n, 256}.path())
		if err != nil || !bytes.Equal(want, tr.tile(0, n, 256)) {
			t.Errorf("tile %d differs from its entries: %v", n, err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	d := newDemo(b)
	d.grow(50)
	for b.Loop() {
		if d.a.Check() != nil {
			b.Fatal("accused")
		}
	}
}

// A round of 20 entries in the middle of a tile, with and without its SCTs.
func BenchmarkRound(b *testing.B) {
	for _, answered := range []bool{false, true} {
		b.Run(fmt.Sprintf("answered=%v", answered), func(b *testing.B) {
			var d *demo
			var s step
			var answers [][]byte
			for b.Loop() {
				b.StopTimer()
				if d == nil || d.edge.Size() > 236 {
					d = newDemo(b)
					d.grow(1)
				}
				s = d.plan(d.someChains(20))
				first := len(d.entries)
				d.finish(s)
				answers = answers[:0]
				for i := first; answered && i < len(d.entries); i++ {
					answers = append(answers, d.answer(d.entries[i], d.scts[i]))
				}
				b.StartTimer()
				d.commit(s)
				d.tiles(s)
				d.honest(d.show("checkpoint", s.raw))
				for i, answer := range answers {
					d.honest(d.a.Returned(d.submission(first+i), answer))
				}
			}
		})
	}
}

func BenchmarkFinal(b *testing.B) {
	d := newDemo(b)
	for range 30 {
		d.grow(10)
	}
	for b.Loop() {
		d.honest(d.a.Final())
	}
}
