package sequencer

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/lifecycle"
)

// Seal freezes the log for good and returns its final checkpoint: what is queued
// is sequenced, nothing after it is taken (entry.ErrReadOnly), by this sequencer
// or any other on the log. It may be called again, and by several at once. The
// tree goes on being signed anew.
//
// After an error the log may or may not be frozen; Seal can be called again.
func (s *Sequencer) Seal(ctx context.Context, m lifecycle.Mark) (checkpoint.Checkpoint, error) {
	final, err := s.seal(ctx, m)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("freeze log %s: %w", s.cfg.Origin, err)
	}
	return final, nil
}

// seal makes the mark, then the swap of the lock after which every other
// sequencer must load again, and find the mark; only then the tree is final.
func (s *Sequencer) seal(ctx context.Context, m lifecycle.Mark) (checkpoint.Checkpoint, error) {
	none := checkpoint.Checkpoint{}
	if _, err := lifecycle.Freeze(ctx, s.lock, s.cfg.LockID, m); err != nil {
		return none, err
	}
	s.refuseFromNow()
	if _, err := s.do(ctx, &request{fresh: true}); err != nil {
		return none, fmt.Errorf("sign the final tree: %w", err)
	}
	held, head, err := s.readLock(ctx)
	if err != nil {
		return none, err
	}
	if latest := s.Latest().Tree; head.Tree != latest {
		return none, fmt.Errorf("the lock has %d entries, this process published %d: %w", head.Tree.N, latest.N, errSuperseded)
	}
	raw, err := lifecycle.Finalize(ctx, s.lock, s.cfg.LockID, held.Body)
	if err != nil {
		return none, err
	}
	return s.openFinal(raw, head.Tree)
}

// refuseFromNow takes no more entries.
func (s *Sequencer) refuseFromNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = true
}

// Sealed reports whether the log takes no more entries for good.
func (s *Sequencer) Sealed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sealed
}

// readMarks reports whether the log is frozen. It comes after the lock was read:
// who freezes a log makes the mark first and swaps the lock then, so that a
// sequencer which found no mark holds a version that is gone.
func (s *Sequencer) readMarks(ctx context.Context, head tlog.Tree) (frozen bool, err error) {
	state, err := lifecycle.Load(ctx, s.lock, s.cfg.LockID)
	switch {
	case err != nil:
		return false, err
	case state.Retired != nil:
		return false, fatalf("the log was retired at %v: its objects may be gone; take it out of the configuration", state.Retired.At)
	case state.Frozen == nil:
		return false, nil
	}
	s.refuseFromNow()
	if state.Final != nil {
		if _, err := s.openFinal(state.Final, head); err != nil {
			return true, err
		}
	}
	return true, nil
}

// checkMark is for a version of the lock whose bytes are ours but which another
// sequencer may have written: two that sign one tree in one millisecond make the
// same bytes. If that one did it to freeze the log, the mark is there.
func (l *loaded) checkMark(ctx context.Context) error {
	state, err := lifecycle.Load(ctx, l.s.lock, l.s.cfg.LockID)
	if err == nil && state.Frozen != nil && !l.frozen {
		return fmt.Errorf("the log was frozen meanwhile: %w", errSuperseded)
	}
	return err
}

// openFinal checks that the final tree that was kept is the one there is.
func (s *Sequencer) openFinal(raw []byte, tree tlog.Tree) (checkpoint.Checkpoint, error) {
	final, err := s.signer.Verifier().Open(raw)
	if err != nil {
		return final, fatalf("the final checkpoint in the lock was not signed by this log: %w", err)
	}
	if final.Tree != tree {
		return final, fatalf("the log was frozen with %d entries and root %v, but the lock has %d and root %v: "+
			"do not start it, keep everything", final.Tree.N, final.Tree.Hash, tree.N, tree.Hash)
	}
	return final, nil
}

// refuseEntries refuses those requests that would grow a frozen log and returns
// the others.
func refuseEntries(requests []*request) []*request {
	return slices.DeleteFunc(requests, func(r *request) bool {
		if len(r.entries) == 0 {
			return false
		}
		r.answer <- answer{err: entry.ErrReadOnly}
		return true
	})
}
