package entry

import (
	"errors"
	"fmt"
	"time"
)

// Errors that cross from one role to another. They carry no more than a caller
// can act on; the role that saw the cause logs it.
var (
	// ErrReadOnly says that the log takes no more entries, for good.
	ErrReadOnly = errors.New("log is read-only")

	// ErrUnavailable says that the entry may or may not have been logged. The
	// same entry can be submitted again at any time: it is never logged twice
	// by a retry.
	ErrUnavailable = errors.New("log is unavailable")

	// ErrDamaged says that the bytes of an entry are no longer those that were
	// admitted. It was not logged; the same bytes must not be tried again.
	ErrDamaged = errors.New("entry was damaged after admission")
)

// OverloadedError says that a bounded queue is full and nothing was taken.
type OverloadedError struct {
	What       string        // the queue that is full
	RetryAfter time.Duration // when room is expected
}

// Error implements error.
func (e *OverloadedError) Error() string {
	return fmt.Sprintf("%s is full, retry after %v", e.What, e.RetryAfter)
}
