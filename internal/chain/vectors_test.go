package chain

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"kiln/entry"
)

func TestSubmissionCases(t *testing.T) {
	t.Parallel()
	vec := readVectors(t)
	if len(vec.Submissions.Cases) != 25 {
		t.Fatalf("there are %d cases, want 25", len(vec.Submissions.Cases))
	}
	for _, serverAuth := range []bool{true, false} {
		cfg := vec.config()
		cfg.RequireServerAuth = serverAuth
		v := newValidator(t, cfg, vec.chain(t, vec.Submissions.Config.Roots...)...)
		for _, c := range vec.Submissions.Cases {
			want := strings.HasPrefix(c.Status, "200")
			switch {
			case strings.Contains(c.Why, "ML-DSA"):
				want = false // permitted, and what we do
			case c.Chain[0] == "no_eku":
				want = !serverAuth
			}
			t.Run(c.Why, func(t *testing.T) {
				cand, err := check(v, vec.chain(t, c.Chain...), endpointType(c.Endpoint))
				if want != (err == nil) {
					t.Fatalf("got error %v, want status %s", err, c.Status)
				}
				if err != nil {
					wantReason(t, err, "")
				} else if cand.Pending() == nil || len(cand.Issuers()) != len(cand.Pending().Chain()) {
					t.Fatalf("no entry, or %d issuers", len(cand.Issuers()))
				}
			})
		}
	}
}

// TestMLDSA accepts an ML-DSA root: chains below it are refused for what they
// are, without harm (EMR-03).
func TestMLDSA(t *testing.T) {
	t.Parallel()
	vec := readVectors(t)
	v := newValidator(t, Config{}, vec.chain(t, "mldsa44_root", "root")...)
	for _, names := range [][]string{{"mldsa44_leaf", "mldsa44_root"}, {"mldsa44_leaf"}} {
		_, err := check(v, vec.chain(t, names...), entry.X509)
		wantReason(t, err, ReasonAlgorithm)
	}
	mustCheck(t, v, vec.chain(t, "leaf_16", "intermediate"), entry.X509)
}

func TestVectorReasons(t *testing.T) {
	t.Parallel()
	vec := readVectors(t)
	v := newValidator(t, vec.config(), vec.chain(t, "root")...)
	for _, c := range []struct {
		names  string
		typ    entry.Type
		reason Reason
		detail string
	}{
		{"", entry.X509, ReasonEmpty, "empty"},
		{"precert_17 intermediate", entry.X509, ReasonWrongEndpoint, "add-pre-chain"},
		{"leaf_16 intermediate", entry.Precert, ReasonWrongEndpoint, "add-chain"},
		{"leaf_16 root", entry.X509, ReasonBrokenChain, "chain[1] is not the issuer of chain[0]"},
		{"leaf_16", entry.X509, ReasonUnknownRoot, "intermediate is missing"},
		{"leaf_16 intermediate intermediate", entry.X509, ReasonBrokenChain, "chain[2]"},
		{"leaf_unknown_root unknown_root", entry.X509, ReasonUnknownRoot, "get-roots"},
		{"leaf_16_bad_signature intermediate", entry.X509, ReasonSignature, "chain[0]"},
		{"leaf_16_trailing_byte intermediate", entry.X509, ReasonMalformed, "1 bytes follow"},
		{"inner_outer_alg_mismatch intermediate", entry.X509, ReasonMalformed, "signatureAlgorithm"},
		{"na_end intermediate", entry.X509, ReasonNotAfter, "NotAfter 2027-01-01T00:00:00Z is outside [2026-07-01T00:00:00Z, 2027-01-01T00:00:00Z)"},
		{"poison_not_critical intermediate", entry.Precert, ReasonPoison, "critical"},
		{"poison_not_null intermediate", entry.Precert, ReasonPoison, "05 00"},
		{"two_poisons intermediate", entry.Precert, ReasonPoison, "2 poison"},
		{"no_eku intermediate", entry.X509, ReasonExtKeyUsage, "serverAuth"},
	} {
		_, err := check(v, vec.chain(t, strings.Fields(c.names)...), c.typ)
		wantReason(t, err, c.reason)
		if !strings.Contains(err.Error(), c.detail) {
			t.Errorf("%s: detail %q does not say %q", c.names, err, c.detail)
		}
	}
}

func TestVectorEntries(t *testing.T) {
	t.Parallel()
	vec := readVectors(t)
	v := newValidator(t, vec.config(), vec.chain(t, "root")...)
	chains := [][]string{
		{"leaf_16", "intermediate"},
		{"precert_17", "intermediate"},
		{"precert_18_by_psc", "precert_signing_cert", "intermediate"},
	}
	for i, names := range chains {
		want := vec.Entries[i]
		typ := entry.X509
		if i > 0 {
			typ = entry.Precert
		}
		p := mustCheck(t, v, vec.chain(t, names...), typ).Pending()
		withRoot := mustCheck(t, v, vec.chain(t, append(names, "root")...), typ).Pending()
		if p.Key() != withRoot.Key() || p.Digest() != withRoot.Digest() {
			t.Errorf("%s: another entry with the root submitted", want.Name)
		}
		if got := hexes(p.Chain()); !slices.Equal(got, want.Fingerprints) {
			t.Errorf("%s: fingerprints %v, want %v", want.Name, got, want.Fingerprints)
		}
		pl := entry.Placement{Index: want.Index, TimestampMillis: want.Timestamp}
		leafHash := p.LeafHash(pl)
		if got := hex.EncodeToString(leafHash[:]); got != want.LeafHash {
			t.Errorf("%s: leaf hash %s, want %s", want.Name, got, want.LeafHash)
		}
		if got := base64.StdEncoding.EncodeToString(p.AppendTileLeaf(nil, pl)); got != want.TileLeaf {
			t.Errorf("%s: tile leaf\n%s, want\n%s", want.Name, got, want.TileLeaf)
		}
		if typ == entry.X509 {
			continue
		}
		if !bytes.Equal(p.Certificate(), unbase64(t, want.TBS)) {
			t.Errorf("%s: TBS\n%x, want\n%x", want.Name, p.Certificate(), unbase64(t, want.TBS))
		}
		keyHash := p.IssuerKeyHash()
		if got := hex.EncodeToString(keyHash[:]); got != want.IssuerKeyHash {
			t.Errorf("%s: issuer key hash %s, want %s", want.Name, got, want.IssuerKeyHash)
		}
	}
}

// TestFinalCertificate checks that the logged TBS is the one that a client
// rebuilds from the final certificate (SUB-28, SUB-30).
func TestFinalCertificate(t *testing.T) {
	t.Parallel()
	vec := readVectors(t)
	final, err := parseCertificate(unbase64(t, vec.Final.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	tbs, err := splice(final, oidSCTList, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := unbase64(t, vec.Entries[1].TBS); !bytes.Equal(tbs, want) {
		t.Errorf("TBS of the final certificate without SCTs\n%x, logged\n%x", tbs, want)
	}
	v := newValidator(t, vec.config(), vec.chain(t, "root")...)
	cand := mustCheck(t, v, [][]byte{final.raw, vec.chain(t, "intermediate")[0]}, entry.X509)
	if !cand.Pending().LowPriority() {
		t.Error("a certificate with SCTs is not of low priority")
	}
}
