// Package contain keeps a panic from ending the process, and with it every log
// that has nothing to do with it: whoever starts a goroutine for one log runs its
// function here, and stops that log if it panicked.
//
// Invariants: a panic that was contained is an error with its stack, and never
// taken for a success; what calls here decides what becomes of the state that the
// panic left behind.
//
// The package never knows what the function does, or what a log is.
package contain

import (
	"bytes"
	"errors"
	"fmt"
	"runtime/debug"
)

// Panic is a panic that was contained.
type Panic struct {
	Value any    // what was given to panic
	Stack []byte // of the goroutine, as runtime/debug prints it
}

// Error implements error. It includes the stack, since whoever reads it has
// nothing else to find the bug by. A value that is an error is not unwrapped: what
// it says of storage or lock must not be acted on.
func (p *Panic) Error() string {
	return fmt.Sprintf("panic, which is a bug: report it: %v\n%s", p.Value, bytes.TrimSpace(p.Stack))
}

// Run calls f and returns its error, or a *Panic if it did not return. What f
// held then, such as a mutex without a deferred unlock, it holds for ever.
func Run(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &Panic{Value: v, Stack: debug.Stack()}
		}
	}()
	return f()
}

// Do is [Run] for a function without error.
func Do(f func()) error {
	return Run(func() error {
		f()
		return nil
	})
}

// Is reports whether an error comes of a panic that was contained.
func Is(err error) bool {
	var p *Panic
	return errors.As(err, &p)
}
