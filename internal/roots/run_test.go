package roots

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
	"kiln/internal/chain"
)

// TestRun refreshes at the start, by the clock, sooner after a failure, and when
// it is told to.
func TestRun(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 8)
	dir := t.TempDir()
	report := filepath.Join(dir, "report.csv")
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{}
		m, err := NewManager(Config{File: filepath.Join(dir, "roots.pem"), Reports: []string{report}, Logs: []Log{log}, Refresh: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		lists := func(n int) { mustWrite(t, report, reportOf(includedHeader, roots[:n]...)) }
		accepts := func(when string, n int) {
			t.Helper()
			synctest.Wait()
			if got := len(log.told()[len(log.told())-1]); got != n+1 {
				t.Errorf("%s: the log accepts %d, want %d", when, got, n+1)
			}
		}
		lists(1)
		go func() {
			defer close(done)
			m.Run(ctx)
		}()
		accepts("at the start", 1)
		lists(2)
		time.Sleep(24*time.Hour - 1)
		accepts("just before the time", 1)
		time.Sleep(time.Nanosecond)
		accepts("at the time", 2)
		lists(3)
		m.Reload()
		accepts("when told to", 3)
		lists(4)
		m.Reload()
		m.Reload()
		accepts("when told twice", 4)
		mustWrite(t, report, []byte("<html>"))
		time.Sleep(24 * time.Hour)
		accepts("after a failure", 4)
		lists(5)
		time.Sleep(retryAfter - 1)
		accepts("before the next attempt", 4)
		time.Sleep(time.Nanosecond)
		accepts("at the next attempt", 5)
		lists(6)
		time.Sleep(24*time.Hour - 1)
		accepts("back to the usual time", 5)
		cancel()
		<-done
	})
}

// TestLogFails keeps the file, and tells the log again the next time.
func TestLogFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serveRoots(testRoots(t, 1)...)
	r.log.err = errors.New("busy")
	m := r.manager()
	if err := m.Refresh(t.Context()); err == nil {
		t.Error("no error")
	}
	r.log.err = nil
	if err := m.Refresh(t.Context()); err != nil || len(r.log.told()) != 1 {
		t.Errorf("%v, told %d times", err, len(r.log.told()))
	}
}

// TestMonitorRoot accepts real chains below Google's Merge Delay Monitor Root,
// which is signed with SHA-1 as its intermediate is, in a log that follows a
// report without it (OPS-06, SUB-23).
func TestMonitorRoot(t *testing.T) {
	t.Parallel()
	if got := monitor(t); got.Fingerprint.String() != monitorFingerprint {
		t.Fatalf("%v is built in", got)
	}
	v, err := chain.New(chain.Config{RequireServerAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.cfg.Logs = []Log{v}
	r.serveRoots(negativeSerial(t, testRoots(t, 1)[0]))
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	if len(v.Roots()) != 2 {
		t.Fatalf("the log accepts %d roots, want the reported one and the monitor's", len(v.Roots()))
	}
	for typ, c := range monitorChains(t) {
		cand, err := v.Prepare(c, typ)
		if err == nil {
			err = cand.VerifyLeaf()
		}
		if err != nil {
			t.Errorf("endpoint %v: %v", typ, err)
		}
	}
}

// monitorChains returns a certificate and a precertificate of the monitor.
func monitorChains(t *testing.T) map[entry.Type][][]byte {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "testdata", "real-chains.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	chains := make(map[entry.Type][][]byte)
	for dec := json.NewDecoder(z); dec.More(); {
		var line struct {
			Endpoint, Root string
			Chain          [][]byte
			RootSHA256     string `json:"root_sha256"`
		}
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line.RootSHA256 != monitorFingerprint {
			continue
		}
		typ := entry.X509
		if line.Endpoint == "add-pre-chain" {
			typ = entry.Precert
		}
		chains[typ] = line.Chain
	}
	if len(chains) != 2 {
		t.Fatalf("there are chains for %d endpoints, want 2", len(chains))
	}
	return chains
}
