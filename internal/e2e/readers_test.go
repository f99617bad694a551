package e2e_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// TestReadersDoNotStarveTheLog has hundreds of monitors ask for more than an S3
// server with a latency of 30 ms gives: submissions get their SCTs all the same,
// and no round fails.
func TestReadersDoNotStarveTheLog(t *testing.T) {
	t.Parallel()
	const checkpointReaders, tileReaders, submitters, each = 400, 200, 4, 10 // fewer tiles than are read at a time, so that all queue
	ctx := deadline(t, 3*time.Minute)
	l := newBehindProxy(t, 2)
	l.submit(t, ctx) // so that there is a tree of one entry to read
	l.proxy.SetLatency(30 * time.Millisecond)

	reading, stop := context.WithCancel(ctx)
	defer stop()
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: checkpointReaders + tileReaders}}
	defer client.CloseIdleConnections()
	var readers sync.WaitGroup
	hammer := func(n int, path string) *reads {
		r := &reads{url: l.URL() + path, first: make(chan struct{})}
		for range n {
			readers.Go(func() { r.run(reading, client) })
		}
		return r
	}
	all := []*reads{hammer(checkpointReaders, "checkpoint"), hammer(tileReaders/2, "tile/0/000.p/1"), hammer(tileReaders/2, "tile/data/000.p/1")}
	for _, r := range all {
		select {
		case <-r.first: // by then all are under way
		case <-ctx.Done():
			t.Fatalf("%s was never read", r.url)
		}
	}

	var work sync.WaitGroup
	for range submitters {
		work.Go(func() {
			for range each {
				chain, err := l.CA.Precert(testlogs.LeafOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				sct, err := l.Client().Submit(ctx, chain)
				if err != nil {
					t.Errorf("a submission among readers: %v", err)
					return
				}
				l.Auditor().Remember(sct)
			}
		})
	}
	work.Wait()
	failed := metric(t, ctx, l.AdminURL(), `kiln_sequencer_rounds_total\{.*result="failed".*\}`)
	grown := metric(t, ctx, l.AdminURL(), `kiln_sequencer_rounds_total\{.*result="grown".*\}`)
	if failed > 0 || grown < 1 {
		t.Errorf("%d rounds failed and %d have grown the tree", failed, grown)
	}
	for _, path := range []string{"write", "read"} {
		if metric(t, ctx, l.AdminURL(), `kiln_s3client_requests_total\{.*path="`+path+`".*\}`) < 1 ||
			metric(t, ctx, l.AdminURL(), `kiln_storage_s3_operation_duration_seconds_count\{.*path="`+path+`".*\}`) < 1 {
			t.Errorf("the metrics tell of no requests with path=%q", path)
		}
	}
	stop()
	readers.Wait()
	for _, r := range all {
		t.Logf("%s: %d answers", r.url, r.ok.Load())
		if code := r.bad.Load(); code != 0 {
			t.Errorf("%s: got %d", r.url, code)
		}
	}
	l.proxy.SetLatency(0)
	if report := audit(t, ctx, l.Auditor()); report.SCTs != submitters*each+1 {
		t.Errorf("%d SCTs were audited, want %d", report.SCTs, submitters*each+1)
	}
}

// newBehindProxy is [startS3] of a log that makes only so many requests at a time.
func newBehindProxy(t *testing.T, parallel int) *s3Log {
	t.Helper()
	l := new(s3Log)
	l.Log = testlogs.New(t, testlogs.Options{
		Backend:   testlogs.S3,
		Configure: func(c *config.Log) { c.Period = 200 * time.Millisecond },
		Through: func(endpoint string) string {
			proxy, err := servers.NewProxy(t.Context(), endpoint)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = proxy.Close() })
			l.proxy = proxy
			return proxy.Endpoint
		},
	})
	cfg, err := config.Load(l.ConfigPath, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg.S3.Parallel = parallel
	if err := os.WriteFile(l.ConfigPath, config.Render(cfg), 0o644); err != nil {
		t.Fatal(err)
	}
	l.Start()
	return l
}

// reads is monitors that ask for one object again and again.
type reads struct {
	url   string
	once  sync.Once
	first chan struct{} // closed at the first 200
	ok    atomic.Int64
	bad   atomic.Int64 // a status that is neither 200 nor 503
}

func (r *reads) run(ctx context.Context, client *http.Client) {
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url, nil)
		if err != nil {
			panic(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			continue // too late, or the end of the test
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			r.ok.Add(1)
			r.once.Do(func() { close(r.first) })
		case http.StatusServiceUnavailable:
		default:
			r.bad.Store(int64(resp.StatusCode))
		}
	}
}
