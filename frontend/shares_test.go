package frontend

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"kiln/entry"
)

// from makes a submission from an address.
func from(client string, body io.Reader) *http.Request {
	req := httptest.NewRequest("POST", "/ct/v1/add-chain", body)
	req.RemoteAddr = client
	return req
}

// serveFrom has a submission answered.
func (r *rig) serveFrom(client string, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.Frontend.ServeHTTP(w, from(client, body))
	return w
}

// empty checks that everything was given back.
func (s *shares) empty(t *testing.T, name string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total != 0 || len(s.byClient) != 0 {
		t.Errorf("%s: %d were not given back, %v", name, s.total, s.byClient)
	}
}

// However many large bodies come in slowly, from however many addresses, they
// take maxLarge in all, and small ones are served.
func TestLargeBodiesAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	var wg sync.WaitGroup
	var slow []*io.PipeWriter
	begun := make([]byte, smallBody+2) // the last byte is read when the body was found large
	for i := range maxLarge / DefaultMaxBody {
		in, out := io.Pipe()
		slow = append(slow, out)
		wg.Go(func() { r.serveFrom(fmt.Sprintf("192.0.2.%d:1", i), in) })
		if _, err := out.Write(begun); err != nil {
			t.Fatal(err)
		}
	}
	if w := r.serveFrom("198.51.100.1:1", bytes.NewReader(begun)); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more large body: %d %s, want 503 with Retry-After", w.Code, w.Body)
	}
	if w := r.serveFrom("198.51.100.1:1", bytes.NewReader(r.v.body(t, "leaf_16", "intermediate"))); w.Code != 200 {
		t.Errorf("a small body beside them: %d %s, want 200", w.Code, w.Body)
	}
	for _, out := range slow {
		out.Close()
	}
	wg.Wait()
	r.large.empty(t, "large")
	r.reading.empty(t, "reading")
}

// One client gets half of what large bodies may take.
func TestLargeBodiesOfOneClient(t *testing.T) {
	t.Parallel()
	s := newShares(100)
	for _, step := range []struct {
		client string
		n      int64
		want   bool
	}{
		{"a", 50, true}, {"a", 1, false}, {"b", 51, false}, {"b", 30, true}, {"c", 21, false}, {"c", 20, true}, {"d", 1, false},
	} {
		if got := s.take(step.client, step.n); got != step.want {
			t.Errorf("%s takes %d: %v, want %v", step.client, step.n, got, step.want)
		}
	}
	for _, give := range []struct {
		client string
		n      int64
	}{{"a", 50}, {"b", 30}, {"c", 20}} {
		s.give(give.client, give.n)
	}
	s.empty(t, "all")
	if !s.take("a", 1000) {
		t.Error("a client alone does not get what is more than all, and so could never")
	}
}

// The memory of a large entry is on its way into the log whether its client
// waits or not: so what it holds is not given back before.
func TestLargeIsHeldUntilLogged(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	entered, leave := make(chan struct{}), make(chan struct{})
	r.back.add = func(ctx context.Context, _ *entry.Pending) error {
		entered <- struct{}{}
		select {
		case <-leave:
		case <-ctx.Done():
			t.Error("the submission was given up with its client")
		}
		return nil
	}
	body := r.v.body(t, "leaf_16", "intermediate")
	body = append(bytes.TrimSuffix(body, []byte("}")), `,"x":"`...)
	body = append(append(body, bytes.Repeat([]byte("x"), smallBody)...), `"}`...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.Frontend.ServeHTTP(httptest.NewRecorder(), from("192.0.2.1:1", bytes.NewReader(body)).WithContext(ctx))
	}()
	<-entered
	cancel()
	r.large.mu.Lock()
	held := r.large.total
	r.large.mu.Unlock()
	if held < int64(len(body)) {
		t.Errorf("%d bytes are held of a body of %d", held, len(body))
	}
	close(leave)
	<-done
	r.large.empty(t, "large")
}

// One client gets half of the places for work: another one is served.
func TestWorkOfOneClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxInFlight = 4 })
	entered, leave := make(chan struct{}), make(chan struct{})
	r.back.add = func(context.Context, *entry.Pending) error {
		entered <- struct{}{}
		<-leave
		return nil
	}
	body := r.v.body(t, "leaf_16", "intermediate")
	var wg sync.WaitGroup
	submit := func(client string) {
		wg.Go(func() {
			if w := r.serveFrom(client, bytes.NewReader(body)); w.Code != 200 {
				t.Errorf("%s: %d %s", client, w.Code, w.Body)
			}
		})
		<-entered
	}
	submit("192.0.2.1:1")
	submit("192.0.2.1:2")
	if w := r.serveFrom("192.0.2.1:3", bytes.NewReader(body)); w.Code != 503 {
		t.Errorf("third of one client: %d, want 503", w.Code)
	}
	submit("192.0.2.2:1")
	close(leave)
	wg.Wait()
	r.working.empty(t, "working")
}
