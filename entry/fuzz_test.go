package entry_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/internal/fuzztest"
)

// FuzzTileLeaf encodes an entry of any parts, and another decoder reads back just
// these parts: no field can be taken for a piece of another.
func FuzzTileLeaf(f *testing.F) {
	for name, der := range fuzztest.Certificates(f) {
		f.Add(der, der, name, false, uint16(2), int64(1), int64(1_780_000_000_000))
		f.Add(der, der[:len(der)/2], name, true, uint16(3), int64(entry.MaxIndex), int64(0))
	}
	f.Add([]byte{}, []byte{}, "", true, uint16(2047), int64(-1), int64(-1))
	f.Fuzz(func(t *testing.T, certificate, precertificate []byte, issuer string, precert bool, issuers uint16, index, timestamp int64) {
		chain := make([][32]byte, issuers%2050)
		for i := range chain {
			chain[i] = sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		}
		pl := entry.Placement{Index: index, TimestampMillis: timestamp}
		hash := sha256.Sum256([]byte(issuer))
		p, err := entry.NewX509(certificate, chain, false)
		if precert {
			p, err = entry.NewPrecert(certificate, hash, precertificate, chain, false)
		}
		if err != nil {
			fuzztest.Sentence(t, err)
			if len(certificate) > 0 && len(chain) <= entry.MaxChain && (!precert || len(precertificate) > 0) {
				t.Fatal(err)
			}
			return
		}
		if pl.Check() != nil {
			return
		}
		tile := p.AppendTileLeaf([]byte("before"), pl)[len("before"):]
		if len(tile) > p.Size() {
			t.Fatalf("%d bytes, Size says %d", len(tile), p.Size())
		}
		e, rest, err := sunlight.ReadTileLeaf(append(tile, "rest"...))
		if err != nil || string(rest) != "rest" {
			t.Fatalf("sunlight reads %v, and leaves %q", err, rest)
		}
		if e.IsPrecert != precert || e.LeafIndex != index || e.Timestamp != timestamp ||
			!bytes.Equal(e.Certificate, certificate) || !slices.Equal(e.ChainFingerprints, chain) {
			t.Fatalf("sunlight reads %+v", e)
		}
		if precert && (e.IssuerKeyHash != hash || !bytes.Equal(e.PreCertificate, precertificate)) {
			t.Fatalf("sunlight reads %+v", e)
		}
		leaf := p.AppendMerkleTreeLeaf(nil, pl)
		if !bytes.Equal(leaf, e.MerkleTreeLeaf()) || p.LeafHash(pl) != tlog.RecordHash(leaf) {
			t.Fatal("the leaf is not that of sunlight")
		}
		if key, err := entry.SCTInputKey(leaf); err != nil || key != p.Key() {
			t.Fatalf("key of what is signed is %x, %v, want %x", key, err, p.Key())
		}
	})
}

// FuzzSCTInputKey reads any bytes as what is to be signed.
func FuzzSCTInputKey(f *testing.F) {
	for _, e := range readVectors(f).Entries {
		f.Add(e.SCTInput)
	}
	f.Add(make([]byte, 19))
	f.Fuzz(func(t *testing.T, input []byte) {
		key, err := entry.SCTInputKey(input)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		// Between version, type and timestamp and the extensions with their length.
		if want := sha256.Sum256(input[10 : len(input)-10]); key != want {
			t.Fatalf("key of %x is %x", input, key)
		}
	})
}
