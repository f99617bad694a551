package reader

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// sharedReadTimeout bounds one shared read: a request that arrived while it ran
// has as much time left for the one after it.
const sharedReadTimeout = storageTimeout / 2

// shared lets many requests share the reads of one object that changes. One read
// runs at a time, and one more is due after it if anybody waits for it.
//
// A request is answered only by a read that began after the request arrived, so
// it joins the one that is due and never the one that runs: what was published
// before a request is never missing from its answer.
type shared struct {
	read func(context.Context) error

	mu      sync.Mutex // guards both, and the waiting of each
	running *sharedRead
	due     *sharedRead
}

// sharedRead is one read for all who wait for it.
type sharedRead struct {
	cancel  context.CancelFunc // nil until it runs
	waiting int

	done     chan struct{} // closed when both below are set
	err      error
	panicked error // nil unless the read did
}

// wait returns after a read that began during the call. Its errors are that
// read's, or ctx's: who leaves ends the read only if nobody else waits for it.
func (s *shared) wait(ctx context.Context) error {
	r := s.join()
	select {
	case <-r.done:
	case <-ctx.Done():
		s.leave(r)
		return ctx.Err()
	}
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

// join returns the read that is due, and starts it if none runs.
func (s *shared) join() *sharedRead {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due == nil {
		s.due = &sharedRead{done: make(chan struct{})}
	}
	r := s.due
	r.waiting++
	if s.running == nil {
		s.startLocked()
	}
	return r
}

func (s *shared) leave(r *sharedRead) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.waiting--; r.waiting > 0 {
		return
	}
	switch r {
	case s.due:
		s.due = nil
	case s.running:
		r.cancel()
	}
}

// startLocked runs the read that is due, if one is.
func (s *shared) startLocked() {
	r := s.due
	s.running, s.due = r, nil
	if r == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), sharedReadTimeout) // of no single request
	r.cancel = cancel
	go func() {
		defer cancel()
		r.run(ctx, s.read)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.startLocked()
	}()
}

// run reads, and tells those who wait, even of a panic: it is theirs to handle.
func (r *sharedRead) run(ctx context.Context, read func(context.Context) error) {
	defer close(r.done)
	defer func() {
		if p := recover(); p != nil {
			r.panicked = fmt.Errorf("%v\n%s", p, debug.Stack())
		}
	}()
	r.err = read(ctx)
}
