package entry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"kiln/entry"
)

// vectors is the part of vectors.json that concerns entries. Members named
// _b64 are []byte, which encoding/json reads from base64.
type vectors struct {
	Certs  map[string][]byte `json:"certs_b64"`
	Assets struct {
		DedupKeys map[string]string `json:"dedup_key_example"`
	} `json:"assets_at_size_3"`
	Entries    []vectorEntry `json:"entries"`
	Extensions struct {
		Skip  extensionVector   `json:"reader_must_accept_and_skip_unknown"`
		Bad   []extensionVector `json:"reader_must_reject"`
		Valid []extensionVector `json:"valid"`
	} `json:"extensions"`
}

type vectorEntry struct {
	Chain         []string `json:"chain_fingerprints_hex"`
	Extensions    []byte   `json:"extensions_b64"`
	Index         int64    `json:"index"`
	IssuerKeyHash string   `json:"issuer_key_hash_hex"`
	LeafHash      string   `json:"merkle_leaf_hash_hex"`
	Name          string   `json:"name"`
	SCTInput      []byte   `json:"sct_signing_input_b64"`
	SCTInputHash  string   `json:"sct_signing_input_sha256"`
	TBS           []byte   `json:"tbs_b64"`
	TileLeaf      []byte   `json:"tile_leaf_b64"`
	Timestamp     int64    `json:"timestamp_ms"`
}

type extensionVector struct {
	Hex       string `json:"hex"`
	LeafIndex int64  `json:"leaf_index"`
	Why       string `json:"why"`
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	data, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
	if len(v.Entries) != 3 || len(v.Extensions.Valid) == 0 || len(v.Extensions.Bad) == 0 {
		t.Fatal("vectors.json has no entries or extensions")
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// vectorCerts names the certificates of the entries of vectors.json.
var vectorCerts = []string{"leaf_16", "precert_17", "precert_18_by_psc"}

func pendingOf(t testing.TB, v *vectors, i int) *entry.Pending {
	t.Helper()
	e := v.Entries[i]
	var chain [][32]byte
	for _, fp := range e.Chain {
		chain = append(chain, [32]byte(unhex(t, fp)))
	}
	cert := v.Certs[vectorCerts[i]]
	var p *entry.Pending
	var err error
	if e.IssuerKeyHash == "" {
		p, err = entry.NewX509(cert, chain, false)
	} else {
		p, err = entry.NewPrecert(e.TBS, [32]byte(unhex(t, e.IssuerKeyHash)), cert, chain, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVectors(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for i, e := range v.Entries {
		t.Run(e.Name, func(t *testing.T) {
			p := pendingOf(t, v, i)
			pl := entry.Placement{Index: e.Index, TimestampMillis: e.Timestamp}
			if err := pl.Check(); err != nil {
				t.Error(err)
			}
			leaf := p.AppendMerkleTreeLeaf(nil, pl)
			if e.SCTInput != nil && !bytes.Equal(leaf, e.SCTInput) {
				t.Errorf("SCT input is\n%x, want\n%x", leaf, e.SCTInput)
			}
			if got := sha256.Sum256(leaf); hex.EncodeToString(got[:]) != e.SCTInputHash {
				t.Errorf("SCT input hashes to %x, want %s", got, e.SCTInputHash)
			}
			if got := p.AppendTileLeaf(nil, pl); !bytes.Equal(got, e.TileLeaf) {
				t.Errorf("TileLeaf is\n%x, want\n%x", got, e.TileLeaf)
			}
			if got := p.LeafHash(pl); hex.EncodeToString(got[:]) != e.LeafHash {
				t.Errorf("leaf hash is %x, want %s", got, e.LeafHash)
			}
			if got, err := entry.Extensions(e.Index); err != nil || !bytes.Equal(got, e.Extensions) {
				t.Errorf("extensions are %x, %v, want %x", got, err, e.Extensions)
			}
		})
	}
}

func TestKeyVectors(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for i, name := range []string{"entry_0", "entry_1"} {
		want := v.Assets.DedupKeys[name]
		if got := pendingOf(t, v, i).Key(); want == "" || hex.EncodeToString(got[:]) != want {
			t.Errorf("%s: key is %x, want %s", name, got, want)
		}
	}
}

func TestAppendKeepsPrefix(t *testing.T) {
	t.Parallel()
	p := pendingOf(t, readVectors(t), 1)
	pl := entry.Placement{Index: 1, TimestampMillis: 2}
	if got := p.AppendTileLeaf([]byte("before"), pl); !bytes.Equal(got, append([]byte("before"), p.AppendTileLeaf(nil, pl)...)) {
		t.Error("AppendTileLeaf does not append")
	}
	if got := p.AppendMerkleTreeLeaf([]byte("before"), pl); !bytes.Equal(got, append([]byte("before"), p.AppendMerkleTreeLeaf(nil, pl)...)) {
		t.Error("AppendMerkleTreeLeaf does not append")
	}
	if size := len(p.AppendTileLeaf(nil, pl)); p.Size() < size {
		t.Errorf("Size is %d, the TileLeaf alone has %d bytes", p.Size(), size)
	}
}

// TestSunlight compares the encodings with those of filippo.io/sunlight.
func TestSunlight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := &sunlight.LogEntry{
			Certificate: rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "certificate"),
			IsPrecert:   rapid.Bool().Draw(t, "precert"),
			LeafIndex:   rapid.Int64Range(0, entry.MaxIndex).Draw(t, "index"),
			Timestamp:   rapid.Int64Min(0).Draw(t, "timestamp"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "chain") {
			fp := sha256.Sum256(rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "issuer"))
			want.ChainFingerprints = append(want.ChainFingerprints, fp)
		}
		p, err := entry.NewX509(want.Certificate, want.ChainFingerprints, false)
		if want.IsPrecert {
			want.IssuerKeyHash = sha256.Sum256(rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "key"))
			want.PreCertificate = rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "precertificate")
			p, err = entry.NewPrecert(want.Certificate, want.IssuerKeyHash, want.PreCertificate, want.ChainFingerprints, false)
		}
		if err != nil {
			t.Fatal(err)
		}
		pl := entry.Placement{Index: want.LeafIndex, TimestampMillis: want.Timestamp}
		if got := p.AppendMerkleTreeLeaf(nil, pl); !bytes.Equal(got, want.MerkleTreeLeaf()) {
			t.Fatalf("MerkleTreeLeaf is\n%x, want\n%x", got, want.MerkleTreeLeaf())
		}
		if got := p.LeafHash(pl); got != tlog.RecordHash(want.MerkleTreeLeaf()) {
			t.Fatalf("leaf hash is %x", got)
		}
		tile := p.AppendTileLeaf(nil, pl)
		if wantTile := sunlight.AppendTileLeaf(nil, want); !bytes.Equal(tile, wantTile) {
			t.Fatalf("TileLeaf is\n%x, want\n%x", tile, wantTile)
		}
		got, rest, err := sunlight.ReadTileLeaf(append(tile, "next"...))
		if err != nil || string(rest) != "next" {
			t.Fatalf("ReadTileLeaf: %v, rest %q", err, rest)
		}
		if !bytes.Equal(sunlight.AppendTileLeaf(nil, got), tile) {
			t.Fatalf("ReadTileLeaf gives %+v, want %+v", got, want)
		}
	})
}

// parts are the bytes of a Pending, for changing them behind its back.
type parts struct {
	typ     entry.Type
	cert    []byte
	key     [32]byte
	precert []byte
	chain   [][32]byte
}

func newParts() *parts {
	return &parts{
		typ: entry.Precert, cert: []byte("certificate"), key: sha256.Sum256([]byte("key")),
		precert: []byte("precertificate"), chain: [][32]byte{{1}, {2}},
	}
}

func (p *parts) pending(t *testing.T) *entry.Pending {
	t.Helper()
	e, err := entry.NewPrecert(p.cert, p.key, p.precert, p.chain, false)
	if p.typ == entry.X509 {
		e, err = entry.NewX509(p.cert, p.chain, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDigestCoversEverything(t *testing.T) {
	t.Parallel()
	changes := map[string]struct {
		change    func(*parts)
		changesID bool // whether the Key changes too
	}{
		"nothing":                   {func(*parts) {}, false},
		"type":                      {func(p *parts) { p.typ = entry.X509 }, true},
		"certificate":               {func(p *parts) { p.cert[3] ^= 1 }, true},
		"certificate longer":        {func(p *parts) { p.cert = append(p.cert, 0) }, true},
		"issuer key hash":           {func(p *parts) { p.key[31] ^= 1 }, true},
		"precertificate":            {func(p *parts) { p.precert[0] ^= 0x80 }, false},
		"precertificate shorter":    {func(p *parts) { p.precert = p.precert[1:] }, false},
		"chain":                     {func(p *parts) { p.chain[1][31] ^= 1 }, false},
		"chain longer":              {func(p *parts) { p.chain = append(p.chain, [32]byte{}) }, false},
		"chain empty":               {func(p *parts) { p.chain = nil }, false},
		"chain reordered":           {func(p *parts) { p.chain[0], p.chain[1] = p.chain[1], p.chain[0] }, false},
		"byte moved between fields": {func(p *parts) { p.cert, p.precert = p.cert[:10], append([]byte("e"), p.precert...) }, true},
	}
	base := newParts().pending(t)
	seen := map[entry.Digest]string{}
	for name, c := range changes {
		p := newParts()
		c.change(p)
		e := p.pending(t)
		if other, ok := seen[e.Digest()]; ok {
			t.Errorf("%q and %q have one digest", name, other)
		}
		seen[e.Digest()] = name
		if changed := e.Key() != base.Key(); changed != c.changesID {
			t.Errorf("%q changes the key: %v, want %v", name, changed, c.changesID)
		}
		if got := entry.DigestOf(p.typ, p.cert, p.key, p.precert, p.chain); got != e.Digest() {
			t.Errorf("%q: DigestOf differs from Digest", name)
		}
	}
}

// TestDigestIsUnambiguous moves the chain into the precertificate, and part of
// the certificate into the chain, so that the bytes alone stay the same.
func TestDigestIsUnambiguous(t *testing.T) {
	t.Parallel()
	fp := [32]byte{1, 2, 3} // ends in more zeros than a count has
	moved := append([]byte("p\x00\x00\x00\x00\x00\x00\x00\x01"), fp[:24]...)
	a := entry.DigestOf(entry.Precert, []byte("c"), [32]byte{}, []byte("p"), [][32]byte{fp})
	if b := entry.DigestOf(entry.Precert, []byte("c"), [32]byte{}, moved, nil); a == b {
		t.Error("a chain and a precertificate that ends like it have one digest")
	}
	if a, b := entry.DigestOf(entry.X509, []byte(moved), [32]byte{}, nil, nil), entry.DigestOf(entry.X509, []byte("p"), [32]byte{}, nil, [][32]byte{fp}); a == b {
		t.Error("a chain and a certificate that ends like it have one digest")
	}
}

func TestDigestIgnoresPrecertFieldsOfX509(t *testing.T) {
	t.Parallel()
	a := entry.DigestOf(entry.X509, []byte("c"), [32]byte{1}, []byte("p"), nil)
	if b := entry.DigestOf(entry.X509, []byte("c"), [32]byte{}, nil, nil); a != b {
		t.Error("digest of an X509 entry depends on precertificate fields")
	}
}

func TestIntact(t *testing.T) {
	t.Parallel()
	for name, flip := range map[string]func(*parts){
		"certificate":    func(p *parts) { p.cert[0] ^= 1 },
		"precertificate": func(p *parts) { p.precert[len(p.precert)-1] ^= 1 },
		"chain":          func(p *parts) { p.chain[1][0] ^= 1 },
	} {
		p := newParts()
		e := p.pending(t)
		key, digest := e.Key(), e.Digest()
		if !e.Intact() {
			t.Fatal("a new entry is not intact")
		}
		flip(p)
		if e.Intact() {
			t.Errorf("entry with a bit of its %s flipped is intact", name)
		}
		if e.Key() != key || e.Digest() != digest {
			t.Errorf("key or digest follow a change of %s after admission", name)
		}
		flip(p)
		if !e.Intact() {
			t.Errorf("entry is not intact with its %s restored", name)
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	big, one := make([]byte, entry.MaxCertificate+1), []byte{1}
	chain := make([][32]byte, entry.MaxChain+1)
	x509 := func(der []byte, chain [][32]byte) error {
		_, err := entry.NewX509(der, chain, false)
		return err
	}
	precert := func(tbs, precert []byte, chain [][32]byte) error {
		_, err := entry.NewPrecert(tbs, [32]byte{}, precert, chain, false)
		return err
	}
	for _, c := range []struct {
		name string
		err  error
		want string // part of the error; empty: none
	}{
		{"smallest", x509(one, nil), ""},
		{"largest", x509(big[1:], chain[1:]), ""},
		{"empty certificate", x509(nil, nil), "empty certificate"},
		{"large certificate", x509(big, nil), "longer than"},
		{"long chain", x509(one, chain), "2048 fingerprints"},
		{"smallest precert", precert(one, one, nil), ""},
		{"empty TBS", precert(nil, one, nil), "empty certificate"},
		{"empty precertificate", precert(one, nil, nil), "empty precertificate"},
		{"large TBS", precert(big, one, nil), "longer than"},
		{"large precertificate", precert(one, big, nil), "longer than"},
		{"long precert chain", precert(one, one, chain), "2048 fingerprints"},
	} {
		if (c.err == nil) != (c.want == "") || c.err != nil && !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, c.err, c.want)
		}
	}
	p, err := entry.NewX509(big[1:], chain[1:], true)
	if err != nil {
		t.Fatal(err)
	}
	pl := entry.Placement{Index: entry.MaxIndex, TimestampMillis: 1}
	e, rest, err := sunlight.ReadTileLeaf(p.AppendTileLeaf(nil, pl))
	if err != nil || len(rest) != 0 || len(e.Certificate) != entry.MaxCertificate || len(e.ChainFingerprints) != entry.MaxChain {
		t.Errorf("largest entry does not come back: %v", err)
	}
}

func TestAccessors(t *testing.T) {
	t.Parallel()
	p := newParts()
	e, err := entry.NewPrecert(p.cert, p.key, p.precert, p.chain, true)
	if err != nil {
		t.Fatal(err)
	}
	if e.Type() != entry.Precert || !e.LowPriority() || e.IssuerKeyHash() != p.key ||
		!bytes.Equal(e.Certificate(), p.cert) || !bytes.Equal(e.PreCertificate(), p.precert) || len(e.Chain()) != 2 || e.Chain()[1] != p.chain[1] {
		t.Errorf("entry does not hold what it was made of: %+v", e)
	}
	for typ, want := range map[entry.Type]string{entry.X509: "x509_entry", entry.Precert: "precert_entry", 7: "entry type 7"} {
		if typ.String() != want {
			t.Errorf("type is %q, want %q", typ, want)
		}
	}
}

func TestPlacementCheck(t *testing.T) {
	t.Parallel()
	for pl, ok := range map[entry.Placement]bool{
		{}: true, {Index: entry.MaxIndex, TimestampMillis: 1 << 62}: true,
		{Index: -1}: false, {Index: 1 << 40}: false, {TimestampMillis: -1}: false,
	} {
		if err := pl.Check(); (err == nil) != ok {
			t.Errorf("%+v: %v", pl, err)
		}
	}
}

func TestOverloadedError(t *testing.T) {
	t.Parallel()
	err := &entry.OverloadedError{What: "pool", RetryAfter: 2 * time.Second}
	if got := err.Error(); got != "pool is full, retry after 2s" {
		t.Errorf("error is %q", got)
	}
}
