package chain

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"testing"

	"kiln/entry"
)

func TestSignatureAlgorithms(t *testing.T) {
	t.Parallel()
	pssParams := func(hash string, salt byte) []byte {
		alg := element(derSequence, element(derOID, []byte(hash)), []byte{5, 0})
		return element(derSequence, element(0xa0, alg),
			element(0xa1, element(derSequence, element(derOID, []byte(oidPKCS1+"\x08")), alg)),
			element(0xa2, element(2, []byte{salt})))
	}
	sha256OID := "\x60\x86\x48\x01\x65\x03\x04\x02\x01"
	pss := func(salt int) *testKey {
		k := rsaKey(t, algID(oidPKCS1+"\x0a", pssParams(sha256OID, byte(salt))), crypto.SHA256)
		k.opts = &rsa.PSSOptions{SaltLength: salt, Hash: crypto.SHA256}
		return k
	}
	pssDefaults := rsaKey(t, algID(oidPKCS1+"\x0a", element(derSequence)), crypto.SHA1)
	pssDefaults.opts = &rsa.PSSOptions{SaltLength: 20, Hash: crypto.SHA1}
	noNull := rsaKey(t, algSHA256RSA, crypto.SHA256)
	noNull.spki = bytes.Replace(noNull.spki, algID(oidPKCS1+"\x01", []byte{5, 0}), algID(oidPKCS1+"\x01", nil), 1)
	noNull.spki = element(derSequence, noNull.spki[4:])
	wrongHash := rsaKey(t, algID(oidPKCS1+"\x0a", pssParams("\x2a\x03", 32)), crypto.SHA256)
	twoHashes := rsaKey(t, algID(oidPKCS1+"\x0a", element(derSequence,
		element(0xa0, element(derSequence, element(derOID, []byte(sha256OID)), []byte{5, 0})))), crypto.SHA256)
	badEd := edKey(t)
	badEd.spki = element(derSequence, algEd25519, element(3, []byte{0}, make([]byte, 31)))
	zeroRSA := rsaKey(t, algSHA256RSA, crypto.SHA256)
	zeroRSA.spki = element(derSequence, algID(oidPKCS1+"\x01", []byte{5, 0}),
		element(3, []byte{0}, element(derSequence, element(2, []byte{0}), element(2, []byte{3}))))
	hugeRSA := rsaKey(t, algSHA256RSA, crypto.SHA256)
	hugeRSA.spki = element(derSequence, algID(oidPKCS1+"\x01", []byte{5, 0}),
		element(3, []byte{0}, element(derSequence, element(2, bytes.Repeat([]byte{0x7f}, 60<<10)), element(2, []byte{3}))))
	for _, c := range []struct {
		name   string
		key    *testKey
		reason Reason // empty: accepted
	}{
		{"P-224", ecKey(t, elliptic.P224(), algSHA256ECDSA, crypto.SHA256), ""},
		{"P-256", p256(t), ""},
		{"P-384", ecKey(t, elliptic.P384(), algSHA384ECDSA, crypto.SHA384), ""},
		{"P-384, SHA-256", ecKey(t, elliptic.P384(), algSHA256ECDSA, crypto.SHA256), ""},
		{"P-521", ecKey(t, elliptic.P521(), algSHA512ECDSA, crypto.SHA512), ""},
		{"ECDSA, SHA-1", ecKey(t, elliptic.P256(), algSHA1ECDSA, crypto.SHA1), ""},
		{"RSA", rsaKey(t, algSHA256RSA, crypto.SHA256), ""},
		{"RSA, SHA-1", rsaKey(t, algSHA1RSA, crypto.SHA1), ""},
		{"RSA, no parameters", rsaKey(t, algID(oidPKCS1+"\x0b", nil), crypto.SHA256), ""},
		{"RSA key without NULL", noNull, ""},
		{"Ed25519", edKey(t), ""},
		{"PSS", pss(32), ""},
		{"PSS, short salt", pss(7), ""},
		{"PSS, no salt", pss(0), ""},
		{"PSS, all defaults", pssDefaults, ""},
		{"PSS, unknown hash", wrongHash, ReasonAlgorithm},
		{"PSS, two hashes", twoHashes, ReasonAlgorithm},
		{"MD5", rsaKey(t, algMD5RSA, crypto.MD5), ReasonAlgorithm},
		{"unknown algorithm", rsaKey(t, algID("\x2a\x03\x04", nil), crypto.SHA256), ReasonAlgorithm},
		{"empty algorithm", rsaKey(t, element(derSequence), crypto.SHA256), ReasonAlgorithm},
		{"short Ed25519 key", badEd, ReasonAlgorithm},
		{"RSA modulus 0", zeroRSA, ReasonAlgorithm},
		{"huge RSA modulus", hugeRSA, ReasonAlgorithm},
		{"RSA signature named ECDSA", rsaKey(t, algSHA256ECDSA, crypto.SHA256), ReasonSignature},
		{"RSA signature named PSS", rsaKey(t, algID(oidPKCS1+"\x0a", pssParams(sha256OID, 32)), crypto.SHA256), ReasonSignature},
		{"ECDSA signature named Ed25519", ecKey(t, elliptic.P256(), algEd25519, crypto.SHA256), ReasonSignature},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := newCA(t, "Root", nil)
			ca1 := spec{version: 2, subject: name(t, "CA 1"), key: c.key, extensions: [][]byte{extCA}}.issue(t, root)
			ca2 := newCA(t, "CA 2", ca1) // signed by the key in question
			leaf := spec{version: 2, key: p256(t)}
			v := newValidator(t, Config{}, root.der)
			for _, chain := range [][][]byte{
				{leaf.issue(t, ca1).der, ca1.der},
				{leaf.issue(t, ca2).der, ca2.der, ca1.der},
			} {
				_, err := check(v, chain, entry.X509)
				switch {
				case c.reason != "":
					wantReason(t, err, c.reason)
				case err != nil:
					t.Error(err)
				default:
					flipped := bytes.Clone(chain[0])
					flipped[len(flipped)-20] ^= 1
					_, err := check(v, append([][]byte{flipped}, chain[1:]...), entry.X509)
					wantReason(t, err, ReasonSignature)
				}
			}
		})
	}
}

// TestMergeDelayMonitor has the shape of Google's monitoring certificates: SHA-1
// with RSA in the root and in the leaves (SUB-23).
func TestMergeDelayMonitor(t *testing.T) {
	t.Parallel()
	root := spec{version: 2, subject: name(t, "Merge Delay Monitor Root"), key: rsaKey(t, algSHA1RSA, crypto.SHA1), extensions: [][]byte{extCA}}.issue(t, nil)
	inter := spec{version: 2, subject: name(t, "Merge Delay Intermediate 1"), key: rsaKey(t, algSHA1RSA, crypto.SHA1), extensions: [][]byte{extCA}}.issue(t, root)
	leaf := spec{version: 2, serial: -7, subject: name(t, "flowers-to-the-world.com"), key: p256(t), extensions: [][]byte{extUsage(oidServerAuth), extPoison}}.issue(t, inter)
	if _, err := x509.ParseCertificate(leaf.der); err == nil {
		t.Error("crypto/x509 takes the negative serial number: the test shows less than it means to")
	}
	v := newValidator(t, Config{RequireServerAuth: true}, root.der)
	mustCheck(t, v, [][]byte{leaf.der, inter.der}, entry.Precert)
	mustCheck(t, v, [][]byte{leaf.der, inter.der, root.der}, entry.Precert)
}
