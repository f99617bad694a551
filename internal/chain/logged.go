package chain

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/big"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Logged is a certificate that some log has stored, cut up to be compared with
// what the log says beside it. It never changes and is safe for concurrent use.
type Logged struct{ *issuer }

// ReadLogged cuts a certificate up. An error says that this package cannot read
// it, not that the log was wrong to take it.
func ReadLogged(der []byte) (Logged, error) {
	c, err := parseCertificate(der)
	if err != nil {
		return Logged{}, err
	}
	return Logged{newIssuer(c, sha256.Sum256(der))}, nil
}

// KeyHash returns the SHA-256 of the SubjectPublicKeyInfo, which precertificate
// entries below this certificate name (SUB-29).
func (l Logged) KeyHash() [32]byte { return sha256.Sum256(l.spki) }

// SignsPrecerts reports whether this is a Precertificate Signing Certificate.
func (l Logged) SignsPrecerts() bool { return l.hasUsage(oidPrecertSigning) }

// NamesIssuer reports whether the issuer named in this certificate is parent, by
// the same bytes.
func (l Logged) NamesIssuer(parent Logged) bool {
	return bytes.Equal(l.certificate.issuer, parent.subject)
}

// SignedBy reports whether the key of parent verifies the signature of this
// certificate. certain is false where this package does not know the algorithm
// or cannot read the key.
func (l Logged) SignedBy(parent Logged) (signed, certain bool) {
	err := parent.verifies(l.certificate)
	return err == nil, !errors.Is(err, errAlgorithm)
}

// PrecertTBS returns the TBSCertificate that is logged for a precertificate;
// signer is the Precertificate Signing Certificate that issued it, or nil
// (SUB-28, SUB-30). An error says that there is no single answer.
func PrecertTBS(precert Logged, signer *Logged) ([]byte, error) {
	var psc *certificate
	if signer != nil {
		psc = signer.certificate
	}
	return splice(precert.certificate, oidPoison, psc)
}

// Contradiction says in what a logged TBSCertificate differs from the
// precertificate that it was made from, other than in ways in which the same may
// be encoded or which rest on the Precertificate Signing Certificate (bySigner).
// It is empty if there is no such difference.
func Contradiction(precert Logged, tbs []byte, bySigner bool) string {
	logged := &certificate{tbs: tbs}
	in := cryptobyte.String(tbs)
	var algorithm cryptobyte.String
	if !in.SkipASN1(asn1.SEQUENCE) || !in.Empty() || logged.parseTBS(&algorithm) != nil {
		return "is no TBSCertificate"
	}
	p := precert.certificate
	switch {
	case !sameSerial(p, logged):
		return "has another serial number"
	case !bySigner && !bytes.Equal(p.issuer, logged.issuer):
		return "names another issuer"
	case !bytes.Equal(p.subject, logged.subject):
		return "names another subject"
	case !p.notBefore.Equal(logged.notBefore) || !p.notAfter.Equal(logged.notAfter):
		return "has another validity"
	case !bytes.Equal(p.spki, logged.spki):
		return "has another key"
	}
	want, got := p.substance(bySigner), logged.substance(bySigner)
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) {
			return "has another number of extensions"
		}
		w, g := want[i], got[i]
		if !bytes.Equal(w.oid, g.oid) || w.critical != g.critical || !bytes.Equal(w.value, g.value) {
			return "has other extensions"
		}
	}
	if _, n := logged.find(oidPoison); n > 0 {
		return "still has the poison extension"
	}
	return ""
}

// substance returns the extensions but the poison and, with bySigner, the
// authority key identifier.
func (c *certificate) substance(bySigner bool) []*extension {
	var list []*extension
	for i := range c.extensions {
		e := &c.extensions[i]
		if string(e.oid) == oidPoison || bySigner && string(e.oid) == oidAuthorityKeyID {
			continue
		}
		list = append(list, e)
	}
	return list
}

// sameSerial compares serial numbers as far as they are well-formed integers.
func sameSerial(a, b *certificate) bool {
	read := func(c *certificate) (n *big.Int, ok bool) {
		in := cryptobyte.String(c.body)
		n = new(big.Int)
		ok = in.SkipOptionalASN1(tagVersion) && in.ReadASN1Integer(n)
		return n, ok
	}
	x, okX := read(a)
	y, okY := read(b)
	return !okX || !okY || x.Cmp(y) == 0
}
