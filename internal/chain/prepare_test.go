package chain

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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

// TestLaxness submits what breaks rules that a log does not police (SUB-22).
func TestLaxness(t *testing.T) {
	t.Parallel()
	unknownKey := &testKey{spki: element(derSequence, algID("\x2a\x03\x04", nil), element(3, []byte{0, 1, 2, 3}))}
	brainpool := &testKey{spki: element(derSequence, algID("\x2a\x86\x48\xce\x3d\x02\x01", element(derOID, []byte("\x2b\x24\x03\x03\x02\x08\x01\x01\x07"))), element(3, []byte{0, 4, 2, 3}))}
	old := time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	junk := []byte{0xde, 0xad, 0xbe, 0xef}
	root := newCA(t, "Root", nil)
	pathLen0 := spec{
		version: 2, subject: name(t, "CA, no path, wrong usages, expired"), key: p256(t), notBefore: old, notAfter: old.Add(1),
		extensions: [][]byte{
			extensionDER(oidBasicConstraints, true, element(derSequence, []byte{derBoolean, 1, 0xff, 2, 1, 0})),
			extensionDER("\x55\x1d\x0f", true, []byte{3, 2, 7, 0x80}), // key usage: digitalSignature
			extensionDER("\x55\x1d\x1e", true, junk),                  // name constraints
			extUsage("\x2a\x03"),
			extensionDER("\x2a\x03\x05", true, junk),
		},
	}.issue(t, root)
	below := newCA(t, "CA below", pathLen0)
	key := p256(t)
	for _, c := range []struct {
		name string
		leaf spec
	}{
		{"plain", spec{version: 2, key: key}},
		{"expired", spec{version: 2, key: key, notBefore: old, notAfter: old}},
		{"NotAfter before NotBefore", spec{version: 2, key: key, notAfter: old}},
		{"year 9999", spec{version: 2, key: key, notAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}},
		{"unknown key algorithm", spec{version: 2, key: unknownKey}},
		{"unknown curve", spec{version: 2, key: brainpool}},
		{"unknown critical extension", spec{version: 2, key: key, extensions: [][]byte{extensionDER("\x2a\x03\x04", true, junk)}}},
		{"repeated extension", spec{version: 2, key: key, extensions: [][]byte{extensionDER("\x2a\x03\x04", false, junk), extensionDER("\x2a\x03\x04", true, nil)}}},
		{"malformed SAN", spec{version: 2, key: key, extensions: [][]byte{extensionDER("\x55\x1d\x11", false, junk)}}},
		{"malformed EKU", spec{version: 2, key: key, extensions: [][]byte{extensionDER(oidExtKeyUsage, false, junk)}}},
		{"empty extension list", spec{version: 2, key: key}},
		{"no extensions", spec{version: 2, key: key, noList: true}},
		{"version 1", spec{key: key, noList: true}},
		{"version 1 with extensions", spec{key: key, extensions: [][]byte{extNotCA}}},
		{"version 9", spec{version: 8, key: key}},
		{"negative serial", spec{version: 2, serial: -1 << 40, key: key}},
		{"junk in the subject", spec{version: 2, key: key, subject: element(derSequence, junk)}},
		{"20,000 names", spec{version: 2, key: key, extensions: [][]byte{extensionDER("\x55\x1d\x11", false,
			element(derSequence, bytes.Repeat(element(0x82, []byte("a.example")), 20000)))}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			leaf := c.leaf.issue(t, below)
			v := newValidator(t, Config{}, root.der)
			cand := mustCheck(t, v, [][]byte{leaf.der, below.der, pathLen0.der}, entry.X509)
			if got, want := hexes(cand.Pending().Chain()), fingerprintsOf(below.der, pathLen0.der, root.der); !slices.Equal(got, want) {
				t.Errorf("fingerprints %v, want %v", got, want)
			}
		})
	}
}

// TestMalformed submits certificates with bytes where none are signed, or
// covered by two readings (SUB-24, SUB-05).
func TestMalformed(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	v := newValidator(t, Config{}, root.der)
	leaf := spec{version: 2, key: p256(t), extensions: [][]byte{extCA}}
	good := leaf.issue(t, root).der
	mustCheck(t, v, [][]byte{good}, entry.X509)
	contents := good[4:] // of the outer sequence
	afterTBS := leaf
	afterTBS.after = []byte{5, 0}
	brokenExtension := leaf
	brokenExtension.extensions = [][]byte{element(derSequence, element(derOID, []byte("\x2a")), []byte{derBoolean, 1, 1}, element(4))}
	for _, c := range []struct {
		name string
		der  []byte
	}{
		{"nothing", nil},
		{"an empty sequence", element(derSequence)},
		{"not a sequence", element(derOctetString, contents)},
		{"truncated", good[:len(good)-1]},
		{"trailing byte", append(bytes.Clone(good), 0)},
		{"two certificates", append(bytes.Clone(good), good...)},
		{"bytes after the signature", element(derSequence, contents, []byte{5, 0})},
		{"bytes after the extensions", afterTBS.issue(t, root).der},
		{"boolean that is not DER", brokenExtension.issue(t, root).der},
		{"length not minimal", append([]byte{0x30, 0x83, 0, byte(len(contents) >> 8), byte(len(contents))}, contents...)},
		{"indefinite length", append(append([]byte{0x30, 0x80}, contents...), 0, 0)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := check(v, [][]byte{c.der}, entry.X509)
			wantReason(t, err, ReasonMalformed)
			_, err = check(v, [][]byte{good, c.der}, entry.X509)
			wantReason(t, err, ReasonMalformed)
			if err := v.SetRoots([][]byte{root.der, c.der}); err == nil || !strings.Contains(err.Error(), "root 1") {
				t.Errorf("as a root: got %v", err)
			}
		})
	}
}

// TestIssuers submits issuers that are not entitled to be one.
func TestIssuers(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	other := newCA(t, "Root", nil) // same name, another key
	v := newValidator(t, Config{}, root.der)
	for _, c := range []struct {
		name   string
		issuer spec
		reason Reason
	}{
		{"CA", spec{version: 2, extensions: [][]byte{extCA}}, ""},
		{"no BasicConstraints", spec{version: 2}, ReasonNotCA},
		{"CA:false", spec{version: 2, extensions: [][]byte{extNotCA}}, ReasonNotCA},
		{"both", spec{version: 2, extensions: [][]byte{extCA, extNotCA}}, ReasonNotCA},
		{"both, other order", spec{version: 2, extensions: [][]byte{extNotCA, extCA}}, ReasonNotCA},
		{"malformed BasicConstraints", spec{version: 2, extensions: [][]byte{extensionDER(oidBasicConstraints, true, []byte{1, 1, 0xff})}}, ReasonNotCA},
		{"version 1", spec{noList: true}, ReasonNotCA},
	} {
		c.issuer.key, c.issuer.subject = p256(t), name(t, "CA")
		inter := c.issuer.issue(t, root)
		leaf := spec{version: 2, key: p256(t)}.issue(t, inter)
		_, err := check(v, [][]byte{leaf.der, inter.der}, entry.X509)
		if c.reason == "" && err == nil {
			continue
		}
		wantReason(t, err, c.reason)
	}

	inter := newCA(t, "CA", other)
	leaf := spec{version: 2, key: p256(t)}.issue(t, inter)
	_, err := check(v, [][]byte{leaf.der, inter.der}, entry.X509)
	wantReason(t, err, ReasonSignature)
	_, err = check(v, [][]byte{leaf.der, inter.der, root.der}, entry.X509)
	wantReason(t, err, ReasonSignature)
	_, err = check(v, [][]byte{leaf.der, inter.der, other.der}, entry.X509)
	wantReason(t, err, ReasonSignature) // "other" is not accepted and does not end in "root"
}

// TestRootKinds accepts roots of several kinds.
func TestRootKinds(t *testing.T) {
	t.Parallel()
	v1 := spec{noList: true, subject: name(t, "v1"), key: p256(t)}.issue(t, nil)
	v3 := spec{version: 2, subject: name(t, "v3, not a CA"), key: p256(t)}.issue(t, nil)
	secret := newCA(t, "never seen", nil)
	cross := newCA(t, "cross-signed", secret)
	v := newValidator(t, Config{}, v1.der, v3.der, cross.der, cross.der)
	if got := v.Roots(); len(got) != 3 || !bytes.Equal(got[1], v3.der) {
		t.Errorf("Roots returns %d, want three in order", len(got))
	}
	for _, c := range []struct {
		name   string
		root   *ca
		reason Reason
		alone  Reason
	}{
		{"version 1", v1, "", ""},
		{"version 3 without BasicConstraints", v3, ReasonNotCA, ReasonUnknownRoot},
		{"not self-signed", cross, "", ""},
	} {
		leaf := spec{version: 2, key: p256(t)}.issue(t, c.root)
		for want, chain := range map[*Reason][][]byte{&c.reason: {leaf.der, c.root.der}, &c.alone: {leaf.der}} {
			cand, err := check(v, chain, entry.X509)
			if *want != "" {
				wantReason(t, err, *want)
			} else if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if got := hexes(cand.Pending().Chain()); !slices.Equal(got, fingerprintsOf(c.root.der)) {
				t.Errorf("%s: fingerprints %v", c.name, got)
			}
		}
		// The root itself, whoever signed it: no fingerprints (MON-13).
		cand := mustCheck(t, v, [][]byte{c.root.der}, entry.X509)
		if len(cand.Pending().Chain()) != 0 || len(cand.Issuers()) != 0 {
			t.Errorf("%s: a root has issuers", c.name)
		}
	}
	_, err := check(v, [][]byte{cross.der, secret.der}, entry.X509)
	wantReason(t, err, ReasonBrokenChain)
}

// TestRootChoice closes paths that several roots can close (SUB-20).
func TestRootChoice(t *testing.T) {
	t.Parallel()
	key := p256(t)
	make1 := func(serial int64, k *testKey) *ca {
		return spec{version: 2, serial: serial, subject: name(t, "Root"), key: k, extensions: [][]byte{extCA}}.issue(t, nil)
	}
	twins := []*ca{make1(1, key), make1(2, key), make1(3, key)}
	stranger := make1(4, p256(t)) // same name
	inter := newCA(t, "CA", twins[0])
	leaf := spec{version: 2, key: p256(t)}
	under, direct := leaf.issue(t, inter), leaf.issue(t, twins[0])
	ders := [][]byte{twins[2].der, stranger.der, twins[0].der, twins[1].der}
	lowest := slices.Min(fingerprintsOf(twins[0].der, twins[1].der, twins[2].der))
	for range 6 {
		ders = append(ders[1:], ders[0])
		for _, roots := range [][][]byte{ders, slices.DeleteFunc(slices.Clone(ders), func(d []byte) bool { return bytes.Equal(d, stranger.der) })} {
			v := newValidator(t, Config{}, roots...)
			for _, chain := range [][][]byte{{under.der, inter.der}, {direct.der}} {
				got := hexes(mustCheck(t, v, chain, entry.X509).Pending().Chain())
				if got[len(got)-1] != lowest {
					t.Errorf("path ends in %s, want %s", got[len(got)-1], lowest)
				}
				for _, twin := range twins {
					withRoot := mustCheck(t, v, append(slices.Clone(chain), twin.der), entry.X509).Pending()
					fps := hexes(withRoot.Chain())
					if fps[len(fps)-1] != fingerprintsOf(twin.der)[0] {
						t.Error("the submitted root did not win")
					}
				}
			}
			// The leaf's signature waits for VerifyLeaf, unless the choice depends on it.
			bad := bytes.Clone(direct.der)
			bad[len(bad)-1] ^= 1
			_, err := check(v, [][]byte{bad}, entry.X509)
			wantReason(t, err, ReasonSignature)
		}
	}
}

// TestCrossSigned walks through an accepted root to another one.
func TestCrossSigned(t *testing.T) {
	t.Parallel()
	a, b := newCA(t, "A", nil), newCA(t, "B", nil)
	crossA := spec{version: 2, subject: a.subject, key: a.key, extensions: [][]byte{extCA}}.issue(t, b)
	leaf := spec{version: 2, key: p256(t)}.issue(t, a)
	all := newValidator(t, Config{}, a.der, b.der, crossA.der)
	onlyB := newValidator(t, Config{}, b.der)
	onlyA := newValidator(t, Config{}, a.der)
	for _, c := range []struct {
		name   string
		v      *Validator
		chain  []*ca
		want   []*ca
		reason Reason
	}{
		{"to the submitted root", all, []*ca{leaf, a}, []*ca{a}, ""},
		{"cross to the other", all, []*ca{leaf, crossA, b}, []*ca{crossA, b}, ""},
		{"accepted cross is the end", all, []*ca{leaf, crossA}, []*ca{crossA}, ""},
		{"cross is completed", onlyB, []*ca{leaf, crossA}, []*ca{crossA, b}, ""},
		{"self-signed, then its twin", onlyB, []*ca{leaf, a, crossA}, []*ca{a, crossA, b}, ""},
		{"goes on after an accepted root", onlyA, []*ca{leaf, a, crossA}, nil, ReasonUnknownRoot},
		{"wrong issuer of the cross", all, []*ca{leaf, crossA, a}, nil, ReasonBrokenChain},
		{"twice the same", all, []*ca{leaf, a, a}, nil, ReasonBrokenChain},
		{"leaf twice", all, []*ca{leaf, leaf}, nil, ReasonBrokenChain},
	} {
		var chain, want [][]byte
		for _, x := range c.chain {
			chain = append(chain, x.der)
		}
		for _, x := range c.want {
			want = append(want, x.der)
		}
		cand, err := check(c.v, chain, entry.X509)
		if c.reason != "" {
			wantReason(t, err, c.reason)
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := hexes(cand.Pending().Chain()); !slices.Equal(got, fingerprintsOf(want...)) {
			t.Errorf("%s: fingerprints %v, want %v", c.name, got, fingerprintsOf(want...))
		}
	}
}

// TestHostileChains submits long chains of certificates of one name and key,
// each of which could be the issuer of any other.
func TestHostileChains(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	key := p256(t)
	self := &ca{subject: root.subject, key: key}
	var chain [][]byte
	for i := range 400 {
		chain = append(chain, spec{version: 2, serial: int64(i), subject: root.subject, key: key, extensions: [][]byte{extCA}}.issue(t, self).der)
	}
	v := newValidator(t, Config{MaxChain: 400}, root.der)
	_, err := check(v, chain, entry.X509)
	wantReason(t, err, ReasonSignature)
	if n := len(v.seen.links.young) + len(v.seen.issuers.young); n != 0 {
		t.Errorf("%d things below no accepted root are remembered", n)
	}
	_, err = check(newValidator(t, Config{}, root.der), chain, entry.X509)
	wantReason(t, err, ReasonTooLarge)

	chain[399] = spec{version: 2, subject: root.subject, key: key, extensions: [][]byte{extCA}}.issue(t, root).der
	cand := mustCheck(t, v, chain, entry.X509)
	if got := len(cand.Pending().Chain()); got != 400 {
		t.Errorf("path of %d, want 400", got)
	}
}

func TestDeepNesting(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	deep := []byte{}
	for len(deep) < 100<<10 {
		deep = element(derSequence, deep)
	}
	v := newValidator(t, Config{}, root.der)
	for _, s := range []spec{
		{version: 2, key: p256(t), subject: deep},
		{version: 2, key: p256(t), extensions: [][]byte{extensionDER(oidExtKeyUsage, false, deep), extensionDER(oidBasicConstraints, false, deep)}},
		{version: 2, key: &testKey{spki: deep}},
	} {
		mustCheck(t, v, [][]byte{s.issue(t, root).der}, entry.X509)
	}
	inter := spec{version: 2, key: &testKey{spki: deep}, subject: name(t, "CA"), extensions: [][]byte{extCA}}.issue(t, root)
	inter.key = p256(t)
	leaf := spec{version: 2, key: p256(t)}.issue(t, inter)
	_, err := check(v, [][]byte{leaf.der, inter.der}, entry.X509)
	wantReason(t, err, ReasonAlgorithm)
}

func TestSizes(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	filled := func(n int, poison ...[]byte) []byte {
		return spec{version: 2, key: p256(t), extensions: append(poison, extensionDER("\x2a\x03", false, make([]byte, n)))}.issue(t, root).der
	}
	v := newValidator(t, Config{}, root.der)
	for _, c := range []struct {
		der  []byte
		typ  entry.Type
		want bool
	}{
		{filled(200 << 10), entry.X509, true},
		{filled(255<<10 + 900), entry.X509, false}, // fits, its entry does not
		{filled(256 << 10), entry.X509, false},
		{filled(120<<10, extPoison), entry.Precert, true},
		{filled(130<<10, extPoison), entry.Precert, false}, // stored twice
	} {
		cand, err := check(v, [][]byte{c.der}, c.typ)
		if !c.want {
			wantReason(t, err, ReasonTooLarge)
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		pl := entry.Placement{Index: entry.MaxIndex, TimestampMillis: 1}
		if n := len(cand.Pending().AppendTileLeaf(nil, pl)); n > MaxEntrySize {
			t.Errorf("TileLeaf of %d bytes", n)
		}
	}
	small := newValidator(t, Config{MaxCertificateSize: 1000, MaxChain: 1}, root.der)
	mustCheck(t, small, [][]byte{filled(500)}, entry.X509)
	_, err := check(small, [][]byte{filled(1000)}, entry.X509)
	wantReason(t, err, ReasonTooLarge)
	_, err = check(small, [][]byte{filled(10), root.der}, entry.X509)
	wantReason(t, err, ReasonTooLarge)
}

func TestLowPriority(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 7, 10, 12, 0, 0, 0, time.UTC)
	root := newCA(t, "Root", nil)
	v := newValidator(t, Config{Now: func() time.Time { return now }}, root.der)
	scts := extensionDER(oidSCTList, false, []byte{4, 0})
	for _, c := range []struct {
		name       string
		age        time.Duration
		extensions [][]byte
		want       bool
	}{
		{"fresh final", 47 * time.Hour, nil, false},
		{"final of 48 h", 48 * time.Hour, nil, false},
		{"older final", 48*time.Hour + time.Second, nil, true},
		{"fresh final with SCTs", 0, [][]byte{scts}, true},
		{"fresh precert", 0, [][]byte{extPoison}, false},
		{"fresh precert with an SCT list", 0, [][]byte{extPoison, scts}, false},
		{"old precert", 49 * time.Hour, [][]byte{extPoison}, true},
		{"notBefore to come", -time.Hour, nil, false},
	} {
		typ := entry.X509
		if len(c.extensions) > 0 && bytes.Equal(c.extensions[0], extPoison) {
			typ = entry.Precert
		}
		leaf := spec{version: 2, key: p256(t), notBefore: now.Add(-c.age), extensions: c.extensions}.issue(t, root)
		if got := mustCheck(t, v, [][]byte{leaf.der}, typ).Pending().LowPriority(); got != c.want {
			t.Errorf("%s: low priority %v, want %v", c.name, got, c.want)
		}
	}
}

// TestLinksAreVerifiedOnce looks at what is remembered, and at what that allows.
func TestLinksAreVerifiedOnce(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	inter := newCA(t, "CA", root)
	leaf := func() []byte { return spec{version: 2, key: p256(t)}.issue(t, inter).der }
	v := newValidator(t, Config{}, root.der)
	first := mustCheck(t, v, [][]byte{leaf(), inter.der}, entry.X509)
	second := mustCheck(t, v, [][]byte{leaf(), inter.der, root.der}, entry.X509)
	if first.path[0] != second.path[0] {
		t.Error("the intermediate was parsed twice")
	}
	if len(v.seen.links.young) != 1 {
		t.Errorf("%d links are remembered, want 1", len(v.seen.links.young))
	}
	// A remembered link does not stand in for another, nor for an accepted root.
	forged := bytes.Clone(inter.der)
	forged[len(forged)-1] ^= 1
	_, err := check(v, [][]byte{leaf(), forged}, entry.X509)
	wantReason(t, err, ReasonSignature)
	if err := v.SetRoots([][]byte{newCA(t, "Another", nil).der}); err != nil {
		t.Fatal(err)
	}
	_, err = check(v, [][]byte{leaf(), inter.der}, entry.X509)
	wantReason(t, err, ReasonUnknownRoot)
	_, err = check(v, [][]byte{leaf(), inter.der, root.der}, entry.X509)
	wantReason(t, err, ReasonUnknownRoot)
}

func TestGenerations(t *testing.T) {
	t.Parallel()
	g := newGenerations[int, int](100)
	for i := range 1000 {
		g.put(i, i)
		if len(g.young)+len(g.old) > 200 {
			t.Fatalf("%d entries after %d", len(g.young)+len(g.old), i)
		}
	}
	for i := 900; i < 1000; i++ {
		if v, ok := g.get(i); !ok || v != i {
			t.Errorf("%d is forgotten", i)
		}
	}
	if _, ok := g.get(0); ok {
		t.Error("0 is still known")
	}
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	inter := newCA(t, "CA", root)
	leaf := spec{version: 2, key: p256(t)}.issue(t, inter)
	v := newValidator(t, Config{}, root.der)
	shared, err := v.Prepare([][]byte{leaf.der, inter.der}, entry.X509)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := check(v, [][]byte{leaf.der, inter.der}, entry.X509); err != nil {
					t.Error(err)
				}
				if err := shared.VerifyLeaf(); err != nil {
					t.Error(err)
				}
				if err := v.SetRoots([][]byte{root.der}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestConfig(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	for _, cfg := range []Config{
		{NotAfterStart: at, NotAfterLimit: at},
		{NotAfterStart: at, NotAfterLimit: at.Add(-1)},
		{NotAfterStart: at.Add(time.Millisecond), NotAfterLimit: at.Add(time.Hour)},
		{MaxChain: -1},
		{MaxCertificateSize: -1},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("New takes %+v", cfg)
		}
	}
	v, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	root := newCA(t, "Root", nil)
	_, err = check(v, [][]byte{root.der}, entry.X509)
	wantReason(t, err, ReasonUnknownRoot)
	if err := v.SetRoots(nil); err == nil {
		t.Error("SetRoots takes an empty set")
	}
}

func TestParseRoots(t *testing.T) {
	t.Parallel()
	one := readTestdata(t, "roots.pem")
	one = one[:bytes.Index(one, []byte("-----END CERTIFICATE-----"))+len("-----END CERTIFICATE-----\n")]
	block := func(typ, body string) string {
		return fmt.Sprintf("-----BEGIN %s-----\n%s\n-----END %s-----\n", typ, body, typ)
	}
	for _, c := range []struct {
		name, pem, want string
		n               int
	}{
		{"one", string(one), "", 1},
		{"text around", "# a root\n" + string(one) + "\nanother\n" + string(one), "", 2},
		{"none", "", "no PEM block", 0},
		{"another type", string(one) + block("PUBLIC KEY", "AAAA"), `block 2 is "PUBLIC KEY"`, 0},
		{"not a certificate", string(one) + string(one) + block("CERTIFICATE", "MAMCAQE="), "block 3", 0},
		{"cut off", string(one) + "-----BEGIN CERTIFICATE-----\nMIID\n", "block 1", 0},
	} {
		ders, err := ParseRoots([]byte(c.pem))
		if len(ders) != c.n || (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %d roots, error %v; want %d, %q", c.name, len(ders), err, c.n, c.want)
		}
	}
}

// TestEntryKeyIgnoresChain gives one certificate two chains: the entries have
// one key and differ in what is stored beside it.
func TestEntryKeyIgnoresChain(t *testing.T) {
	t.Parallel()
	a, b := newCA(t, "A", nil), newCA(t, "B", nil)
	crossA := spec{version: 2, subject: a.subject, key: a.key, extensions: [][]byte{extCA}}.issue(t, b)
	leaf := spec{version: 2, key: p256(t), extensions: [][]byte{extPoison}}.issue(t, a)
	v := newValidator(t, Config{}, a.der, b.der)
	one := mustCheck(t, v, [][]byte{leaf.der, a.der}, entry.Precert).Pending()
	two := mustCheck(t, v, [][]byte{leaf.der, crossA.der}, entry.Precert).Pending()
	if one.Key() != two.Key() || one.Digest() == two.Digest() {
		t.Errorf("keys %x and %x, digests %x and %x", one.Key(), two.Key(), one.Digest(), two.Digest())
	}
	if one.IssuerKeyHash() != sha256.Sum256(a.key.spki) {
		t.Error("issuer key hash is not of the issuer's key")
	}
}
