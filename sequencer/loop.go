package sequencer

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"time"

	"kiln/entry"
	"kiln/internal/contain"
)

// Waits between two tries to load a log whose state was dropped.
const (
	reloadFirst = 100 * time.Millisecond
	reloadMax   = 5 * time.Second
)

// fatalError stops a log for good: going on could only make it worse, and a
// human has to look.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

func fatalf(format string, args ...any) error {
	return &fatalError{fmt.Errorf(format, args...)}
}

// run is the goroutine of the log. A panic in it ends this log and no other.
func (s *Sequencer) run(state *loaded) {
	defer close(s.finished)
	if err := contain.Do(func() { s.loop(state) }); err != nil {
		s.panicked(err)
	}
}

// loop runs the rounds. state is nil while the log is not loaded: then there is
// nothing on which a round could be called.
func (s *Sequencer) loop(state *loaded) {
	if state == nil {
		s.standBy()
	}
	began, retry := time.Now(), reloadFirst
	for s.await(began, state, retry) {
		began = time.Now()
		requests, err := s.step(&state)
		if s.collect {
			s.collect = false
			runtime.GC()
		}
		if err == nil {
			retry = reloadFirst
			continue
		}
		if state != nil {
			state = nil
			s.metrics.unloads.Inc()
		}
		for _, r := range requests {
			refuse([]*request{r}, reasonFor(err, r))
		}
		if s.isHalted() {
			break
		}
		if isFatal(err) {
			s.fail(err)
			return
		}
		s.cfg.Logger.Error("round failed, state dropped", "err", err)
		retry = min(2*retry, reloadMax)
		if errors.Is(err, errSuperseded) {
			s.standBy()
		}
	}
	s.stop(nil)
}

// step runs one round, on requests that it returns. A log that was not loaded is
// loaded, and has to sign its tree anew before it takes work: if lock or storage
// do not work, nothing is staged again and again to find that out.
func (s *Sequencer) step(state **loaded) ([]*request, error) {
	if *state == nil {
		next, err := s.load(s.ctx)
		if err == nil {
			err = next.round(s.ctx, nil)
		}
		if err != nil {
			return s.take(), err
		}
		*state = next
		if !s.hasWork() {
			return nil, nil
		}
	}
	requests := s.take()
	if (*state).frozen {
		requests = refuseEntries(requests)
	}
	return requests, (*state).round(s.ctx, requests)
}

// standBy refuses work for as long as another sequencer keeps the log going.
func (s *Sequencer) standBy() {
	s.cfg.Logger.Warn("standing by while another sequencer writes to the log")
	var last []byte
	for {
		held, err := s.lock.Load(s.ctx, s.cfg.LockID)
		if err == nil && last != nil && bytes.Equal(held.Body, last) {
			return // it has not signed for longer than it may
		}
		if err == nil {
			last = held.Body
		}
		timer := time.NewTimer(2 * idleInterval)
		for waiting := true; waiting; {
			refuse(s.take(), entry.ErrUnavailable)
			select {
			case <-s.wake:
			case <-timer.C:
				waiting = false
			case <-s.closing:
				timer.Stop()
				return
			case <-s.halted:
				timer.Stop()
				return
			}
		}
	}
}

// reasonFor is what the waiters of a request are told of a failed round. Only
// the request that holds a damaged entry must not be tried again.
func reasonFor(err error, r *request) error {
	if errors.Is(err, entry.ErrReadOnly) {
		return entry.ErrReadOnly
	}
	for _, p := range r.entries {
		if !p.Intact() {
			return fmt.Errorf("entry %x: %w", p.Key(), entry.ErrDamaged)
		}
	}
	return entry.ErrUnavailable
}

// fail stops the log for good; only the first reason counts.
func (s *Sequencer) fail(err error) {
	if !s.stop(err) {
		return
	}
	s.cfg.Logger.Error("log stopped for good", "err", err)
	s.metrics.stopped.Set(1)
}

// await blocks until the next round is due: a period after the last began if
// there is work, the idle interval if there is none, the retry time if the log
// is not loaded. It reports false when the sequencer closes and has no work, and
// when it was halted.
func (s *Sequencer) await(began time.Time, state *loaded, retry time.Duration) bool {
	isLoaded := state != nil
	for {
		work := s.hasWork()
		select {
		case <-s.halted:
			return false
		case <-s.closing:
			// Without state there is no telling when work could be done.
			if !work || !isLoaded {
				return false
			}
		default:
		}
		var wait time.Duration
		switch {
		case !isLoaded:
			wait = retry - time.Since(began)
		case work:
			wait = s.cfg.Period - time.Since(began)
		default:
			wait = idleInterval - time.Since(state.signed)
		}
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.halted:
			timer.Stop()
			return false
		case <-s.closing:
			// What is queued is sequenced at once, without waiting for its time.
			timer.Stop()
			return s.hasWork() && isLoaded
		}
		timer.Stop()
	}
}
