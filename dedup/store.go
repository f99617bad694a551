package dedup

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"runtime"

	sqlite3 "github.com/mattn/go-sqlite3"
)

const (
	applicationID = 0x6b446431 // "kDd1"
	schemaVersion = 1
)

// The schema. SQLite keeps these very texts, and open compares them: a file
// with other tables, with triggers or views is not ours.
const (
	createRows = `CREATE TABLE placements (key BLOB NOT NULL PRIMARY KEY, leaf_index INTEGER NOT NULL, ` +
		`timestamp INTEGER NOT NULL, mac BLOB NOT NULL) STRICT, WITHOUT ROWID`
	createMeta = `CREATE TABLE meta (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID`
	putMeta    = `INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`
	getMeta    = `SELECT value FROM meta WHERE name = ?`

	metaCheck   = "check"
	metaCovered = "covered"
)

// Settings of every connection. There is no mmap: an I/O error or a file cut
// short under a mapping is a SIGBUS that ends the process, where a read is an
// error that ends in a miss. WAL frames are checksummed and commit in order, so
// with synchronous=NORMAL a power cut loses the newest transactions whole: rows
// and the mark that counts them go together.
const (
	pragmas = `PRAGMA page_size = 4096; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 64000;
PRAGMA journal_size_limit = 268435456; PRAGMA mmap_size = 0;
PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY;`
	writerPragmas = pragmas + `PRAGMA cache_size = -65536;`
	readerPragmas = pragmas + `PRAGMA cache_size = -16384; PRAGMA query_only = ON;`
)

// errBadFile says that a file cannot serve as the cache of this secret, whether
// damaged or foreign, and that a new one has to take its place.
var errBadFile = errors.New("not a sound cache file of this log")

// errSuspect says it of a file that was marked.
var errSuspect = fmt.Errorf("%w: damage was found while it was in use", errBadFile)

// store is one open database: one connection that writes, several that read.
type store struct {
	writer, readers *sql.DB
	mark            int64 // the covered mark found in the file
	markBad         bool  // the mark was not written by this cache; mark is 0
}

// connector opens connections without a name in the process-wide table of
// database/sql drivers.
type connector struct {
	driver *sqlite3.SQLiteDriver
	dsn    string
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.driver.Open(c.dsn) }
func (c connector) Driver() driver.Driver                        { return c.driver }

// openDB opens a file; options are names and values in the place of, or besides,
// what is usual.
func openDB(path, pragmas string, conns int, options ...string) *sql.DB {
	query := url.Values{
		"_txlock":          {"immediate"},
		"_busy_timeout":    {"5000"},
		"_stmt_cache_size": {"16"},
	}
	for i := 0; i+1 < len(options); i += 2 {
		query.Set(options[i], options[i+1])
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	db := sql.OpenDB(connector{dsn: dsn.String(), driver: &sqlite3.SQLiteDriver{
		ConnectHook: func(c *sqlite3.SQLiteConn) error {
			_, err := c.Exec(pragmas, nil)
			return err
		},
	}})
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return db
}

// openStore opens or creates the file at an absolute path. Its error is
// errBadFile if only a new file helps.
func openStore(ctx context.Context, path string, s *sealer) (*store, error) {
	if isSuspect(path) {
		return nil, errSuspect
	}
	st := &store{
		writer:  openDB(path, writerPragmas, 1),
		readers: openDB(path, readerPragmas, max(4, runtime.GOMAXPROCS(0))),
	}
	err := st.load(ctx, s)
	if err == nil {
		err = st.enterWAL(ctx)
	}
	if err == nil {
		// The first reader proves that readers can be had at all.
		err = st.readers.PingContext(ctx)
	}
	if err != nil {
		return nil, errors.Join(classify(err), st.close())
	}
	return st, nil
}

// classify adds errBadFile to errors that a new file would cure. A full disk, a
// busy file and an ended context are none: the file may be sound.
func classify(err error) error {
	var e sqlite3.Error
	if errors.Is(err, errBadFile) || !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case sqlite3.ErrNotADB, sqlite3.ErrCorrupt, sqlite3.ErrCantOpen, sqlite3.ErrIoErr,
		sqlite3.ErrPerm, sqlite3.ErrReadonly, sqlite3.ErrFormat, sqlite3.ErrError, sqlite3.ErrMismatch:
		return fmt.Errorf("%w: %w", errBadFile, err)
	}
	return err
}

// load checks the file, and fills an empty one.
func (st *store) load(ctx context.Context, s *sealer) error {
	tx, err := st.writer.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	empty, err := st.check(ctx, tx, s)
	if err == nil && empty {
		err = create(ctx, tx, s)
	}
	if err != nil {
		return err
	}
	return tx.Commit()
}

// check reports whether the file is empty; else it checks that it is ours and
// sound as far as is cheap: its header, schema, secret, and both ends of the rows.
func (st *store) check(ctx context.Context, tx *sql.Tx, s *sealer) (empty bool, err error) {
	schema, err := readSchema(ctx, tx)
	if err != nil {
		return false, err
	}
	var id, version int64
	if err := tx.QueryRowContext(ctx, `SELECT application_id, user_version FROM pragma_application_id, pragma_user_version`).
		Scan(&id, &version); err != nil {
		return false, err
	}
	switch {
	case len(schema) == 0 && id == 0 && version == 0:
		return true, nil
	case id != applicationID:
		return false, fmt.Errorf("%w: application_id is %#x, want %#x", errBadFile, id, applicationID)
	case version != schemaVersion:
		return false, fmt.Errorf("%w: user_version is %d, want %d", errBadFile, version, schemaVersion)
	case !maps.Equal(schema, map[string]string{"placements": createRows, "meta": createMeta}):
		return false, fmt.Errorf("%w: its tables are not those of a cache", errBadFile)
	}
	return false, st.verify(ctx, tx, s)
}

func readSchema(ctx context.Context, tx *sql.Tx) (map[string]string, error) {
	rows, err := tx.QueryContext(ctx, `SELECT name, sql FROM sqlite_schema`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	schema := make(map[string]string)
	for rows.Next() {
		var name string
		var text sql.NullString
		if err := rows.Scan(&name, &text); err != nil {
			return nil, fmt.Errorf("%w: %w", errBadFile, err)
		}
		schema[name] = text.String
	}
	return schema, rows.Err()
}

func create(ctx context.Context, tx *sql.Tx, s *sealer) error {
	for _, statement := range []string{
		createRows, createMeta,
		fmt.Sprintf(`PRAGMA application_id = %d`, applicationID),
		fmt.Sprintf(`PRAGMA user_version = %d`, schemaVersion),
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, putMeta, metaCheck, s.check()); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, putMeta, metaCovered, s.covered(0))
	return err
}

// verify checks the secret, reads the mark and touches both ends of the rows.
func (st *store) verify(ctx context.Context, tx *sql.Tx, s *sealer) error {
	var check, covered []byte
	err := tx.QueryRowContext(ctx, getMeta, metaCheck).Scan(&check)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if string(check) != string(s.check()) {
		return fmt.Errorf("%w: it was written under another secret, by another log", errBadFile)
	}
	err = tx.QueryRowContext(ctx, getMeta, metaCovered).Scan(&covered)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	mark, ok := s.parseCovered(covered)
	st.mark, st.markBad = mark, !ok
	if !ok {
		st.mark = 0
	}
	for _, order := range []string{"ASC", "DESC"} {
		var key []byte
		err := tx.QueryRowContext(ctx, `SELECT key FROM placements ORDER BY key `+order+` LIMIT 1`).Scan(&key)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
	}
	return nil
}

// enterWAL sets the journal mode, which the file keeps. It comes after load, so
// that a foreign file is moved aside as it was found.
func (st *store) enterWAL(ctx context.Context) error {
	var mode string
	if err := st.writer.QueryRowContext(ctx, `PRAGMA journal_mode = WAL`).Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return fmt.Errorf("journal mode is %q, want wal: does the file system lack shared memory?", mode)
	}
	return nil
}

// close waits for the statements that run and closes all connections.
func (st *store) close() error {
	return errors.Join(st.readers.Close(), st.writer.Close())
}
