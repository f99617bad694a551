// Package dedup is the long-term cache of a log: it remembers the placement of
// each entry by its key, in one SQLite file, and may forget.
//
// Invariants: what Get returns was put under this very key, index and timestamp
// by a cache with the same secret, for every row carries a MAC over the three; a
// row whose MAC does not hold is a miss and an alarm, never an answer. Of two
// placements of one key the lower index is kept. Covered counts only rows that
// were committed with it or before it. A file that is damaged or foreign is
// moved aside and begun anew. It is a cache: all of it can be read again from
// the log, so that any error may be taken as a miss.
//
// The package never knows certificates or trees.
package dedup

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"

	sqlite3 "github.com/mattn/go-sqlite3"
	"github.com/prometheus/client_golang/prometheus"

	"kiln/entry"
)

// SecretSize is the length of Config.Secret in bytes.
const SecretSize = 32

// Config says where a cache is and whose it is. Path and Secret are required.
type Config struct {
	// Path of the SQLite file. Its directory is made if missing. One Cache at a
	// time may have it open, in any process; a file Path.lock stays beside it.
	Path string

	// Secret of the log, 32 bytes: it keys the MAC of every row, so that a file
	// of another log is told apart. It must not be used for anything else.
	Secret []byte

	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none
}

// errClosed is returned by all calls after Close, and while a Reset that failed
// has left no file.
var errClosed = errors.New("cache is closed")

// Cache is an open long-term cache. It is safe for concurrent use.
type Cache struct {
	path    string // absolute
	seal    *sealer
	logger  *slog.Logger
	metrics *metrics

	release func()                // of the lock on the file
	closed  bool                  // owned by the writer: Close was called
	store   atomic.Pointer[store] // nil: closed
	write   chan struct{}         // holds one token; its taker is the writer
	held    coverage              // owned by the writer
	covered atomic.Int64          // held.mark, for readers
	suspect atomic.Bool           // damage was seen and the file is marked

	badRows, failures throttle
}

// Open opens the cache, and creates it if there is none. A file that is no
// SQLite file, is damaged as far as a cheap look shows, was marked as damaged
// by an earlier use, or belongs to another secret, is moved to PATH.bad-N (the
// first four are kept) and logged at ERROR; the cache then begins empty. What is
// left to fail is the directory, not writable or on a full disk, and a file that is
// open already, which is [ErrInUse]. The context governs the opening only.
func Open(ctx context.Context, cfg Config) (*Cache, error) {
	if len(cfg.Secret) != SecretSize {
		return nil, fmt.Errorf("open dedup cache %s: secret has %d bytes, want %d", cfg.Path, len(cfg.Secret), SecretSize)
	}
	path, err := prepare(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("open dedup cache %s: %w", cfg.Path, err)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("open dedup cache %s: %w", cfg.Path, err)
	}
	c := &Cache{
		path: path, seal: newSealer(cfg.Secret), logger: cfg.Logger, metrics: m,
		write: make(chan struct{}, 1),
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	if c.release, err = takeFile(path); err != nil {
		return nil, fmt.Errorf("open dedup cache %s: %w", path, err)
	}
	if err := c.open(ctx); err != nil {
		c.release()
		return nil, fmt.Errorf("open dedup cache %s: %w", path, err)
	}
	c.write <- struct{}{}
	return c, nil
}

// open opens the file, at the second try in place of a bad one.
func (c *Cache) open(ctx context.Context) error {
	st, err := openStore(ctx, c.path, c.seal)
	if errors.Is(err, errBadFile) {
		c.metrics.badFiles.Inc()
		to, moveErr := setAside(c.path)
		if moveErr != nil {
			return errors.Join(err, moveErr)
		}
		c.logger.Error("dedup cache is bad, moved aside and begun anew; it refills from the log",
			"path", to, "err", err)
		st, err = openStore(ctx, c.path, c.seal)
	}
	if err != nil {
		return err
	}
	if st.markBad {
		c.metrics.badRows.Inc()
		c.logger.Error("dedup cache has a bad covered mark, counting from zero", "path", c.path)
	}
	c.suspect.Store(false)
	c.adopt(coverage{mark: st.mark})
	c.store.Store(st)
	return nil
}

// adopt makes held the state. Only the writer calls it.
func (c *Cache) adopt(held coverage) {
	c.held = held
	c.covered.Store(held.mark)
	c.metrics.covered.Set(float64(held.mark))
	c.metrics.spans.Set(float64(len(held.spans)))
}

const getRow = `SELECT leaf_index, timestamp, mac FROM placements WHERE key = ?`

// Get returns the placement of a key, and whether there is one. A row whose MAC
// does not hold counts as none. It stops when the context ends, but for a read
// that the operating system does not interrupt.
func (c *Cache) Get(ctx context.Context, key entry.Key) (entry.Placement, bool, error) {
	st := c.store.Load()
	if st == nil {
		return entry.Placement{}, false, fmt.Errorf("get from dedup cache: %w", errClosed)
	}
	pl, mac, ok, err := readRow(ctx, st.readers, key)
	switch {
	case err != nil:
		c.metrics.gets.WithLabelValues(resultError).Inc()
		return entry.Placement{}, false, fmt.Errorf("get from dedup cache: %w", c.observe(ctx, err))
	case !ok:
		c.metrics.gets.WithLabelValues(resultMiss).Inc()
		return entry.Placement{}, false, nil
	case !c.seal.holds(key, pl, mac):
		c.metrics.gets.WithLabelValues(resultBad).Inc()
		c.badRow(pl)
		return entry.Placement{}, false, nil
	}
	c.metrics.gets.WithLabelValues(resultHit).Inc()
	return pl, true, nil
}

// readRow reads the row of a key, unverified.
func readRow(ctx context.Context, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, key entry.Key,
) (pl entry.Placement, mac []byte, ok bool, err error) {
	err = q.QueryRowContext(ctx, getRow, key[:]).Scan(&pl.Index, &pl.TimestampMillis, &mac)
	if errors.Is(err, sql.ErrNoRows) {
		return entry.Placement{}, nil, false, nil
	}
	return pl, mac, err == nil, err
}

// Covered returns the mark below which every index is held: whoever puts all
// entries from there on has put all. It survives a restart, together with the
// rows it counts. Rows put above a gap do not count until the gap is filled.
func (c *Cache) Covered() int64 { return c.covered.Load() }

// Reset makes the cache empty, with Covered 0, by a new file in the place of the
// old. Lookups that run meanwhile may fail. If it fails, the cache may be left
// closed; Reset can be called again.
func (c *Cache) Reset(ctx context.Context) error {
	if err := c.lock(ctx); err != nil {
		return fmt.Errorf("reset dedup cache: %w", err)
	}
	defer c.unlock()
	if c.closed {
		return fmt.Errorf("reset dedup cache: %w", errClosed)
	}
	if st := c.store.Swap(nil); st != nil {
		// Whatever cannot be written back any more is removed next.
		_ = st.close()
	}
	c.adopt(coverage{})
	if err := removeFiles(c.path); err != nil {
		return fmt.Errorf("reset dedup cache %s: %w", c.path, err)
	}
	if err := c.open(ctx); err != nil {
		return fmt.Errorf("reset dedup cache %s: %w", c.path, err)
	}
	c.logger.Warn("dedup cache was reset", "path", c.path)
	return nil
}

// Close waits for the Put that runs and closes the file. Calls after it fail.
func (c *Cache) Close() error {
	<-c.write
	defer c.unlock()
	if !c.closed {
		c.closed = true
		defer c.release()
	}
	st := c.store.Swap(nil)
	if st == nil {
		return nil
	}
	if err := st.close(); err != nil {
		return fmt.Errorf("close dedup cache %s: %w", c.path, err)
	}
	return nil
}

// lock makes the caller the writer, or fails when the context ends.
func (c *Cache) lock(ctx context.Context) error {
	select {
	case <-c.write:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Cache) unlock() { c.write <- struct{}{} }

// badRow counts a row whose MAC does not hold, and logs now and then.
func (c *Cache) badRow(pl entry.Placement) {
	c.metrics.badRows.Inc()
	if n, ok := c.badRows.allow(); ok {
		c.logger.Error("dedup cache has rows whose mac does not hold, taken as misses",
			"path", c.path, "leaf_index", pl.Index, "entries", n)
	}
}

// observe looks at an error of SQLite: damage is logged, now and then, and the
// file is marked, so that the next Open begins anew. It returns the error, or
// that of the context if it has ended, since SQLite only says "interrupted".
func (c *Cache) observe(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var e sqlite3.Error
	if !errors.As(err, &e) || (e.Code != sqlite3.ErrCorrupt && e.Code != sqlite3.ErrNotADB) {
		return err
	}
	if c.suspect.CompareAndSwap(false, true) {
		if markErr := markSuspect(c.path); markErr != nil {
			c.suspect.Store(false)
			err = errors.Join(err, markErr)
		}
	}
	if n, ok := c.failures.allow(); ok {
		c.logger.Error("dedup cache file is damaged; it is begun anew at the next start",
			"path", c.path, "entries", n, "err", err)
	}
	return err
}
