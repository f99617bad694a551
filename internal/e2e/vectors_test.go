package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/testlogs"
)

// vectors is the part of testdata/vectors.json about submissions.
type vectors struct {
	Certs map[string][]byte `json:"certs_b64"`
	Log   struct {
		Key  string `json:"private_key_pkcs8_pem"` // a public test key
		SPKI []byte `json:"spki_der_b64"`
	} `json:"log"`
	Submissions struct {
		Config struct {
			Roots []string  `json:"accepted_roots"`
			Start time.Time `json:"start_inclusive"`
			End   time.Time `json:"end_exclusive"`
		} `json:"log_config"`
		Cases []submissionCase `json:"cases"`
		Raw   []string         `json:"raw_bodies_400"`
	} `json:"submission_cases"`
}

type submissionCase struct {
	Chain    []string `json:"chain"`
	Endpoint string   `json:"endpoint"`
	Status   string   `json:"status"`
	Why      string   `json:"why"`
}

func readVectors(t *testing.T) *vectors {
	t.Helper()
	data, err := os.ReadFile("../../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
	if len(v.Submissions.Cases) != 25 || len(v.Submissions.Raw) != 9 {
		t.Fatalf("vectors have %d cases and %d raw bodies, want 25 and 9", len(v.Submissions.Cases), len(v.Submissions.Raw))
	}
	return v
}

// start runs the log that the vectors describe, with further roots by name.
func (v *vectors) start(t *testing.T, requireServerAuth bool, roots ...string) *testlogs.Log {
	t.Helper()
	var file []byte
	for _, name := range append(roots, v.Submissions.Config.Roots...) {
		file = append(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Certs[name]})...)
	}
	return testlogs.Start(t, testlogs.Options{
		Key: []byte(v.Log.Key), Roots: file,
		NotAfterStart: v.Submissions.Config.Start, NotAfterLimit: v.Submissions.Config.End,
		Configure: func(c *config.Log) { c.RequireServerAuth = requireServerAuth },
	})
}

// chain is what a case submits, completed to the root so that the SCT can be
// checked.
func (v *vectors) chain(c submissionCase) (chain testlogs.Chain) {
	chain.Precert = c.Endpoint == "add-pre-chain"
	for _, name := range c.Chain {
		chain.Certificates = append(chain.Certificates, v.Certs[name])
	}
	if c.Chain[len(c.Chain)-1] == "intermediate" {
		chain.Certificates, chain.OmitRoot = append(chain.Certificates, v.Certs["root"]), true
	}
	return chain
}

// TestSubmissionCases replays every submission case of the vectors, against a
// log that requires serverAuth and one that does not.
func TestSubmissionCases(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for _, require := range []bool{true, false} {
		t.Run(fmt.Sprintf("require_server_auth=%t", require), func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 2*time.Minute)
			log := v.start(t, require)
			if !bytes.Equal(log.SPKI, v.Log.SPKI) {
				t.Fatal("the log does not run with the key of the vectors")
			}
			answers := map[string][]byte{} // by name of the leaf
			for _, c := range v.Submissions.Cases {
				want := http.StatusBadRequest // ML-DSA: its root is not accepted here
				if c.Status == "200" || c.Chain[0] == "no_eku" && !require {
					want = http.StatusOK
				}
				sct, err := log.Client().Submit(ctx, v.chain(c))
				if got := statusOf(t, c.Why, err); got != want {
					t.Errorf("%s: status %d (%v), want %d", c.Why, got, err, want)
				}
				if err != nil {
					continue
				}
				if before := answers[c.Chain[0]]; before != nil && !bytes.Equal(before, sct.Body) {
					t.Errorf("%s: %s, and %s before", c.Why, sct.Body, before)
				}
				answers[c.Chain[0]] = sct.Body
				if err := log.Auditor().Holds(ctx, sct); err != nil {
					t.Errorf("%s: %v", c.Why, err)
				}
			}
			v.checkExtraFields(t, ctx, log, answers["leaf_16"])
			v.checkRoots(t, ctx, log)
			// Refused submissions leave no trace (SUB-35).
			if report := audit(t, ctx, log.Auditor()); report.Checkpoint.N != int64(len(answers)) {
				t.Errorf("the log has %d entries after %d different accepted submissions", report.Checkpoint.N, len(answers))
			}
		})
	}
}

// statusOf returns the HTTP status of a submission; a refusal has to say why.
func statusOf(t *testing.T, why string, err error) int {
	t.Helper()
	var status *testlogs.StatusError
	switch {
	case err == nil:
		return http.StatusOK
	case !errors.As(err, &status):
		t.Errorf("%s: %v", why, err)
		return 0
	}
	if len(status.Text) < 10 || len(status.Text) > 1000 || strings.Contains(status.Text, "\n") {
		t.Errorf("%s: refused with %q, want a sentence", why, status.Text)
	}
	return status.Code
}

// checkExtraFields submits leaf_16 again with a member that the log does not
// know and without a Content-Type (SUB-04).
func (v *vectors) checkExtraFields(t *testing.T, ctx context.Context, log *testlogs.Log, want []byte) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"x": 1, "chain": [][]byte{v.Certs["leaf_16"], v.Certs["intermediate"]}})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, log.URL()+"ct/v1/add-chain", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got bytes.Buffer
	if _, err := got.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("with an extra member: status %d: %s, want %s", resp.StatusCode, &got, want)
	}
}

func (v *vectors) checkRoots(t *testing.T, ctx context.Context, log *testlogs.Log) {
	t.Helper()
	roots, err := log.Client().Roots(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{string(v.Certs["root"]): true, string(log.CA.Root()): true}
	for _, r := range roots {
		if !want[string(r)] {
			t.Errorf("get-roots has %x, which is no accepted root", r)
		}
		delete(want, string(r))
	}
	if len(want) > 0 {
		t.Errorf("get-roots lacks %d accepted roots", len(want))
	}
}

// TestRawBodies posts every malformed body of the vectors to both endpoints.
func TestRawBodies(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	log := v.start(t, true)
	ctx := deadline(t, time.Minute)
	for _, endpoint := range []string{"add-chain", "add-pre-chain"} {
		for _, body := range v.Submissions.Raw {
			_, err := log.Client().Post(ctx, endpoint, []byte(body))
			why := fmt.Sprintf("%s %q", endpoint, body)
			if got := statusOf(t, why, err); got != http.StatusBadRequest {
				t.Errorf("%s: status %d (%v), want 400", why, got, err)
			}
		}
	}
	if c, err := log.Auditor().Observe(ctx); err != nil || c.N != 0 {
		t.Errorf("checkpoint after nothing but malformed bodies: size %d, %v", c.N, err)
	}
}

// TestMLDSA submits the ML-DSA chain to a log that accepts its root: a log may
// refuse what it cannot verify, but properly (EMR-03).
func TestMLDSA(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	log := v.start(t, false, "mldsa44_root")
	ctx := deadline(t, time.Minute)
	_, err := log.Client().Submit(ctx, testlogs.Chain{Certificates: [][]byte{v.Certs["mldsa44_leaf"], v.Certs["mldsa44_root"]}})
	if got := statusOf(t, "ML-DSA", err); got != http.StatusOK && got != http.StatusBadRequest {
		t.Errorf("status %d (%v), want 200 or 400", got, err)
	}
	audit(t, ctx, log.Auditor())
}
