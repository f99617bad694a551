package chain

import (
	"bytes"
	"crypto"
	"fmt"
	"slices"
	"strings"
	"testing"

	"kiln/entry"
)

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
	lowest := slices.Min(fingerprintsOf(twins[0].der, twins[1].der, twins[2].der))
	strangerKey := p256(t)
	stranger := make1(4, strangerKey) // same name, and tried before the others
	for serial := int64(5); fingerprintsOf(stranger.der)[0] > lowest; serial++ {
		stranger = make1(serial, strangerKey)
	}
	inter := newCA(t, "CA", twins[0])
	leaf := spec{version: 2, key: p256(t)}
	under, direct := leaf.issue(t, inter), leaf.issue(t, twins[0])
	ders := [][]byte{twins[2].der, stranger.der, twins[0].der, twins[1].der}
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
	twinA := spec{version: 2, serial: 2, subject: a.subject, key: a.key, extensions: [][]byte{extCA}}.issue(t, a)
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
		{"twin between leaf and root", onlyA, []*ca{leaf, twinA}, []*ca{twinA, a}, ""},
		{"in a circle", onlyA, []*ca{leaf, a, twinA}, nil, ReasonUnknownRoot},
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

// TestParseRoot reads what a root says of itself, whatever its serial number and
// its signature.
func TestParseRoot(t *testing.T) {
	t.Parallel()
	root := spec{version: 2, serial: -5, subject: name(t, "Root"), key: rsaKey(t, algSHA1RSA, crypto.SHA1), extensions: [][]byte{extCA}}.issue(t, nil)
	got, err := ParseRoot(root.der)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCertificate(root.der)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Subject, root.subject) || !bytes.Equal(got.Issuer, root.subject) || !got.NotAfter.Equal(c.notAfter) || !got.NotBefore.Equal(c.notBefore) {
		t.Errorf("got %+v", got)
	}
	if _, err := ParseRoot(root.der[:len(root.der)-1]); err == nil {
		t.Error("a root that was cut off is read")
	}
}
