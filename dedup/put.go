package dedup

import (
	"context"
	"database/sql"
	"fmt"
	"strings"

	"kiln/entry"
)

// rowsPerInsert are the numbers of rows one statement writes, so that any count
// takes few statements and each text is prepared once.
var rowsPerInsert = [...]int{100, 10, 1}

// Put remembers the placements of keys, all or none, in one transaction. Of two
// placements of a key the lower index stays; a row whose MAC does not hold is
// replaced. Puts take turns; one of 500 rows or more costs least for each.
func (c *Cache) Put(ctx context.Context, keys []entry.Key, placements []entry.Placement) error {
	if len(keys) != len(placements) {
		return fmt.Errorf("put into dedup cache: %d keys and %d placements", len(keys), len(placements))
	}
	for i, pl := range placements {
		if err := pl.Check(); err != nil {
			return fmt.Errorf("put into dedup cache: key %x: %w", keys[i], err)
		}
	}
	if err := c.lock(ctx); err != nil {
		return fmt.Errorf("put into dedup cache: %w", err)
	}
	defer c.unlock()
	st := c.store.Load()
	if st == nil {
		return fmt.Errorf("put into dedup cache: %w", errClosed)
	}
	held, err := c.putAll(ctx, st, keys, placements)
	if err != nil {
		// If the commit took place all the same, the mark in memory is lower
		// than the one on disk: that only makes a catch-up longer.
		c.metrics.putErrors.Inc()
		return fmt.Errorf("put into dedup cache: %w", c.observe(ctx, err))
	}
	c.metrics.rows.Add(float64(len(keys)))
	c.adopt(held)
	return nil
}

// putAll writes the rows, and the mark if it moves, in one transaction, and
// returns the coverage to adopt.
func (c *Cache) putAll(ctx context.Context, st *store, keys []entry.Key, placements []entry.Placement) (coverage, error) {
	tx, err := st.writer.BeginTx(ctx, nil)
	if err != nil {
		return coverage{}, err
	}
	defer tx.Rollback()
	for from := 0; from < len(keys); {
		n := chunk(len(keys) - from)
		if err := c.insert(ctx, tx, keys[from:from+n], placements[from:from+n]); err != nil {
			return coverage{}, err
		}
		from += n
	}
	held := c.held.with(placements)
	if held.mark != c.held.mark {
		if _, err := tx.ExecContext(ctx, putMeta, metaCovered, c.seal.covered(held.mark)); err != nil {
			return coverage{}, err
		}
	}
	return held, tx.Commit()
}

// chunk returns the number of rows for the next statement when n are left.
func chunk(n int) int {
	for _, rows := range rowsPerInsert {
		if rows <= n {
			return rows
		}
	}
	return 1
}

// insert writes rows by one statement, and looks closer only if some of the keys
// were there already.
func (c *Cache) insert(ctx context.Context, tx *sql.Tx, keys []entry.Key, placements []entry.Placement) error {
	args := make([]any, 0, 4*len(keys))
	for i := range keys {
		mac := c.seal.row(keys[i], placements[i])
		args = append(args, keys[i][:], placements[i].Index, placements[i].TimestampMillis, mac[:])
	}
	res, err := tx.ExecContext(ctx, insertRows(len(keys)), args...)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == int64(len(keys)) {
		return err
	}
	for i := range keys {
		if err := c.settle(ctx, tx, keys[i], placements[i], args[4*i:4*i+4]); err != nil {
			return err
		}
	}
	return nil
}

// settle puts the row in the place of the one that the key has, if that one is
// bad or has a higher index.
func (c *Cache) settle(ctx context.Context, tx *sql.Tx, key entry.Key, pl entry.Placement, row []any) error {
	old, mac, ok, err := readRow(ctx, tx, key)
	if err != nil {
		return err
	}
	if ok && c.seal.holds(key, old, mac) && old.Index <= pl.Index {
		return nil
	}
	if ok && !c.seal.holds(key, old, mac) {
		c.badRow(old)
	}
	_, err = tx.ExecContext(ctx, replaceRow, row...)
	return err
}

const replaceRow = `INSERT OR REPLACE INTO placements (key, leaf_index, timestamp, mac) VALUES (?, ?, ?, ?)`

func insertRows(n int) string {
	return `INSERT INTO placements (key, leaf_index, timestamp, mac) VALUES (?, ?, ?, ?)` +
		strings.Repeat(`, (?, ?, ?, ?)`, n-1) + ` ON CONFLICT (key) DO NOTHING`
}
