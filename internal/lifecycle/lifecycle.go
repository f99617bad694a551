// Package lifecycle keeps what was decided of a log for good: that it is frozen,
// what its final tree is, that it was retired. Each is a cell of its own beside
// the log's checkpoint in the lock store, made once and never changed.
//
// Invariants: a mark that was made cannot be taken back or changed; of two
// processes that make one at the same time, both learn which of the two stands;
// a store that cannot be read is an error, never a log without marks.
//
// The package never knows what serves the log, or where its objects are.
package lifecycle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"kiln/lock"
)

// Mark is one decision.
type Mark struct {
	// At is when it was made, by the clock of who made it, at whole
	// milliseconds in UTC.
	At time.Time
	// Note is free text of the operator; it may be empty.
	Note string
}

// State is all that was decided of a log. The zero value is a log that may grow.
type State struct {
	// Frozen says that the log takes no more entries.
	Frozen *Mark
	// Final is the signed checkpoint of the tree that can no longer grow. It is
	// nil until a sequencer has said that nothing is under way any more.
	Final []byte
	// Retired says that the log's objects may be gone, and that nothing serves
	// it any more.
	Retired *Mark
}

// The cells of a log, after its lock ID.
const (
	frozenCell  = ".frozen"
	finalCell   = ".final"
	retiredCell = ".retired"
)

// ErrNotFrozen says that a log has no final tree to speak of yet.
var ErrNotFrozen = errors.New("log is not frozen")

// Load reads the marks of the log whose cell is lockID. It is safe for
// concurrent use, like all functions here.
func Load(ctx context.Context, store lock.Store, lockID string) (State, error) {
	var s State
	var err error
	if s.Frozen, err = loadMark(ctx, store, lockID+frozenCell); err != nil {
		return State{}, err
	}
	if s.Frozen == nil { // the others come after it
		return State{}, nil
	}
	if s.Final, err = loadCell(ctx, store, lockID+finalCell); err != nil {
		return State{}, err
	}
	if s.Retired, err = loadMark(ctx, store, lockID+retiredCell); err != nil {
		return State{}, err
	}
	return s, nil
}

// Freeze marks the log as one that takes no more entries, and returns the mark
// that stands: an earlier one if there was one. Sequencers that load the log
// from then on do not grow it; those that run learn of it when they next load.
func Freeze(ctx context.Context, store lock.Store, lockID string, m Mark) (Mark, error) {
	return makeMark(ctx, store, lockID+frozenCell, m)
}

// Finalize keeps the signed checkpoint of the final tree of a frozen log, and
// returns the one that stands: an earlier one if there was one. Only who knows
// that no other sequencer can commit any more may call it.
func Finalize(ctx context.Context, store lock.Store, lockID string, checkpoint []byte) ([]byte, error) {
	frozen, err := loadMark(ctx, store, lockID+frozenCell)
	if err == nil && frozen == nil {
		err = ErrNotFrozen
	}
	if err != nil {
		return nil, fmt.Errorf("keep the final checkpoint: %w", err)
	}
	return makeCell(ctx, store, lockID+finalCell, checkpoint)
}

// Retire marks a frozen log with a final tree as one that nothing serves any
// more, and returns the mark that stands.
func Retire(ctx context.Context, store lock.Store, lockID string, m Mark) (Mark, error) {
	final, err := loadCell(ctx, store, lockID+finalCell)
	if err == nil && final == nil {
		err = ErrNotFrozen
	}
	if err != nil {
		return Mark{}, fmt.Errorf("retire: %w", err)
	}
	return makeMark(ctx, store, lockID+retiredCell, m)
}

// markJSON is the body of a mark's cell.
type markJSON struct {
	AtMillis int64  `json:"at_millis"`
	Note     string `json:"note,omitempty"`
}

func makeMark(ctx context.Context, store lock.Store, id string, m Mark) (Mark, error) {
	body, err := json.Marshal(markJSON{m.At.UnixMilli(), m.Note})
	if err != nil {
		return Mark{}, fmt.Errorf("encode mark %s: %w", id, err)
	}
	stands, err := makeCell(ctx, store, id, body)
	if err != nil {
		return Mark{}, err
	}
	return parseMark(id, stands)
}

// makeCell makes a cell and returns what it holds, which is another's if that
// one came first. The cell is read back whatever Create said: its error may
// follow a success.
func makeCell(ctx context.Context, store lock.Store, id string, body []byte) ([]byte, error) {
	createErr := store.Create(ctx, id, body)
	stands, err := loadCell(ctx, store, id)
	switch {
	case err != nil:
		return nil, errors.Join(createErr, err)
	case stands == nil && createErr == nil:
		return nil, fmt.Errorf("cell %s was made, but is not there", id)
	case stands == nil:
		return nil, createErr
	}
	return stands, nil
}

func loadMark(ctx context.Context, store lock.Store, id string) (*Mark, error) {
	body, err := loadCell(ctx, store, id)
	if err != nil || body == nil {
		return nil, err
	}
	m, err := parseMark(id, body)
	return &m, err
}

// parseMark takes what makeMark writes, byte for byte. A cell that holds anything
// else is damaged: read less strictly, one that holds nothing would be a mark of
// the year 1970.
func parseMark(id string, body []byte) (Mark, error) {
	var m markJSON
	if err := json.Unmarshal(body, &m); err != nil {
		return Mark{}, fmt.Errorf("mark %s is damaged: %w", id, err)
	}
	if again, err := json.Marshal(m); err != nil || !bytes.Equal(again, body) {
		return Mark{}, fmt.Errorf("mark %s is damaged: it is not as kiln writes one", id)
	}
	return Mark{At: time.UnixMilli(m.AtMillis).UTC(), Note: m.Note}, nil
}

// loadCell returns nil if there is no such cell.
func loadCell(ctx context.Context, store lock.Store, id string) ([]byte, error) {
	held, err := store.Load(ctx, id)
	if errors.Is(err, lock.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read mark: %w", err)
	}
	return held.Body, nil
}
