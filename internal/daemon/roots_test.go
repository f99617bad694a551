package daemon_test

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"kiln/testlogs"
)

// TestReload gives a running log one more root, then a file that is no roots
// file: what it accepts grows, and stays.
func TestReload(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r := newRig(t, "one")
	r.start()
	other, err := testlogs.NewCA(testlogs.CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r.submit(0, r.chain())
	chain, err := other.Precert(testlogs.LeafOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.client(0).Submit(t.Context(), chain); err == nil {
		t.Fatal("a chain of a root that is not accepted was taken")
	}
	file := r.cfg.Logs[0].RootsFile
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(file, data, 0o644); err != nil {
			t.Fatal(err)
		}
		r.d.Reload()
	}
	write(bytes.Join([][]byte{r.ca.RootPEM(), other.RootPEM()}, nil))
	for {
		if _, err := r.client(0).Submit(ctx, chain); err == nil {
			break
		} else if ctx.Err() != nil {
			t.Fatalf("a root that was added is not accepted: %v", err)
		}
	}
	write([]byte("no roots"))
	within(t, "the refusal of a bad file", r.said.said("the accepted roots were not brought up to date"))
	r.submit(0, r.chain())
	if chain, err = other.Precert(testlogs.LeafOptions{}); err != nil {
		t.Fatal(err)
	}
	r.submit(0, chain)
}
