package chain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"
)

// spec describes a certificate to be made by hand, so that it can be as odd as a
// test needs. The zero value is a final certificate with nothing in it.
type spec struct {
	version    int // as encoded; left out if 0
	serial     int64
	subject    []byte // whole Name; empty Name if nil
	key        *testKey
	notBefore  time.Time
	notAfter   time.Time
	extensions [][]byte
	noList     bool   // leave [3] out
	algorithm  []byte // AlgorithmIdentifier; that of the signing key if nil
	after      []byte // within TBSCertificate, after the extensions
}

// testKey is a key and how it signs.
type testKey struct {
	priv      crypto.Signer
	spki      []byte
	algorithm []byte
	hash      crypto.Hash
	opts      crypto.SignerOpts
}

var (
	algSHA256ECDSA = algID("\x2a\x86\x48\xce\x3d\x04\x03\x02", nil)
	algSHA384ECDSA = algID("\x2a\x86\x48\xce\x3d\x04\x03\x03", nil)
	algSHA512ECDSA = algID("\x2a\x86\x48\xce\x3d\x04\x03\x04", nil)
	algSHA1ECDSA   = algID("\x2a\x86\x48\xce\x3d\x04\x01", nil)
	algSHA256RSA   = algID(oidPKCS1+"\x0b", []byte{5, 0})
	algSHA1RSA     = algID(oidPKCS1+"\x05", []byte{5, 0})
	algMD5RSA      = algID(oidPKCS1+"\x04", []byte{5, 0})
	algEd25519     = algID("\x2b\x65\x70", nil)
)

// element makes a DER element.
func element(tag byte, contents ...[]byte) []byte {
	n := 0
	for _, c := range contents {
		n += len(c)
	}
	b := appendHeader(nil, tag, n)
	for _, c := range contents {
		b = append(b, c...)
	}
	return b
}

func algID(oid string, params []byte) []byte {
	return element(derSequence, element(derOID, []byte(oid)), params)
}

func extensionDER(oid string, critical bool, value []byte) []byte {
	return appendExtension(nil, []byte(oid), critical, value)
}

var (
	extCA     = extensionDER(oidBasicConstraints, true, element(derSequence, []byte{derBoolean, 1, 0xff}))
	extNotCA  = extensionDER(oidBasicConstraints, true, element(derSequence))
	extPoison = extensionDER(oidPoison, true, []byte{5, 0})
	extPSC    = extUsage(oidPrecertSigning)
)

func extUsage(oid string) []byte {
	return extensionDER(oidExtKeyUsage, false, element(derSequence, element(derOID, []byte(oid))))
}

func extKeyID(id string) []byte {
	return extensionDER(oidAuthorityKeyID, false, element(derSequence, element(0x80, []byte(id))))
}

func name(t testing.TB, cn string) []byte {
	t.Helper()
	der, err := asn1.Marshal(pkix.Name{CommonName: cn}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t testing.TB, priv crypto.Signer, algorithm []byte, hash crypto.Hash) *testKey {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(priv.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &testKey{priv: priv, spki: spki, algorithm: algorithm, hash: hash, opts: hash}
}

func ecKey(t testing.TB, curve elliptic.Curve, algorithm []byte, hash crypto.Hash) *testKey {
	t.Helper()
	priv, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, priv, algorithm, hash)
}

func p256(t testing.TB) *testKey {
	return ecKey(t, elliptic.P256(), algSHA256ECDSA, crypto.SHA256)
}

func rsaKey(t testing.TB, algorithm []byte, hash crypto.Hash) *testKey {
	t.Helper()
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, priv, algorithm, hash)
}

func edKey(t testing.TB) *testKey {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, priv, algEd25519, 0)
}

func (k *testKey) sign(t testing.TB, tbs []byte) []byte {
	t.Helper()
	message := tbs
	if k.hash != 0 {
		h := k.hash.New()
		h.Write(tbs)
		message = h.Sum(nil)
	}
	sig, err := k.priv.Sign(rand.Reader, message, k.opts)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func timeDER(at time.Time) []byte {
	if y := at.Year(); y >= 1950 && y < 2050 {
		return element(0x17, []byte(at.UTC().Format("060102150405Z")))
	}
	return element(0x18, []byte(at.UTC().Format("20060102150405Z")))
}

// ca is a certificate with the key in it.
type ca struct {
	der     []byte
	subject []byte
	key     *testKey
}

func (s spec) tbs(t testing.TB, issuer []byte, algorithm []byte) []byte {
	t.Helper()
	var version []byte
	if s.version > 0 {
		version = element(0xa0, element(2, []byte{byte(s.version)}))
	}
	serial, err := asn1.Marshal(big.NewInt(s.serial))
	if err != nil {
		t.Fatal(err)
	}
	subject := s.subject
	if subject == nil {
		subject = element(derSequence)
	}
	if s.notBefore.IsZero() {
		s.notBefore = time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	}
	if s.notAfter.IsZero() {
		s.notAfter = time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	}
	var list []byte
	if !s.noList {
		list = element(derExtensions, element(derSequence, s.extensions...))
	}
	return element(derSequence, version, serial, algorithm, issuer,
		element(derSequence, timeDER(s.notBefore), timeDER(s.notAfter)), subject, s.key.spki, list, s.after)
}

// issue makes a certificate signed by an issuer; a nil issuer is itself.
func (s spec) issue(t testing.TB, issuer *ca) *ca {
	t.Helper()
	made := &ca{subject: s.subject, key: s.key}
	if issuer == nil {
		issuer = made
	}
	algorithm := s.algorithm
	if algorithm == nil {
		algorithm = issuer.key.algorithm
	}
	tbs := s.tbs(t, issuer.subject, algorithm)
	signature := issuer.key.sign(t, tbs)
	made.der = element(derSequence, tbs, algorithm, element(3, []byte{0}, signature))
	return made
}

// newCA makes a CA certificate with a P-256 key.
func newCA(t testing.TB, cn string, issuer *ca) *ca {
	t.Helper()
	return spec{version: 2, serial: 1, subject: name(t, cn), key: p256(t), extensions: [][]byte{extCA}}.issue(t, issuer)
}
