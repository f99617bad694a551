package dedup

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrInUse says that a cache is open already, in this process or in another.
var ErrInUse = errors.New("the file is in use by another kiln process")

// lockSuffix ends the name of the file that is locked while a cache is open. It
// stays: if it were removed, two processes could lock two files of one name.
const lockSuffix = ".lock"

// takeFile locks the cache at a path for this Cache alone. The lock goes with the
// process. SQLite's own locks would let two write by turns, and neither would
// know what the other's file covers.
func takeFile(path string) (release func(), err error) {
	f, err := os.OpenFile(path+lockSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() {
		// A child process that is just being started has a descriptor too, so
		// closing this one is not enough.
		_ = flock(f, unix.LOCK_UN)
		_ = f.Close()
	}, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}
