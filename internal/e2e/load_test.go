package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln/testlogs"
)

// load is submitters and watchers of a log whose processes come and go.
type load struct {
	ca      *testlogs.CA
	clients []*testlogs.Client // one for each process; a submission may go to any
	// remember is told every SCT once it is here.
	remember func(*testlogs.SCT)
	// refusals says that a process may answer 503 while another writes the log,
	// or while its storage is away.
	refusals bool

	// rest is the most that a worker rests between two submissions, in ns.
	rest atomic.Int64
	// favoured is the client that submissions go to, until it gives no answer; but
	// one of astray submissions, if that is not 0, goes to any.
	favoured, astray atomic.Int64

	workers sync.WaitGroup
	stop    context.CancelFunc

	mu      sync.Mutex
	faults  []error
	unsure  []testlogs.Chain // sent, and never answered
	held    []promise
	cut     int // answers that did not come
	refused int // 503
	left    int // clients that went away before their answer
	again   int // SCTs of entries that had one
}

// promise is a submission and the SCT that was given for it.
type promise struct {
	chain testlogs.Chain
	sct   *testlogs.SCT
}

// start runs submitters of new entries, one that asks again for SCTs it has, one
// that goes away before its answer, and a watcher for each auditor, until end.
func (l *load) start(ctx context.Context, submitters int, watchers ...*testlogs.Auditor) {
	ctx, l.stop = context.WithCancel(ctx)
	for range submitters {
		l.workers.Go(func() {
			for ctx.Err() == nil {
				if chain, ok := l.issue(); ok {
					l.try(ctx, chain)
				}
				l.idle(ctx)
			}
		})
	}
	l.workers.Go(func() { l.repeat(ctx) })
	l.workers.Go(func() { l.leave(ctx) })
	for _, a := range watchers {
		l.workers.Go(func() { l.watch(ctx, a) })
	}
}

// watch looks at the checkpoint all the time; the auditor remembers each.
func (l *load) watch(ctx context.Context, a *testlogs.Auditor) {
	for ctx.Err() == nil {
		if _, err := a.Observe(ctx); err != nil && ctx.Err() == nil && !l.passing(err) {
			l.fault(fmt.Errorf("watch the checkpoint: %w", err))
			return
		}
		pause(ctx, 5*time.Millisecond)
	}
}

// end stops the workers and submits again what was never answered.
func (l *load) end(t *testing.T, ctx context.Context) {
	t.Helper()
	l.stop()
	l.workers.Wait()
	unsure := l.unsure
	l.unsure = nil
	l.astray.Store(0)
	var g errgroup.Group
	g.SetLimit(16)
	for _, chain := range unsure {
		g.Go(func() error {
			l.try(ctx, chain)
			return nil
		})
	}
	_ = g.Wait() // try has said what is wrong
	l.check(t)
	if len(l.unsure) > 0 {
		t.Fatalf("%d submissions are still unanswered: %v", len(l.unsure), ctx.Err())
	}
}

// check fails on whatever the workers met so far.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, err := range l.faults {
		t.Error(err)
	}
	if len(l.faults) > 0 {
		t.FailNow()
	}
}

// accepted returns how many different submissions have their SCT.
func (l *load) accepted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

func (l *load) fault(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, err)
}

func (l *load) count(n *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*n++
}

func (l *load) issue() (testlogs.Chain, bool) {
	chain, err := l.ca.Precert(testlogs.LeafOptions{})
	if err != nil {
		l.fault(err)
	}
	return chain, err == nil
}

// idle rests, so that workers are not in step.
func (l *load) idle(ctx context.Context) { pause(ctx, rand.N(time.Duration(l.rest.Load()))) }

// client draws the client for a submission.
func (l *load) client() int64 {
	if n := l.astray.Load(); n > 0 && rand.Int64N(n) == 0 {
		return rand.Int64N(int64(len(l.clients)))
	}
	return l.favoured.Load()
}

// try submits a chain until it has its SCT or ctx ends.
func (l *load) try(ctx context.Context, chain testlogs.Chain) {
	if sct, ok := l.answer(ctx, chain); ok {
		l.keep(chain, sct)
		return
	}
	l.later(chain)
}

// later keeps a chain that was sent and not answered until all is over.
func (l *load) later(chain testlogs.Chain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unsure = append(l.unsure, chain)
}

func (l *load) keep(chain testlogs.Chain, sct *testlogs.SCT) {
	l.remember(sct)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = append(l.held, promise{chain, sct})
}

// answer returns the SCT of a chain, however many processes that takes.
func (l *load) answer(ctx context.Context, chain testlogs.Chain) (*testlogs.SCT, bool) {
	for ctx.Err() == nil {
		n := l.client()
		sct, err := l.clients[n].Submit(ctx, chain)
		switch {
		case err == nil:
			return sct, true
		case ctx.Err() != nil:
			return nil, false
		case !l.passing(err):
			l.fault(fmt.Errorf("submit: %w", err))
			return nil, false
		case isRefused(err):
			l.count(&l.refused)
		default:
			l.count(&l.cut)
		}
		l.favoured.CompareAndSwap(n, rand.Int64N(int64(len(l.clients))))
		pause(ctx, 5*time.Millisecond)
	}
	return nil, false
}

// repeat submits again what has its SCT: the very same one comes back.
func (l *load) repeat(ctx context.Context) {
	for ; ctx.Err() == nil; l.idle(ctx) {
		l.mu.Lock()
		n := len(l.held)
		if n == 0 {
			l.mu.Unlock()
			continue
		}
		p := l.held[max(0, n-1-rand.IntN(min(n, 1000)))]
		l.mu.Unlock()
		sct, ok := l.answer(ctx, p.chain)
		if !ok {
			continue
		}
		l.count(&l.again)
		if !bytes.Equal(sct.Body, p.sct.Body) {
			l.fault(fmt.Errorf("entry %d was submitted again: the SCT was %s and is %s", p.sct.Index, p.sct.Body, sct.Body))
		}
	}
}

// leave submits and goes away before the answer. Half of these clients come back
// at once, the others when all is over.
func (l *load) leave(ctx context.Context) {
	for ; ctx.Err() == nil; l.idle(ctx) {
		chain, ok := l.issue()
		if !ok {
			return
		}
		short, cancel := context.WithTimeout(ctx, rand.N(30*time.Millisecond))
		sct, err := l.clients[l.client()].Submit(short, chain)
		cancel()
		switch {
		case err == nil:
			l.keep(chain, sct)
			continue
		case short.Err() != nil:
			l.count(&l.left)
		case !l.passing(err):
			l.fault(fmt.Errorf("submit: %w", err))
			continue
		}
		if rand.IntN(2) == 0 {
			l.try(ctx, chain)
			continue
		}
		l.later(chain)
	}
}

// pause keeps clients from spinning while nobody listens.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// passing reports whether an error is one that a client has to expect.
func (l *load) passing(err error) bool { return isCut(err) || l.refusals && isRefused(err) }

// isCut reports whether an error only says that the process was gone or going:
// there was no answer, or not all of it.
func isCut(err error) bool {
	var transport *url.Error
	var network net.Error
	return errors.As(err, &transport) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isRefused reports whether an answer says that the log cannot at the moment.
func isRefused(err error) bool {
	var status *testlogs.StatusError
	return errors.As(err, &status) && status.Code == http.StatusServiceUnavailable
}
