package e2e_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"filippo.io/sunlight"
	ct "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"golang.org/x/sync/errgroup"

	"kiln/testlogs"
)

// realChain is a line of testdata/real-chains.jsonl.gz.
type realChain struct {
	ID               string   `json:"id"`
	Endpoint         string   `json:"endpoint"`
	Root             string   `json:"root_sha256"`
	RootAlternatives []string `json:"root_alternatives"`
	RootIncluded     bool     `json:"root_included"`
	Chain            [][]byte `json:"chain"`
	IssuerKeyHash    string   `json:"issuer_key_hash"`
	TBS              string   `json:"tbs_sha256"`
}

func (c *realChain) precert() bool { return c.Endpoint == "add-pre-chain" }

func readRealChains(t *testing.T) (chains []*realChain) {
	t.Helper()
	f, err := os.Open("../../testdata/real-chains.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		c := new(realChain)
		if err := json.Unmarshal(lines.Bytes(), c); err != nil {
			t.Fatal(err)
		}
		chains = append(chains, c)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(chains) != 1571 {
		t.Fatalf("there are %d real chains, want 1571", len(chains))
	}
	return chains
}

// TestRealChains puts every real chain into one log with a wide window, by
// certificate-transparency-go's client as it is, and has the whole log read back
// by testlogs' auditor, sunlight's client and certspotter.
func TestRealChains(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 5*time.Minute)
	roots, err := os.ReadFile("../../testdata/roots.pem")
	if err != nil {
		t.Fatal(err)
	}
	log := testlogs.Start(t, testlogs.Options{
		Roots:         roots,
		NotAfterStart: time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfterLimit: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC),
	})
	chains := readRealChains(t)
	checkRealRoots(t, ctx, log, roots)
	scts := submitRealChains(t, ctx, log, chains)
	resubmitRealChains(t, ctx, log, chains, scts)
	names := pad(t, ctx, log)

	report := audit(t, ctx, log.Auditor())
	if report.Checkpoint.N%256 != 0 || report.SCTs < len(chains) {
		t.Fatalf("report is %+v, want a multiple of 256 entries and %d SCTs", report, len(chains))
	}
	readWithSunlight(t, ctx, log, report.Checkpoint, chains)
	readWithCertspotter(t, ctx, log, report.Checkpoint, names[0])
}

func ctClient(t *testing.T, log *testlogs.Log) *client.LogClient {
	t.Helper()
	c, err := client.New(log.URL(), &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}, jsonclient.Options{PublicKeyDER: log.SPKI})
	if err != nil {
		t.Fatal(err)
	}
	if c.Verifier == nil {
		t.Fatal("certificate-transparency-go's client does not verify")
	}
	return c
}

func checkRealRoots(t *testing.T, ctx context.Context, log *testlogs.Log, file []byte) {
	t.Helper()
	got, err := ctClient(t, log).GetAcceptedRoots(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{string(log.CA.Root()): true}
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		want[string(block.Bytes)] = true
	}
	for _, r := range got {
		if !want[string(r.Data)] {
			t.Error("get-roots has a certificate that is no accepted root")
		}
		delete(want, string(r.Data))
	}
	if len(want) > 0 {
		t.Errorf("get-roots lacks %d accepted roots", len(want))
	}
}

// submitRealChains adds all chains and returns their SCTs, which the client has
// verified.
func submitRealChains(t *testing.T, ctx context.Context, log *testlogs.Log, chains []*realChain) []*ct.SignedCertificateTimestamp {
	t.Helper()
	c := ctClient(t, log)
	scts := make([]*ct.SignedCertificateTimestamp, len(chains))
	var g errgroup.Group
	g.SetLimit(32)
	for i, chain := range chains {
		g.Go(func() (err error) {
			var certs []ct.ASN1Cert
			for _, der := range chain.Chain {
				certs = append(certs, ct.ASN1Cert{Data: der})
			}
			if chain.precert() {
				scts[i], err = c.AddPreChain(ctx, certs)
			} else {
				scts[i], err = c.AddChain(ctx, certs)
			}
			if err != nil {
				return fmt.Errorf("chain %s: %w", chain.ID, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return scts
}

// resubmitRealChains submits all once more, checks the SCTs with testlogs' code
// and compares them with the first ones. All chains of one certificate have to
// have one SCT.
func resubmitRealChains(t *testing.T, ctx context.Context, log *testlogs.Log, chains []*realChain, scts []*ct.SignedCertificateTimestamp) {
	t.Helper()
	c := log.Client()
	var mu sync.Mutex
	byLeaf := map[[32]byte][]byte{}
	var g errgroup.Group
	g.SetLimit(32)
	for i, chain := range chains {
		g.Go(func() error {
			sct, err := c.Submit(ctx, testlogs.Chain{Certificates: chain.Chain, Precert: chain.precert()})
			if err != nil {
				return fmt.Errorf("chain %s again: %w", chain.ID, err)
			}
			if uint64(sct.TimestampMillis) != scts[i].Timestamp || !bytes.Equal(sct.Extensions, scts[i].Extensions) {
				return fmt.Errorf("chain %s: SCT %d of %d, and of %d before", chain.ID, sct.Index, sct.TimestampMillis, scts[i].Timestamp)
			}
			mu.Lock()
			defer mu.Unlock()
			leaf := sha256.Sum256(chain.Chain[0])
			if before := byLeaf[leaf]; before != nil && !bytes.Equal(before, sct.Body) {
				return fmt.Errorf("chain %s: another SCT than by the certificate's other chain", chain.ID)
			}
			byLeaf[leaf] = sct.Body
			log.Auditor().Remember(sct)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	checkpoint, err := log.Auditor().Observe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(byLeaf) != 1472 || checkpoint.N != 1472 {
		t.Fatalf("%d different certificates gave %d entries, want 1472 of each", len(byLeaf), checkpoint.N)
	}
}

// pad fills the log up to a multiple of 256 entries, since monitors hold back
// from partial tiles, and returns the names in the certificates.
func pad(t *testing.T, ctx context.Context, log *testlogs.Log) (names []string) {
	t.Helper()
	checkpoint, err := log.Auditor().Observe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c := log.Client()
	var g errgroup.Group
	g.SetLimit(32)
	for i := range 256 - checkpoint.N%256 {
		names = append(names, fmt.Sprintf("pad-%d.kiln.example", i))
		chain := issue(t, log.CA, int(i), testlogs.LeafOptions{DNS: names[i:]})
		g.Go(func() error {
			sct, err := c.Submit(ctx, chain)
			if err == nil {
				log.Auditor().Remember(sct)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return names
}

// readWithSunlight reads the whole log with filippo.io/sunlight's client, which
// verifies each entry against the checkpoint, and compares the entries with what
// is known of the real chains.
func readWithSunlight(t *testing.T, ctx context.Context, log *testlogs.Log, want testlogs.Checkpoint, chains []*realChain) {
	t.Helper()
	key, err := x509.ParsePKIXPublicKey(log.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sunlight.NewClient(&sunlight.ClientConfig{
		MonitoringPrefix: log.URL(), PublicKey: key, UserAgent: "kiln-e2e (+https://kiln.example)",
		HTTPClient: &http.Client{Timeout: time.Minute},
	})
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, _, err := c.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if checkpoint.N != want.N || checkpoint.Hash != want.Hash {
		t.Fatalf("sunlight's client sees size %d, root %v; want %d, %v", checkpoint.N, checkpoint.Hash, want.N, want.Hash)
	}
	byLeaf := map[[32]byte][]*realChain{}
	for _, chain := range chains {
		leaf := sha256.Sum256(chain.Chain[0])
		byLeaf[leaf] = append(byLeaf[leaf], chain)
	}
	count, known := int64(0), 0
	for i, e := range c.Entries(ctx, checkpoint.Tree, 0) {
		der := e.Certificate
		if e.IsPrecert {
			der = e.PreCertificate
		}
		if lines := byLeaf[sha256.Sum256(der)]; lines != nil {
			known++
			if err := matches(e, lines); err != nil {
				t.Errorf("entry %d, chain %s: %v", i, lines[0].ID, err)
			}
		}
		count++
	}
	if err := c.Err(); err != nil {
		t.Fatalf("sunlight's client: %v", err)
	}
	if count != want.N || known != len(byLeaf) {
		t.Errorf("sunlight's client has read %d entries, %d of them known; want %d and %d", count, known, want.N, len(byLeaf))
	}
	fp := sha256.Sum256(log.CA.Root())
	if issuer, err := c.Issuer(ctx, fp); err != nil || !bytes.Equal(issuer.Raw, log.CA.Root()) {
		t.Errorf("sunlight's client: issuer: %v", err)
	}
}

// matches compares an entry with the lines for its certificate; its chain has to
// be that of one of them, ending in an accepted root.
func matches(e *sunlight.LogEntry, lines []*realChain) error {
	line := lines[0]
	if e.IsPrecert != line.precert() {
		return fmt.Errorf("precertificate %t", e.IsPrecert)
	}
	if tbs := sha256.Sum256(e.Certificate); e.IsPrecert &&
		(hex.EncodeToString(tbs[:]) != line.TBS || hex.EncodeToString(e.IssuerKeyHash[:]) != line.IssuerKeyHash) {
		return fmt.Errorf("TBS %x with issuer key hash %x, want %s and %s", tbs, e.IssuerKeyHash, line.TBS, line.IssuerKeyHash)
	}
	for _, line := range lines {
		if line.hasChain(e.ChainFingerprints) {
			return nil
		}
	}
	return fmt.Errorf("chain %x is none that was submitted", e.ChainFingerprints)
}

func (c *realChain) hasChain(fingerprints [][32]byte) bool {
	var want [][32]byte
	for _, der := range c.Chain[1:] {
		want = append(want, sha256.Sum256(der))
	}
	if c.RootIncluded {
		return slices.Equal(fingerprints, want)
	}
	if len(fingerprints) != len(want)+1 {
		return false
	}
	root := hex.EncodeToString(fingerprints[len(want)][:])
	return slices.Equal(fingerprints[:len(want)], want) && (root == c.Root || slices.Contains(c.RootAlternatives, root))
}
