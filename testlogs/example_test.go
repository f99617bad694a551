package testlogs_test

import (
	"context"
	"testing"

	"kiln/testlogs"
)

// A whole log in one line of a test: submit, and hold the log to its promise.
func ExampleStart() {
	var t *testing.T // that of the test
	ctx := context.Background()

	log := testlogs.Start(t, testlogs.Options{})
	chain, err := log.CA.Precert(testlogs.LeafOptions{DNS: []string{"www.example.org"}})
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
	log.Restart()
	if _, err := log.Auditor().Audit(ctx); err != nil {
		t.Fatal(err)
	}
}
