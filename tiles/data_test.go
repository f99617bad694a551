package tiles

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"kiln/entry"
	"kiln/storage"
	"kiln/storage/mem"
)

// vectors is the part of vectors.json that concerns tiles.
type vectors struct {
	Assets struct {
		NamesLine string `json:"names_tile_line_entry_0"`
		Paths     []struct {
			Bytes    int    `json:"bytes"`
			Contents string `json:"contents"`
			Hex      string `json:"hex"`
			Path     string `json:"path"`
			Identity string `json:"sha256_identity"`
		} `json:"paths"`
		Root []byte `json:"root_hash_b64"`
	} `json:"assets_at_size_3"`
	Certs   map[string][]byte `json:"certs_b64"`
	Entries []struct {
		Chain         []string `json:"chain_fingerprints_hex"`
		IssuerKeyHash string   `json:"issuer_key_hash_hex"`
		TBS           []byte   `json:"tbs_b64"`
		Timestamp     int64    `json:"timestamp_ms"`
	} `json:"entries"`
	Synthetic struct {
		Consistency map[string][][]byte `json:"consistency_b64"`
		Inclusion   map[string][][]byte `json:"inclusion_b64"`
		Roots       []struct {
			Root  string   `json:"root_hex"`
			Size  int64    `json:"size"`
			Tiles []string `json:"tiles"`
		} `json:"roots"`
		Tiles map[string]string `json:"tile_sha256_at_70000"`
	} `json:"synthetic_tree"`
	TilePaths struct {
		Also404 []string `json:"also_404"`
		Bad     []string `json:"server_must_404"`
		Valid   []struct {
			Index int64  `json:"index"`
			Level string `json:"level"`
			Path  string `json:"path"`
			Width int    `json:"width"`
		} `json:"valid"`
	} `json:"tile_paths"`
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	v := new(vectors)
	if err := json.Unmarshal(readTestdata(t, "vectors.json"), v); err != nil {
		t.Fatal(err)
	}
	if len(v.TilePaths.Valid) == 0 || len(v.Synthetic.Roots) == 0 || len(v.Assets.Paths) == 0 {
		t.Fatal("vectors.json has no tiles")
	}
	return v
}

func readTestdata(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile("../testdata/" + path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parts are the bytes of an entry, for changing them behind its back.
type parts struct {
	cert    []byte
	precert []byte // nil: an X509 entry
	chain   [][32]byte
}

func newParts(i int) parts {
	p := parts{cert: fmt.Appendf(nil, "certificate %d", i), chain: [][32]byte{sha256.Sum256([]byte("intermediate")), sha256.Sum256([]byte("root"))}}
	if i%2 == 1 {
		p.precert = fmt.Appendf(nil, "precertificate %d", i)
	}
	return p
}

func (p parts) pending(t testing.TB) *entry.Pending {
	t.Helper()
	e, err := entry.NewX509(p.cert, p.chain, false)
	if p.precert != nil {
		e, err = entry.NewPrecert(p.cert, sha256.Sum256([]byte("issuer")), p.precert, p.chain, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// cheap returns entries numbered [from, to), odd ones precertificates. They are
// no certificates.
func cheap(t testing.TB, from, to int) []*entry.Pending {
	t.Helper()
	entries := make([]*entry.Pending, 0, to-from)
	for i := from; i < to; i++ {
		entries = append(entries, newParts(i).pending(t))
	}
	return entries
}

// recordHash is the leaf hash of record i of the synthetic tree.
func recordHash(i int64) tlog.Hash {
	return tlog.RecordHash(binary.BigEndian.AppendUint64(nil, uint64(i)))
}

// growRecords grows an edge by records of the synthetic tree, up to a size. The
// hash tiles are right, the data tiles empty.
func growRecords(e *Edge, size int64) *builder {
	b := &builder{edge: e.clone()}
	for i := e.size; i < size; i++ {
		b.edge.size++
		b.push(0, recordHash(i))
	}
	b.partials()
	return b
}

// round appends and verifies as a round does, and returns the new edge.
func round(t rapid.TB, e *Edge, entries []*entry.Pending, timestampMillis int64) (*Edge, []storage.Object) {
	t.Helper()
	next, objects, err := e.Append(entries, timestampMillis)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := EncodeBundle(objects)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := Verify(Round{
		Old: e.Tree(), New: next.Tree(), Edge: e, Bundle: bundle, Entries: entries, TimestampMillis: timestampMillis,
	})
	if err != nil {
		t.Fatalf("from %d to %d: %v", e.Size(), next.Size(), err)
	}
	if err := VerifyTree(next, next.Tree()); err != nil {
		t.Fatal(err)
	}
	return next, verified
}

func store(t rapid.TB, bucket *mem.Bucket, objects []storage.Object) {
	t.Helper()
	for _, o := range objects {
		if err := bucket.Create(context.Background(), o); err != nil {
			t.Fatal(err)
		}
	}
}

// storeHashes stores the hash tiles that a builder made.
func storeHashes(t testing.TB, bucket *mem.Bucket, b *builder) {
	t.Helper()
	for _, m := range b.made {
		if m.tile.L >= 0 {
			store(t, bucket, []storage.Object{tileObject(m.tile, m.body)})
		}
	}
}

// compareEdges fails unless two edges hold the same.
func compareEdges(t rapid.TB, got, want *Edge) {
	t.Helper()
	if got.size != want.size || got.withNames != want.withNames || got.Tree() != want.Tree() {
		t.Fatalf("edge is at %v (names %v), want %v (%v)", got.Tree(), got.withNames, want.Tree(), want.withNames)
	}
	for l := range levels {
		if !slices.Equal(got.hashes[l], want.hashes[l]) {
			t.Fatalf("size %d: hashes of level %d differ", got.size, l)
		}
	}
	if !bytes.Equal(got.data, want.data) || !slices.Equal(got.digests, want.digests) {
		t.Fatalf("size %d: data or digests differ", got.size)
	}
	if !bytes.Equal(got.names, want.names) {
		t.Fatalf("size %d: names are\n%s, want\n%s", got.size, got.names, want.names)
	}
}
