//go:build !linux

package dir

import "os"

// renameNew gives a temporary file a name at which nothing may be, or fails
// with EEXIST.
func renameNew(from *os.File, temp string, to *os.File, name string) error {
	return linkNew(from, temp, to, name)
}
