package sequencer

import (
	"errors"
	"fmt"
	"time"

	"kiln/entry"
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

func isFatal(err error) bool {
	var f *fatalError
	return errors.As(err, &f)
}

// run is the loop of rounds. state is nil while the log is not loaded: then
// there is nothing on which a round could be called.
func (s *Sequencer) run(state *loaded) {
	defer close(s.finished)
	began, retry := time.Now(), reloadFirst
	for s.await(began, state != nil, retry) {
		began = time.Now()
		if state == nil {
			var err error
			state, err = s.load(s.ctx)
			if isFatal(err) {
				s.fail(err)
				return
			}
			if err != nil {
				s.cfg.Logger.Error("log could not be loaded, trying again", "err", err)
				refuse(s.take(), entry.ErrUnavailable)
				retry = min(2*retry, reloadMax)
				continue
			}
			retry = reloadFirst
		}
		requests := s.take()
		err := state.round(s.ctx, requests)
		if err == nil {
			continue
		}
		state = nil
		s.metrics.unloads.Inc()
		for _, r := range requests {
			refuse([]*request{r}, reasonFor(err, r))
		}
		if isFatal(err) {
			s.fail(err)
			return
		}
		s.cfg.Logger.Error("round failed, state dropped", "err", err)
	}
	s.stop(nil)
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

func (s *Sequencer) fail(err error) {
	s.cfg.Logger.Error("log stopped for good", "err", err)
	s.metrics.stopped.Set(1)
	s.stop(err)
}

// await blocks until the next round is due: a period after the last began if
// there is work, the idle interval if there is none, the retry time if the log
// is not loaded. It reports false when the sequencer closes and has no work.
func (s *Sequencer) await(began time.Time, isLoaded bool, retry time.Duration) bool {
	for {
		work := s.hasWork()
		select {
		case <-s.closing:
			// Without state there is no telling when work could be done.
			if !work || !isLoaded {
				return false
			}
		default:
		}
		wait := idleInterval
		switch {
		case !isLoaded:
			wait = retry
		case work:
			wait = s.cfg.Period
		}
		wait -= time.Since(began)
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.closing:
			// What is queued is sequenced at once, without waiting for its time.
			timer.Stop()
			return s.hasWork() && isLoaded
		}
		timer.Stop()
	}
}
