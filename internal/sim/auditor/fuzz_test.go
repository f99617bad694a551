package auditor

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/chain"
	"kiln/internal/fuzztest"
	"kiln/tiles"
)

// FuzzTile holds the paths of tiles to those of the log: what it takes is taken
// here as the same tile, and what is taken here it takes but for tiles that no
// tree has.
func FuzzTile(f *testing.F) {
	for _, s := range []string{
		"tile/0/000", "tile/data/x001/000.p/255", "tile/names/000.p/1", "tile/5/000.p/1", "tile/6/000", "tile/00/000", "tile/0/1000", "tile/0/000.p/256",
		"tile/0/x000/001", "tile/0/x999/x999/x999/x999/999", "tile/0/000.p/01", "tile/-1/000", "tile/", "checkpoint",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := parseTile(path)
		want, err := tiles.ParsePath(path)
		if err == nil && (!ok || got.level != want.L || got.n != want.N || got.width != int64(want.W) || got.path() != path) {
			t.Fatalf("%q is %+v, %v; the log says %+v", path, got, ok, want)
		}
		if ok && err != nil && (got.level > 5 || got.n < 1<<32>>(8*max(0, got.level)) && got.end() <= tiles.MaxTree) {
			t.Fatalf("%q is %+v, the log says %v", path, got, err)
		}
	})
}

// FuzzGunzip holds the decoder to that of the log.
func FuzzGunzip(f *testing.F) {
	f.Add(fuzztest.Gzip([]byte("a member")))
	f.Add(append(fuzztest.Gzip([]byte("a")), 0))
	f.Add(fuzztest.Gzip(make([]byte, 1<<20)))
	f.Add([]byte{})
	var g gunzipper
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := g.decode(body)
		want, wantErr := tiles.Gunzip(body)
		if wantErr == nil && len(want) <= maxTile && (err != nil || !bytes.Equal(got, want)) {
			t.Fatalf("%d bytes, %v; the log has %d", len(got), err, len(want))
		}
		if err == nil && len(body) > 3 && body[3]&0xe0 == 0 && wantErr != nil {
			t.Fatalf("%d bytes; the log says %v", len(got), wantErr)
		}
	})
}

// FuzzEntry holds the reading of entries to that of sunlight.
func FuzzEntry(f *testing.F) {
	real, err := tiles.Gunzip(fuzztest.File(f, "navigli2025h2/tile/data/003.p/10"))
	if err != nil {
		real = fuzztest.File(f, "navigli2025h2/tile/data/003.p/10")
	}
	f.Add(real)
	f.Add(real[:100])
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\xff\xff\xffx"))
	f.Fuzz(func(t *testing.T, tile []byte) {
		for len(tile) > 0 {
			got, rest, err := parseEntry(tile)
			want, wantRest, wantErr := sunlight.ReadTileLeaf(tile)
			if err != nil || wantErr != nil {
				if err == nil && !bytes.Contains(tile[:len(tile)-len(rest)], []byte{0, 8, 0, 0, 5}) {
					return // further extensions
				}
				if err == nil && int64(got.timestamp) >= 0 { // a later one is refused beside its checkpoint
					t.Fatalf("sunlight says %v", wantErr)
				}
				return
			}
			if len(rest) != len(wantRest) || got.index != want.LeafIndex || int64(got.timestamp) != want.Timestamp || got.precert != want.IsPrecert ||
				!bytes.Equal(got.cert, want.Certificate) || !bytes.Equal(got.submitted, want.PreCertificate) || len(got.chain) != len(want.ChainFingerprints) {
				t.Fatalf("read %+v, sunlight %+v", got, want)
			}
			if h := leafHash([]byte{0, 0}, got.leaf); tlog.Hash(h) != tlog.RecordHash(want.MerkleTreeLeaf()) {
				t.Fatalf("leaf hash is %x", h)
			}
			tile = rest
		}
	})
}

// FuzzCert holds what is logged for a precertificate to what the log makes of it.
func FuzzCert(f *testing.F) {
	certs := fuzztest.Certificates(f)
	for _, der := range certs {
		f.Add(der, certs["intermediate"])
		f.Add(der, certs["precert_signing_cert"])
	}
	f.Add([]byte{0x30, 0x80}, []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, leaf, issuer []byte) {
		c, err := parseCert(leaf)
		if err != nil {
			return
		}
		p, err := parseCert(issuer)
		if err != nil {
			return
		}
		ours, err := chain.ReadLogged(leaf)
		if err != nil {
			return
		}
		parent, err := chain.ReadLogged(issuer)
		if err != nil {
			return
		}
		if got, want := p.keyHash(), parent.KeyHash(); got != hash(want) {
			t.Fatalf("key hash is %x, the log has %x", got, want)
		}
		seen := make(map[string]bool)
		for _, list := range [][]extension{c.extensions, p.extensions} {
			clear(seen)
			for _, e := range list {
				if seen[e.oid] {
					return // no log takes it, so it does not matter what is made of it
				}
				seen[e.oid] = true
			}
		}
		var signer *cert
		var psc *chain.Logged
		if parent.SignsPrecerts() && p.signsPrecerts() {
			signer, psc = &p, &parent
		}
		want, err := chain.PrecertTBS(ours, psc)
		if err != nil {
			return
		}
		if got := c.tbs(signer); !bytes.Equal(got, want) {
			t.Fatalf("TBSCertificate is\n%s, the log has\n%s", hex.EncodeToString(got), hex.EncodeToString(want))
		}
	})
}

// FuzzNote opens notes of any bytes: only what was signed opens.
func FuzzNote(f *testing.F) {
	d := newDemo(f)
	d.grow(3)
	raw := d.sign(d.edge, d.now)
	f.Add(raw)
	f.Add(append(bytes.Clone(raw), raw...))
	f.Add([]byte("a\n1\n\n"))
	a := d.auditor()
	sums := map[[32]byte]bool{sha256.Sum256(raw): true}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if h, err := a.open(raw); err == nil && !sums[sha256.Sum256(raw)] && h.size != 3 {
			t.Fatalf("forged: %+v", h)
		}
	})
}
