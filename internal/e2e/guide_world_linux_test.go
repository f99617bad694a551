package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/csv"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/testlogs"
)

// ccadb is the host of the reports of accepted roots.
const ccadb = "ccadb.my.salesforce-sites.com"

// internet stands for what a guide's commands reach by HTTPS: CCADB, through a
// proxy that leads nowhere else.
type internet struct {
	Proxy  string // its URL
	CAFile string // whom to trust
}

// newInternet starts an internet in which CCADB's reports list some roots.
func newInternet(t *testing.T, dir string, roots [][]byte) *internet {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{ccadb}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	in := &internet{CAFile: filepath.Join(dir, "internet.pem")}
	if err := os.WriteFile(in.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ccadb/RootCACertificatesIncludedByRSReportCSV", serveReport(t, roots))
	mux.HandleFunc("GET /ccadb/RootCACertificatesInclusionReportCSV", serveReport(t, roots[:1]))
	reports := httptest.NewUnstartedServer(mux)
	reports.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	reports.StartTLS()
	t.Cleanup(reports.Close)
	proxy := httptest.NewServer(connectTo(reports.Listener.Addr().String()))
	t.Cleanup(proxy.Close)
	in.Proxy = proxy.URL
	return in
}

// serveReport serves a report in the form of CCADB's.
func serveReport(t *testing.T, roots [][]byte) http.HandlerFunc {
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{{"Subject", "CA Owner", "X.509 Certificate (PEM)", "SHA-256 Fingerprint", "Mozilla Status"}}
	for _, der := range roots {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		rows = append(rows, []string{"CN=Root", "Company", string(text), fmt.Sprintf("%X", sha256.Sum256(der)), "Included"})
	}
	if err := w.WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/csv")
		_, _ = w.Write(b.Bytes())
	}
}

// connectTo is a proxy that takes CCADB for an address, and refuses all else.
func connectTo(address string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != ccadb+":443" {
			http.Error(w, "this is no internet", http.StatusForbidden)
			return
		}
		there, err := new(net.Dialer).DialContext(r.Context(), "tcp", address)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		if _, err := io.WriteString(here, "HTTP/1.1 200 Connected\r\n\r\n"); err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(there, buffered)
			there.Close()
		}()
		_, _ = io.Copy(here, there)
	}
}

// someRoots returns roots of real CAs.
func someRoots(t *testing.T) (roots [][]byte) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "roots.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		roots = append(roots, block.Bytes)
	}
	return roots
}

// inclusionRequest is what a log is applied for with, as far as a CA needs it.
type inclusionRequest struct {
	Key        []byte `json:"key"`
	Submission string `json:"submission_url"`
	Monitoring string `json:"monitoring_url"`
	Interval   struct {
		Start time.Time `json:"start_inclusive"`
		Limit time.Time `json:"end_exclusive"`
	} `json:"temporal_interval"`
}

// users are the CAs and the monitors of the logs that a guide makes, which know
// them from their inclusion requests.
type users struct {
	ca       *testlogs.CA
	requests string // the folder of the requests
	auditors map[string]*testlogs.Auditor
	scts     int
}

// each calls f for each log that was applied for and whose window is open.
func (u *users) each(f func(*inclusionRequest, *testlogs.Auditor) error) error {
	paths, err := filepath.Glob(filepath.Join(u.requests, "*.json"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r := new(inclusionRequest)
		if err := json.Unmarshal(data, r); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if !time.Now().Before(r.Interval.Limit) {
			continue
		}
		a := u.auditors[path]
		if a == nil {
			origin := strings.TrimSuffix(strings.TrimPrefix(r.Submission, "http://"), "/")
			if a, err = testlogs.NewAuditor(testlogs.AuditorConfig{URL: r.Monitoring, Origin: origin, SPKI: r.Key}); err != nil {
				return err
			}
			u.auditors[path] = a
		}
		if err := f(r, a); err != nil {
			return fmt.Errorf("%s: %w", r.Submission, err)
		}
	}
	return nil
}

// submit submits some chains to each log.
func (u *users) submit(ctx context.Context) error {
	return u.each(func(r *inclusionRequest, a *testlogs.Auditor) error {
		c, err := testlogs.NewClient(r.Submission, r.Key, nil)
		if err != nil {
			return err
		}
		opts := testlogs.LeafOptions{NotBefore: r.Interval.Start.AddDate(0, -1, 0), NotAfter: r.Interval.Limit.Add(-time.Second)}
		for _, make := range []func(testlogs.LeafOptions) (testlogs.Chain, error){u.ca.Precert, u.ca.Leaf, u.ca.PrecertBySigner} {
			chain, err := make(opts)
			if err != nil {
				return err
			}
			sct, err := c.Submit(ctx, chain)
			if err != nil {
				return err
			}
			a.Remember(sct)
			u.scts++
		}
		return nil
	})
}

// audit reads all logs, and finds each SCT's entry.
func (u *users) audit(ctx context.Context) error {
	return u.each(func(_ *inclusionRequest, a *testlogs.Auditor) error {
		_, err := a.Audit(ctx)
		return err
	})
}

// listCommands returns the names of all commands of a kiln, as its help lists
// them.
func listCommands(run func(args ...string) (string, error)) (names []string, err error) {
	top, err := run("help")
	if err != nil {
		return nil, err
	}
	for _, line := range listed(top) {
		name, isGroup := strings.CutSuffix(line, " ...")
		if !isGroup {
			names = append(names, name)
			continue
		}
		text, err := run("help", name)
		if err != nil {
			return nil, err
		}
		names = append(names, listed(text)...)
	}
	if len(names) == 0 {
		return nil, errors.New("kiln help lists no commands")
	}
	return names, nil
}

// listed returns the first column of the indented lines of a help text.
func listed(text string) (names []string) {
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if line, ok := strings.CutPrefix(lines.Text(), "  "); ok {
			name, _, _ := strings.Cut(line, "  ")
			names = append(names, name)
		}
	}
	return names
}
