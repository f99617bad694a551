package chain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	ctx509 "github.com/google/certificate-transparency-go/x509"

	"kiln/entry"
)

func TestRealChains(t *testing.T) {
	t.Parallel()
	chains := readChains(t, "real-chains.jsonl.gz")
	v := newValidator(t, Config{RequireServerAuth: true}, testRoots(t, "roots.pem")...)
	keys := make(map[string]entry.Key)
	alternatives := 0
	for i := range chains {
		c := &chains[i]
		cand, err := check(v, c.Chain, c.typ())
		if err != nil {
			t.Errorf("%s: %v", c.ID, err)
			continue
		}
		if err := matches(c, cand); err != nil {
			t.Errorf("%s: %v", c.ID, err)
		}
		keys[c.ID] = cand.Pending().Key()
		if first, ok := strings.CutPrefix(c.Variant, "alternative chain of "); ok {
			alternatives++
			if keys[first] != cand.Pending().Key() {
				t.Errorf("%s: another key than %s", c.ID, c.Variant)
			}
		}
	}
	if alternatives != 99 {
		t.Errorf("there were %d alternative chains, want 99", alternatives)
	}
}

// matches compares a candidate with what a line says its entry must hold.
func matches(c *realChain, cand *Candidate) error {
	p := cand.Pending()
	got := hexes(p.Chain())
	want := fingerprintsOf(c.Chain[1:]...)
	if !c.RootIncluded {
		if len(got) != len(want)+1 {
			return fmt.Errorf("path of %d, want %d", len(got), len(want)+1)
		}
		root := got[len(got)-1]
		if root != c.RootSHA256 && !slices.Contains(c.RootAlternatives, root) {
			return fmt.Errorf("path ends in %s, want %s or one of %v", root, c.RootSHA256, c.RootAlternatives)
		}
		want = append(want, root)
	}
	if !slices.Equal(got, want) || (c.RootIncluded && got[len(got)-1] != c.RootSHA256) {
		return fmt.Errorf("path %v, want %v", got, want)
	}
	if !slices.Equal(fingerprintsOf(cand.Issuers()...), got) {
		return fmt.Errorf("issuers to store are not those in the fingerprints")
	}
	if c.typ() == entry.X509 {
		return nil
	}
	keyHash, tbs := p.IssuerKeyHash(), sha256.Sum256(p.Certificate())
	if hex.EncodeToString(keyHash[:]) != c.IssuerKeyHash || hex.EncodeToString(tbs[:]) != c.TBSSHA256 {
		return fmt.Errorf("issuer key hash %x, TBS %x; want %s, %s", keyHash, tbs, c.IssuerKeyHash, c.TBSSHA256)
	}
	return nil
}

// TestLoggedChains checks the fingerprints against those a real log stored.
func TestLoggedChains(t *testing.T) {
	t.Parallel()
	chains := readChains(t, "real-chains.jsonl.gz")
	roots := make(map[string][]byte)
	for _, der := range testRoots(t, "roots.pem") {
		roots[fingerprintsOf(der)[0]] = der
	}
	n := 0
	for i := range chains {
		c := &chains[i]
		if c.LoggedChain != "exact" {
			continue
		}
		n++
		v := newValidator(t, Config{}, roots[c.RootSHA256])
		want := fingerprintsOf(c.Chain[1:]...)
		if !c.RootIncluded {
			want = append(want, c.RootSHA256)
		}
		if got := hexes(mustCheck(t, v, c.Chain, c.typ()).Pending().Chain()); !slices.Equal(got, want) {
			t.Errorf("%s: fingerprints %v, want %v", c.ID, got, want)
		}
	}
	if n == 0 {
		t.Fatal("no line has an exact logged chain")
	}
}

// TestRealRoots loads the roots of a live log, with all their oddities.
func TestRealRoots(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, "real-roots.pem.gz")
	if len(roots) != 662 {
		t.Fatalf("read %d roots, want 662", len(roots))
	}
	v := newValidator(t, Config{}, roots...)
	if got := v.Roots(); !slices.Equal(fingerprintsOf(got...), fingerprintsOf(roots...)) {
		t.Errorf("Roots returns %d others", len(got))
	}
	notCA, dsa := 0, 0 // old roots that have issued nothing for the Web in many years
	for i, root := range roots {
		is := v.roots.Load().byFingerprint[sha256.Sum256(root)]
		if !is.mayIssue(true) {
			notCA++
		}
		if _, err := is.key(); err != nil && strings.Contains(err.Error(), "dsa") {
			dsa++
		} else if err != nil {
			t.Errorf("key of root %d: %v", i, err)
		}
	}
	if notCA != 2 || dsa != 3 {
		t.Errorf("%d roots are no CA and %d have DSA keys, want 2 and 3", notCA, dsa)
	}
	accepted := 0
	chains := readChains(t, "real-chains.jsonl.gz")
	for i := range chains {
		if _, err := check(v, chains[i].Chain, chains[i].typ()); err == nil {
			accepted++
		} else {
			wantReason(t, err, ReasonUnknownRoot)
		}
	}
	if accepted != 968 {
		t.Errorf("%d chains were accepted under the live roots, want 968", accepted)
	}
}

func TestOddChains(t *testing.T) {
	t.Parallel()
	chains := readChains(t, "odd-chains.jsonl.gz")
	for _, serverAuth := range []bool{true, false} {
		v := newValidator(t, Config{RequireServerAuth: serverAuth}, testRoots(t, "roots.pem", "odd-roots.pem")...)
		strict := newValidator(t, Config{RequireServerAuth: serverAuth}, testRoots(t, "roots.pem")...)
		for i := range chains {
			c := &chains[i]
			_, err := check(v, c.Chain, c.typ())
			if err != nil {
				wantReason(t, err, "")
			}
			if (c.Expect == "accept" && err != nil) || (c.Expect == "reject" && err == nil) {
				t.Errorf("%s (%s): got %v, want %s", c.ID, strings.Join(c.WhyOdd, ", "), err, c.Expect)
			}
			if _, err := check(strict, c.Chain, c.typ()); c.NeedsTestRoot {
				wantReason(t, err, "")
			}
		}
	}
}

// TestReadsWhatOthersRead checks that every certificate of the test data that
// certificate-transparency-go can read is read here, and alike.
func TestReadsWhatOthersRead(t *testing.T) {
	t.Parallel()
	ders := testRoots(t, "roots.pem", "real-roots.pem.gz", "odd-roots.pem")
	for _, name := range []string{"real-chains.jsonl.gz", "odd-chains.jsonl.gz"} {
		for _, c := range readChains(t, name) {
			ders = append(ders, c.Chain...)
		}
	}
	seen := make(map[string]bool)
	for _, der := range ders {
		fp := fingerprintsOf(der)[0]
		if seen[fp] {
			continue
		}
		seen[fp] = true
		theirs, err := ctx509.ParseCertificate(der)
		if ctx509.IsFatal(err) {
			continue
		}
		ours, err := parseCertificate(der)
		if err != nil {
			t.Errorf("%s: %v", fp, err)
			continue
		}
		if err := alike(ours, theirs); err != nil {
			t.Errorf("%s: %v", fp, err)
		}
	}
}

// alike compares our reading of a certificate with another one.
func alike(ours *certificate, theirs *ctx509.Certificate) error {
	switch {
	case string(ours.tbs) != string(theirs.RawTBSCertificate):
		return fmt.Errorf("TBS differs")
	case string(ours.issuer) != string(theirs.RawIssuer):
		return fmt.Errorf("issuer differs")
	case string(ours.subject) != string(theirs.RawSubject):
		return fmt.Errorf("subject differs")
	case string(ours.spki) != string(theirs.RawSubjectPublicKeyInfo):
		return fmt.Errorf("key differs")
	case string(ours.signature) != string(theirs.Signature):
		return fmt.Errorf("signature differs")
	case !ours.notAfter.Equal(theirs.NotAfter) || !ours.notBefore.Equal(theirs.NotBefore):
		return fmt.Errorf("validity %v to %v, want %v to %v", ours.notBefore, ours.notAfter, theirs.NotBefore, theirs.NotAfter)
	case len(ours.extensions) != len(theirs.Extensions):
		return fmt.Errorf("%d extensions, want %d", len(ours.extensions), len(theirs.Extensions))
	}
	for i, e := range theirs.Extensions {
		if o := ours.extensions[i]; string(o.value) != string(e.Value) || o.critical != e.Critical {
			return fmt.Errorf("extension %d differs", i)
		}
	}
	if _, n := ours.find(oidBasicConstraints); n == 1 && ours.isCA != theirs.IsCA {
		return fmt.Errorf("CA is %v, want %v", ours.isCA, theirs.IsCA)
	}
	for usage, oid := range map[ctx509.ExtKeyUsage]string{
		ctx509.ExtKeyUsageServerAuth: oidServerAuth, ctx509.ExtKeyUsageCertificateTransparency: oidPrecertSigning,
	} {
		if ours.hasUsage(oid) != slices.Contains(theirs.ExtKeyUsage, usage) {
			return fmt.Errorf("extended key usage %d differs", usage)
		}
	}
	return nil
}

// TestWindow cuts through the NotAfter of a real chain from both sides (SUB-21).
func TestWindow(t *testing.T) {
	t.Parallel()
	c := readChains(t, "real-chains.jsonl.gz")[0]
	notAfter, err := time.Parse(time.RFC3339, c.NotAfter)
	if err != nil {
		t.Fatal(err)
	}
	far, second := 365*24*time.Hour, time.Second
	for _, w := range []struct {
		name         string
		start, limit time.Time
		want         bool
	}{
		{"at start", notAfter, notAfter.Add(far), true},
		{"before start", notAfter.Add(second), notAfter.Add(far), false},
		{"at limit", notAfter.Add(-far), notAfter, false},
		{"before limit", notAfter.Add(-far), notAfter.Add(second), true},
		{"one second wide", notAfter, notAfter.Add(second), true},
		{"only start, at", notAfter, time.Time{}, true},
		{"only start, before", notAfter.Add(second), time.Time{}, false},
		{"only limit, at", time.Time{}, notAfter, false},
		{"only limit, before", time.Time{}, notAfter.Add(second), true},
		{"unbounded", time.Time{}, time.Time{}, true},
		{"another zone", notAfter.In(time.FixedZone("", 3600)), notAfter.Add(second).In(time.FixedZone("", -3600)), true},
	} {
		v := newValidator(t, Config{NotAfterStart: w.start, NotAfterLimit: w.limit}, testRoots(t, "roots.pem")...)
		_, err := check(v, c.Chain, c.typ())
		if w.want != (err == nil) {
			t.Errorf("%s: got %v", w.name, err)
		}
		if err != nil {
			wantReason(t, err, ReasonNotAfter)
		}
	}
}
