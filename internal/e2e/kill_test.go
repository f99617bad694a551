package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

var (
	soakKills = flag.Int("soak.kills", 0, "how often TestKill kills on each kind of storage; 0 is a few times")
	soakSeed  = flag.Uint64("soak.seed", 0, "seed of the moments at which processes are killed and paused; 0 is a new one")
)

// drawSeed returns the seed of a test and prints it. It says what is drawn, not
// what the processes do meanwhile.
func drawSeed(t *testing.T) uint64 {
	t.Helper()
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-soak.seed=%d", seed)
	return seed
}

// draws returns what one part of a test draws from.
func draws(seed uint64, part string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(part)) // never fails
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// killsPerLog keeps logs small, so that after each kill all of a log can be read
// and checked, and not only what is new.
const killsPerLog = 10

// TestKill kills the process at random moments under load, also while it starts
// or recovers, sometimes its storage and lock too. After each kill the storage is
// audited as it lies there, before anything could repair it: whatever SCT ever
// left must be in the tree, all checkpoints ever seen must be consistent, no
// object may have changed. In the end a submission that was retried stands in
// the log once.
func TestKill(t *testing.T) {
	t.Parallel()
	seed := drawSeed(t)
	for _, c := range []struct {
		name     string
		backends []testlogs.Backend // one for each log, in turn
		kills    int
	}{
		{"directory", []testlogs.Backend{testlogs.Embedded}, 10},
		{"s3", []testlogs.Backend{testlogs.S3, testlogs.S3Etcd}, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			kills := c.kills
			if *soakKills > 0 {
				kills = *soakKills
			}
			k := &killing{moments: draws(seed, c.name), starts: 200 * time.Millisecond}
			perLog := min(killsPerLog, (kills+len(c.backends)-1)/len(c.backends))
			for n := 0; k.kills < kills; n++ {
				backend := c.backends[n%len(c.backends)]
				name := fmt.Sprintf("log %d on %s", n+1, backend)
				if !t.Run(name, func(t *testing.T) { k.log(t, backend, min(perLog, kills-k.kills)) }) {
					return
				}
			}
			t.Log(k.table())
			if k.serving > 0 && k.cut == 0 || k.scts < 5*kills {
				t.Errorf("the kills met no load: %d SCTs, %d answers cut", k.scts, k.cut)
			}
		})
	}
}

// killing draws the kills of one kind of storage, and counts what they met.
type killing struct {
	moments *rand.Rand
	starts  time.Duration // how long a start took, about

	// What the process was doing, by what it had printed and what lay in the storage.
	starting, recovering, loaded, serving int
	staged, committed                     int // in a round, before or after its commit; of those serving
	row                                   int // kills of a process that had not come to serve since the kill before
	longestRow                            int

	kills, serverKills, audits, logs, processes   int
	scts, checkpoints, cut, refused, left, repeat int
	slowest                                       time.Duration // from a start after a kill to the first answer
}

// killed is one log under load and the process that runs it.
type killed struct {
	*killing
	log     *testlogs.Log
	backend testlogs.Backend
	prefix  string
	stored  *stored
	url     string // of stored
	load    *load

	p       *process
	up      bool // p has answered
	inRow   int  // kills since one that served
	inRound bool // the last kill of a serving process was in a round, of which is not known how far it was
}

// log makes a log, kills its process so many times, and audits it after each.
func (k *killing) log(t *testing.T, backend testlogs.Backend, kills int) {
	ctx := deadline(t, 10*time.Minute)
	address := freeAddress(t)
	log := testlogs.New(keeper{t}, testlogs.Options{
		Backend: backend, Listen: address,
		// Rounds follow each other at once, so that most kills are in one.
		Configure: func(c *config.Log) { c.Period = config.MinPeriod },
		Through: func(endpoint string) string {
			proxy := newProxy(t, endpoint)
			proxy.SetLatency(3 * time.Millisecond) // requests outlive the process that made them
			return proxy.Endpoint
		},
	})
	w := &killed{
		killing: k, log: log, backend: backend, prefix: "http://" + address + "/" + log.Conf.Name + "/", stored: newStored(log),
		load: &load{ca: log.CA, remember: func(s *testlogs.SCT) { log.Auditor().Remember(s) }, refusals: backend != testlogs.Embedded},
	}
	w.load.rest.Store(int64(40 * time.Millisecond))
	w.load.clients = []*testlogs.Client{log.ClientAt(w.prefix)}
	w.url = w.stored.serve(t)
	log.Auditor().SetURL(w.prefix)
	w.serve(t)
	w.ready(t, ctx)
	w.load.start(ctx, 4, log.Auditor())
	for range kills {
		w.kill(t, ctx)
	}
	w.ready(t, ctx)
	w.finish(t, ctx)
}

func (w *killed) serve(t *testing.T) {
	t.Helper()
	w.p, w.up = serve(t, w.log), false
	w.processes++
}

// ready waits for the first answer of the process.
func (w *killed) ready(t *testing.T, ctx context.Context) {
	t.Helper()
	if w.up {
		return
	}
	if err := w.p.ready(ctx, w.prefix); err != nil {
		t.Fatalf("after kill %d: %v", w.kills, err)
	}
	took := time.Since(w.p.began)
	w.up, w.inRow, w.starts = true, 0, took
	if w.kills > 0 {
		w.slowest = max(w.slowest, took)
	}
}

// kill waits for a moment, kills the process, audits what it left and starts the
// next.
func (w *killed) kill(t *testing.T, ctx context.Context) {
	t.Helper()
	early := w.moments.IntN(10) < 4
	moment := time.Duration(w.moments.Int64N(int64(w.starts)))
	if !early {
		w.ready(t, ctx)
		if w.moments.IntN(8) == 0 {
			w.audit(t, ctx, w.prefix)
		}
		served := 300 * time.Millisecond
		if w.backend != testlogs.Embedded {
			served *= 2 // rounds are slower
		}
		moment = time.Duration(w.moments.Int64N(int64(served)))
	}
	select {
	case <-time.After(moment):
	case <-w.p.exited:
		t.Fatalf("kill %d: the process has stopped by itself: %v\n%s", w.kills+1, w.p.err, w.p.output)
	}
	if w.backend != testlogs.Embedded && w.moments.IntN(6) == 0 {
		w.killServers(t, ctx)
	} else {
		w.p.kill()
	}
	w.note(t)
	w.load.check(t)
	w.audit(t, ctx, w.url)
	w.serve(t)
}

// killServers kills the process between its servers' deaths and their return.
func (w *killed) killServers(t *testing.T, ctx context.Context) {
	t.Helper()
	w.serverKills++
	list := []*servers.Server{w.log.S3.Server}
	if w.log.Etcd != nil {
		list = append(list, w.log.Etcd.Server)
	}
	for _, s := range list {
		if err := s.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	pause(ctx, time.Duration(w.moments.Int64N(int64(50*time.Millisecond))))
	w.p.kill()
	for _, s := range list {
		if err := s.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// note counts what the kill met.
func (w *killed) note(t *testing.T) {
	t.Helper()
	printed := w.p.output.since(0)
	serving := strings.Contains(printed, "msg=serving ")
	if serving {
		w.inRow = 0
	}
	w.kills++
	w.inRow++
	if w.inRow > 1 {
		w.row++
	}
	w.longestRow = max(w.longestRow, w.inRow)
	if w.inRound && strings.Contains(printed, `msg="finishing a round`) {
		w.committed++
		w.inRound = false
	}
	switch {
	case strings.Contains(printed, `msg="log loaded"`):
		if w.inRound {
			w.staged++
			w.inRound = false
		}
		if !serving {
			w.loaded++
			break
		}
		w.serving++
		public, staged := w.stored.sizes(t)
		w.inRound = staged > public
	case strings.Contains(printed, `msg="finishing a round`):
		w.recovering++
	default:
		w.starting++
	}
}

// audit audits all of the log at a URL.
func (w *killed) audit(t *testing.T, ctx context.Context, url string) *testlogs.Report {
	t.Helper()
	a := w.log.Auditor()
	a.SetURL(url)
	defer a.SetURL(w.prefix)
	w.audits++
	return audit(t, ctx, a)
}

// finish ends the load and the process, and audits once more.
func (w *killed) finish(t *testing.T, ctx context.Context) {
	t.Helper()
	w.load.end(t, ctx)
	report := w.audit(t, ctx, w.prefix)
	if n := w.load.accepted(); report.Checkpoint.N != int64(n) || report.SCTs != n {
		t.Errorf("%d different submissions gave %d entries and %d SCTs", n, report.Checkpoint.N, report.SCTs)
	}
	if err := w.p.signal(syscall.SIGTERM); err != nil {
		t.Errorf("asked to end after all: %v\n%s", err, w.p.output)
	}
	w.logs++
	w.scts += report.SCTs
	w.checkpoints += len(w.log.Auditor().Checkpoints())
	l := w.load
	w.cut, w.refused, w.left, w.repeat = w.cut+l.cut, w.refused+l.refused, w.left+l.left, w.repeat+l.again
}

// table is the summary.
func (k *killing) table() string {
	var b strings.Builder
	for _, line := range []struct {
		n    any
		what string
	}{
		{k.kills, "kills"},
		{k.starting, "while the process started, before its log was loaded"},
		{k.recovering, "while it finished the round of one killed before"},
		{k.loaded, "after its log was loaded, before it served"},
		{k.serving, "while it served, of which"},
		{k.staged, "in a round that was staged and not committed"},
		{k.committed, "in a round that was committed and not yet public"},
		{k.row, fmt.Sprintf("of one that had not come to serve since the last kill (at most %d in a row)", k.longestRow)},
		{k.serverKills, "with the S3 server (and etcd) killed beside"},
		{k.audits, "whole audits"},
		{k.logs, "logs"},
		{k.processes, "starts"},
		{k.slowest.Round(time.Millisecond), "the longest from a start to the first answer"},
		{k.scts, "SCTs, each in its place"},
		{k.checkpoints, "checkpoints seen, all consistent"},
		{k.repeat, "SCTs asked for again, each the same"},
		{k.cut, "answers cut"},
		{k.refused, "answers 503"},
		{k.left, "clients that went away"},
	} {
		fmt.Fprintf(&b, "\n%8v  %s", line.n, line.what)
	}
	return b.String()
}
