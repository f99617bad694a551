package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln/internal/config"
	"kiln/testlogs"
)

// TestReadYourWrite has submitters look for their entry the moment an SCT
// arrives: the public checkpoint covers it and the data tile holds it.
func TestReadYourWrite(t *testing.T) {
	t.Parallel()
	const submitters, each = 8, 40
	ctx := deadline(t, 3*time.Minute)
	log := testlogs.Start(t, testlogs.Options{Configure: func(c *config.Log) { c.Names = true }})
	all := log.Auditor()
	var g errgroup.Group
	for range submitters {
		// One each: a shared one would make them wait for each other.
		own, err := testlogs.NewAuditor(testlogs.AuditorConfig{URL: log.URL(), Origin: log.Conf.Origin, SPKI: log.SPKI})
		if err != nil {
			t.Fatal(err)
		}
		var chains []testlogs.Chain
		for i := range each {
			chains = append(chains, issue(t, log.CA, i, testlogs.LeafOptions{Extra: 10 * i}))
		}
		c := log.Client()
		g.Go(func() error {
			for _, chain := range chains {
				sct, err := c.Submit(ctx, chain)
				if err != nil {
					return err
				}
				if err := own.Holds(ctx, sct); err != nil {
					return err
				}
				all.Remember(sct)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if report := audit(t, ctx, all); report.Checkpoint.N != submitters*each || report.SCTs != submitters*each {
		t.Errorf("report is %+v, want %d entries and SCTs", report, submitters*each)
	}
}

// TestOneEntry posts one new certificate 50 times at once: one entry, one SCT to
// the byte; and again after a restart, and after the long-term cache was lost.
func TestOneEntry(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 3*time.Minute)
	log := testlogs.Start(t, testlogs.Options{})
	var chains []testlogs.Chain
	for i := range 3 {
		chains = append(chains, issue(t, log.CA, i, testlogs.LeafOptions{}))
	}
	var want [3][]byte
	post := func(when string) {
		t.Helper()
		c := log.Client()
		for i, chain := range chains {
			for n, body := range post50(t, ctx, c, chain) {
				if want[i] == nil {
					want[i] = body
				}
				if !bytes.Equal(body, want[i]) {
					t.Fatalf("%s: chain %d, post %d: %s, want %s", when, i, n, body, want[i])
				}
			}
		}
		if report := audit(t, ctx, log.Auditor()); report.Checkpoint.N != int64(len(chains)) {
			t.Fatalf("%s: the log has %d entries, want %d", when, report.Checkpoint.N, len(chains))
		}
	}
	post("new")
	post("at once again")
	log.Restart()
	post("after a restart")
	log.Stop()
	log.ForgetDedup()
	log.Start()
	if got := metric(t, ctx, log.AdminURL(), "kiln_dedup_covered_entries"); got != int64(len(chains)) {
		t.Errorf("the new deduplication database holds %d entries when the log starts, want %d from the tiles", got, len(chains))
	}
	post("after the deduplication database was deleted")
}

// post50 posts a chain 50 times in parallel, half of them without the root.
func post50(t *testing.T, ctx context.Context, c *testlogs.Client, chain testlogs.Chain) [][]byte {
	t.Helper()
	bodies := make([][]byte, 50)
	var g errgroup.Group
	for n := range bodies {
		chain := chain
		chain.OmitRoot = n%2 == 1
		g.Go(func() error {
			sct, err := c.Submit(ctx, chain)
			if err == nil {
				bodies[n] = sct.Body
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return bodies
}

// TestAbort cancels requests at random moments and submits the same chains
// again: each is logged once (SUB-41).
func TestAbort(t *testing.T) {
	t.Parallel()
	const requests = 1000
	ctx := deadline(t, 3*time.Minute)
	log := testlogs.Start(t, testlogs.Options{})
	var chains []testlogs.Chain
	for i := range requests {
		chains = append(chains, issue(t, log.CA, i, testlogs.LeafOptions{}))
	}
	c := log.Client()
	answered, err := abortAll(ctx, c, chains)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d requests were answered before they were cancelled", answered, requests)
	if answered == requests {
		t.Error("no request was cancelled")
	}
	var g errgroup.Group
	g.SetLimit(32)
	for _, chain := range chains {
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
	if report := audit(t, ctx, log.Auditor()); report.Checkpoint.N != requests {
		t.Errorf("the log has %d entries after %d different submissions", report.Checkpoint.N, requests)
	}
}

// abortAll submits all chains, cancels each request at a random moment, the
// first within a millisecond, before their body is out, the last within the time
// of some rounds, and returns how many were answered all the same.
func abortAll(ctx context.Context, c *testlogs.Client, chains []testlogs.Chain) (answered int, err error) {
	results := make([]error, len(chains))
	var g errgroup.Group
	g.SetLimit(32)
	for i, chain := range chains {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, rand.N(time.Duration(i+1)*time.Millisecond))
			defer cancel()
			_, results[i] = c.Submit(ctx, chain)
			return nil
		})
	}
	_ = g.Wait()
	for i, err := range results {
		switch {
		case err == nil:
			answered++
		case !errors.Is(err, context.DeadlineExceeded):
			return 0, fmt.Errorf("chain %d: %w", i, err)
		}
	}
	return answered, nil
}

// TestAbortInBody ends the connection in the middle of the body: nothing is
// logged, and the next request on the same log is served.
func TestAbortInBody(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, time.Minute)
	log := testlogs.Start(t, testlogs.Options{})
	address := strings.Split(log.URL(), "/")[2]
	for n := range 20 {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(conn, "POST /%s/ct/v1/add-chain HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n{\"chain\":[\"MIIB", log.Conf.Name, address, 20+100*n)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	sct, err := log.Client().Submit(ctx, issue(t, log.CA, 0, testlogs.LeafOptions{}))
	if err != nil {
		t.Fatal(err)
	}
	if sct.Index != 0 {
		t.Errorf("the first whole submission has index %d", sct.Index)
	}
}
