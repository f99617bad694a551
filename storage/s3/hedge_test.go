package s3

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kiln/storage"
)

// TestHedge checks that a late answer for what never changes is asked for a
// second time, and for what does is not.
func TestHedge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards both
		requests := 0
		var answers []answer // by request; then at once
		b := fakeBucket(t, func(r *http.Request) *http.Response {
			next := answer{0, http.StatusOK, "body"}
			mu.Lock()
			requests++
			if len(answers) > 0 {
				next, answers = answers[0], answers[1:]
			}
			mu.Unlock()
			return next.give(r)
		})
		never := answer{after: time.Hour}
		slowly := answer{after: 5 * time.Second, status: http.StatusOK, body: "late"}
		fails := answer{after: time.Second, status: http.StatusInternalServerError}
		quickly := answer{status: http.StatusOK, body: "second"}
		missing := answer{after: time.Second, status: http.StatusNotFound, body: noSuchKey}
		for i, c := range []struct {
			path     string
			answers  []answer
			body     string
			requests int
			most     time.Duration
		}{
			{"tile/0/000", nil, "body", 1, 0},
			{"tile/0/000", []answer{never, quickly}, "second", 2, firstDelay},
			{"issuer/00", []answer{never, quickly}, "second", 2, firstDelay},
			{"staging/0", []answer{never, quickly}, "second", 2, firstDelay},
			{"tile/0/000", []answer{fails, slowly}, "late", 2, firstDelay + 5*time.Second},
			{"tile/0/000", []answer{never, missing}, "", 2, firstDelay + time.Second},
			{"checkpoint", []answer{never, quickly}, "second", 2, 11 * time.Second},
			{"log.v3.json", []answer{slowly}, "late", 1, 5 * time.Second},
		} {
			requests, answers = 0, c.answers
			start := time.Now()
			body, err := b.Get(t.Context(), c.path)
			if string(body) != c.body || (err == nil) != (c.body != "") || c.body == "" && !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("case %d: %q (%v), want %q", i, body, err, c.body)
			}
			if took := time.Since(start); took > c.most || requests != c.requests {
				t.Errorf("case %d: %d requests in %v, want %d in %v", i, requests, took, c.requests, c.most)
			}
		}
	})
}

// answer is one that comes after a while, unless the client has left.
type answer struct {
	after  time.Duration
	status int
	body   string
}

func (a answer) give(r *http.Request) *http.Response {
	select {
	case <-time.After(a.after):
	case <-r.Context().Done():
		return nil
	}
	return plain(a.status, a.body)
}

// TestHedgedCreate checks that a late write is made again, the same one, and
// that an answer of either is enough.
func TestHedgedCreate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		answers  []answer // the first two, of writes
		body     string   // what is there when the object is read; empty is nothing
		requests int
		err      error
	}{
		{"Lost", []answer{{after: time.Hour}, {0, http.StatusOK, ""}}, "body", 2, nil},
		{"LostAfterEffect", []answer{{after: time.Hour}, {0, http.StatusPreconditionFailed, ""}}, "body", 3, nil},
		{"LostToAnother", []answer{{after: time.Hour}, {0, http.StatusPreconditionFailed, ""}}, "other", 3, storage.ErrDifferent},
		{"SecondFails", []answer{{3 * time.Second, http.StatusOK, ""}, {0, http.StatusConflict, ""}}, "body", 2, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex // guards all below
				requests, answers := 0, c.answers
				b := fakeBucket(t, func(r *http.Request) *http.Response {
					next := answer{0, http.StatusOK, c.body}
					mu.Lock()
					requests++
					if r.Method == http.MethodPut {
						if r.Header.Get("If-None-Match") != "*" {
							t.Error("a write without a condition")
						}
						next, answers = answers[0], answers[1:]
					}
					mu.Unlock()
					return next.give(r)
				})
				start := time.Now()
				err := b.Create(t.Context(), storage.Object{Path: "tile/0/000", Body: []byte("body")})
				if took := time.Since(start); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || requests != c.requests || took > 4*time.Second {
					t.Errorf("%d requests in %v, error %v; want %d and %v", requests, took, err, c.requests, c.err)
				}
			})
		})
	}
}

// TestLargeIsLookedAt checks that a large body is not sent again before a look.
func TestLargeIsLookedAt(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("x", largeBody+1)
	for name, c := range map[string]struct {
		answers []answer // a failed write, a look, and then
		err     error
	}{
		"Landed":    {[]answer{{0, http.StatusInternalServerError, ""}, {0, http.StatusOK, large}}, nil},
		"Another's": {[]answer{{0, http.StatusInternalServerError, ""}, {0, http.StatusOK, "other"}}, storage.ErrDifferent},
		"Lost":      {[]answer{{0, http.StatusInternalServerError, ""}, {0, http.StatusNotFound, noSuchKey}, {0, http.StatusOK, ""}}, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			answers := c.answers
			b := fakeBucket(t, func(r *http.Request) *http.Response {
				next := answers[0]
				answers = answers[1:]
				return next.give(r)
			})
			err := b.Create(t.Context(), storage.Object{Path: "staging/0", Body: []byte(large)})
			if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) || len(answers) != 0 {
				t.Errorf("%s: error %v, want %v; %d requests were not made", name, err, c.err, len(answers))
			}
		})
	}
}

const noSuchKey = "<Error><Code>NoSuchKey</Code></Error>"

func plain(status int, body string) *http.Response {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	_, _ = w.WriteString(body)
	return w.Result()
}

// TestHedgeIsBounded checks that a server that is slow for all is not asked for
// everything twice, and that the delay follows its usual speed.
func TestHedgeIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var requests atomic.Int64
		pause := 10 * time.Millisecond
		b := fakeBucket(t, func(r *http.Request) *http.Response {
			requests.Add(1)
			return answer{pause, http.StatusOK, "body"}.give(r)
		})
		get := func(n int) {
			for range n {
				if _, err := b.Get(t.Context(), "tile/0/000"); err != nil {
					t.Fatal(err)
				}
			}
		}
		get(100)
		if d := b.reads.delay(); requests.Swap(0) != 100 || d != leastDelay {
			t.Errorf("not 100 requests for 100 quick objects, or a delay of %v", d)
		}
		pause = 200 * time.Millisecond
		get(20)
		if extra := requests.Load() - 20; extra < 1 || extra > maxCredit+2 {
			t.Errorf("%d second requests for 20 slow objects", extra)
		}
		get(100)
		if d := b.reads.delay(); d != hedgeFactor*pause {
			t.Errorf("the delay is %v after objects that took %v", d, pause)
		}
		pause = 100 * time.Second // past the time-out of a request even; of which one is waited for
		requests.Store(0)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if _, err := b.Get(ctx, "tile/0/000"); !errors.Is(err, context.DeadlineExceeded) || requests.Load() > 2 {
			t.Errorf("%d requests, error %v", requests.Load(), err)
		}
	})
}
