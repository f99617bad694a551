package s3

import (
	"context"
	"slices"
	"sync"
	"time"

	"kiln/internal/contain"
	"kiln/internal/s3client"
)

// A request to S3 now and then takes a hundred times as long as its neighbours,
// or its answer never comes. The same one again is answered at the usual speed.
const (
	hedgeSamples = 64
	hedgeFactor  = 4 // times the recent median: about where the slowest twentieth begins
	leastDelay   = 50 * time.Millisecond
	firstDelay   = 500 * time.Millisecond // before anything is known

	// Second requests are a twentieth of all at most, so that a server that is
	// slow for everyone is not asked for everything twice.
	hedgeCredit = 0.05
	maxCredit   = 10
)

// hedger says when a second request is worth its while.
type hedger struct {
	mu     sync.Mutex // guards all below
	recent [hedgeSamples]time.Duration
	count  int // samples so far
	credit float64
	most   float64 // of credit
}

func newHedger() *hedger { return &hedger{credit: maxCredit, most: maxCredit} }

// observe is told how long a successful request took.
func (h *hedger) observe(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent[h.count%hedgeSamples] = d
	h.count++
	h.credit = min(h.most, h.credit+hedgeCredit)
}

// delay returns how long a first request is waited for.
func (h *hedger) delay() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count < hedgeSamples/8 {
		return firstDelay
	}
	sorted := h.recent
	known := sorted[:min(h.count, hedgeSamples)]
	slices.Sort(known)
	return max(leastDelay, hedgeFactor*known[len(known)/2])
}

// take reports whether a second request may be made, and counts it.
func (h *hedger) take() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.credit < 1 {
		return false
	}
	h.credit--
	return true
}

// hedged makes a request, and if its answer is late the same one again, and
// returns the first answer of the two. Either has to do, and to be harmless if
// it takes place after the other.
func hedged[T any](ctx context.Context, h *hedger, m *metrics, pressed func() bool, request func(context.Context) (T, error)) (T, error) {
	type result struct {
		value  T
		err    error
		second bool
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result, 2)
	running := 0
	ask := func(second bool) {
		running++
		go func() {
			start := time.Now()
			var value T
			err := contain.Run(func() (err error) {
				value, err = request(ctx)
				return err
			})
			if err == nil {
				h.observe(time.Since(start))
			}
			results <- result{value, err, second}
		}()
	}
	defer func() {
		cancel()
		for range running {
			<-results
		}
	}()
	ask(false)
	late := time.NewTimer(h.delay())
	defer late.Stop()
	for {
		select {
		case r := <-results:
			running--
			if running > 0 && s3client.Retryable(r.err) {
				continue // the other may do better
			}
			if r.second {
				m.hedges.WithLabelValues("won").Inc()
			}
			return r.value, r.err
		case <-late.C:
			if !pressed() && h.take() {
				m.hedges.WithLabelValues("made").Inc()
				ask(true)
			}
		}
	}
}
