// Package e2e_test runs kiln as its users meet it: over HTTP, with the tools of
// others, and as a process that is killed.
//
// Invariants: nothing here looks into kiln's memory; every log is judged by
// testlogs' auditor or by code that is not ours; a tool that cannot be had fails
// the test. The package never knows how an answer was made.
package e2e_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kiln/testlogs"
)

// programs are the binaries that tests run, each built at most once, by name.
type programs struct {
	dir   string
	kiln  func() (string, error)
	other func() (string, error)
}

var built programs

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "kiln-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	built = programs{
		dir:  dir,
		kiln: sync.OnceValues(func() (string, error) { return build(dir, "../..", "kiln", "./cmd/kiln") }),
		other: sync.OnceValues(func() (string, error) {
			return build(dir, "../../tools/certspotter", "certspotter", "software.sslmate.com/src/certspotter/cmd/certspotter")
		}),
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(dir, from, name, pkg string) (string, error) {
	path := filepath.Join(dir, name)
	out, err := exec.Command("go", "build", "-C", from, "-o", path, pkg).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// kilnBinary returns the path of this module's cmd/kiln, built without the race
// detector.
func kilnBinary(t *testing.T) string {
	t.Helper()
	path, err := built.kiln()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// certspotterBinary returns the path of the monitor that tools/certspotter pins.
func certspotterBinary(t *testing.T) string {
	t.Helper()
	path, err := built.other()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// deadline is a context for one test: long for a slow machine, but not forever.
func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// issue makes a chain, of a kind that changes with i.
func issue(t *testing.T, ca *testlogs.CA, i int, opts testlogs.LeafOptions) testlogs.Chain {
	t.Helper()
	make := []func(testlogs.LeafOptions) (testlogs.Chain, error){ca.Precert, ca.Leaf, ca.PrecertBySigner}[i%3]
	chain, err := make(opts)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// audit audits the log and fails on any fault, and on any entry logged twice.
func audit(t *testing.T, ctx context.Context, a *testlogs.Auditor) *testlogs.Report {
	t.Helper()
	report, err := a.Audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Repeated) > 0 {
		t.Fatalf("entries %v were logged before at a lower index", report.Repeated)
	}
	return report
}
