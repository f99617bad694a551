package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockFiles are the exclusive locks that one process holds on the data of a
// log. The kernel drops them when the process ends, however it ends.
//
// They are a courtesy that turns a second process away at once and with a
// reason; what makes two writers safe is the compare-and-swap of the lock cell.
type lockFiles struct {
	files []*os.File
}

// acquire locks each path, making the file if missing. It fails at once,
// naming the path and the other process, when one is held already; then all are
// released.
func (l *lockFiles) acquire(paths ...string) error {
	for _, path := range paths {
		f, err := lockFile(path)
		if err != nil {
			l.release()
			return err
		}
		l.files = append(l.files, f)
	}
	return nil
}

// release drops all locks. The files stay: removing them would let two
// processes lock two files of one name.
func (l *lockFiles) release() {
	for _, f := range l.files {
		// Closing the only descriptor would do, but a child that is just being
		// started has a second one for a moment.
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		_ = f.Close()
	}
	l.files = nil
}

func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w (%s): stop that one, or give this one other paths", path, ErrInUse, holder(f))
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The pid is for the message above and may be missing after a crash.
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		f.Close()
		return nil, fmt.Errorf("write lock file %s: %w", path, err)
	}
	return f, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// holder names the process that wrote the lock file.
func holder(f *os.File) string {
	b, _ := io.ReadAll(io.LimitReader(f, 32))
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return "pid unknown"
	}
	return fmt.Sprintf("pid %d", pid)
}
