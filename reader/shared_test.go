package reader

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowBucket answers reads when it is told to, with what was there when they
// began, and fails them when their context ends.
type slowBucket struct {
	faultyBucket
	goOn chan error // one value for each read

	mu       sync.Mutex // guards all below
	raw      []byte
	began    int
	canceled int
}

func newSlowBucket(raw []byte) *slowBucket {
	b := &slowBucket{raw: raw, goOn: make(chan error)}
	b.get = func(ctx context.Context, _ string) ([]byte, error) {
		b.mu.Lock()
		raw := b.raw
		b.began++
		b.mu.Unlock()
		select {
		case err := <-b.goOn:
			return raw, err
		case <-ctx.Done():
			b.mu.Lock()
			defer b.mu.Unlock()
			b.canceled++
			return nil, ctx.Err()
		}
	}
	return b
}

func (b *slowBucket) publish(raw []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.raw = raw
}

// reads returns how many have begun, and how many of them were canceled.
func (b *slowBucket) reads() (began, canceled int) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.began, b.canceled
}

// slowRig is a reader of a slowBucket.
type slowRig struct {
	*rig
	slow       *slowBucket
	old, grown string // checkpoints; the old one is published
}

// bubble runs a test of a slowRig in synthetic time.
func bubble(t *testing.T, test func(*testing.T, *slowRig)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := new(slowRig)
		r.rig = newRig(t, func(c *Config) {
			r.slow = newSlowBucket(nil)
			c.Bucket = r.slow
		})
		r.old = r.v.Checkpoints.Size3.Checkpoint
		r.grown = string(r.sign(4, r.v.Checkpoints.Size3.TimestampMillis+1))
		r.slow.publish([]byte(r.old))
		test(t, r)
	})
}

// ask makes a request in the background; it waits until that is under way.
func (r *slowRig) ask(ctx context.Context) <-chan *httptest.ResponseRecorder {
	answered := make(chan *httptest.ResponseRecorder, 1)
	go func() {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/checkpoint", nil).WithContext(ctx))
		answered <- w
	}()
	synctest.Wait()
	return answered
}

func (r *slowRig) expect(what string, answered <-chan *httptest.ResponseRecorder, code int, body string) {
	r.t.Helper()
	if w := <-answered; w.Code != code || body != "" && w.Body.String() != body {
		r.t.Errorf("%s: got %d\n%s, want %d\n%s", what, w.Code, w.Body, code, body)
	}
}

// TestCheckpointShared has many requests arrive during a read: one more read
// answers them all.
func TestCheckpointShared(t *testing.T) {
	bubble(t, func(t *testing.T, r *slowRig) {
		var all []<-chan *httptest.ResponseRecorder
		for range 1000 {
			all = append(all, r.ask(t.Context()))
		}
		if n, _ := r.slow.reads(); n != 1 {
			t.Errorf("%d reads run at a time, want 1", n)
		}
		r.slow.goOn <- nil
		r.slow.goOn <- nil
		for _, one := range all {
			r.expect("of many", one, 200, r.old)
		}
		if n, _ := r.slow.reads(); n != 2 {
			t.Errorf("1000 requests made %d reads, want 2", n)
		}
		last := r.ask(t.Context())
		r.slow.goOn <- nil
		r.expect("afterwards", last, 200, r.old)
	})
}

// TestCheckpointReadYourWrite publishes while a read runs that began before: who
// asks after that is not answered by it.
func TestCheckpointReadYourWrite(t *testing.T) {
	bubble(t, func(t *testing.T, r *slowRig) {
		early := r.ask(t.Context())
		r.slow.publish([]byte(r.grown))
		late := r.ask(t.Context())
		r.slow.goOn <- nil
		r.expect("before it was published", early, 200, r.old)
		select {
		case w := <-late:
			t.Fatalf("answered by a read that began before the request: %d\n%s", w.Code, w.Body)
		default:
		}
		r.slow.goOn <- nil
		r.expect("after it was published", late, 200, r.grown)
	})
}

// TestCheckpointLeave has requests end before their answer: the others of the
// same read get theirs, and a read that nobody waits for ends.
func TestCheckpointLeave(t *testing.T) {
	bubble(t, func(t *testing.T, r *slowRig) {
		ctx := make([]context.Context, 4)
		leave := make([]context.CancelFunc, 4)
		for i := range ctx {
			ctx[i], leave[i] = context.WithCancel(t.Context())
			defer leave[i]()
		}
		alone, a, b, c := r.ask(ctx[0]), r.ask(ctx[1]), r.ask(ctx[2]), r.ask(ctx[3])

		leave[1]() // before its read has begun
		r.expect("left early", a, 503, "")
		if _, canceled := r.slow.reads(); canceled != 0 {
			t.Error("who waited for the next read has ended the one before")
		}
		leave[0]()
		r.expect("left alone", alone, 503, "")
		if began, canceled := r.slow.reads(); began != 2 || canceled != 1 {
			t.Errorf("%d reads have begun and %d were canceled, want 2 and 1", began, canceled)
		}
		leave[2]()
		r.expect("left others", b, 503, "")
		if _, canceled := r.slow.reads(); canceled != 1 {
			t.Error("a read was canceled that somebody waits for")
		}
		r.slow.goOn <- nil
		r.expect("stayed", c, 200, r.old)
		if n := r.counter("kiln_reader_requests_total", "canceled", "checkpoint"); n != 3 {
			t.Errorf("%v requests are counted as canceled, want 3", n)
		}

		// All who wait for a read that is due leave: it is not made.
		running := r.ask(t.Context())
		gone, cancel := context.WithCancel(t.Context())
		due := r.ask(gone)
		cancel()
		r.expect("left the next", due, 503, "")
		r.slow.goOn <- nil
		r.expect("the running one", running, 200, r.old)
		if n, _ := r.slow.reads(); n != 3 {
			t.Errorf("%d reads were made, want 3", n)
		}
	})
}

// TestCheckpointSharedFault has a shared read fail: all who joined it are told,
// and nobody after them.
func TestCheckpointSharedFault(t *testing.T) {
	bubble(t, func(t *testing.T, r *slowRig) {
		first := r.ask(t.Context())
		second, third := r.ask(t.Context()), r.ask(t.Context())
		r.slow.goOn <- nil
		r.expect("before the fault", first, 200, r.old)
		synctest.Wait()
		after := r.ask(t.Context())
		r.slow.goOn <- errors.New("no disk")
		r.expect("with the fault", second, 503, "")
		r.expect("with the fault too", third, 503, "")
		r.slow.goOn <- nil
		r.expect("after the fault", after, 200, r.old)
	})
}

// TestCheckpointSharedHang has a read hang for good: the next one begins while
// those who wait for it are still there.
func TestCheckpointSharedHang(t *testing.T) {
	bubble(t, func(t *testing.T, r *slowRig) {
		start := time.Now()
		first, second := r.ask(t.Context()), r.ask(t.Context())
		r.expect("of the read that hangs", first, 503, "")
		r.slow.goOn <- nil
		r.expect("of the next", second, 200, r.old)
		if waited := time.Since(start); waited != sharedReadTimeout {
			t.Errorf("they waited %v, want %v", waited, sharedReadTimeout)
		}
	})
}
