package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"

	"github.com/mattn/go-sqlite3"
)

const (
	// applicationID marks a SQLite file as a lock of ours: "kLck".
	applicationID = 0x6b4c636b
	// schemaVersion is the user_version of the schema below.
	schemaVersion = 1

	// busyTimeout is how long SQLite waits for other processes before it lets us
	// look at the context, in milliseconds.
	busyTimeout = 250
)

const schema = `
CREATE TABLE cells (
	id      TEXT    NOT NULL PRIMARY KEY,
	version INTEGER NOT NULL CHECK (version >= 1),
	body    BLOB    NOT NULL
) STRICT;
`

var (
	errForeign = errors.New("the file is not a lock made by kiln")
	errDamaged = errors.New("the file is damaged")
)

// advice is what to do about a file that cannot be used. The lock is the only
// record of what was signed last, so a new or an older one is never the answer.
const advice = "name the right file, or bring back its newest state; never start a log that has run with a new or an older lock"

// explain adds what to do to an error that says that the file cannot be used.
func explain(err error) error {
	e, ok := errors.AsType[sqlite3.Error](err)
	switch {
	case ok && e.Code == sqlite3.ErrNotADB:
		return fmt.Errorf("%w (%w): %s", errForeign, err, advice)
	case ok && e.Code == sqlite3.ErrCorrupt, errors.Is(err, errForeign), errors.Is(err, errDamaged):
		return fmt.Errorf("%w: %s", err, advice)
	}
	return err
}

// connector opens connections to one file that are all set up alike.
type connector struct {
	driver sqlite3.SQLiteDriver
	dsn    string
}

func newConnector(path string) *connector {
	// Nothing here may write: the file may turn out not to be ours.
	u := url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: url.Values{
		"mode":          {"rwc"},
		"_busy_timeout": {fmt.Sprint(busyTimeout)},
		"_synchronous":  {"EXTRA"},
		"_txlock":       {"immediate"}, // take the write lock first, or reading then writing could deadlock
	}.Encode()}
	return &connector{dsn: u.String()}
}

// Driver implements [driver.Connector].
func (c *connector) Driver() driver.Driver { return &c.driver }

// Connect implements [driver.Connector].
func (c *connector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.driver.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	sc, ok := conn.(*sqlite3.SQLiteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("connection is a %T", conn), conn.Close())
	}
	if err := setUp(ctx, sc); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// setUp looks whether the file is ours, makes it ours if it is empty, and sets
// the journal.
func setUp(ctx context.Context, conn *sqlite3.SQLiteConn) error {
	var empty bool
	err := within(ctx, conn, "BEGIN", func() (err error) { // one look, while others may initialize
		empty, err = inspect(ctx, conn)
		return err
	})
	if err == nil && empty {
		err = within(ctx, conn, "BEGIN IMMEDIATE", func() error { return initialize(ctx, conn) })
	}
	if err != nil {
		return err
	}
	mode, err := query(ctx, conn, "PRAGMA journal_mode = PERSIST")
	if err != nil {
		return err
	}
	if mode != "persist" {
		return fmt.Errorf("journal_mode is %v, want persist: is another program using the file?", mode)
	}
	level, err := query(ctx, conn, "PRAGMA synchronous")
	if err != nil {
		return err
	}
	if level != int64(3) {
		return fmt.Errorf("synchronous is %v, want 3 (EXTRA)", level)
	}
	return nil
}

// inspect reports whether the file is empty, and fails if it is not ours.
func inspect(ctx context.Context, conn *sqlite3.SQLiteConn) (empty bool, err error) {
	var got [3]int64
	for i, q := range []string{"PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_schema"} {
		v, err := query(ctx, conn, q)
		if err != nil {
			return false, err
		}
		got[i], _ = v.(int64)
	}
	switch {
	case got == [3]int64{}:
		return true, nil
	case got[0] != applicationID:
		return false, fmt.Errorf("%w: its application_id is %#x, want %#x", errForeign, got[0], applicationID)
	case got[1] != schemaVersion:
		return false, fmt.Errorf("%w of this version: its user_version is %d, want %d", errForeign, got[1], schemaVersion)
	}
	return false, nil
}

// initialize makes an empty file ours, unless another process was faster.
func initialize(ctx context.Context, conn *sqlite3.SQLiteConn) error {
	empty, err := inspect(ctx, conn)
	if err != nil || !empty {
		return err
	}
	return run(ctx, conn, fmt.Sprintf("%s PRAGMA application_id = %d; PRAGMA user_version = %d;",
		schema, applicationID, schemaVersion))
}

// within runs f between the given BEGIN and COMMIT.
func within(ctx context.Context, conn *sqlite3.SQLiteConn, begin string, f func() error) error {
	if err := run(ctx, conn, begin); err != nil {
		return err
	}
	err := f()
	if err == nil {
		err = run(ctx, conn, "COMMIT")
	}
	if err != nil && !conn.AutoCommit() {
		err = errors.Join(err, run(context.WithoutCancel(ctx), conn, "ROLLBACK"))
	}
	return err
}

func run(ctx context.Context, conn *sqlite3.SQLiteConn, statements string) error {
	_, err := conn.ExecContext(ctx, statements, nil)
	return err
}

// query returns the only value of a statement's only row. Text comes as string.
func query(ctx context.Context, conn *sqlite3.SQLiteConn, statement string) (any, error) {
	rows, err := conn.QueryContext(ctx, statement, nil)
	if err != nil {
		return nil, err
	}
	row := make([]driver.Value, len(rows.Columns()))
	err = rows.Next(row)
	if closeErr := rows.Close(); err == nil {
		err = closeErr
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: no row", statement)
	case err != nil:
		return nil, err
	case len(row) != 1:
		return nil, fmt.Errorf("%s: %d columns", statement, len(row))
	}
	if b, ok := row[0].([]byte); ok {
		return string(b), nil
	}
	return row[0], nil
}
