package chain

import (
	"bytes"
	"slices"
	"sync"
	"testing"

	"kiln/entry"
)

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

// TestManyExtensions: what is cut up of a certificate is in proportion to it.
func TestManyExtensions(t *testing.T) {
	t.Parallel()
	root := newCA(t, "Root", nil)
	v := newValidator(t, Config{}, root.der)
	tiny := element(derSequence, element(6, []byte{0x2a}), element(4)) // seven bytes
	for n, want := range map[int]bool{maxExtensions: true, maxExtensions + 1: false, 30000: false} {
		leaf := spec{version: 2, key: p256(t), extensions: slices.Repeat([][]byte{tiny}, n)}.issue(t, root)
		_, err := check(v, [][]byte{leaf.der}, entry.X509)
		if want && err != nil {
			t.Errorf("%d extensions: %v", n, err)
		}
		if !want {
			wantReason(t, err, ReasonMalformed)
		}
	}
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
	namesake := newCA(t, "Root", nil)
	if err := v.SetRoots([][]byte{root.der, namesake.der}); err != nil {
		t.Fatal(err)
	}
	_, err := check(v, [][]byte{leaf(), inter.der, namesake.der}, entry.X509)
	wantReason(t, err, ReasonSignature)
	forged := bytes.Clone(inter.der)
	forged[len(forged)-1] ^= 1
	_, err = check(v, [][]byte{leaf(), forged}, entry.X509)
	wantReason(t, err, ReasonSignature)
	if err := v.SetRoots([][]byte{newCA(t, "Another", nil).der}); err != nil {
		t.Fatal(err)
	}
	_, err = check(v, [][]byte{leaf(), inter.der}, entry.X509)
	wantReason(t, err, ReasonUnknownRoot)
	_, err = check(v, [][]byte{leaf(), inter.der, root.der}, entry.X509)
	wantReason(t, err, ReasonUnknownRoot)
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
