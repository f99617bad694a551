package testlogs_test

import (
	"bytes"
	"context"
	"testing"

	"kiln/testlogs"
)

func TestStart(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	log := testlogs.Start(t, testlogs.Options{})
	var first *testlogs.SCT
	for _, issue := range []func(testlogs.LeafOptions) (testlogs.Chain, error){log.CA.Leaf, log.CA.Precert, log.CA.PrecertBySigner} {
		chain, err := issue(testlogs.LeafOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sct, err := log.Client().Submit(ctx, chain)
		if err != nil {
			t.Fatal(err)
		}
		if err := log.Auditor().Holds(ctx, sct); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = sct
			log.Restart()
			again, err := log.Client().Submit(ctx, chain)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(first.Body, again.Body) {
				t.Errorf("resubmitted after a restart: %s, before %s", again.Body, first.Body)
			}
		}
	}
	report, err := log.Auditor().Audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report.Checkpoint.N != 3 || report.SCTs != 3 || report.Issuers != 3 {
		t.Errorf("report is %+v, want 3 entries, 3 SCTs, 3 issuers", report)
	}
}
