package chain

import (
	"bytes"
	"math/big"
	"testing"
	"time"

	ctasn1 "github.com/google/certificate-transparency-go/asn1"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	ctpkix "github.com/google/certificate-transparency-go/x509/pkix"

	"kiln/entry"
)

// fuzzCertificates calls add with certificates of every sort there is.
func fuzzCertificates(t testing.TB, add func(leaf, issuer []byte, typ entry.Type)) {
	vec := readVectors(t)
	intermediate := vec.chain(t, "intermediate")[0]
	for leaf := range vec.Certs {
		der := vec.chain(t, leaf)[0]
		add(der, intermediate, entry.X509)
		add(der, intermediate, entry.Precert)
	}
	psc := vec.chain(t, "precert_18_by_psc", "precert_signing_cert")
	add(psc[0], psc[1], entry.Precert)
	seen := make(map[string]bool)
	for _, name := range []string{"real-chains.jsonl.gz", "odd-chains.jsonl.gz"} {
		for _, c := range readChains(t, name) {
			if sort := c.Endpoint + c.SigAlg; len(c.Chain) > 1 && (c.Kind != "" || !seen[sort]) {
				seen[sort] = true
				add(c.Chain[0], c.Chain[1], c.typ())
			}
		}
	}
}

// FuzzPrepare submits chains of two: anything is answered, only by refusals, and
// what is taken is taken again in the same way.
func FuzzPrepare(f *testing.F) {
	fuzzCertificates(f, func(leaf, issuer []byte, typ entry.Type) { f.Add(leaf, issuer, typ == entry.Precert) })
	roots := append(testRoots(f, "roots.pem", "odd-roots.pem"), readVectors(f).chain(f, "root", "mldsa44_root", "precert_signing_cert")...)
	cfg := Config{Now: func() time.Time { return time.Unix(1<<31, 0) }}
	v := newValidator(f, cfg, roots...)
	f.Fuzz(func(t *testing.T, leaf, issuer []byte, precert bool) {
		typ := entry.X509
		if precert {
			typ = entry.Precert
		}
		// The issuer as a root too, so that links are made with mutated keys.
		validators := []*Validator{v}
		if lax, err := New(cfg); err == nil && lax.SetRoots([][]byte{issuer}) == nil {
			validators = append(validators, lax)
		}
		for _, v := range validators {
			for _, chain := range [][][]byte{{leaf, issuer}, {leaf}} {
				checkPrepared(t, v, chain, typ)
			}
		}
	})
}

func checkPrepared(t *testing.T, v *Validator, chain [][]byte, typ entry.Type) {
	cand, err := v.Prepare(chain, typ)
	if err != nil {
		wantReason(t, err, "")
		return
	}
	if err := cand.VerifyLeaf(); err != nil {
		wantReason(t, err, "")
	}
	again, err := v.Prepare(chain, typ)
	if err != nil || again.Pending().Digest() != cand.Pending().Digest() {
		t.Fatalf("another answer the second time: %v", err)
	}
	p := cand.Pending()
	if len(p.AppendTileLeaf(nil, entry.Placement{})) > MaxEntrySize {
		t.Fatal("entry is too large")
	}
	issuers := cand.Issuers()
	if len(issuers) > 0 {
		// The whole path, submitted, is the same submission.
		full, err := v.Prepare(append([][]byte{chain[0]}, issuers...), typ)
		if err != nil || full.Pending().Digest() != p.Digest() {
			t.Fatalf("another answer with the root submitted: %v", err)
		}
	}
	if typ == entry.X509 && !bytes.Equal(p.Certificate(), chain[0]) {
		t.Fatal("logged certificate is not the submitted one")
	}
}

// tbsCertificate is how certificate-transparency-go reads and writes it.
type tbsCertificate struct {
	Raw                ctasn1.RawContent
	Version            int `asn1:"optional,explicit,default:0,tag:0"`
	SerialNumber       *big.Int
	SignatureAlgorithm ctpkix.AlgorithmIdentifier
	Issuer             ctasn1.RawValue
	Validity           struct{ NotBefore, NotAfter time.Time }
	Subject            ctasn1.RawValue
	PublicKey          struct {
		Raw       ctasn1.RawContent
		Algorithm ctpkix.AlgorithmIdentifier
		PublicKey ctasn1.BitString
	}
	UniqueID        ctasn1.BitString   `asn1:"optional,tag:1"`
	SubjectUniqueID ctasn1.BitString   `asn1:"optional,tag:2"`
	Extensions      []ctpkix.Extension `asn1:"optional,explicit,tag:3"`
}

// survives reports whether certificate-transparency-go writes these bytes again
// when it has read them. Where it does not, it re-encodes more than it removes,
// which is what the splice here is there to avoid.
func survives(tbs []byte) bool {
	var parsed tbsCertificate
	if rest, err := ctasn1.Unmarshal(tbs, &parsed); err != nil || len(rest) > 0 {
		return false
	}
	parsed.Raw = nil
	again, err := ctasn1.Marshal(parsed)
	return err == nil && bytes.Equal(again, tbs)
}

// FuzzSplice compares with certificate-transparency-go, and checks that nothing
// but what was to go is gone.
func FuzzSplice(f *testing.F) {
	fuzzCertificates(f, func(leaf, issuer []byte, _ entry.Type) { f.Add(leaf, issuer) })
	f.Fuzz(func(t *testing.T, leaf, issuer []byte) {
		c, err := parseCertificate(leaf)
		if err != nil {
			return
		}
		remove, theirs := oidPoison, func() ([]byte, error) { return ctx509.BuildPrecertTBS(c.tbs, nil) }
		if _, n := c.find(oidPoison); n == 0 {
			remove, theirs = oidSCTList, func() ([]byte, error) { return ctx509.RemoveSCTList(c.tbs) }
		}
		got, err := splice(c, remove, nil)
		if err != nil {
			t.Fatalf("plain splice failed: %v", err)
		}
		checkSpliced(t, c, got, remove)
		stable := survives(c.tbs)
		// They write an empty list when the last extension goes, which RFC 5280
		// forbids and no final certificate will have.
		emptyList := []byte{derExtensions, 2, derSequence, 0}
		if want, err := theirs(); err == nil && stable && !bytes.HasSuffix(want, emptyList) && !bytes.Equal(got, want) {
			t.Fatalf("TBS\n%x, theirs\n%x", got, want)
		}
		psc, err := parseCertificate(issuer)
		if err != nil || remove != oidPoison {
			return
		}
		theirPSC, err := ctx509.ParseCertificate(issuer)
		if ctx509.IsFatal(err) {
			return
		}
		got, err = splice(c, oidPoison, psc)
		want, theirErr := ctx509.BuildPrecertTBS(c.tbs, theirPSC)
		if err == nil && theirErr == nil && stable && !bytes.HasSuffix(want, emptyList) && !bytes.Equal(got, want) {
			t.Fatalf("TBS with PSC\n%x, theirs\n%x", got, want)
		}
	})
}

// checkSpliced checks a plain splice against the original, piece by piece.
func checkSpliced(t *testing.T, c *certificate, got []byte, removed string) {
	s, err := parseCertificate(element(derSequence, got, c.algorithm, element(3, []byte{0}, c.signature)))
	if err != nil {
		t.Fatalf("spliced TBS cannot be read: %v", err)
	}
	if !bytes.Equal(s.body[:s.extensionsAt], c.body[:c.extensionsAt]) {
		t.Fatal("something before the extensions changed")
	}
	left := s.extensions
	for i := range c.extensions {
		if string(c.extensions[i].oid) == removed {
			continue
		}
		if len(left) == 0 || !bytes.Equal(left[0].raw, c.extensions[i].raw) {
			t.Fatalf("extension %d changed", i)
		}
		left = left[1:]
	}
	if len(left) > 0 || (s.hasExtensions && len(s.extensions) == 0) {
		t.Fatal("extensions were added, or an empty list is left")
	}
}

// FuzzParse compares the reading of a certificate with that of
// certificate-transparency-go, where both read it.
func FuzzParse(f *testing.F) {
	fuzzCertificates(f, func(leaf, issuer []byte, _ entry.Type) { f.Add(leaf); f.Add(issuer) })
	f.Fuzz(func(t *testing.T, der []byte) {
		ours, err := parseCertificate(der)
		if err != nil {
			return
		}
		if whole := element(derSequence, ours.tbs, ours.algorithm, element(3, []byte{0}, ours.signature)); !bytes.Equal(whole, der) {
			t.Fatalf("%x is taken, whose parts are %x", der, whole)
		}
		if bytes.Count(der, ours.algorithm) < 2 {
			t.Fatal("the two algorithm identifiers differ")
		}
		if _, err := publicKey(ours); err == nil {
			_ = newIssuer(ours, [32]byte{}).verifies(ours)
		}
		theirs, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			return
		}
		if err := alike(ours, theirs); err != nil {
			t.Fatal(err)
		}
	})
}
