package chain

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	ctasn1 "github.com/google/certificate-transparency-go/asn1"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	ctpkix "github.com/google/certificate-transparency-go/x509/pkix"

	"kiln/entry"
	"kiln/internal/fuzztest"
)

// FuzzSignature holds the verdict on a signature to that of crypto/x509: what that
// takes is taken here, and what is taken here it takes too, but for the old
// algorithms that it refuses by their names.
func FuzzSignature(f *testing.F) {
	fuzzCertificates(f, func(leaf, issuer []byte, _ entry.Type) { f.Add(leaf, issuer) })
	f.Fuzz(func(t *testing.T, child, issuer []byte) {
		c, err := parseCertificate(child)
		if err != nil {
			return
		}
		p, err := parseCertificate(issuer)
		if err != nil {
			return
		}
		ours := newIssuer(p, [32]byte{}).verifies(c)
		theirChild, err := x509.ParseCertificate(child)
		if err != nil {
			return
		}
		theirIssuer, err := x509.ParseCertificate(issuer)
		if err != nil {
			return
		}
		theirs := theirIssuer.CheckSignature(theirChild.SignatureAlgorithm, theirChild.RawTBSCertificate, theirChild.Signature)
		var insecure x509.InsecureAlgorithmError
		switch {
		case theirs == nil && ours != nil && !errors.Is(ours, errAlgorithm):
			t.Fatalf("crypto/x509 takes it, and here: %v", ours)
		case ours == nil && theirs != nil && !errors.As(theirs, &insecure) && !errors.Is(theirs, x509.ErrUnsupportedAlgorithm):
			t.Fatalf("it is taken, and crypto/x509 says: %v", theirs)
		}
	})
}

// FuzzAlgorithm holds the reading of an AlgorithmIdentifier to that of
// certificate-transparency-go, where that knows it.
func FuzzAlgorithm(f *testing.F) {
	seen := make(map[string]bool)
	fuzzCertificates(f, func(leaf, issuer []byte, _ entry.Type) {
		for _, der := range [][]byte{leaf, issuer} {
			if c, err := parseCertificate(der); err == nil && !seen[string(c.algorithm)] {
				seen[string(c.algorithm)] = true
				f.Add(c.algorithm)
			}
		}
	})
	type sort struct {
		kind keyKind
		hash crypto.Hash
	}
	known := map[ctx509.SignatureAlgorithm]sort{
		ctx509.SHA1WithRSA: {kindRSA, crypto.SHA1}, ctx509.SHA256WithRSA: {kindRSA, crypto.SHA256}, ctx509.SHA384WithRSA: {kindRSA, crypto.SHA384},
		ctx509.SHA512WithRSA: {kindRSA, crypto.SHA512}, ctx509.ECDSAWithSHA1: {kindECDSA, crypto.SHA1}, ctx509.ECDSAWithSHA256: {kindECDSA, crypto.SHA256},
		ctx509.ECDSAWithSHA384: {kindECDSA, crypto.SHA384}, ctx509.ECDSAWithSHA512: {kindECDSA, crypto.SHA512}, ctx509.PureEd25519: {kindEd25519, 0},
		ctx509.SHA256WithRSAPSS: {kindPSS, crypto.SHA256}, ctx509.SHA384WithRSAPSS: {kindPSS, crypto.SHA384}, ctx509.SHA512WithRSAPSS: {kindPSS, crypto.SHA512},
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		a, err := signatureAlgorithm(der)
		if err != nil && !errors.Is(err, errAlgorithm) {
			t.Fatalf("%v", err)
		}
		var ai ctpkix.AlgorithmIdentifier
		if rest, asn1Err := ctasn1.Unmarshal(der, &ai); asn1Err != nil || len(rest) > 0 {
			return
		}
		theirs := ctx509.SignatureAlgorithmFromAI(ai)
		want, ok := known[theirs]
		if !ok {
			if theirs != ctx509.UnknownSignatureAlgorithm && err == nil {
				t.Fatalf("%v is taken for %+v", theirs, a)
			}
			return
		}
		ai.Raw = nil // or it is written as it was read
		if again, marshalErr := ctasn1.Marshal(ai); err != nil && (marshalErr != nil || !bytes.Equal(again, der)) {
			return // no DER, such as an identifier with needless zeros
		}
		if err != nil || (sort{a.kind, a.hash}) != want {
			t.Fatalf("%v is taken for %+v, %v", theirs, a, err)
		}
	})
}

// FuzzParseRoots reads any bytes as a file of roots: what is taken is every
// certificate of it, in order, and each does as a root.
func FuzzParseRoots(f *testing.F) {
	file := readTestdata(f, "odd-roots.pem")
	one := file[:bytes.Index(file, []byte("-----END"))+len("-----END CERTIFICATE-----\n")]
	f.Add(one)
	f.Add(append([]byte("# text\n"), append(one, one...)...))
	f.Add(one[:len(one)-10])
	f.Add(bytes.Replace(one, []byte("CERTIFICATE"), []byte("X509 CRL"), 2))
	f.Add([]byte(strings.Repeat("-----BEGIN CERTIFICATE-----\n", 500)))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nh: v\n\nMAA=\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var ders [][]byte
		var err error
		fuzztest.Bounded(t, 64*len(data), func() { ders, err = ParseRoots(data) })
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		var written []byte
		for _, der := range ders {
			root, err := ParseRoot(der)
			if err != nil || len(root.Subject) == 0 || len(root.Issuer) == 0 || root.NotAfter.Location() != root.NotBefore.Location() {
				t.Fatalf("a root is %+v, %v", root, err)
			}
			written = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
			if !bytes.Contains(bytes.Join(bytes.Fields(data), nil), bytes.Join(bytes.Fields(written), nil)[27:40]) {
				t.Fatalf("a root that is not in the file: %x", der)
			}
		}
		v, err := New(Config{})
		if err := errors.Join(err, v.SetRoots(ders)); err != nil {
			t.Fatalf("no log takes them: %v", err)
		}
	})
}
