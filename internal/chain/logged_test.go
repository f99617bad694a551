package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"

	"kiln/entry"
)

func readLogged(t *testing.T, der []byte) Logged {
	t.Helper()
	l, err := ReadLogged(der)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// What real logs have stored is found to be right, and what belongs to another
// certificate wrong.
func TestLoggedReal(t *testing.T) {
	t.Parallel()
	chains := readChains(t, "real-chains.jsonl.gz")
	var before []byte // another TBSCertificate
	precerts := 0
	for i := range chains {
		c := &chains[i]
		links := make([]Logged, len(c.Chain))
		for j, der := range c.Chain {
			links[j] = readLogged(t, der)
			if j == 0 {
				continue
			}
			if !links[j-1].NamesIssuer(links[j]) {
				t.Errorf("%s: certificate %d is not named as the issuer", c.ID, j)
			}
			if signed, certain := links[j-1].SignedBy(links[j]); !signed || !certain {
				t.Errorf("%s: certificate %d has not signed (%v, %v)", c.ID, j, signed, certain)
			}
			if signed, _ := links[j].SignedBy(links[j-1]); signed {
				t.Errorf("%s: certificate %d has signed its issuer", c.ID, j-1)
			}
		}
		if c.typ() != entry.Precert {
			continue
		}
		precerts++
		tbs, err := PrecertTBS(links[0], nil)
		if err != nil {
			t.Fatal(err)
		}
		sum, keyHash := sha256.Sum256(tbs), links[1].KeyHash()
		if hex.EncodeToString(sum[:]) != c.TBSSHA256 || hex.EncodeToString(keyHash[:]) != c.IssuerKeyHash || links[1].SignsPrecerts() {
			t.Errorf("%s: TBSCertificate %x, issuer key hash %x", c.ID, sum, keyHash)
		}
		if why := Contradiction(links[0], tbs, false); why != "" {
			t.Errorf("%s: TBSCertificate %s", c.ID, why)
		}
		if before != nil && !bytes.Equal(before, tbs) && Contradiction(links[0], before, false) == "" {
			t.Errorf("%s: the TBSCertificate of another was taken", c.ID)
		}
		before = tbs
	}
	if precerts < 500 {
		t.Errorf("there were %d precertificates", precerts)
	}
}

// No byte of a TBSCertificate can be changed and not contradict, but for those
// that are looked at elsewhere or may be written in another way.
func TestContradiction(t *testing.T) {
	t.Parallel()
	chains := readChains(t, "real-chains.jsonl.gz")
	i := slices.IndexFunc(chains, func(c realChain) bool { return c.typ() == entry.Precert })
	precert := readLogged(t, chains[i].Chain[0])
	tbs, err := PrecertTBS(precert, nil)
	if err != nil {
		t.Fatal(err)
	}
	missed := 0
	for at := range tbs {
		changed := bytes.Clone(tbs)
		changed[at] ^= 1
		if Contradiction(precert, changed, false) == "" {
			missed++
		}
	}
	if algorithm := len(precert.algorithm); missed > algorithm+2 { // and version
		t.Errorf("%d of %d changes were missed, the signature algorithm has %d", missed, len(tbs), algorithm)
	}
	for name, other := range map[string][]byte{
		"nothing": nil, "garbage": []byte("garbage"), "the precertificate's own": precert.tbs,
		"a byte after": append(bytes.Clone(tbs), 0), "a byte less": tbs[:len(tbs)-1],
	} {
		if Contradiction(precert, other, false) == "" {
			t.Errorf("%s was taken", name)
		}
	}
}

func FuzzContradiction(f *testing.F) {
	f.Add([]byte{0x30, 0}, []byte{0x30, 0})
	f.Fuzz(func(_ *testing.T, der, tbs []byte) {
		if l, err := ReadLogged(der); err == nil {
			_ = Contradiction(l, tbs, false)
			_ = Contradiction(l, tbs, true)
			l.SignedBy(l)
		}
	})
}
