package chain

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"
	"time"

	"kiln/entry"
)

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
