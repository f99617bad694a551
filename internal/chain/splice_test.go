package chain

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"strings"
	"testing"

	ctx509 "github.com/google/certificate-transparency-go/x509"

	"kiln/entry"
)

func mustParse(t testing.TB, der []byte) *certificate {
	t.Helper()
	c, err := parseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSpliceReal compares every real certificate with a poison or an SCT list to
// what certificate-transparency-go makes of it.
func TestSpliceReal(t *testing.T) {
	t.Parallel()
	n := 0
	for _, line := range readChains(t, "real-chains.jsonl.gz") {
		c := mustParse(t, line.Chain[0])
		if _, poisons := c.find(oidPoison); poisons == 1 {
			want, err := ctx509.BuildPrecertTBS(c.tbs, nil)
			same(t, c, oidPoison, nil, want, err)
			n++
		}
		if _, lists := c.find(oidSCTList); lists == 1 {
			want, err := ctx509.RemoveSCTList(c.tbs)
			same(t, c, oidSCTList, nil, want, err)
			n++
		}
	}
	if n < 1473 {
		t.Errorf("compared %d, want 773 precertificates and 700 certificates with SCTs", n)
	}
}

func same(t testing.TB, c *certificate, oid string, psc *certificate, want []byte, wantErr error) {
	t.Helper()
	if wantErr != nil {
		t.Fatal(wantErr)
	}
	got, err := splice(c, oid, psc)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("TBS\n%x, want\n%x", got, want)
	}
}

// TestSpliceSizes moves the lengths around the extensions over every boundary
// between one, two, three and four octets.
func TestSpliceSizes(t *testing.T) {
	t.Parallel()
	key := p256(t)
	for _, base := range []int{0x80, 0x100, 0x10000} {
		for n := base - 130; n < base+10; n++ {
			if n < 0 {
				continue
			}
			filler := extensionDER("\x2a\x03", false, make([]byte, n))
			psc := spec{version: 2, subject: name(t, "PSC"), key: key, extensions: [][]byte{extCA, extKeyID(strings.Repeat("k", n%300))}}
			precert := func(extensions ...[]byte) *certificate {
				s := spec{version: 2, key: key, extensions: extensions}
				tbs := s.tbs(t, element(derSequence), algSHA256ECDSA)
				return mustParse(t, element(derSequence, tbs, algSHA256ECDSA, []byte{3, 1, 0}))
			}
			with := precert(extPoison, filler)
			if got, err := splice(with, oidPoison, nil); err != nil || !bytes.Equal(got, precert(filler).tbs) {
				t.Fatalf("filler of %d: %x, %v", n, got, err)
			}
			if n > base-3 && n < base+3 {
				c := mustParse(t, psc.issue(t, nil).der)
				theirs, err := ctx509.ParseCertificate(withUsage(t, psc).raw)
				if ctx509.IsFatal(err) {
					t.Fatal(err)
				}
				want, err := ctx509.BuildPrecertTBS(with.tbs, theirs)
				same(t, with, oidPoison, c, want, err)
			}
		}
	}
}

// withUsage returns s with the usage that certificate-transparency-go asks for.
func withUsage(t testing.TB, s spec) *certificate {
	s.extensions = append([][]byte{extPSC}, s.extensions...)
	return mustParse(t, s.issue(t, nil).der)
}

// TestSpliceRandom draws extension lists, of the precertificate and of a
// Precertificate Signing Certificate, and compares with
// certificate-transparency-go.
func TestSpliceRandom(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	key, issuerName := p256(t), name(t, "issuer")
	draw := func() []byte {
		n := r.IntN(40)
		if r.IntN(4) == 0 {
			n = r.IntN(70000)
		}
		return extensionDER("\x2a"+string([]byte{byte(r.IntN(0x80))}), r.IntN(2) == 0, make([]byte, n))
	}
	list := func(with ...[]byte) [][]byte {
		for range 1 + r.IntN(4) {
			with = append(with, draw())
		}
		if r.IntN(2) == 0 {
			with = append(with, extKeyID(strings.Repeat("k", r.IntN(300))))
		}
		r.Shuffle(len(with), func(i, j int) { with[i], with[j] = with[j], with[i] })
		return with
	}
	for range 2000 {
		leaf := spec{version: 2, serial: r.Int64() - r.Int64(), subject: name(t, "leaf"), key: key, extensions: list(extPoison)}
		tbs := leaf.tbs(t, issuerName, algSHA256RSA)
		c := mustParse(t, element(derSequence, tbs, algSHA256RSA, []byte{3, 1, 0}))
		want, err := ctx509.BuildPrecertTBS(tbs, nil)
		same(t, c, oidPoison, nil, want, err)

		s := spec{version: 2, subject: name(t, "PSC"), key: key, extensions: list(extCA, extPSC)}
		pscDER := element(derSequence, s.tbs(t, name(t, strings.Repeat("n", r.IntN(200))), algSHA256RSA), algSHA256RSA, []byte{3, 1, 0})
		theirs, err := ctx509.ParseCertificate(pscDER)
		if ctx509.IsFatal(err) {
			t.Fatal(err)
		}
		want, err = ctx509.BuildPrecertTBS(tbs, theirs)
		same(t, c, oidPoison, mustParse(t, pscDER), want, err)
	}
}

// TestNoExtensionLeft drops [3] with the last extension (SUB-28).
func TestNoExtensionLeft(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	s := spec{version: 2, key: p256(t), extensions: [][]byte{extPoison}}
	v := newValidator(t, Config{}, root.der)
	got := mustCheck(t, v, [][]byte{s.issue(t, root).der}, entry.Precert).Pending().Certificate()
	s.noList = true
	if want := s.tbs(t, root.subject, root.key.algorithm); !bytes.Equal(got, want) {
		t.Errorf("TBS %x, want %x", got, want)
	}
}

// TestPrecertSigningCertificate goes through who has an authority key identifier
// (SUB-30), and compares with certificate-transparency-go.
func TestPrecertSigningCertificate(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	inter := newCA(t, "CA", root)
	filler := extensionDER("\x2a\x03", true, []byte("filler"))
	critical := extensionDER(oidAuthorityKeyID, true, element(derSequence))
	explicit := element(derSequence, element(derOID, []byte(oidAuthorityKeyID)), []byte{derBoolean, 1, 0}, element(derOctetString, element(derSequence)))
	v := newValidator(t, Config{}, root.der)
	for _, c := range []struct {
		name                string
		psc, precert, final [][]byte
		reason              Reason
	}{
		{"both", [][]byte{extKeyID("ca")}, [][]byte{extPoison, extKeyID("psc"), filler}, [][]byte{extKeyID("ca"), filler}, ""},
		{"another length", [][]byte{extKeyID(strings.Repeat("x", 300))}, [][]byte{extKeyID("psc"), filler, extPoison}, [][]byte{extKeyID(strings.Repeat("x", 300)), filler}, ""},
		{"only PSC", [][]byte{extKeyID("ca")}, [][]byte{filler, extPoison}, [][]byte{filler, extKeyID("ca")}, ""},
		{"only precertificate", nil, [][]byte{extKeyID("psc"), extPoison, filler}, [][]byte{filler}, ""},
		{"only precertificate, nothing left", nil, [][]byte{extKeyID("psc"), extPoison}, nil, ""},
		{"neither", nil, [][]byte{extPoison, filler}, [][]byte{filler}, ""},
		{"critical", [][]byte{extKeyID("ca")}, [][]byte{extPoison, critical}, [][]byte{extensionDER(oidAuthorityKeyID, true, element(derSequence, element(0x80, []byte("ca"))))}, ""},
		{"two in the precertificate", [][]byte{extKeyID("ca")}, [][]byte{extPoison, extKeyID("1"), extKeyID("2")}, nil, ReasonPrecertTBS},
		{"two in the PSC", [][]byte{extKeyID("1"), extKeyID("2")}, [][]byte{extPoison, extKeyID("1")}, nil, ReasonPrecertTBS},
		{"explicit default", [][]byte{extKeyID("ca")}, [][]byte{extPoison, explicit}, nil, ReasonPrecertTBS},
	} {
		t.Run(c.name, func(t *testing.T) {
			psc := spec{version: 2, subject: name(t, "PSC"), key: p256(t), extensions: append([][]byte{extCA, extPSC}, c.psc...)}.issue(t, inter)
			pre := spec{version: 2, serial: 9, key: p256(t), extensions: c.precert}
			leaf := pre.issue(t, psc)
			cand, err := check(v, [][]byte{leaf.der, psc.der, inter.der}, entry.Precert)
			if c.reason != "" {
				wantReason(t, err, c.reason)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			final := pre
			final.extensions, final.noList = c.final, c.final == nil
			if got, want := cand.Pending().Certificate(), final.tbs(t, inter.subject, algSHA256ECDSA); !bytes.Equal(got, want) {
				t.Errorf("TBS\n%x, want\n%x", got, want)
			}
			if got := cand.Pending().IssuerKeyHash(); got != sha256.Sum256(inter.key.spki) {
				t.Error("issuer key hash is not of the final issuer")
			}
			theirs, err := ctx509.ParseCertificate(psc.der)
			if ctx509.IsFatal(err) {
				t.Fatal(err)
			}
			if c.final == nil {
				return // they leave an empty list behind, which no final certificate has
			}
			want, err := ctx509.BuildPrecertTBS(mustParse(t, leaf.der).tbs, theirs)
			same(t, mustParse(t, leaf.der), oidPoison, mustParse(t, psc.der), want, err)
		})
	}
}

// TestPrecertIssuers submits precertificates whose final issuer is missing.
func TestPrecertIssuers(t *testing.T) {
	t.Parallel()
	pscRoot := spec{version: 2, subject: name(t, "PSC and root"), key: p256(t), extensions: [][]byte{extCA, extPSC}}.issue(t, nil)
	poisonedRoot := spec{version: 2, subject: name(t, "poisoned"), key: p256(t), extensions: [][]byte{extCA, extPoison}}.issue(t, nil)
	root := newCA(t, "Root", nil)
	notCA := spec{version: 2, subject: name(t, "PSC"), key: p256(t), extensions: [][]byte{extPSC}}.issue(t, root)
	direct := spec{version: 2, subject: name(t, "PSC"), key: p256(t), extensions: [][]byte{extPSC, extCA}}.issue(t, root)
	leaf := spec{version: 2, key: p256(t), extensions: [][]byte{extPoison}}
	v := newValidator(t, Config{}, pscRoot.der, poisonedRoot.der, root.der)
	for _, c := range []struct {
		chain  []*ca
		reason Reason
	}{
		{[]*ca{leaf.issue(t, pscRoot), pscRoot}, ReasonPrecertIssuer},
		{[]*ca{leaf.issue(t, pscRoot)}, ReasonPrecertIssuer},
		{[]*ca{poisonedRoot}, ReasonPrecertIssuer},
		{[]*ca{leaf.issue(t, notCA), notCA}, ReasonNotCA},
		{[]*ca{leaf.issue(t, direct), direct}, ""},
		{[]*ca{leaf.issue(t, direct), direct, root}, ""},
		{[]*ca{leaf.issue(t, direct), root}, ReasonBrokenChain},
	} {
		var chain [][]byte
		for _, x := range c.chain {
			chain = append(chain, x.der)
		}
		if _, err := check(v, chain, entry.Precert); c.reason != "" {
			wantReason(t, err, c.reason)
		} else if err != nil {
			t.Error(err)
		}
	}
}
