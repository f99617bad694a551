// Package sqlite is a [lock.Store] in one SQLite file, for processes of one
// machine.
//
// Invariants: a version only grows; Replace is one transaction that writes only
// where both the version and the bytes are the held ones; a call that returned
// nil is on disk, and what Load returns is too. A call that a cancelled context
// ends has done nothing.
//
// The journal is a rollback journal, kept between transactions
// (journal_mode=PERSIST, synchronous=EXTRA), and not a write-ahead log
// (WAL, synchronous=FULL), which would be as durable: after each commit the
// whole truth is in the one file. Beside a write-ahead log a file copied or moved
// alone is an older lock, and an older lock lets a log sign a second history.
// It costs little: 0.7 to 1.1 ms a Replace, where the write-ahead log took 0.6 to
// 0.9, and a journal deleted after each transaction 1.5 to 2.9.
//
// No other code of the process may open and close the file: POSIX would drop
// SQLite's locks on it.
//
// The package never knows what the bytes mean.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/mattn/go-sqlite3"

	"kiln/lock"
)

// busyLimit is how long a call waits for other processes. They hold the file for
// a few milliseconds, so it is reached only if one of them hangs.
const busyLimit = 10 * time.Second

// Store is a file of cells. It is safe for concurrent use, also with other
// Stores, in this process and others, on the same file.
type Store struct {
	path string
	db   *sql.DB // of one connection, so that calls of this process queue here

	mu   sync.Mutex
	sure map[string]int64 // guarded by mu; the version of each cell that is known to be durable
}

var _ lock.Store = (*Store)(nil)

// Open opens the store in the file at path, and makes it if there is none; the
// folder must exist. It refuses a file that it did not make, and one that is
// damaged.
func Open(ctx context.Context, path string) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open lock %s: %w", path, err)
	}
	s := &Store{path: abs, db: sql.OpenDB(newConnector(abs)), sure: make(map[string]int64)}
	s.db.SetMaxOpenConns(1)
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open lock %s: %w", abs, err), s.db.Close())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	var verdict string
	err := s.retry(ctx, func() error {
		return s.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict)
	})
	switch {
	case err != nil:
		return explain(err)
	case verdict != "ok":
		return explain(fmt.Errorf("%w: %s", errDamaged, verdict))
	}
	// SQLite syncs the folder when it makes a journal. Where one was left of an
	// earlier file it does not, and the new file's name could be lost in a crash.
	return syncFolder(s.path)
}

func syncFolder(file string) error {
	file, err := filepath.EvalSymlinks(file)
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Close closes the file. No call may be running or follow.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close lock %s: %w", s.path, err)
	}
	return nil
}

// retry runs f again as long as it fails because other processes hold the file;
// nothing is written then. SQLite waits inside of f, a moment only, because it
// cannot be called back from there.
func (s *Store) retry(ctx context.Context, f func() error) error {
	for begun := time.Now(); ; {
		err := ctx.Err()
		if err == nil {
			err = f()
		}
		if !isBusy(err) || time.Since(begun) > busyLimit {
			return err
		}
	}
}

// isBusy reports whether SQLite gave up waiting for another process.
func isBusy(err error) bool {
	e, ok := errors.AsType[sqlite3.Error](err)
	return ok && (e.Code == sqlite3.ErrBusy || e.Code == sqlite3.ErrLocked)
}

// isReadOnly reports whether SQLite says that this process may not write.
func isReadOnly(err error) bool {
	e, ok := errors.AsType[sqlite3.Error](err)
	return ok && e.Code == sqlite3.ErrReadonly
}

// transact runs f in a transaction that no other writes beside, and commits if f
// returns nil. The context is asked until the transaction has begun. From there
// it would only make a known outcome unknown.
func (s *Store) transact(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	return s.retry(ctx, func() error {
		conn, err := s.db.Conn(ctx)
		if err != nil {
			return err
		}
		defer conn.Close() // gives it back; the transaction has its own errors
		ctx := context.WithoutCancel(ctx)
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		if err := f(ctx, tx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
		return tx.Commit() // refused as busy, it was rolled back
	})
}

func check(id string, body []byte) error {
	if id == "" {
		return errors.New("empty name")
	}
	if len(body) > lock.MaxBody {
		return fmt.Errorf("body has %d bytes, more than %d", len(body), lock.MaxBody)
	}
	return nil
}

// blob is body as SQLite takes it: nil would be NULL.
func blob(body []byte) []byte { return append([]byte{}, body...) }

func (s *Store) wrap(call, id string, err error) error {
	return fmt.Errorf("%s lock cell %q in %s: %w", call, id, s.path, err)
}

// Create implements [lock.Store].
func (s *Store) Create(ctx context.Context, id string, body []byte) error {
	if err := check(id, body); err != nil {
		return s.wrap("create", id, err)
	}
	err := s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx,
			"INSERT INTO cells (id, version, body) VALUES (?, 1, ?) ON CONFLICT DO NOTHING", id, blob(body))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		switch {
		case err != nil:
			return err
		case n == 0:
			return lock.ErrExists
		}
		return nil
	})
	if err != nil {
		return s.wrap("create", id, err)
	}
	s.known(id, 1)
	return nil
}

// Load implements [lock.Store]. Of a version that this store has not seen become
// durable it makes sure first.
func (s *Store) Load(ctx context.Context, id string) (lock.Held, error) {
	var version int64
	var body []byte
	err := s.retry(ctx, func() (err error) {
		version, body, err = selectCell(ctx, s.db, id)
		return err
	})
	if err == nil && !s.isKnown(id, version) {
		v, b, settled := s.settle(ctx, id)
		if !isReadOnly(settled) { // who may not write goes on from nothing
			version, body, err = v, b, settled
		}
	}
	if errors.Is(err, sql.ErrNoRows) {
		err = lock.ErrNotFound
	}
	if err != nil {
		return lock.Held{}, s.wrap("load", id, err)
	}
	return lock.Held{ID: id, Body: blob(body), Version: strconv.FormatInt(version, 10)}, nil
}

func selectCell(ctx context.Context, from interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, id string,
) (version int64, body []byte, err error) {
	err = from.QueryRowContext(ctx, "SELECT version, body FROM cells WHERE id = ?", id).Scan(&version, &body)
	return version, body, err
}

// settle reads a cell in a transaction that writes, and so has all the syncs of
// one. The last step of a commit is to sync that the journal is void. If that
// fails the commit is an error, and yet everybody sees it; but after a power cut
// the journal may be valid again, and takes the commit back. Whoever went on from
// what was seen would then have a log that is ahead of its lock.
func (s *Store) settle(ctx context.Context, id string) (version int64, body []byte, err error) {
	err = s.transact(ctx, func(ctx context.Context, tx *sql.Tx) (err error) {
		if version, body, err = selectCell(ctx, tx, id); err != nil {
			return err
		}
		// This is written even though it is what stands there, which a row is not.
		_, err = tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", schemaVersion))
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	s.known(id, version)
	return version, body, nil
}

// known notes a version that is durable.
func (s *Store) known(id string, version int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sure[id] = version
}

func (s *Store) isKnown(id string, version int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sure[id] == version
}

// Replace implements [lock.Store].
func (s *Store) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	if err := check(held.ID, body); err != nil {
		return lock.Held{}, s.wrap("replace", held.ID, err)
	}
	version := parseVersion(held.Version)
	err := s.transact(ctx, func(ctx context.Context, tx *sql.Tx) error {
		// The body is compared too: a file that was rolled back, and went on from
		// there, comes by the held version again, but not by the held bytes.
		res, err := tx.ExecContext(ctx,
			"UPDATE cells SET version = version + 1, body = ? WHERE id = ? AND version = ? AND body = ?",
			blob(body), held.ID, version, blob(held.Body))
		if err != nil {
			return err
		}
		n, err := res.RowsAffected()
		switch {
		case err != nil:
			return err
		case n == 1:
			return nil
		case n != 0:
			return fmt.Errorf("%w: %d cells of one name", errDamaged, n)
		}
		err = tx.QueryRowContext(ctx, "SELECT version FROM cells WHERE id = ?", held.ID).Scan(new(int64))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return lock.ErrNotFound
		case err != nil:
			return err
		}
		return lock.ErrConflict
	})
	if err != nil {
		return lock.Held{}, s.wrap("replace", held.ID, err)
	}
	s.known(held.ID, version+1)
	return lock.Held{ID: held.ID, Body: blob(body), Version: strconv.FormatInt(version+1, 10)}, nil
}

// parseVersion returns 0, at which no cell ever is, for what is no version in
// the one form that this package writes.
func parseVersion(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != s {
		return 0
	}
	return n
}
