package s3client

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff spaces the attempts at one thing. The zero value is ready for its
// first failure. It is for one goroutine.
type Backoff struct {
	// Attempts is how many there may be, lost races not counted; below 1 it is
	// [DefaultAttempts].
	Attempts int

	failed, lost int
}

// DefaultAttempts is how many attempts there are at one thing by default. The
// waits between them add up to about ten seconds, and to half a minute if the
// server asks to slow down.
const DefaultAttempts = 9

// maxLost is how many races a writer may lose before it gives up. Each was won
// by another.
const maxLost = 200

const (
	firstWait, longWait     = 50 * time.Millisecond, 3 * time.Second
	firstSlow, longSlow     = 400 * time.Millisecond, 10 * time.Second
	firstLost, longLostWait = 5 * time.Millisecond, 200 * time.Millisecond
)

// Wait is told of a failed attempt, and waits until the next one is due, and
// returns nil. If none is, it returns err at once: after a refusal, or too many
// attempts. If the context ends it returns an error that is both its and err.
// That a precondition failed, or an object was not found, is for the caller to
// judge: Wait takes it for a race that was lost, and waits a short time only.
func (b *Backoff) Wait(ctx context.Context, err error) error {
	most := b.Attempts
	if most < 1 {
		most = DefaultAttempts
	}
	switch ClassOf(err) {
	case Refused, Cancelled:
		return err
	case Precondition, NotFound:
		b.lost++
	default:
		b.failed++
	}
	if b.failed >= most || b.lost >= maxLost {
		return err
	}
	timer := time.NewTimer(b.delay(err))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return &waitError{ctx.Err(), err}
	}
}

// delay returns a time of which half is random, so that those who failed
// together do not come back together.
func (b *Backoff) delay(err error) time.Duration {
	first, long, n := firstWait, longWait, b.failed
	var asked time.Duration
	switch ClassOf(err) {
	case Slow:
		first, long = firstSlow, longSlow
		if e, ok := asError(err); ok {
			asked = min(e.RetryAfter, longSlow)
		}
	case Precondition, NotFound:
		first, long, n = firstLost, longLostWait, b.lost
	}
	d := min(long, first<<min(n-1, 20))
	return max(asked, d/2+rand.N(d/2+1))
}

// waitError is a context that ended while a failure was waited out.
type waitError struct{ ctx, last error }

// Error implements error.
func (e *waitError) Error() string { return e.ctx.Error() + "; last attempt: " + e.last.Error() }

// Unwrap returns both causes.
func (e *waitError) Unwrap() []error { return []error{e.ctx, e.last} }
