package dedup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// maxAside bounds the damaged files kept for inspection. When there are as many,
// the newest takes the place of the last: the first show how it began.
const maxAside = 4

// companions are the suffixes of the files that SQLite keeps beside a database.
// They go before the database itself, for a write-ahead log must never meet a
// database that is not its own.
var companions = [...]string{"-wal", "-shm", ""}

func asidePath(path string, n int) string { return fmt.Sprintf("%s.bad-%d", path, n) }

// setAside moves a damaged or foreign file, with its companions, to the first
// free name.bad-N and returns that name.
func setAside(path string) (string, error) {
	to := ""
	for n := 1; n <= maxAside; n++ {
		to = asidePath(path, n)
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	for _, c := range companions {
		if err := removeIfThere(to + c); err != nil {
			return "", fmt.Errorf("make room to move %s aside: %w", path, err)
		}
		if err := os.Rename(path+c, to+c); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("move %s aside: %w", path+c, err)
		}
	}
	return to, removeIfThere(suspectPath(path))
}

// removeFiles removes a database and its companions.
func removeFiles(path string) error {
	for _, c := range companions {
		if err := removeIfThere(path + c); err != nil {
			return err
		}
	}
	return removeIfThere(suspectPath(path))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// suspectPath names the file whose presence says that SQLite found damage while
// the cache was in use. It makes the next Open begin anew: a full check of a
// large file at every start would take longer than filling a new one.
func suspectPath(path string) string { return path + ".suspect" }

// markSuspect leaves the sign for the next Open.
func markSuspect(path string) error {
	f, err := os.OpenFile(suspectPath(path), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func isSuspect(path string) bool {
	_, err := os.Lstat(suspectPath(path))
	return err == nil
}

// prepare makes the path absolute and its directory exist.
func prepare(path string) (string, error) {
	if path == "" {
		return "", errors.New("no path")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return abs, os.MkdirAll(filepath.Dir(abs), 0o755)
}
