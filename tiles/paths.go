// Package tiles turns a right edge and new entries into a new edge, a root and
// the objects to write, and reads back and verifies what was written (Static CT
// API v1.1.0, "Merkle Tree" and "Log Entries"; MON-03 to MON-15).
//
// Invariants: an [Edge] never changes, [Edge.Append] makes a new one; [Verify]
// judges a round from the bytes about to be stored by another path than the one
// that made them; everything read back is proved against a tree head before it
// is used. But for the reading functions, which take a bucket, the package is
// pure.
//
// The package never knows who signs, when, or where the objects go.
package tiles

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
)

// Height is the number of tree levels in a tile, Width the hashes in a full one.
const (
	Height = 8
	Width  = 1 << Height
)

// Tile levels beside the hash tiles' 0 to 5.
const (
	LevelData  = -1
	LevelNames = -2

	levels = 6 // a tree of 2^40 leaves has tile levels 0 to 5
)

// MaxTree is the largest tree size: leaf indexes have 40 bits (SUB-14).
const MaxTree = 1 << 40

// Headers of the objects.
const (
	CacheImmutable = "public, max-age=31536000, immutable"

	typeHashes = "application/octet-stream"
	typeNames  = "application/jsonl; charset=utf-8"
	typeIssuer = "application/pkix-cert"
)

// Path returns the path of a tile, such as "tile/0/x001/x234/067.p/17". t.H must
// be [Height], t.L in [-2, 5], t.W in [1, 256].
func Path(t tlog.Tile) string {
	names := t.L == LevelNames
	if names {
		t.L = LevelData
	}
	p := strings.TrimPrefix(t.Path(), "tile/8/")
	if names {
		p = "names/" + strings.TrimPrefix(p, "data/")
	}
	return "tile/" + p
}

// ParsePath is the inverse of [Path]. It accepts canonical paths of tiles that
// can exist in a tree of at most 2^40 entries, and nothing else.
func ParsePath(path string) (tlog.Tile, error) {
	bad := func() (tlog.Tile, error) { return tlog.Tile{}, fmt.Errorf("malformed tile path %q", path) }
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok || len(path) > 64 {
		return bad()
	}
	rest, names := strings.CutPrefix(rest, "names/")
	if names {
		rest = "data/" + rest
	}
	t, err := tlog.ParseTilePath("tile/8/" + rest)
	if err != nil {
		return bad()
	}
	if names {
		if t.L != LevelData {
			return bad()
		}
		t.L = LevelNames
	}
	if t.L >= levels || Path(t) != path {
		return bad()
	}
	// The hashes up to the end of the tile, and how many its level can have.
	if end, most := t.N*Width+int64(t.W), int64(MaxTree)>>(Height*max(t.L, 0)); t.N >= MaxTree/Width || end > most {
		return bad()
	}
	return t, nil
}

// Headers returns the Content-Type and Content-Encoding under which a tile is
// stored and served.
func Headers(t tlog.Tile) (contentType, contentEncoding string) {
	switch t.L {
	case LevelData:
		return typeHashes, "gzip"
	case LevelNames:
		return typeNames, "gzip"
	default:
		return typeHashes, ""
	}
}

func tileObject(t tlog.Tile, body []byte) storage.Object {
	ct, ce := Headers(t)
	return storage.Object{
		Path: Path(t), Body: body,
		ContentType: ct, ContentEncoding: ce, CacheControl: CacheImmutable,
	}
}

// IssuerPath returns the path of a chain certificate by its fingerprint (MON-21).
func IssuerPath(fingerprint [32]byte) string {
	return "issuer/" + hex.EncodeToString(fingerprint[:])
}

// IssuerObject returns the object of a chain certificate.
func IssuerObject(der []byte) storage.Object {
	return storage.Object{
		Path: IssuerPath(sha256.Sum256(der)), Body: der,
		ContentType: typeIssuer, CacheControl: CacheImmutable,
	}
}

// BundlePath returns the path of the staging bundle of a round that leads to a
// tree. The root in it makes bundles of rival rounds different objects.
func BundlePath(tree tlog.Tree) string {
	return fmt.Sprintf("staging/%d-%s", tree.N, hex.EncodeToString(tree.Hash[:]))
}
