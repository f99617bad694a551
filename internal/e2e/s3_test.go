package e2e_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// s3Log is a log on S3 behind a proxy, and the proxy.
type s3Log struct {
	*testlogs.Log
	proxy *servers.Proxy
}

// startS3 runs a log whose storage, and lock if the backend says so, is reached
// through a proxy.
func startS3(t *testing.T, backend testlogs.Backend, period time.Duration) *s3Log {
	t.Helper()
	l := new(s3Log)
	l.Log = testlogs.Start(t, testlogs.Options{
		Backend:   backend,
		Configure: func(c *config.Log) { c.Period = period },
		Through: func(endpoint string) string {
			proxy, err := servers.NewProxy(t.Context(), endpoint)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = proxy.Close() }) // the log ends before, and the test after
			l.proxy = proxy
			return proxy.Endpoint
		},
	})
	return l
}

func (l *s3Log) submit(t *testing.T, ctx context.Context) {
	t.Helper()
	chain, err := l.CA.Precert(testlogs.LeafOptions{})
	if err != nil {
		t.Fatal(err)
	}
	sct, err := l.Client().Submit(ctx, chain)
	if err != nil {
		t.Fatal(err)
	}
	l.Auditor().Remember(sct)
}

// TestRoundTrips counts the requests of a round that wait for each other, when
// every request takes 30 ms: stage, commit, publish tiles, publish checkpoint.
func TestRoundTrips(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, time.Minute)
	l := startS3(t, testlogs.S3, 500*time.Millisecond)
	for range 3 {
		l.submit(t, ctx) // the issuers are stored now, and everything is warm
	}
	l.proxy.SetLatency(30 * time.Millisecond)
	for range 5 {
		l.submit(t, ctx)
	}
	l.proxy.SetLatency(0)
	l.Stop()

	rounds := roundsOf(l.proxy.Trips())
	if len(rounds) < 5 {
		t.Fatalf("%d rounds were seen, want 5 at least", len(rounds))
	}
	for _, trips := range rounds[len(rounds)-5:] {
		if n := servers.LongestChain(trips); n > 4 {
			t.Errorf("a round took %d serial round trips, want 4: %s", n, describe(trips))
		}
		checkOrder(t, trips)
	}
}

// roundsOf cuts the requests of rounds that grew the tree out of all: those
// between the beginning of a bundle and the end of the checkpoint.
func roundsOf(trips []servers.Trip) [][]servers.Trip {
	var rounds [][]servers.Trip
	for _, stage := range once(trips) { // each bundle has a path of its own
		if stage.Method != http.MethodPut || kind(stage) != "staging" {
			continue
		}
		var end time.Time
		for _, t := range trips {
			if kind(t) == "checkpoint" && t.Method == http.MethodPut && t.Begin.After(stage.End) && (end.IsZero() || t.End.Before(end)) {
				end = t.End
			}
		}
		var round []servers.Trip
		for _, t := range trips {
			if !t.Begin.Before(stage.Begin) && !t.End.After(end) {
				round = append(round, t)
			}
		}
		rounds = append(rounds, once(round))
	}
	return rounds
}

// once makes one request of those for the same: a write that is late, as on a
// busy machine, is made again meanwhile, and the first answer ends the wait.
func once(trips []servers.Trip) []servers.Trip {
	var list []servers.Trip
	at := make(map[string]int)
	for _, t := range trips {
		if t.Status == 0 {
			continue // given up, since another was answered
		}
		what := t.Method + " " + t.Path + "?" + t.Query
		i, ok := at[what]
		if !ok {
			at[what] = len(list)
			list = append(list, t)
			continue
		}
		if t.Begin.Before(list[i].Begin) {
			list[i].Begin = t.Begin
		}
		if t.End.Before(list[i].End) {
			list[i].End = t.End
		}
	}
	return list
}

// kind names what a request is about, by its path below the log's prefix.
func kind(t servers.Trip) string {
	for _, k := range []string{"staging", "lock", "tile", "issuer", "checkpoint"} {
		if strings.Contains(t.Path, "/"+k+"/") || strings.HasSuffix(t.Path, "/"+k) {
			return k
		}
	}
	return "other"
}

func describe(trips []servers.Trip) string {
	var b strings.Builder
	for _, t := range trips {
		b.WriteString("\n" + t.Begin.Format("05.000") + " " + t.End.Format("05.000") + " " + t.Method + " " + t.Path)
	}
	return b.String()
}

// checkOrder checks that of the writes of a round each kind begins after the one
// before has ended.
func checkOrder(t *testing.T, trips []servers.Trip) {
	t.Helper()
	order := []string{"staging", "lock", "tile", "checkpoint"}
	begin, end := make(map[string]time.Time), make(map[string]time.Time)
	for _, trip := range trips {
		if trip.Method != http.MethodPut {
			continue
		}
		k := kind(trip)
		if b, ok := begin[k]; !ok || trip.Begin.Before(b) {
			begin[k] = trip.Begin
		}
		if trip.End.After(end[k]) {
			end[k] = trip.End
		}
	}
	for i, k := range order[1:] {
		if begin[k].IsZero() || begin[k].Before(end[order[i]]) {
			t.Errorf("%s began before %s had ended: %s", k, order[i], describe(trips))
		}
	}
}

// TestS3Faults has the requests of rounds fail in all the ways that a server or
// the network between can fail them, under load. Nothing is lost, nothing is
// forked, and the log goes on by itself.
func TestS3Faults(t *testing.T) {
	t.Parallel()
	faults := map[string]servers.Fault{
		"500":            {Status: 500, Code: "InternalError", Times: 3},
		"500 after":      {Status: 500, Code: "InternalError", Times: 3, AfterEffect: true},
		"503 slow down":  {Status: 503, Code: "SlowDown", Times: 4},
		"503 after":      {Status: 503, Code: "ServiceUnavailable", Times: 3, AfterEffect: true},
		"412":            {Status: 412, Code: "PreconditionFailed", Times: 3},
		"412 after":      {Status: 412, Code: "PreconditionFailed", Times: 3, AfterEffect: true},
		"409":            {Status: 409, Code: "ConditionalRequestConflict", Times: 3},
		"cut":            {Times: 3},
		"cut after":      {Times: 3, AfterEffect: true},
		"long outage":    {Status: 503, Code: "ServiceUnavailable", Times: 15},
		"half an answer": {Times: 3, Truncate: true},
		"slow":           {Times: 3, Through: true, Delay: 700 * time.Millisecond},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 3*time.Minute)
			l := startS3(t, testlogs.S3, 20*time.Millisecond)
			w := l.work(t, ctx)
			for _, path := range []string{"/staging/", "/lock/", "/tile/", "/checkpoint", "/issuer/"} {
				for _, method := range []string{http.MethodPut, http.MethodGet} {
					f := fault
					f.Method, f.Path = method, path
					l.proxy.Inject(f)
				}
				w.accept(t, ctx, 10)
				l.proxy.Heal() // what no request has met
				w.accept(t, ctx, 5)
			}
			w.finish(t, ctx)
		})
	}
}

// TestS3ServerKilled kills and restarts the S3 server under load, and hangs it.
func TestS3ServerKilled(t *testing.T) {
	t.Parallel()
	for _, backend := range []testlogs.Backend{testlogs.S3, testlogs.S3Etcd} {
		t.Run(backend.String(), func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 5*time.Minute)
			l := startS3(t, backend, 20*time.Millisecond)
			w := l.work(t, ctx)
			for range 4 {
				w.accept(t, ctx, 20)
				kill(t, ctx, l.S3.Server)
				if l.Etcd != nil {
					kill(t, ctx, l.Etcd.Server)
				}
			}
			w.accept(t, ctx, 10)
			if err := l.S3.Pause(); err != nil {
				t.Fatal(err)
			}
			w.refuse(t, ctx) // a submission was waited for in vain
			if err := l.S3.Resume(); err != nil {
				t.Fatal(err)
			}
			w.accept(t, ctx, 20)
			w.finish(t, ctx)
		})
	}
}

func kill(t *testing.T, ctx context.Context, s *servers.Server) {
	t.Helper()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
}

// s3Work is submitters of a log whose storage comes and goes, in this process.
type s3Work struct {
	*s3Log
	stop     context.CancelFunc
	workers  sync.WaitGroup
	accepted chan struct{} // a value for each SCT
	refused  chan struct{} // one for each submission without
	mu       sync.Mutex
	n        int // accepted
	pending  []testlogs.Chain
	faults   []error
}

func (l *s3Log) work(t *testing.T, ctx context.Context) *s3Work {
	t.Helper()
	ctx, stop := context.WithCancel(ctx)
	w := &s3Work{s3Log: l, stop: stop, accepted: make(chan struct{}), refused: make(chan struct{})}
	client := l.Client()
	for range 4 {
		w.workers.Go(func() {
			for ctx.Err() == nil {
				chain, err := l.CA.Precert(testlogs.LeafOptions{})
				if err != nil {
					panic(err)
				}
				w.try(ctx, client, chain)
			}
		})
	}
	w.workers.Go(func() {
		for ctx.Err() == nil {
			if _, err := l.Auditor().Observe(ctx); err != nil && ctx.Err() == nil && !isRefused(err) {
				w.fault(err)
				return
			}
			pause(ctx, 5*time.Millisecond)
		}
	})
	t.Cleanup(stop)
	return w
}

// try submits a chain until it has its SCT.
func (w *s3Work) try(ctx context.Context, client *testlogs.Client, chain testlogs.Chain) {
	for {
		sct, err := client.Submit(ctx, chain)
		said := w.refused
		switch {
		case err == nil:
			w.Auditor().Remember(sct)
			w.mu.Lock()
			w.n++
			w.mu.Unlock()
			said = w.accepted
		case ctx.Err() != nil:
			w.mu.Lock()
			w.pending = append(w.pending, chain)
			w.mu.Unlock()
			return
		case !isRefused(err):
			w.fault(err)
			return
		}
		select {
		case said <- struct{}{}:
		case <-time.After(10 * time.Millisecond): // nobody counts; and it keeps clients from spinning
		case <-ctx.Done():
		}
		if err == nil {
			return
		}
	}
}

func (w *s3Work) fault(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, err)
}

// accept waits for so many SCTs.
func (w *s3Work) accept(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	for range n {
		select {
		case <-w.accepted:
		case <-ctx.Done():
			w.mu.Lock()
			defer w.mu.Unlock()
			t.Fatalf("no more SCTs: %v; %v", ctx.Err(), errors.Join(w.faults...))
		}
	}
}

// refuse waits for a submission without SCT.
func (w *s3Work) refuse(t *testing.T, ctx context.Context) {
	t.Helper()
	select {
	case <-w.refused:
	case <-ctx.Done():
		t.Fatal("no submission was refused")
	}
}

// finish stops the submitters and audits the log.
func (w *s3Work) finish(t *testing.T, ctx context.Context) {
	t.Helper()
	w.stop()
	w.workers.Wait()
	for _, err := range w.faults {
		t.Error(err)
	}
	w.Restart() // and everything is still there
	client := w.Client()
	pending := w.pending
	w.pending = nil
	for _, chain := range pending {
		w.try(ctx, client, chain)
	}
	report := audit(t, ctx, w.Auditor())
	if report.Checkpoint.N != int64(w.n) || report.SCTs != w.n {
		t.Errorf("%d different submissions gave %d entries and %d SCTs", w.n, report.Checkpoint.N, report.SCTs)
	}
}
