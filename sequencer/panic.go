package sequencer

import (
	"errors"

	"kiln/entry"
	"kiln/internal/contain"
)

// isFatal reports whether an error stops the log for good. A panic does: that a
// part is broken in a way nobody thought of is no reason to try it again.
func isFatal(err error) bool {
	var f *fatalError
	return errors.As(err, &f) || contain.Is(err)
}

// panicked ends a log whose rounds panicked: what they left in memory is not to
// be trusted. Nobody waits for the answer of a round that is gone.
func (s *Sequencer) panicked(err error) {
	s.fail(fatalf("a round panicked, and nothing was signed since; restart: %w", err))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.inHand {
		select {
		case r.answer <- answer{err: entry.ErrUnavailable}:
		default: // it had its answer
		}
	}
}

// IsFatal reports whether an error of [Open] is one that trying again cannot mend,
// so that a human has to look.
func IsFatal(err error) bool { return isFatal(err) }
