package sequencer

import "errors"

// errHalted ends the round that is under way when the log is halted.
var errHalted = errors.New("the log was halted")

// Halt stops the log for good, for a reason that was found outside of its
// rounds: fail closed. When it returns, nothing more is signed, and no swap of the
// lock is begun, by this sequencer. A round that has swapped the lock before goes
// on to publish what is committed, since a committed tree that cannot be read
// would be a second fault; but it is not answered. Whoever waits, and whoever
// comes, gets entry.ErrUnavailable, and Err the reason. The log goes on being
// read. A swap whose answer never came may have happened, or may yet, as after a
// crash: the next start finds out.
//
// It waits for a signature and its swap that are under way, not for storage. It
// may be called again, and by several at once; only the first reason counts. The
// sequencer still has to be closed.
func (s *Sequencer) Halt(reason error) {
	s.halting.Do(func() {
		close(s.halted) // first, so that nothing new is begun while others are told
		s.fail(reason)
	})
	s.signing <- struct{}{}
	<-s.signing
}

func (s *Sequencer) isHalted() bool {
	select {
	case <-s.halted:
		return true
	default:
		return false
	}
}
