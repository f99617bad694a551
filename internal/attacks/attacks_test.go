package attacks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// attack is one way to harm a log.
type attack struct {
	name   string
	secure bool // over TLS, with HTTP/2
	short  bool // part of the ordinary tests
	// share is the least part of the good CA's submissions that must get their
	// SCT; 0 is [leastShare]. It is less only where the attack takes the log's
	// capacity by submissions that are as good as any, from many addresses.
	share   float64
	prepare func(context.Context, *arena)
	run     func(context.Context, *arena) // until ctx ends
}

const (
	leastShare = 0.95
	noShare    = -1 // the attack fills the log in a way that nothing forbids yet
)

// attacks are those that there are.
var attacks = []attack{
	{name: "huge bodies: at and over the limit, endless, lying lengths", run: hugeBodies, short: true},
	{name: "gzip bombs as bodies", run: gzipBodies},
	{name: "JSON bombs", run: jsonBombs, short: true},
	{name: "slow bodies: all but the last bytes, then one a second", run: slowBodies, short: true},
	{name: "slowloris: heads and bodies a byte a second", run: slowloris},
	{name: "idle connections, 6000", run: idleConnections},
	{name: "connect and close storm", run: connectStorm},
	{name: "pipelining", run: pipelining},
	{name: "request smuggling", run: smuggling},
	{name: "deep chains: 20, 21, 62, 102 certificates", run: deepChains},
	{name: "largest certificates, valid", run: largestCertificates},
	{name: "large issuers, all new", run: largeIssuers},
	{name: "new intermediates in every chain", run: newIssuers},
	{name: "2^16 SANs, and as many as fit", run: manySANs},
	{name: "cross-signed mazes", run: mazes},
	{name: "RSA keys of 16384 bits, largest exponents", run: slowKeys},
	{name: "odd ASN.1: nesting, OIDs, constraints, curves", run: oddASN1, short: true},
	{name: "invalid signatures", run: invalidSignatures},
	{name: "resubmission storm: one chain", run: resubmissions},
	{name: "duplicates of 500 chains", run: duplicates},
	{name: "old certificates, and with SCTs", run: oldCertificates},
	{name: "all keys for one batcher", run: oneBatcher},
	{name: "cancelled when sent", run: cancelled(leafOptions{}, 128)},
	{name: "cancelled when sent, largest", run: cancelled(leafOptions{ballast: 120 << 10}, 64)},
	{name: "fresh precertificates, one address", run: freshFromOne},
	{name: "fresh precertificates, 200 addresses", run: freshFromMany, share: noShare},
	{name: "strange paths, methods, headers", run: strangePaths},
	{name: "get-roots flood", run: rootsFlood},
	{name: "checkpoint flood", run: checkpointFlood},
	{name: "read flood: scans, partials, ranges, 404s", prepare: fillSmall, run: readFlood},
	{name: "large tiles at speed", prepare: fillLarge, run: largeReads},
	{name: "slow readers of large tiles", prepare: fillLarge, run: slowReaders},
	{name: "TLS handshakes", secure: true, run: handshakes},
	{name: "HTTP/2 rapid reset", secure: true, run: rapidReset},
	{name: "HTTP/2 pings, settings, continuations", secure: true, run: floodFrames},
	{name: "HTTP/2 streams that nobody reads", secure: true, prepare: fillSmall, run: unreadStreams},
}

// result is what one attack has shown.
type result struct {
	Attack     string   `json:"attack"`
	PeakMiB    int64    `json:"peak_rss_mib"`
	AfterMiB   int64    `json:"rss_after_mib"`
	Goroutines int      `json:"goroutines_peak"`
	Files      int      `json:"open_files_peak"`
	CPU        float64  `json:"cpu_seconds"`
	Sent       int      `json:"good_sent"`
	Accepted   int      `json:"good_accepted"`
	P50        int64    `json:"good_p50_ms"`
	P99        int64    `json:"good_p99_ms"`
	Max        int64    `json:"good_max_ms"`
	Refused    string   `json:"good_refused,omitempty"`
	Reads      int      `json:"monitor_reads"`
	ReadFails  string   `json:"monitor_failed,omitempty"`
	ReadP99    int64    `json:"monitor_p99_ms"`
	Attacker   string   `json:"attacker_saw"`
	Entries    int64    `json:"entries_audited"`
	Faults     []string `json:"faults,omitempty"`
}

// TestAttacks makes the attacks one after the other, each on a log of its own.
func TestAttacks(t *testing.T) {
	if testing.Short() && !*flags.all {
		return // it starts servers and floods them
	}
	which, err := regexp.Compile("(?i)" + *flags.attack)
	if err != nil {
		t.Fatal(err)
	}
	length := *flags.duration
	if !*flags.all {
		length = min(length, 3*time.Second)
	}
	var results []result
	for _, at := range attacks {
		if !which.MatchString(at.name) || !*flags.all && !at.short {
			continue
		}
		t.Run(at.name, func(t *testing.T) {
			r := suffer(t, &at, length)
			results = append(results, r)
			if *flags.json {
				_ = json.NewEncoder(os.Stdout).Encode(r)
			} else {
				t.Logf("%+v", r)
			}
			for _, f := range r.Faults {
				t.Error(f)
			}
		})
	}
	if !*flags.json && testing.Verbose() {
		printTable(results)
	}
}

// suffer makes one attack and judges what came of it.
func suffer(t *testing.T, at *attack, length time.Duration) result {
	ctx, cancel := context.WithTimeout(t.Context(), length+4*time.Minute)
	defer cancel()
	a := newArena(t, ctx, at)
	if at.prepare != nil {
		at.prepare(ctx, a)
	}
	// The good clients begin first, and are at peace for a moment.
	w := watch(t, ctx, a)
	goodCtx, stopGood := context.WithTimeout(ctx, length+time.Second)
	defer stopGood()
	g := new(good)
	var clients sync.WaitGroup
	clients.Go(func() { g.run(goodCtx, a) })
	pause(ctx, time.Second)
	attackCtx, stop := context.WithTimeout(ctx, length)
	profiles := time.AfterFunc(length*3/4, func() { a.server.profile(ctx, *flags.profile) })
	at.run(attackCtx, a)
	profiles.Stop()
	stop()
	clients.Wait()
	r := w.finish(ctx)
	r.Attack = at.name
	g.report(&r)
	r.Attacker = summary(a.seen)
	r.judge(ctx, a, at, g)
	return r
}

// watched is the server's state while it is attacked.
type watched struct {
	a      *arena
	before map[string]float64
	quit   chan struct{}
	done   sync.WaitGroup

	result
}

func watch(t *testing.T, ctx context.Context, a *arena) *watched {
	t.Helper()
	w := &watched{a: a, quit: make(chan struct{})}
	var err error
	if w.before, err = a.server.metrics(ctx); err != nil {
		t.Fatal(err)
	}
	if err := a.server.resetPeak(); err != nil {
		t.Fatal(err)
	}
	w.done.Go(func() {
		tick := time.NewTicker(300 * ms)
		defer tick.Stop()
		for {
			select {
			case <-w.quit:
				return
			case <-tick.C:
				if m, err := a.server.metrics(ctx); err == nil {
					w.Goroutines = max(w.Goroutines, int(m["go_goroutines"]))
					w.Files = max(w.Files, int(m["process_open_fds"]))
				}
			}
		}
	})
	return w
}

// finish stops watching and measures what is left.
func (w *watched) finish(ctx context.Context) result {
	close(w.quit)
	w.done.Wait()
	r := w.result
	now, peak, err := w.a.server.memory()
	if err != nil {
		r.Faults = append(r.Faults, fmt.Sprintf("measure memory: %v", err))
	}
	r.AfterMiB, r.PeakMiB = now>>20, peak>>20
	m, err := w.a.server.metrics(ctx)
	if err != nil {
		r.Faults = append(r.Faults, fmt.Sprintf("read metrics: %v", err))
		return r
	}
	r.CPU = m["process_cpu_seconds_total"] - w.before["process_cpu_seconds_total"]
	for name, v := range m {
		switch {
		case (strings.HasSuffix(name, ":500") || strings.Contains(name, "panics_total")) && v > 0:
			r.Faults = append(r.Faults, fmt.Sprintf("%s is %v", name, v))
		case name == "series" && v > 3*w.before[name]:
			r.Faults = append(r.Faults, fmt.Sprintf("metrics have grown from %v lines to %v", w.before[name], v))
		}
	}
	return r
}

// report fills in what the well-behaved clients saw.
func (g *good) report(r *result) {
	r.Sent, r.Accepted, r.Refused = g.sent, len(g.accepted), summary(g.refused)
	r.P50 = quantile(g.accepted, 0.5).Milliseconds()
	r.P99 = quantile(g.accepted, 0.99).Milliseconds()
	r.Max = quantile(g.accepted, 1).Milliseconds()
	r.Reads, r.ReadFails, r.ReadP99 = len(g.reads), summary(g.failed), quantile(g.reads, 0.99).Milliseconds()
}

// judge says what must not be.
func (r *result) judge(ctx context.Context, a *arena, at *attack, g *good) {
	fault := func(format string, args ...any) { r.Faults = append(r.Faults, fmt.Sprintf(format, args...)) }
	if err := a.server.dead(); err != nil {
		fault("%v", err)
		return
	}
	if r.PeakMiB > *flags.rss {
		fault("the server held %d MiB, at most %d may be", r.PeakMiB, *flags.rss)
	}
	least := at.share
	if least == 0 {
		least = leastShare
	}
	if r.Sent == 0 || float64(r.Accepted) < least*float64(r.Sent) {
		fault("the good CA got %d SCTs for %d submissions (%s), want %.0f %%", r.Accepted, r.Sent, r.Refused, 100*least)
	}
	if r.Reads == 0 {
		fault("the monitor read nothing (%s)", r.ReadFails)
	}
	for _, err := range g.wrong {
		fault("%v", err)
	}
	for _, line := range a.server.output.faults() {
		fault("the server says: %s", line)
	}
	report, err := a.auditor.Audit(ctx)
	if err != nil {
		fault("audit: %v", err)
		return
	}
	r.Entries = report.Checkpoint.N
	if report.SCTs != r.Accepted {
		fault("%d SCTs were given to the good CA and %d are in the log", r.Accepted, report.SCTs)
	}
	if len(report.Repeated) > 0 {
		fault("entries %v were logged twice", report.Repeated[:min(10, len(report.Repeated))])
	}
}

// printTable prints what all attacks have shown.
func printTable(results []result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "attack\tpeak MiB\tafter\tgoroutines\tfiles\tCPU s\tgood SCTs\tp50 ms\tp99\tmax\tmonitor reads\tp99 ms\tattacker saw")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%.1f\t%s\t%d\t%d\t%d\t%s\t%d\t%s\n", r.Attack, r.PeakMiB, r.AfterMiB, r.Goroutines, r.Files, r.CPU,
			cell(r.Accepted, r.Sent, r.Refused), r.P50, r.P99, r.Max, cell(r.Reads, r.Reads, r.ReadFails), r.ReadP99, r.Attacker)
	}
	_ = w.Flush()
}

// cell is a share with what the rest got.
func cell(n, of int, rest string) string {
	parts := []string{fmt.Sprintf("%d/%d", n, of), rest}
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), " ")
}
