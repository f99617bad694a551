package dir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameNew moves a temporary file to a name at which nothing may be, or fails
// with EEXIST.
func renameNew(from *os.File, temp string, to *os.File, name string) error {
	err := retryEINTR(func() error {
		return unix.Renameat2(int(from.Fd()), temp, int(to.Fd()), name, unix.RENAME_NOREPLACE)
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return linkNew(from, temp, to, name) // the file system or the kernel cannot
	}
	return err
}
