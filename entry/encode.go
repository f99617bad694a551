package entry

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// ExtensionsSize is the length of CtExtensions with one leaf_index.
const ExtensionsSize = 8

const leafIndexType = 0 // CtExtensionType leaf_index

// Extensions returns the CtExtensions bytes for a leaf index: one leaf_index
// extension, 8 bytes (SUB-12). It fails outside [0, 2^40) (SUB-14).
func Extensions(index int64) ([]byte, error) {
	if index < 0 || index > MaxIndex {
		return nil, fmt.Errorf("encode extensions: leaf index %d is outside [0, 2^40)", index)
	}
	return appendExtensions(make([]byte, 0, ExtensionsSize), index), nil
}

func appendExtensions(b []byte, index int64) []byte {
	return append(b, leafIndexType, 0, 5,
		byte(index>>32), byte(index>>24), byte(index>>16), byte(index>>8), byte(index))
}

// ParseExtensions returns the leaf index in CtExtensions bytes. Unknown
// extension types are skipped; a repeated type, a missing or malformed
// leaf_index and trailing bytes are errors (SUB-13).
func ParseExtensions(b []byte) (int64, error) {
	index := int64(-1)
	seen := make(map[byte]bool)
	for len(b) > 0 {
		if len(b) < 3 || len(b) < 3+int(binary.BigEndian.Uint16(b[1:])) {
			return 0, errors.New("parse extensions: truncated")
		}
		typ, n := b[0], int(binary.BigEndian.Uint16(b[1:]))
		data := b[3 : 3+n]
		b = b[3+n:]
		if seen[typ] {
			return 0, fmt.Errorf("parse extensions: type %d is repeated", typ)
		}
		seen[typ] = true
		if typ != leafIndexType {
			continue
		}
		if n != 5 {
			return 0, fmt.Errorf("parse extensions: leaf_index has %d bytes, want 5", n)
		}
		index = int64(data[0])<<32 | int64(binary.BigEndian.Uint32(data[1:]))
	}
	if index < 0 {
		return 0, errors.New("parse extensions: no leaf_index")
	}
	return index, nil
}

func appendUint24(b []byte, n int) []byte {
	return append(b, byte(n>>16), byte(n>>8), byte(n))
}

// appendSignedEntry appends entry_type || signed_entry (RFC 6962 section 3.2).
func (p *Pending) appendSignedEntry(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(p.typ))
	if p.typ == Precert {
		b = append(b, p.issuerKeyHash[:]...)
	}
	b = appendUint24(b, len(p.certificate))
	return append(b, p.certificate...)
}

// appendTimestamped appends timestamp || entry_type || signed_entry ||
// extensions, which SCT input, MerkleTreeLeaf and TileLeaf have in common.
func (p *Pending) appendTimestamped(b []byte, pl Placement) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(pl.TimestampMillis))
	b = p.appendSignedEntry(b)
	b = append(b, 0, ExtensionsSize)
	return appendExtensions(b, pl.Index)
}

// AppendMerkleTreeLeaf appends the MerkleTreeLeaf of the entry at a placement
// (MON-14). The same bytes are the input of the SCT signature (SUB-10): both
// begin with two zero bytes. The placement must satisfy [Placement.Check].
func (p *Pending) AppendMerkleTreeLeaf(b []byte, pl Placement) []byte {
	b = append(b, 0 /* v1 */, 0 /* timestamped_entry, certificate_timestamp */)
	return p.appendTimestamped(b, pl)
}

// SCTInputKey returns the [Key] of the entry in an SCT signature input, as
// [Pending.AppendMerkleTreeLeaf] makes it: what will be signed can so be compared
// with what was admitted.
func SCTInputKey(input []byte) (Key, error) {
	const before, after = 2 + 8, 2 + ExtensionsSize
	if len(input) < before+after {
		return Key{}, fmt.Errorf("read SCT input: %d bytes are too few", len(input))
	}
	return sha256.Sum256(input[before : len(input)-after]), nil
}

// LeafHash returns the Merkle leaf hash of the entry at a placement:
// SHA-256(00 || MerkleTreeLeaf).
func (p *Pending) LeafHash(pl Placement) [32]byte {
	b := make([]byte, 1, len(p.certificate)+80)
	return sha256.Sum256(p.AppendMerkleTreeLeaf(b, pl))
}

// AppendTileLeaf appends the TileLeaf of the entry at a placement to a data
// tile (MON-12). The placement must satisfy [Placement.Check].
func (p *Pending) AppendTileLeaf(b []byte, pl Placement) []byte {
	b = p.appendTimestamped(b, pl)
	if p.typ == Precert {
		b = appendUint24(b, len(p.preCertificate))
		b = append(b, p.preCertificate...)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(32*len(p.chain)))
	for i := range p.chain {
		b = append(b, p.chain[i][:]...)
	}
	return b
}
