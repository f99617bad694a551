package s3client_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kiln/internal/s3client"
)

// TestParallel checks the bound of requests under way, and that who waits for a
// place gives up with its context.
func TestParallel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		release := make(chan struct{})
		client := clientOf(t, func(r *http.Request) (*http.Response, error) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			select {
			case <-release:
				return response(r, http.StatusOK, ""), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}, func(c *s3client.Config) { c.Parallel = 3 })
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := client.Get(t.Context(), bucket, "key"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if n := running.Load(); n != 3 || !client.Pressed() {
			t.Errorf("%d requests run (pressed: %v), want 3", n, client.Pressed())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := client.Get(ctx, bucket, "key")
		wantClass(t, "waiting until the context ends", err, s3client.Cancelled)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the error %v is not the context's", err)
		}
		close(release)
		wg.Wait()
		if n := most.Load(); n != 3 || client.Pressed() {
			t.Errorf("%d requests ran at a time (pressed: %v), want 3", n, client.Pressed())
		}
	})
}

// TestTimeout checks that a server that does not answer is given up after the
// time of one attempt, more for a large body, and that a caller's end is told
// from that.
func TestTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := clientOf(t, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}, func(c *s3client.Config) { c.Timeout = 7 * time.Second })
		start := time.Now()
		for op, do := range operations {
			wantClass(t, op, do(t.Context(), client), s3client.Unknown)
			if took := time.Since(start); took/time.Second != 7 {
				t.Errorf("%s took %v, want 7 s", op, took)
			}
			start = time.Now()
		}
		_, err := client.Put(t.Context(), bucket, "key", s3client.Content{Body: make([]byte, 3<<20)})
		if took := time.Since(start); took/time.Second != 10 {
			t.Errorf("a body of 3 MiB took %v (%v), want 10 s", took, err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("enough"))
		defer cancel()
		for op, do := range operations {
			err := do(ctx, client)
			wantClass(t, op, err, s3client.Cancelled)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "enough") {
				t.Errorf("%s: the error %v is not the context's", op, err)
			}
		}
	})
}

// TestSlowDown checks that all requests of a client hold back when the server
// asks for it, that the load falls, and that it comes back.
func TestSlowDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var slow atomic.Bool
		var requests atomic.Int64
		client := clientOf(t, func(r *http.Request) (*http.Response, error) {
			requests.Add(1)
			time.Sleep(100 * time.Millisecond)
			if slow.Load() {
				return response(r, http.StatusServiceUnavailable, errorBody("SlowDown")), nil
			}
			return response(r, http.StatusOK, ""), nil
		}, func(c *s3client.Config) { c.Parallel = 8 })
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, _ = client.Get(ctx, bucket, "key")
				}
			})
		}
		rate := func(d time.Duration) int64 {
			before := requests.Load()
			time.Sleep(d)
			return (requests.Load() - before) * int64(time.Second) / int64(d)
		}
		if r := rate(time.Second); r < 70 {
			t.Errorf("%d requests/s at full speed, want 80", r)
		}
		slow.Store(true)
		time.Sleep(30 * time.Second)
		if r := rate(30 * time.Second); r > 5 {
			t.Errorf("%d requests/s although the server asks to slow down", r)
		}
		slow.Store(false)
		time.Sleep(time.Minute)
		if r := rate(time.Second); r < 70 {
			t.Errorf("%d requests/s a minute later, want 80", r)
		}
		cancel()
		wg.Wait()
	})
}

// TestBackoff checks how often and how long is waited.
func TestBackoff(t *testing.T) {
	t.Parallel()
	failure := func(class s3client.Class) error { return &s3client.Error{Class: class, Err: errors.New("x")} }
	for _, c := range []struct {
		class       s3client.Class
		attempts    int
		least, most time.Duration // of all waits together
	}{
		{s3client.Unknown, 9, 4 * time.Second, 10 * time.Second},
		{s3client.Damaged, 9, 4 * time.Second, 10 * time.Second},
		{s3client.Slow, 9, 20 * time.Second, 46 * time.Second},
		{s3client.Precondition, 200, 18 * time.Second, 40 * time.Second},
		{s3client.Refused, 1, 0, 0},
		{s3client.Cancelled, 1, 0, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			var b s3client.Backoff
			start, attempts := time.Now(), 1
			for b.Wait(t.Context(), failure(c.class)) == nil {
				attempts++
			}
			if took := time.Since(start); attempts != c.attempts || took < c.least || took > c.most {
				t.Errorf("%v: %d attempts in %v, want %d in %v to %v", c.class, attempts, took, c.attempts, c.least, c.most)
			}
			b = s3client.Backoff{Attempts: 2}
			ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
			defer cancel()
			err := failure(s3client.Slow)
			if got := b.Wait(ctx, err); !errors.Is(got, context.DeadlineExceeded) || !errors.Is(got, err) {
				t.Errorf("a wait that the context ends returned %v", got)
			}
			b = s3client.Backoff{}
			start = time.Now()
			err = &s3client.Error{Class: s3client.Slow, RetryAfter: 5 * time.Second, Err: errors.New("x")}
			if got := b.Wait(t.Context(), err); got != nil || time.Since(start) < 5*time.Second {
				t.Errorf("after %v: %v, though 5 s were asked for", time.Since(start), got)
			}
		})
	}
}
