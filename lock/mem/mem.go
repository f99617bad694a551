// Package mem is a [lock.Store] in memory, for tests: it fails and crashes on
// demand.
//
// Invariants: cells are linearizable; an effect that happened is durable, also
// when its call returned an error; the name of a version is never used twice,
// in no clone either.
//
// The package never knows what the bytes mean.
package mem

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"sync"

	"kiln/lock"
)

// Op is one of the three calls of a store.
type Op string

// The calls.
const (
	OpCreate  Op = "create"
	OpLoad    Op = "load"
	OpReplace Op = "replace"
)

// Fault is what goes wrong in one call. The zero value is nothing.
type Fault struct {
	// Delay holds the call back, before any effect, until it is closed or sent
	// to, or the call's context ends.
	Delay <-chan struct{}
	// Before fails the call without any effect.
	Before error
	// DelayAfter is as Delay, when the effect has happened. If the context ends
	// there, the call returns its error.
	DelayAfter <-chan struct{}
	// After fails the call although its effect happened. It hides ErrConflict,
	// ErrExists and ErrNotFound as well.
	After error
}

// Faults is asked once at the begin of each call. It may be called by many
// goroutines at once, and may use the store.
type Faults func(op Op, id string) Fault

// Store is a lock store in memory. It is safe for concurrent use.
type Store struct {
	mu     sync.Mutex
	faults Faults               // guarded by mu
	cells  map[string]lock.Held // guarded by mu; bodies are never changed in place
}

var _ lock.Store = (*Store)(nil)

// New returns an empty store without faults.
func New() *Store { return &Store{cells: make(map[string]lock.Held)} }

// SetFaults puts f in the place of the faults so far, for calls that begin from
// now on. nil is no faults.
func (s *Store) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// CrashClone returns what a crash at this moment leaves: an independent store
// with the same cells at the same versions, and without faults. Calls that are
// running go on in the old store and have no effect on the new.
func (s *Store) CrashClone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{cells: maps.Clone(s.cells)}
}

// call runs do, which is the whole effect of a call, under the lock and between
// the two halves of a fault.
func (s *Store) call(ctx context.Context, op Op, id string, do func() error) error {
	err := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.mu.Lock()
		faults := s.faults
		s.mu.Unlock()
		var f Fault
		if faults != nil {
			f = faults(op, id)
		}
		if err := wait(ctx, f.Delay); err != nil {
			return err
		}
		if f.Before != nil {
			return f.Before
		}
		s.mu.Lock()
		err := do()
		s.mu.Unlock()
		if err := wait(ctx, f.DelayAfter); err != nil {
			return err
		}
		if f.After != nil {
			return f.After
		}
		return err
	}()
	if err != nil {
		return fmt.Errorf("%s lock cell %q: %w", op, id, err)
	}
	return nil
}

func wait(ctx context.Context, delay <-chan struct{}) error {
	if delay == nil {
		return nil
	}
	select {
	case <-delay:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// putLocked writes a new version of a cell. The name of the version is random, so that
// a clone and its original never use the same for different bytes.
func (s *Store) putLocked(id string, body []byte) {
	s.cells[id] = lock.Held{ID: id, Body: append([]byte{}, body...), Version: rand.Text()}
}

func (s *Store) heldLocked(id string) lock.Held {
	h := s.cells[id]
	h.Body = append([]byte{}, h.Body...)
	return h
}

func check(id string, body []byte) error {
	if id == "" {
		return errors.New("empty name")
	}
	if len(body) > lock.MaxBody {
		return fmt.Errorf("body has %d bytes, more than %d", len(body), lock.MaxBody)
	}
	return nil
}

// Create implements [lock.Store].
func (s *Store) Create(ctx context.Context, id string, body []byte) error {
	return s.call(ctx, OpCreate, id, func() error {
		if err := check(id, body); err != nil {
			return err
		}
		if _, ok := s.cells[id]; ok {
			return lock.ErrExists
		}
		s.putLocked(id, body)
		return nil
	})
}

// Load implements [lock.Store].
func (s *Store) Load(ctx context.Context, id string) (lock.Held, error) {
	var held lock.Held
	err := s.call(ctx, OpLoad, id, func() error {
		if _, ok := s.cells[id]; !ok {
			return lock.ErrNotFound
		}
		held = s.heldLocked(id)
		return nil
	})
	if err != nil {
		return lock.Held{}, err
	}
	return held, nil
}

// Replace implements [lock.Store].
func (s *Store) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	var next lock.Held
	err := s.call(ctx, OpReplace, held.ID, func() error {
		if err := check(held.ID, body); err != nil {
			return err
		}
		now, ok := s.cells[held.ID]
		switch {
		case !ok:
			return lock.ErrNotFound
		case now.Version != held.Version || !bytes.Equal(now.Body, held.Body):
			return lock.ErrConflict
		}
		s.putLocked(held.ID, body)
		next = s.heldLocked(held.ID)
		return nil
	})
	if err != nil {
		return lock.Held{}, err
	}
	return next, nil
}
