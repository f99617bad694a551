package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/csv"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/internal/roots"
)

// liveRoots returns the PEM of the roots of a live log.
func liveRoots() ([]*pem.Block, error) {
	f, err := os.Open(filepath.Join("..", "..", "testdata", "real-roots.pem.gz"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	var all []*pem.Block
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return all, nil
		}
		all = append(all, block)
	}
}

// includedReport writes roots from to limit of a live log as CCADB does.
func includedReport(from, limit int) ([]byte, error) {
	all, err := liveRoots()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{
		{
			"Subject", "CA Owner", "X.509 Certificate (PEM)", "SHA-256 Fingerprint", "Intended Use Case(s) Served",
			"Apple Status", "Google Chrome Status", "Microsoft Status", "Mozilla Status",
		},
		{"Example CA", "Example", "", "", "", "", "", "", ""},
	}
	for _, block := range all[from:limit] {
		rows = append(rows, []string{
			"CN=Root; C=XX", "Company", string(pem.EncodeToMemory(block)), fmt.Sprintf("%X", sha256.Sum256(block.Bytes)),
			"Server Authentication (TLS) 1.3.6.1.5.5.7.3.1", "Included", "Included", "Included", "Included",
		})
	}
	err = w.WriteAll(rows)
	return b.Bytes(), err
}

// report is "report FILE FROM LIMIT": writes a CCADB report with some roots of a
// live log.
func report(ts *testscript.TestScript, _ bool, args []string) {
	from, err := strconv.Atoi(args[1])
	ts.Check(err)
	limit, err := strconv.Atoi(args[2])
	ts.Check(err)
	data, err := includedReport(from, limit)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o600))
}

// refuse is "refuse FILE N": appends the fingerprint of a root of a live log.
func refuse(ts *testscript.TestScript, _ bool, args []string) {
	all, err := liveRoots()
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	ts.Check(err)
	_, err = fmt.Fprintf(f, "%x # refused in a test\n", sha256.Sum256(all[n].Bytes))
	ts.Check(err)
	ts.Check(f.Close())
}

// TestRootsFromURL reads a report over the network, and says what went wrong
// there.
func TestRootsFromURL(t *testing.T) {
	t.Parallel()
	data, err := includedReport(0, 20)
	if err != nil {
		t.Fatal(err)
	}
	var down atomic.Bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(data)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "roots.pem")
	apply := func() (string, error) {
		out, err := exec.Command("kiln", "roots", "apply", "--file", file, "--report", server.URL+"/Report").CombinedOutput()
		return string(out), err
	}
	if out, err := apply(); err != nil || !strings.Contains(out, "21 roots are now accepted: 21 to add") {
		t.Fatalf("%v: %s", err, out)
	}
	down.Store(true)
	if out, err := apply(); err == nil || !strings.Contains(out, "the server answers 503") || !strings.Contains(out, "21 roots are accepted") {
		t.Errorf("%v: %s", err, out)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if set, err := roots.ParseFile(content); err != nil || set.Len() != 21 {
		t.Errorf("the file is %v, %v", set, err)
	}
}

// TestRootsKilled kills kiln roots apply at random moments of its writing: the
// roots file is always the old or the new one, whole, and the next apply ends
// what was begun.
func TestRootsKilled(t *testing.T) {
	t.Parallel()
	data, err := includedReport(0, 300)
	if err != nil {
		t.Fatal(err)
	}
	old, err := liveRoots()
	if err != nil {
		t.Fatal(err)
	}
	const want = 10
	halfway, within := 0, 20*time.Millisecond
	for range 200 {
		dir := t.TempDir()
		file, report := filepath.Join(dir, "roots.pem"), filepath.Join(dir, "Report.csv")
		before := pem.EncodeToMemory(old[400])
		if err := errors.Join(os.WriteFile(file, before, 0o600), os.WriteFile(report, data, 0o600)); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("kiln", "roots", "apply", "--file", file, "--report", report)
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		killed(t, cmd, file+".lock", rand.N(within))
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set, err := roots.ParseFile(content)
		if err != nil || set.Len() != 1 && set.Len() != 301 {
			t.Fatalf("the file is %v, %v", set, err)
		}
		if set.Len() == 301 {
			within = max(within*3/4, time.Microsecond) // it was too fast to be hit
			continue
		}
		if out, err := exec.Command("kiln", "roots", "apply", "--file", file, "--report", report).CombinedOutput(); err != nil ||
			!strings.Contains(string(out), "301 roots are now accepted: 300 to add") {
			t.Fatalf("%v: %s", err, out)
		}
		if kept, err := os.ReadFile(file + roots.LastGoodSuffix); err != nil || !bytes.Equal(kept, before) {
			t.Fatalf("the copy is %q, %v", kept, err)
		}
		if halfway++; halfway == want {
			return
		}
	}
	t.Fatalf("only %d of 200 were killed half-way, want %d", halfway, want)
}
