package e2e_test

import (
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"kiln/testlogs"
)

var crashSeed = flag.Uint64("crash.seed", 0, "seed of the moments at which TestKill kills; 0 is a new one")

// TestKill kills the process at random moments under load, also while it starts.
// Whatever SCT ever left it must be in the tree, all checkpoints ever seen must
// be consistent, and a submission that is retried after the crash must not be
// logged a second time.
func TestKill(t *testing.T) {
	t.Parallel()
	const kills, submitters = 12, 6
	seed := *crashSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	moments := rand.New(rand.NewPCG(seed, 0))
	ctx := deadline(t, 8*time.Minute)

	address := freeAddress(t)
	log := testlogs.New(t, testlogs.Options{Listen: address})
	prefix := "http://" + address + "/" + log.Conf.Name + "/"
	l := &load{log: log, client: log.ClientAt(prefix)}
	log.Auditor().SetURL(prefix)

	p := serve(t, log)
	if err := p.ready(ctx, prefix); err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var workers sync.WaitGroup
	for range submitters {
		workers.Go(func() { l.submit(running) })
	}
	workers.Go(func() { l.watch(running) })

	for n := range kills {
		moment := time.Duration(moments.Int64N(int64(time.Second)))
		select {
		case <-time.After(moment):
		case <-p.exited:
			t.Fatalf("kill %d: the process has stopped by itself: %v\n%s", n, p.err, p.output)
		}
		p.kill()
		p = serve(t, log)
		if n%3 > 0 { // every third one may be killed before it has recovered
			if err := p.ready(ctx, prefix); err != nil {
				t.Fatalf("after kill %d: %v", n+1, err)
			}
		}
	}
	if err := p.ready(ctx, prefix); err != nil {
		t.Fatalf("after the last kill: %v", err)
	}
	stop()
	workers.Wait()
	l.finish(t, ctx)

	report := audit(t, ctx, log.Auditor())
	t.Logf("%d kills: %d SCTs, %d checkpoints, %d submissions were cut and retried", kills, report.SCTs, len(log.Auditor().Checkpoints()), l.cut)
	if report.Checkpoint.N != int64(l.accepted) || report.SCTs != l.accepted {
		t.Errorf("%d different submissions gave %d entries and %d SCTs", l.accepted, report.Checkpoint.N, report.SCTs)
	}
	if l.cut == 0 || l.accepted < 100 {
		t.Errorf("the kills met no load: %d accepted, %d cut", l.accepted, l.cut)
	}
	if err := p.signal(syscall.SIGTERM); err != nil {
		t.Errorf("asked to end after all: %v\n%s", err, p.output)
	}
}

// load is submitters and a watcher of a log that comes and goes.
type load struct {
	log    *testlogs.Log
	client *testlogs.Client

	mu       sync.Mutex
	faults   []error
	pending  []testlogs.Chain // sent, and never answered
	accepted int
	cut      int
}

func (l *load) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, err)
}

// submit sends one new chain after the other, each until it has its SCT or ctx
// ends.
func (l *load) submit(ctx context.Context) {
	for ctx.Err() == nil {
		chain, err := l.log.CA.Precert(testlogs.LeafOptions{})
		if err != nil {
			l.fault(err)
			return
		}
		l.try(ctx, chain)
	}
}

func (l *load) try(ctx context.Context, chain testlogs.Chain) {
	for {
		sct, err := l.client.Submit(ctx, chain)
		switch {
		case err == nil:
			l.log.Auditor().Remember(sct)
			l.mu.Lock()
			l.accepted++
			l.mu.Unlock()
			return
		case ctx.Err() != nil:
			l.mu.Lock()
			l.pending = append(l.pending, chain)
			l.mu.Unlock()
			return
		case !isCut(err):
			l.fault(err)
			return
		}
		l.mu.Lock()
		l.cut++
		l.mu.Unlock()
		pause(ctx)
	}
}

// watch looks at the checkpoint all the time; the auditor remembers each.
func (l *load) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := l.log.Auditor().Observe(ctx); err != nil && ctx.Err() == nil && !isCut(err) {
			l.fault(err)
			return
		}
		pause(ctx)
	}
}

// pause keeps clients from spinning while nobody listens.
func pause(ctx context.Context) {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
	}
}

// isCut reports whether an error only says that the process was gone or going:
// there was no answer, or not all of it.
func isCut(err error) bool {
	var transport *url.Error
	var network *net.OpError
	return errors.As(err, &transport) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

// finish submits again what was never answered, and fails on whatever the
// workers met.
func (l *load) finish(t *testing.T, ctx context.Context) {
	t.Helper()
	pending := l.pending
	l.pending = nil
	for _, chain := range pending {
		l.try(ctx, chain)
	}
	for _, err := range l.faults {
		t.Error(err)
	}
	if len(l.pending) > 0 {
		t.Fatalf("%d submissions are still unanswered", len(l.pending))
	}
}
