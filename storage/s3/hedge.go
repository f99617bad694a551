package s3

import (
	"context"
	"slices"
	"sync"
	"time"

	"kiln/internal/s3client"
)

// A read of S3 now and then takes a hundred times as long as its neighbours. A
// second request for the same object is answered at the usual speed.
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
}

func newHedger() *hedger { return &hedger{credit: maxCredit} }

// observe is told how long a successful read took.
func (h *hedger) observe(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent[h.count%hedgeSamples] = d
	h.count++
	h.credit = min(maxCredit, h.credit+hedgeCredit)
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

// readHedged reads an object that never changes. If the answer is late a second
// request is made, and the first answer of the two is taken.
func (b *Bucket) readHedged(ctx context.Context, key string) (*s3client.Object, error) {
	type result struct {
		o      *s3client.Object
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
			o, err := b.client.Get(ctx, b.bucket, key)
			if err == nil {
				b.hedger.observe(time.Since(start))
			}
			results <- result{o, err, second}
		}()
	}
	defer func() {
		cancel()
		for range running {
			<-results
		}
	}()
	ask(false)
	late := time.NewTimer(b.hedger.delay())
	defer late.Stop()
	for {
		select {
		case r := <-results:
			running--
			if running > 0 && s3client.Retryable(r.err) {
				continue // the other may do better
			}
			if r.second {
				b.metrics.hedges.WithLabelValues("won").Inc()
			}
			return r.o, r.err
		case <-late.C:
			if !b.client.Pressed() && b.hedger.take() {
				b.metrics.hedges.WithLabelValues("made").Inc()
				ask(true)
			}
		}
	}
}
