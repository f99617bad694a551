package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"kiln/internal/servers"
	"kiln/storage/dir"
	"kiln/testlogs"
)

var soakPauses = flag.Int("soak.pauses", 0, "how often TestPause pauses a process on each backend; 0 is twice")

const (
	// pausesPerLog keeps logs small, as killsPerLog does.
	pausesPerLog = 5

	// fast and slow are the most that a client of TestPause rests between two
	// submissions: about the moment of a pause, and while a takeover takes its time.
	fast, slow = 20 * time.Millisecond, 300 * time.Millisecond

	// impatient clients try elsewhere when they have waited so long; a patient one
	// waits for the 503 of a process that stands by, which comes after 10 s.
	impatient, patient = 1 * time.Second, 30 * time.Second
)

// TestPause has two processes write one log, on two machines as it were. The one
// that does is stopped, at a random moment or with one of its requests on the
// way, for as long as the other needs to take over; then it goes on where it was.
// And so on with the other. Neither may have harmed the log, nor have stopped:
// all there is to see is the audit of one log, in which every SCT of either
// process has its place, and no submission two.
func TestPause(t *testing.T) {
	t.Parallel()
	seed := drawSeed(t)
	pauses := 2
	if *soakPauses > 0 {
		pauses = *soakPauses
	}
	var all sync.WaitGroup // and not t.Parallel: they wait, mostly
	for _, backend := range testlogs.Backends() {
		all.Go(func() {
			t.Run(backend.String(), func(t *testing.T) {
				s := &pausing{moments: draws(seed, "pause "+backend.String())}
				s.logs(t, backend, pauses)
			})
		})
	}
	all.Wait()
}

// logs pauses so many times, on one log after the other.
func (s *pausing) logs(t *testing.T, backend testlogs.Backend, pauses int) {
	for n := 1; s.pauses < pauses; n++ {
		ok := t.Run(fmt.Sprintf("log %d", n), func(t *testing.T) {
			s.log(t, backend, min(pausesPerLog, pauses-s.pauses))
		})
		if !ok {
			return
		}
	}
	t.Log(s.table())
	if s.takeovers+s.blocked < pauses {
		t.Errorf("%d takeovers, %d in vain, of %d pauses", s.takeovers, s.blocked, pauses)
	}
}

// pausing draws the pauses of one backend, and counts what they met.
type pausing struct {
	moments *rand.Rand

	pauses, atRandom, held, heldCommit, late, chained  int
	takeovers, blocked, superseded, returned, restarts int
	scts, checkpoints, cut, refused, left, repeat      int
	longest                                            time.Duration // a takeover
}

// pair is one log and its two processes.
type pair struct {
	*pausing
	log      *testlogs.Log
	backend  testlogs.Backend
	machines [2]*machine
	stored   *testlogs.Auditor // of what lies in the storage
	load     *load
}

// log makes a log with two processes, and pauses so many times the one that
// writes.
func (s *pausing) log(t *testing.T, backend testlogs.Backend, pauses int) {
	ctx := deadline(t, 10*time.Minute)
	w := s.newPair(t, ctx, backend)
	w.load.start(ctx, 4, w.stored, w.machines[0].auditor, w.machines[1].auditor)
	var paused *machine // since the pause before
	for n := range pauses {
		writer, other := w.writer(t, ctx, paused)
		w.answered(t, writer)
		paused = w.pause(t, ctx, writer, other, paused)
		w.load.check(t)
		switch {
		case paused != nil || n == pauses-1:
		case w.moments.IntN(3) == 0: // a machine comes back that was lost
			w.answered(t, writer)
			writer.p.kill()
			w.start(t, ctx, writer)
			w.returned++
		default:
			w.ask(t, ctx, writer)
		}
	}
	w.resume(t, ctx, paused)
	w.finish(t, ctx)
}

// writer returns the process that writes the log, and the other one, once that
// stands by or is paused.
func (w *pair) writer(t *testing.T, ctx context.Context, paused *machine) (writer, other *machine) {
	t.Helper()
	w.load.rest.Store(int64(fast))
	a, b := w.machines[0], w.machines[1]
	w.until(t, ctx, a, "one process that writes and one that does not", func() bool {
		writer, other = a, b
		if paused == a || paused == nil && a.lastRound(t) < b.lastRound(t) {
			writer, other = b, a
		}
		return !writer.standsBy() && (other == paused || other.standsBy())
	})
	return writer, other
}

// pause stops the writer, and has the other take over, which may have been
// stopped until then. It returns the process that is left stopped, if one is.
func (w *pair) pause(t *testing.T, ctx context.Context, writer, other, paused *machine) *machine {
	t.Helper()
	held := w.stop(t, ctx, writer)
	w.pauses++
	w.load.rest.Store(int64(slow))
	late := w.moments.IntN(2) == 0 // the request arrives when the other has gone on
	if held != nil && !late {
		held.Release()
	}
	began, mark := time.Now(), other.p.output.len()
	if paused != nil {
		w.signal(t, other, syscall.SIGCONT)
	}
	if w.inTheWay(t, writer) {
		w.blocked++
		w.ask(t, ctx, other)
		w.answered(t, other)
		w.signal(t, writer, syscall.SIGCONT)
		return nil
	}
	w.until(t, ctx, other, "its takeover", func() bool { return roundLine.MatchString(other.p.output.since(mark)) })
	w.takeovers++
	w.longest = max(w.longest, time.Since(began))
	w.accept(t, ctx, other, 5)
	if held != nil && late {
		w.late++
		held.Release()
		w.accept(t, ctx, other, 5)
	}
	audit(t, ctx, w.stored)
	if w.moments.IntN(3) == 0 {
		w.chained++
		return writer
	}
	w.resume(t, ctx, writer)
	return nil
}

// inTheWay reports whether a process that was stopped has one of the files locked
// that both need. Then the other one waits: nobody can take a lock on a file from
// a process that lives. Between machines there are no such files.
func (w *pair) inTheWay(t *testing.T, stopped *machine) bool {
	t.Helper()
	if w.backend != testlogs.Embedded {
		return false
	}
	conf := w.log.Conf
	return holds(t, stopped.p.cmd.Process.Pid, conf.Lock, filepath.Join(conf.Storage, dir.Reserved, "update.lock"))
}

// stop stops the writer at a random moment, or with a request of a round on its
// way, or with an answer on its way back, which is returned.
func (w *pair) stop(t *testing.T, ctx context.Context, writer *machine) *servers.Held {
	t.Helper()
	kinds := []string{"/staging/", "/tile/", "/checkpoint", ""}
	switch w.backend {
	case testlogs.Embedded:
		kinds = []string{""}
	case testlogs.S3:
		kinds = append([]string{"/lock/"}, kinds...)
	}
	kind := kinds[0] // of the first pause: the commit, or what comes before it
	if w.pauses > 0 {
		kind = kinds[w.moments.IntN(len(kinds))]
	}
	if kind == "" {
		w.atRandom++
		pause(ctx, time.Duration(w.moments.Int64N(int64(200*time.Millisecond))))
		w.signal(t, writer, syscall.SIGSTOP)
		return nil
	}
	held := writer.proxy.Hold(servers.Fault{Method: http.MethodPut, Path: kind, AfterEffect: w.moments.IntN(2) == 0})
	t.Cleanup(held.Release)
	select {
	case <-held.Reached:
	case <-ctx.Done():
		t.Fatalf("%s writes no %s\n%s", writer.name, kind, writer.p.output)
	}
	w.signal(t, writer, syscall.SIGSTOP)
	w.held++
	if kind == "/lock/" {
		w.heldCommit++
	}
	return held
}

func (w *pair) signal(t *testing.T, m *machine, s syscall.Signal) {
	t.Helper()
	if err := m.p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal %s: %v\n%s", m.name, err, m.p.output)
	}
}

// accept waits for more SCTs.
func (w *pair) accept(t *testing.T, ctx context.Context, m *machine, n int) {
	t.Helper()
	want := w.load.accepted() + n
	w.until(t, ctx, m, "more SCTs", func() bool { return w.load.accepted() >= want })
}

// resume lets a stopped process go on, which then finds out that another one
// writes.
func (w *pair) resume(t *testing.T, ctx context.Context, m *machine) {
	t.Helper()
	if m == nil {
		return
	}
	mark := m.p.output.len()
	w.signal(t, m, syscall.SIGCONT)
	w.until(t, ctx, m, "its standing by", func() bool {
		return strings.Contains(m.p.output.since(mark), `msg="standing by`)
	})
	w.superseded++
}

// ask submits to a process that has just gone on, or cannot. It is to answer, be
// it 503.
func (w *pair) ask(t *testing.T, ctx context.Context, m *machine) {
	t.Helper()
	w.answered(t, m)
	m.asked = make(chan error, 1)
	chain := issue(t, w.log.CA, 0, testlogs.LeafOptions{})
	go func(answer chan<- error) {
		sct, err := m.client.Submit(ctx, chain)
		if err == nil {
			w.load.keep(chain, sct)
		} else {
			w.load.later(chain)
		}
		answer <- err
	}(m.asked)
}

// answered waits for the answer to ask.
func (w *pair) answered(t *testing.T, m *machine) {
	t.Helper()
	if m.asked == nil {
		return
	}
	if err := <-m.asked; err != nil && !isRefused(err) {
		t.Errorf("submit to %s, after a pause: %v", m.name, err)
	}
	m.asked = nil
}

// finish ends the load and audits what lies in the storage and what each of the
// two processes serves.
func (w *pair) finish(t *testing.T, ctx context.Context) {
	t.Helper()
	for _, m := range w.machines {
		w.answered(t, m)
	}
	w.load.end(t, ctx)
	n := w.load.accepted()
	for _, a := range []*testlogs.Auditor{w.stored, w.machines[0].auditor, w.machines[1].auditor} {
		report := audit(t, ctx, a)
		if report.Checkpoint.N != int64(n) || report.SCTs != n {
			t.Errorf("%d different submissions gave %d entries and %d SCTs", n, report.Checkpoint.N, report.SCTs)
		}
		w.checkpoints += len(a.Checkpoints())
	}
	for _, m := range w.machines {
		if m.standsBy() {
			continue // its end would wait for the submissions that it cannot place
		}
		if err := m.p.signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s was asked to end: %v\n%s", m.name, err, m.p.output)
		}
	}
	l := w.load
	w.scts += n
	w.cut, w.refused, w.left, w.repeat = w.cut+l.cut, w.refused+l.refused, w.left+l.left, w.repeat+l.again
}

// table is the summary.
func (s *pausing) table() string {
	var b strings.Builder
	for _, line := range []struct {
		n    any
		what string
	}{
		{s.pauses, "pauses of the process that wrote the log"},
		{s.atRandom, "at a random moment"},
		{s.held, "with a request of a round, or its answer, on the way"},
		{s.heldCommit, "of which the commit"},
		{s.late, "requests and answers that arrived when the other had gone on"},
		{s.takeovers, "takeovers"},
		{s.blocked, "pauses in which the stopped process held a file that the other needed"},
		{s.chained, "pauses that lasted until the other was paused too"},
		{s.superseded, "processes that went on and then stood by"},
		{s.returned, "processes that were killed as they stood by, and started again beside the other"},
		{s.restarts, "starts that lost their first swap to the other"},
		{s.longest.Round(time.Millisecond), "the longest takeover"},
		{s.scts, "SCTs, each in its place, no entry twice"},
		{s.checkpoints, "checkpoints seen in three places, all consistent"},
		{s.repeat, "SCTs asked for again of either process, each the same"},
		{s.cut, "answers that did not come in time"},
		{s.refused, "answers 503"},
		{s.left, "clients that went away"},
	} {
		fmt.Fprintf(&b, "\n%8v  %s", line.n, line.what)
	}
	return b.String()
}
