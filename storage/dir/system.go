package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// system is the few calls whose order makes an object durable. Tests put others
// in their place, to see the order and to make each of them fail.
type system struct {
	createTemp func(temps *os.Root, name string) (*os.File, error)
	write      func(f *os.File, p []byte) error
	syncFile   func(f *os.File) error
	// renameNew fails with EEXIST if anything is at the new name.
	renameNew  func(from *os.File, temp string, to *os.File, name string) error
	renameOver func(from *os.File, temp string, to *os.File, name string) error
	mkdir      func(root *os.Root, path string) error
	rmdir      func(root *os.Root, path string) error // of an empty folder
	unlink     func(folder *os.File, name string) error
	syncFolder func(f *os.File) error
}

func realSystem() system {
	return system{
		createTemp: func(temps *os.Root, name string) (*os.File, error) {
			return temps.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
		},
		write: func(f *os.File, p []byte) error {
			_, err := f.Write(p)
			return err
		},
		syncFile:  (*os.File).Sync,
		renameNew: renameNew,
		renameOver: func(from *os.File, temp string, to *os.File, name string) error {
			return retryEINTR(func() error {
				return unix.Renameat(int(from.Fd()), temp, int(to.Fd()), name)
			})
		},
		mkdir: func(root *os.Root, path string) error { return root.Mkdir(path, folderMode) },
		rmdir: func(root *os.Root, path string) error { return root.Remove(path) },
		unlink: func(folder *os.File, name string) error {
			return retryEINTR(func() error { return unix.Unlinkat(int(folder.Fd()), name, 0) })
		},
		syncFolder: (*os.File).Sync,
	}
}

// linkNew is renameNew for kernels and file systems that cannot do it in one
// call: a hard link is not made over anything either. The temporary name stays,
// and the caller removes it.
func linkNew(from *os.File, temp string, to *os.File, name string) error {
	return retryEINTR(func() error {
		return unix.Linkat(int(from.Fd()), temp, int(to.Fd()), name, 0)
	})
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func flock(f *os.File, how int) error {
	return retryEINTR(func() error { return unix.Flock(int(f.Fd()), how) })
}

// lockFile takes an exclusive flock and gives up when ctx ends. It asks again
// and again, for a thread that waits in the kernel cannot be called back.
func lockFile(ctx context.Context, f *os.File) error {
	const shortest, longest = time.Millisecond, 16 * time.Millisecond
	timer := time.NewTimer(0)
	defer timer.Stop()
	for wait := shortest; ; wait = min(2*wait, longest) {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// makeRoot durably makes a folder and those above it that are missing. The
// parent of one that exists is synced too where that is allowed: the run that
// made it may have crashed before it did so.
func makeRoot(name string) error {
	parent := filepath.Dir(name)
	if parent == name {
		return nil
	}
	info, err := os.Stat(name)
	switch {
	case err == nil && !info.IsDir():
		return fmt.Errorf("%s is a file where a folder is wanted: %w", name, unix.ENOTDIR)
	case err == nil:
		if err := syncPath(parent); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeRoot(parent); err != nil {
		return err
	}
	if err := os.Mkdir(name, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncPath(parent)
}

func syncPath(folder string) error {
	f, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// step names what failed. The path that the cause carries is dropped: it is
// relative to the root, or of a temporary file, and the caller adds the full one.
func step(what string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return fmt.Errorf("%s: %w", what, err)
}

// semaphore bounds how many are at work; its capacity is the bound.
type semaphore chan struct{}

func (s semaphore) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s semaphore) release() { <-s }
