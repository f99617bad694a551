package chain

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kiln/entry"
)

func readTestdata(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".gz") {
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if data, err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func testRoots(t testing.TB, names ...string) [][]byte {
	t.Helper()
	var roots [][]byte
	for _, name := range names {
		ders, err := ParseRoots(readTestdata(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		roots = append(roots, ders...)
	}
	return roots
}

func newValidator(t testing.TB, cfg Config, roots ...[]byte) *Validator {
	t.Helper()
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.SetRoots(roots); err != nil {
		t.Fatal(err)
	}
	return v
}

// check runs a whole validation.
func check(v *Validator, chain [][]byte, typ entry.Type) (*Candidate, error) {
	c, err := v.Prepare(chain, typ)
	if err == nil {
		err = c.VerifyLeaf()
	}
	return c, err
}

func mustCheck(t testing.TB, v *Validator, chain [][]byte, typ entry.Type) *Candidate {
	t.Helper()
	c, err := check(v, chain, typ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantReason fails unless err is a refusal, for this reason if one is given,
// that says something.
func wantReason(t testing.TB, err error, reason Reason) {
	t.Helper()
	var rejected *RejectedError
	if !errors.As(err, &rejected) {
		t.Fatalf("got error %v, want a refusal (%s)", err, reason)
	}
	if !slices.Contains(Reasons(), rejected.Reason) {
		t.Fatalf("reason %q is not in Reasons", rejected.Reason)
	}
	if reason != "" && rejected.Reason != reason {
		t.Fatalf("got reason %s (%s), want %s", rejected.Reason, rejected.Detail, reason)
	}
	if rejected.Detail == "" || rejected.Error() != rejected.Detail {
		t.Fatalf("refusal says %q, detail %q", rejected.Error(), rejected.Detail)
	}
}

func fingerprintsOf(ders ...[]byte) []string {
	fps := make([]string, len(ders))
	for i, der := range ders {
		sum := sha256.Sum256(der)
		fps[i] = hex.EncodeToString(sum[:])
	}
	return fps
}

func hexes(fps [][32]byte) []string {
	out := make([]string, len(fps))
	for i, fp := range fps {
		out[i] = hex.EncodeToString(fp[:])
	}
	return out
}

func endpointType(endpoint string) entry.Type {
	if endpoint == "add-pre-chain" {
		return entry.Precert
	}
	return entry.X509
}

// realChain is a line of real-chains.jsonl.gz or odd-chains.jsonl.gz.
type realChain struct {
	ID               string   `json:"id"`
	Variant          string   `json:"variant"`
	Endpoint         string   `json:"endpoint"`
	Chain            [][]byte `json:"chain"`
	RootSHA256       string   `json:"root_sha256"`
	RootAlternatives []string `json:"root_alternatives"`
	RootIncluded     bool     `json:"root_included"`
	LoggedChain      string   `json:"logged_chain"`
	IssuerKeyHash    string   `json:"issuer_key_hash"`
	TBSSHA256        string   `json:"tbs_sha256"`
	SigAlg           string   `json:"sig_alg"`
	NotAfter         string   `json:"not_after"`

	Kind          string   `json:"kind"`
	WhyOdd        []string `json:"why_odd"`
	Expect        string   `json:"expect"`
	NeedsTestRoot bool     `json:"needs_test_root"`
}

func (c *realChain) typ() entry.Type { return endpointType(c.Endpoint) }

func readChains(t testing.TB, name string) []realChain {
	t.Helper()
	var chains []realChain
	d := json.NewDecoder(bytes.NewReader(readTestdata(t, name)))
	for d.More() {
		var c realChain
		if err := d.Decode(&c); err != nil {
			t.Fatal(err)
		}
		chains = append(chains, c)
	}
	if len(chains) < 100 {
		t.Fatalf("%s has %d chains", name, len(chains))
	}
	return chains
}

// vectors is the part of vectors.json that concerns chains.
type vectors struct {
	Certs   map[string]string `json:"certs_b64"`
	Entries []struct {
		Name          string   `json:"name"`
		Fingerprints  []string `json:"chain_fingerprints_hex"`
		TBS           string   `json:"tbs_b64"`
		IssuerKeyHash string   `json:"issuer_key_hash_hex"`
		TileLeaf      string   `json:"tile_leaf_b64"`
		LeafHash      string   `json:"merkle_leaf_hash_hex"`
		Index         int64    `json:"index"`
		Timestamp     int64    `json:"timestamp_ms"`
	} `json:"entries"`
	Final struct {
		Certificate string `json:"final_17_with_embedded_sct_b64"`
	} `json:"final_certificate"`
	Submissions struct {
		Config struct {
			Start time.Time `json:"start_inclusive"`
			End   time.Time `json:"end_exclusive"`
			Roots []string  `json:"accepted_roots"`
		} `json:"log_config"`
		Cases []struct {
			Chain    []string `json:"chain"`
			Endpoint string   `json:"endpoint"`
			Status   string   `json:"status"`
			Why      string   `json:"why"`
		} `json:"cases"`
	} `json:"submission_cases"`
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	var v vectors
	if err := json.Unmarshal(readTestdata(t, "vectors.json"), &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// chain returns certificates by name.
func (v *vectors) chain(t testing.TB, names ...string) [][]byte {
	t.Helper()
	var ders [][]byte
	for _, name := range names {
		if v.Certs[name] == "" {
			t.Fatalf("no certificate %q in the vectors", name)
		}
		ders = append(ders, unbase64(t, v.Certs[name]))
	}
	return ders
}

// config returns the log configuration of the submission cases.
func (v *vectors) config() Config {
	return Config{
		NotAfterStart: v.Submissions.Config.Start, NotAfterLimit: v.Submissions.Config.End,
		RequireServerAuth: true,
	}
}
