// Package entry holds what a valid submission becomes: a [Pending] entry before
// it has a place in the log, and a [Placement] and an [SCT] after.
//
// Invariants: a Pending never changes after it was made; its [Key] is the full
// 256-bit identity of the signed entry and its [Digest] covers every byte that
// will be stored for it, both taken at admission. The bytes made here are those
// of RFC 6962 section 3 and of the Static CT API v1.1.0, "Log Entries".
//
// The package never knows X.509 rules, HTTP, disks or clocks.
package entry

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is the RFC 6962 LogEntryType.
type Type uint16

// The two entry types of RFC 6962 section 3.1.
const (
	X509    Type = 0
	Precert Type = 1
)

// String returns the RFC 6962 name of the type.
func (t Type) String() string {
	switch t {
	case X509:
		return "x509_entry"
	case Precert:
		return "precert_entry"
	default:
		return fmt.Sprintf("entry type %d", uint16(t))
	}
}

// Limits of the wire format.
const (
	MaxCertificate = 1<<24 - 1 // bytes of a certificate, TBS or precertificate
	MaxChain       = 2047      // fingerprints: 65535 / 32
	MaxIndex       = 1<<40 - 1 // largest leaf index: 40 bits
)

// Key is the identity of an entry for deduplication: SHA-256 over
// entry_type || signed_entry, never truncated (SUB-33).
type Key [32]byte

// Digest covers all bytes that are stored for an entry: type, certificate or
// TBS, issuer key hash, precertificate and chain fingerprints. Two entries with
// one Key may differ in Digest, for example by another valid chain.
type Digest [32]byte

// Pending is a validated submission that has no place in the log yet.
// It is immutable and safe for concurrent use.
type Pending struct {
	typ            Type
	certificate    []byte
	issuerKeyHash  [32]byte
	preCertificate []byte
	chain          [][32]byte
	lowPriority    bool

	key    Key
	digest Digest
}

// NewX509 makes the entry of a final certificate: its DER and the SHA-256
// fingerprints of the rest of its chain, issuer first, accepted root last
// (MON-13). The slices must not be modified afterwards.
func NewX509(der []byte, chain [][32]byte, lowPriority bool) (*Pending, error) {
	p := &Pending{typ: X509, certificate: der, chain: chain, lowPriority: lowPriority}
	return p, p.seal()
}

// NewPrecert makes the entry of a precertificate: the TBSCertificate without
// poison, the SHA-256 of the final issuer's SubjectPublicKeyInfo, the
// precertificate as submitted, and the chain's fingerprints as in [NewX509].
// The slices must not be modified afterwards.
func NewPrecert(tbs []byte, issuerKeyHash [32]byte, precert []byte, chain [][32]byte, lowPriority bool) (*Pending, error) {
	p := &Pending{
		typ: Precert, certificate: tbs, issuerKeyHash: issuerKeyHash,
		preCertificate: precert, chain: chain, lowPriority: lowPriority,
	}
	if len(precert) == 0 {
		return nil, errors.New("make precert entry: empty precertificate")
	}
	return p, p.seal()
}

func (p *Pending) seal() error {
	switch {
	case len(p.certificate) == 0:
		return fmt.Errorf("make %v: empty certificate", p.typ)
	case len(p.certificate) > MaxCertificate || len(p.preCertificate) > MaxCertificate:
		return fmt.Errorf("make %v: certificate is longer than %d bytes", p.typ, MaxCertificate)
	case len(p.chain) > MaxChain:
		return fmt.Errorf("make %v: chain has %d fingerprints, at most %d fit", p.typ, len(p.chain), MaxChain)
	}
	p.key = sha256.Sum256(p.appendSignedEntry(make([]byte, 0, len(p.certificate)+64)))
	p.digest = DigestOf(p.typ, p.certificate, p.issuerKeyHash, p.preCertificate, p.chain)
	return nil
}

// DigestOf computes the [Digest] of an entry from its parts. issuerKeyHash and
// preCertificate are ignored for [X509].
func DigestOf(typ Type, certificate []byte, issuerKeyHash [32]byte, preCertificate []byte, chain [][32]byte) Digest {
	h := sha256.New()
	var n [8]byte
	field := func(b []byte) {
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	h.Write([]byte("kiln entry digest v1\n"))
	binary.BigEndian.PutUint64(n[:], uint64(typ))
	h.Write(n[:])
	field(certificate)
	if typ == Precert {
		h.Write(issuerKeyHash[:])
		field(preCertificate)
	}
	binary.BigEndian.PutUint64(n[:], uint64(len(chain)))
	h.Write(n[:])
	for i := range chain {
		h.Write(chain[i][:])
	}
	return Digest(h.Sum(nil))
}

// Type returns the entry's type.
func (p *Pending) Type() Type { return p.typ }

// Key returns the deduplication identity, taken at admission.
func (p *Pending) Key() Key { return p.key }

// Digest returns the digest over everything stored, taken at admission.
func (p *Pending) Digest() Digest { return p.digest }

// Intact reports whether the entry's bytes still are those of its digest.
func (p *Pending) Intact() bool {
	return p.digest == DigestOf(p.typ, p.certificate, p.issuerKeyHash, p.preCertificate, p.chain)
}

// Certificate returns the leaf DER ([X509]) or the TBS without poison
// ([Precert]). The caller must not modify it.
func (p *Pending) Certificate() []byte { return p.certificate }

// IssuerKeyHash returns the final issuer's key hash; zero for [X509].
func (p *Pending) IssuerKeyHash() [32]byte { return p.issuerKeyHash }

// PreCertificate returns the submitted precertificate; nil for [X509].
// The caller must not modify it.
func (p *Pending) PreCertificate() []byte { return p.preCertificate }

// Chain returns the fingerprints of the chain, issuer first, root last.
// The caller must not modify it.
func (p *Pending) Chain() [][32]byte { return p.chain }

// LowPriority reports whether the entry may be refused first when the log is
// full: a final certificate that already carries SCTs, or an old notBefore.
func (p *Pending) LowPriority() bool { return p.lowPriority }

// Size returns an upper bound of the bytes the entry holds in memory and adds
// to a data tile, for bounding pools.
func (p *Pending) Size() int {
	return len(p.certificate) + len(p.preCertificate) + 32*len(p.chain) + 128
}

// Placement is the place a round gave to an entry. Index is in [0, 2^40) and
// TimestampMillis counts milliseconds since 1970 UTC, as in RFC 6962.
type Placement struct {
	Index           int64
	TimestampMillis int64
}

// Check returns an error if the placement does not fit the wire format.
func (pl Placement) Check() error {
	if pl.Index < 0 || pl.Index > MaxIndex {
		return fmt.Errorf("leaf index %d is outside [0, 2^40)", pl.Index)
	}
	if pl.TimestampMillis < 0 {
		return fmt.Errorf("timestamp %d is negative", pl.TimestampMillis)
	}
	return nil
}

// SCT is the log's promise for one entry. Signature is the whole TLS
// DigitallySigned structure: hash, algorithm, length and ECDSA DER (SUB-11).
type SCT struct {
	Placement
	Signature []byte
}
