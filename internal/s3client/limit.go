package s3client

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// limiter bounds the requests under way. When the server asks to slow down it
// halves the bound and holds all requests back for a while, longer each time;
// each success takes a little of both back.
type limiter struct {
	most int

	mu      sync.Mutex // guards all below
	bound   float64    // in [1, most]
	running int
	waiting []chan struct{} // closed when the place is theirs, oldest first
	strikes int             // requests to slow down, less successes since
	resume  time.Time       // none begins before
	timer   *time.Timer     // wakes the waiting at resume; nil if none is due
}

const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	maxStrikes = 6
)

func newLimiter(most int) *limiter { return &limiter{most: most, bound: float64(most)} }

// acquire waits for a place. Each success is followed by one release.
func (l *limiter) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	turn := make(chan struct{})
	l.waiting = append(l.waiting, turn)
	l.admitLocked()
	l.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, w := range l.waiting {
		if w == turn {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	l.running-- // its turn had come meanwhile
	l.admitLocked()
	return ctx.Err()
}

// release gives a place back, with the outcome of its request.
func (l *limiter) release(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running--
	switch {
	case err == nil:
		l.strikes = max(0, l.strikes-1)
		l.bound = min(float64(l.most), l.bound+1/l.bound)
	case ClassOf(err) == Slow && !time.Now().Before(l.resume):
		// Answers to requests made before the last pause are no news.
		l.strikes = min(maxStrikes, l.strikes+1)
		l.bound = max(1, l.bound/2)
		pause := min(longPause, firstPause<<(l.strikes-1))
		l.resume = time.Now().Add(pause/2 + rand.N(pause/2+1))
	}
	l.admitLocked()
}

// admitLocked lets those in whose turn it is.
func (l *limiter) admitLocked() {
	if pause := time.Until(l.resume); pause > 0 {
		if l.timer == nil && len(l.waiting) > 0 {
			l.timer = time.AfterFunc(pause, func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.timer = nil
				l.admitLocked()
			})
		}
		return
	}
	for len(l.waiting) > 0 && l.running < int(l.bound) {
		l.running++
		close(l.waiting[0])
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
	}
}

func (l *limiter) pressed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) > 0 || l.strikes > 0 || l.running >= int(l.bound)
}

func (l *limiter) state() (running, waiting, bound int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.running, len(l.waiting), int(l.bound)
}
