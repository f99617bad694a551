package testlogs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	ct "github.com/google/certificate-transparency-go"
	ctx509 "github.com/google/certificate-transparency-go/x509"
)

func ExampleShards() {
	for _, s := range Shards(time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)) {
		fmt.Println(s.Name, s.Start.Format(time.DateOnly), s.Limit.Format(time.DateOnly))
	}
	// Output:
	// dev2026h2 2026-07-01 2027-01-01
	// dev2027h1 2027-01-01 2027-07-01
}

func TestShardsAbut(t *testing.T) {
	t.Parallel()
	for _, now := range []string{"2026-01-01T00:00:00Z", "2026-06-30T23:59:59Z", "2026-07-01T00:00:00Z", "2026-12-31T23:59:59Z"} {
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		s := Shards(at)
		if at.Before(s[0].Start) || !at.Before(s[0].Limit) || !s[0].Limit.Equal(s[1].Start) {
			t.Errorf("Shards(%s) = %v", now, s)
		}
		if s[0].Start.AddDate(0, 6, 0) != s[0].Limit || s[1].Start.AddDate(0, 6, 0) != s[1].Limit {
			t.Errorf("Shards(%s) = %v: not half-years", now, s)
		}
	}
}

// TestSignedEntry compares this package's reading of RFC 6962 with
// certificate-transparency-go's, for every way of issuing and every key type.
func TestSignedEntry(t *testing.T) {
	t.Parallel()
	for _, alg := range []Algorithm{P256, P384, RSA2048} {
		ca, err := NewCA(CAOptions{Algorithm: alg})
		if err != nil {
			t.Fatal(err)
		}
		for name, issue := range map[string]func(LeafOptions) (Chain, error){
			"leaf": ca.Leaf, "precert": ca.Precert, "precert by signer": ca.PrecertBySigner,
		} {
			chain, err := issue(LeafOptions{Extra: 300})
			if err != nil {
				t.Fatal(err)
			}
			got, err := newSignedEntry(chain.Certificates, chain.Precert)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			var certs []*ctx509.Certificate
			for _, der := range chain.Certificates {
				c, err := ctx509.ParseCertificate(der)
				if ctx509.IsFatal(err) {
					t.Fatal(err)
				}
				certs = append(certs, c)
			}
			etype := ct.X509LogEntryType
			if chain.Precert {
				etype = ct.PrecertLogEntryType
			}
			want, err := ct.MerkleTreeLeafFromChain(certs, etype, 1)
			if err != nil {
				t.Fatal(err)
			}
			hash, err := ct.LeafHashForLeaf(want)
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(append([]byte{0}, got.merkleTreeLeaf(1, nil)...)); sum != hash {
				t.Errorf("algorithm %d, %s: leaf hash %x, certificate-transparency-go has %x", alg, name, sum, hash)
			}
		}
	}
}

// TestVectorEntries checks the same against the bytes of the shared vectors.
func TestVectorEntries(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Certs map[string][]byte `json:"certs_b64"`
		Log   struct {
			SPKI []byte `json:"spki_der_b64"`
		} `json:"log"`
		Entries []struct {
			Hash string `json:"merkle_leaf_hash_hex"`
			JSON string `json:"response_json"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	c, err := NewClient("http://unused.example/", v.Log.SPKI, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, names := range [][]string{
		{"leaf_16", "intermediate", "root"},
		{"precert_17", "intermediate", "root"},
		{"precert_18_by_psc", "precert_signing_cert", "intermediate", "root"},
	} {
		chain := Chain{Precert: i > 0}
		for _, n := range names {
			chain.Certificates = append(chain.Certificates, v.Certs[n])
		}
		sct, err := c.Check(chain, []byte(v.Entries[i].JSON))
		if err != nil {
			t.Errorf("entry %d: %v", i, err)
			continue
		}
		if sct.Index != int64(i) || hex.EncodeToString(sct.LeafHash[:]) != v.Entries[i].Hash {
			t.Errorf("entry %d: index %d, leaf hash %x", i, sct.Index, sct.LeafHash)
		}
		other := bytes.Replace([]byte(v.Entries[i].JSON), []byte(`"timestamp":178`), []byte(`"timestamp":177`), 1)
		if _, err := c.Check(chain, other); err == nil {
			t.Errorf("entry %d: an SCT with another timestamp was taken", i)
		}
	}
}

func TestSaveCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := LoadCA(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadCA of an empty folder: %v, want fs.ErrNotExist", err)
	}
	ca, err := NewCA(CAOptions{Algorithm: P384})
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(loaded.RootPEM(), ca.RootPEM()) {
		t.Error("another root came back")
	}
	chain, err := loaded.Precert(LeafOptions{})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(chain.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	parent, err := x509.ParseCertificate(chain.Certificates[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.CheckSignatureFrom(parent); err != nil {
		t.Errorf("the saved intermediate's key is not its own: %v", err)
	}
}
