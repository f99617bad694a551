package dedup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"kiln/entry"
)

// Stats describes a cache file.
type Stats struct {
	Exists  bool
	Rows    int64 // entries held, if they were counted
	Covered int64 // see [Cache.Covered]
	Bytes   int64 // of the file and its write-ahead log

	// Problem says why the next Open will move the file aside and begin anew;
	// nil if it will not. Rows and Covered are then 0.
	Problem error
	// Aside are the damaged files that earlier Opens moved aside.
	Aside []AsideFile
}

// AsideFile is a damaged file that was moved aside.
type AsideFile struct {
	Path  string
	Bytes int64
}

// countSteps is in how many steps rows are counted, each by its own short read:
// one long read would keep the write-ahead log of a cache in use from ending.
const countSteps = 256

const countRows = `SELECT count(*) FROM placements WHERE key >= ? AND key < ?`

// Stat looks at a cache file and changes nothing; the cache may be in use. The
// rows are counted if counting is set, one by one, which takes minutes of a large
// file: it is told how many of the steps are done.
func Stat(ctx context.Context, cfg Config, counting func(done, total int64)) (Stats, error) {
	var s Stats
	var err error
	if s.Aside, err = asideFiles(cfg.Path); err != nil {
		return s, fmt.Errorf("look at dedup cache %s: %w", cfg.Path, err)
	}
	info, err := os.Stat(cfg.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return s, fmt.Errorf("look at dedup cache: %w", err)
	}
	s.Exists, s.Bytes = true, info.Size()
	if wal, err := os.Stat(cfg.Path + "-wal"); err == nil {
		s.Bytes += wal.Size()
	}
	err = s.read(ctx, cfg, counting)
	if errors.Is(err, errBadFile) {
		s.Problem, s.Rows, s.Covered, err = err, 0, 0, nil
	}
	if err != nil {
		return s, fmt.Errorf("look at dedup cache %s: %w", cfg.Path, err)
	}
	return s, nil
}

// asideFiles returns the files beside a cache that were moved aside.
func asideFiles(path string) (files []AsideFile, err error) {
	for n := 1; n <= maxAside; n++ {
		name := asidePath(path, n)
		info, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, AsideFile{name, info.Size()})
	}
	return files, nil
}

func (s *Stats) read(ctx context.Context, cfg Config, counting func(done, total int64)) error {
	if isSuspect(cfg.Path) {
		return errSuspect
	}
	db := openDB(cfg.Path, readerPragmas, 1, "mode", "rw", "_txlock", "deferred")
	defer db.Close()
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return classify(err)
	}
	var st store
	empty, err := st.check(ctx, tx, newSealer(cfg.Secret))
	if err := errors.Join(err, tx.Rollback()); err != nil || empty {
		return classify(err)
	}
	s.Covered = st.mark
	for i := 0; counting != nil && i < countSteps; i++ {
		var n int64
		if err := db.QueryRowContext(ctx, countRows, keysFrom(i), keysFrom(i+1)).Scan(&n); err != nil {
			return classify(err)
		}
		s.Rows += n
		counting(int64(i+1), countSteps)
	}
	return nil
}

// keysFrom is less than or equal to all keys that begin with byte i or a higher
// one; above all keys if i is 256.
func keysFrom(i int) []byte {
	if i > 255 {
		b := make([]byte, len(entry.Key{})+1)
		for i := range b {
			b[i] = 0xff
		}
		return b
	}
	return []byte{byte(i)}
}
