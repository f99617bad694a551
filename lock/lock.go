// Package lock is the contract for one small cell per log under
// compare-and-swap: the place where a checkpoint becomes the truth.
//
// Invariants of every backend: a cell is linearizable; of any number of
// concurrent Replace calls that hold the same version exactly one succeeds; a
// version that was replaced never comes back, even when the bytes do; what a
// returned call wrote survives a crash of the process and of the machine.
// [kiln/lock/locktest] is the suite that every backend passes.
//
// The package never knows what the bytes mean.
package lock

import (
	"context"
	"errors"
)

// Errors that backends return, wrapped with the operation and the cell.
var (
	// ErrNotFound says that the cell was never created.
	ErrNotFound = errors.New("lock cell not found")

	// ErrExists says that Create found a cell. Nothing was written.
	ErrExists = errors.New("lock cell exists")

	// ErrConflict says that the cell is no longer at the held version, so that
	// nothing was written.
	ErrConflict = errors.New("lock cell was replaced by another writer")
)

// MaxBody is the largest cell a backend has to take, in bytes.
const MaxBody = 64 << 10

// Held is one version of a cell.
type Held struct {
	ID      string // the cell
	Body    []byte // its content at that version; not to be modified
	Version string // the backend's name of the version; opaque
}

// Store holds cells. All methods are safe for concurrent use by any number of
// processes. An error other than those named says nothing about whether the
// write took place: Load tells, and as long as the cell is at the version that
// was to be replaced the write may still do so.
type Store interface {
	// Create makes a cell, or returns ErrExists.
	Create(ctx context.Context, id string, body []byte) error

	// Load returns the newest version of a cell, or ErrNotFound.
	Load(ctx context.Context, id string) (Held, error)

	// Replace puts body in the place of the held version and returns the new
	// one, or ErrConflict if the cell is at another version.
	Replace(ctx context.Context, held Held, body []byte) (Held, error)
}
