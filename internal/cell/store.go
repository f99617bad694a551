package cell

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"kiln/lock"
)

// Errors of a Register, wrapped with what the engine said. Any other error says
// that the request may or may not have had, or still have, an effect, and is
// worth another try.
var (
	// ErrCondition says that the place was another one when the request was
	// looked at, so that it had no effect.
	ErrCondition = errors.New("the condition of the write does not hold")

	// ErrRejected says that the request had no effect and would have none if it
	// were sent again.
	ErrRejected = errors.New("the server rejects the request")
)

// Value is what a Register holds for a cell.
type Value struct {
	Data []byte
	// Place is what the engine calls it: a revision, a tag. Empty if there is none.
	Place string
}

// Register is one value per cell with conditional writes, linearizable. All
// methods are safe for concurrent use. They send one request each and never
// send it again by themselves.
type Register interface {
	// Read returns the newest value of a cell, lock.ErrNotFound or ErrRejected.
	Read(ctx context.Context, id string) (Value, error)

	// Write puts data where old stands, or, if old has no place, where nothing
	// does, and returns the new place. Places may come again in a store that was
	// restored from a backup, values never do: if the places of an engine are
	// not made from the values, both are compared.
	Write(ctx context.Context, id string, old Value, data []byte) (place string, err error)
}

const (
	firstPause = 20 * time.Millisecond
	maxPause   = 500 * time.Millisecond
)

// Store is a [lock.Store] on a Register. It is safe for concurrent use.
type Store struct {
	register Register
	where    string
	timeout  time.Duration
	logger   *slog.Logger
}

var _ lock.Store = (*Store)(nil)

// NewStore returns a store on r. where names it in errors. A call returns within
// the timeout; a request that is not answered within half of it is sent again.
// logger may be nil.
func NewStore(r Register, where string, timeout time.Duration, logger *slog.Logger) *Store {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Store{register: r, where: where, timeout: timeout, logger: logger}
}

func (s *Store) wrap(call, id string, err error) error {
	return fmt.Errorf("%s lock cell %q in %s: %w", call, id, s.where, err)
}

// Create implements [lock.Store].
func (s *Store) Create(ctx context.Context, id string, body []byte) error {
	err := check(id, body)
	if err == nil {
		_, err = s.put(ctx, first(id, body), Value{}, lock.ErrExists)
	}
	if err != nil {
		return s.wrap("create", id, err)
	}
	return nil
}

// Load implements [lock.Store].
func (s *Store) Load(ctx context.Context, id string) (lock.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	c, place, err := s.read(ctx, id)
	if err != nil {
		return lock.Held{}, s.wrap("load", id, err)
	}
	return c.held(place), nil
}

// Replace implements [lock.Store]. If the cell was replaced a second time before
// the call knew that it had won, it returns its version nevertheless, and the
// next Replace of that is a conflict.
func (s *Store) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	err := check(held.ID, body)
	if err != nil {
		return lock.Held{}, s.wrap("replace", held.ID, err)
	}
	var next lock.Held
	if old, place, ok := parse(held); ok && place != "" {
		next, err = s.put(ctx, old.next(body), Value{old.Encode(), place}, lock.ErrConflict)
	} else {
		// No version that was ever there, or one that is known to be gone.
		ctx, cancel := context.WithTimeout(ctx, s.timeout)
		defer cancel()
		if _, _, err = s.read(ctx, held.ID); err == nil {
			err = lock.ErrConflict
		}
	}
	if err != nil {
		return lock.Held{}, s.wrap("replace", held.ID, err)
	}
	return next, nil
}

// put writes a version. As long as it does not know the outcome and the time
// lasts it looks what stands there, and if that says nothing it sends the very
// same write again: the version has a name of its own and the write a condition
// that holds once only, so that it takes effect at most once. taken is the error
// if another version stands there.
func (s *Store) put(ctx context.Context, c Cell, old Value, taken error) (lock.Held, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return lock.Held{}, err
	}
	data := c.Encode()
	for try := 0; ; try++ {
		place, err := s.write(ctx, c.ID, old, data)
		switch {
		case err == nil:
			return c.held(place), nil
		case errors.Is(err, ErrRejected):
			return lock.Held{}, err
		case errors.Is(err, ErrCondition):
			return s.settle(ctx, c, taken)
		}
		if pauseErr := pause(ctx, try); pauseErr != nil {
			return lock.Held{}, fmt.Errorf("outcome unknown: %w: %w", pauseErr, err)
		}
		// Not every engine says to all losers that they have lost.
		if held, err, ok := s.look(ctx, c, taken); ok {
			return held, err
		}
		s.logger.Warn("outcome of a write to the lock is unknown, sending it again", "path", c.ID, "err", err)
	}
}

// look reads the cell once, after a write of c whose outcome is unknown. If it
// is not known then either, and another try makes sense, ok is false.
func (s *Store) look(ctx context.Context, c Cell, taken error) (held lock.Held, err error, ok bool) {
	v, err := s.readOnce(ctx, c.ID)
	if errors.Is(err, ErrRejected) {
		return lock.Held{}, fmt.Errorf("outcome unknown: %w", err), true
	}
	if err != nil {
		return lock.Held{}, nil, false
	}
	now, err := Decode(c.ID, v.Data)
	if err != nil {
		return lock.Held{}, err, true
	}
	return c.outcome(now, v.Place, taken)
}

// outcome returns what is to be said of the write of c, if that is known.
func (c Cell) outcome(now Cell, place string, taken error) (held lock.Held, err error, known bool) {
	switch fate := c.fate(now); {
	case fate == won && now.nonce == c.nonce:
		return c.held(place), nil, true
	case fate == won:
		return c.held(""), nil, true
	case fate == lost:
		return lock.Held{}, taken, true
	}
	return lock.Held{}, nil, false
}

// settle finds out what became of the write of c, whose condition holds no more.
// That alone does not say that the write had no effect: what stands between us
// and the engine may have sent the request twice, and this is the second answer.
func (s *Store) settle(ctx context.Context, c Cell, taken error) (lock.Held, error) {
	now, place, err := s.read(ctx, c.ID)
	switch {
	case errors.Is(err, lock.ErrNotFound) && c.seq == 1:
		return lock.Held{}, errors.New("outcome unknown: the cell was there and is no more")
	case err != nil:
		return lock.Held{}, err
	}
	held, err, ok := c.outcome(now, place, taken)
	switch {
	case ok:
		return held, err
	case c.fate(now) == open:
		// The engine says that the version has gone, and shows it. Whatever that
		// means, nothing may be concluded from it.
		return lock.Held{}, fmt.Errorf("outcome unknown: the cell is at the held version, and yet: %w", ErrCondition)
	}
	return lock.Held{}, fmt.Errorf("outcome unknown: the cell was replaced more than %d times since, or made anew", ancestors)
}

func (s *Store) write(ctx context.Context, id string, old Value, data []byte) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout/2)
	defer cancel()
	return s.register.Write(ctx, id, old, data)
}

// read reads a cell, again and again while the time lasts.
func (s *Store) read(ctx context.Context, id string) (Cell, string, error) {
	for try := 0; ; try++ {
		v, err := s.readOnce(ctx, id)
		if err == nil {
			c, err := Decode(id, v.Data)
			return c, v.Place, err
		}
		if errors.Is(err, lock.ErrNotFound) || errors.Is(err, ErrRejected) {
			return Cell{}, "", err
		}
		if pauseErr := pause(ctx, try); pauseErr != nil {
			return Cell{}, "", fmt.Errorf("%w: %w", pauseErr, err)
		}
	}
}

func (s *Store) readOnce(ctx context.Context, id string) (Value, error) {
	if err := ctx.Err(); err != nil {
		return Value{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout/2)
	defer cancel()
	return s.register.Read(ctx, id)
}

// pause waits before another try. Its error says that there is no time for one.
func pause(ctx context.Context, try int) error {
	wait := min(firstPause<<min(try, 10), maxPause)
	wait = wait/2 + rand.N(wait/2)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
