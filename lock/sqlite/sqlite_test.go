package sqlite

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/lock"
	"kiln/lock/locktest"
)

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func load(t *testing.T, s *Store, id string) lock.Held {
	t.Helper()
	h, err := s.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestSuite(t *testing.T) {
	locktest.Test(t, func(t *testing.T) lock.Store { return open(t, filepath.Join(t.TempDir(), "lock.db")) })
}

func TestTwoHandles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock.db")
	locktest.Race(t, open(t, path), open(t, path))
}

// TestOpenTogether shows that of many who find no file each gets a store, and
// all of them the same.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	for range 5 {
		path := filepath.Join(t.TempDir(), "lock.db")
		done := make(chan error)
		const n = 8
		for range n {
			go func() {
				s, err := Open(t.Context(), path)
				if err == nil {
					if err = s.Create(t.Context(), "cell", []byte("0")); errors.Is(err, lock.ErrExists) {
						err = nil
					}
					err = errors.Join(err, locktest.Increment(t.Context(), s, "cell"), s.Close())
				}
				done <- err
			}()
		}
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if got := load(t, open(t, path), "cell"); string(got.Body) != fmt.Sprint(n) {
			t.Errorf("the cell is %q, want %d", got.Body, n)
		}
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "odd name ?a=b#c%20&'.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "cell", []byte("1")); err != nil {
		t.Fatal(err)
	}
	held, err := s.Replace(t.Context(), load(t, s, "cell"), []byte("2"))
	if err != nil {
		t.Fatal(err)
	}
	// What stands in the file alone is the whole truth while the store is open.
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "copy.db")
	if err := errors.Join(os.WriteFile(alone, data, 0o600), s.Close()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, alone} {
		s := open(t, p)
		if got := load(t, s, "cell"); got.Version != held.Version || !bytes.Equal(got.Body, held.Body) {
			t.Errorf("%s: the cell is %+v, want %+v", p, got, held)
		}
		if _, err := s.Replace(t.Context(), held, []byte("3")); err != nil {
			t.Error(err)
		}
	}
}

// TestRolledBack shows that who holds a version does not write over a file that
// an older copy was put in the place of, not even when that is at the same
// version again.
func TestRolledBack(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock.db")
	s := open(t, path)
	if err := s.Create(t.Context(), "cell", []byte("1")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	held, err := s.Replace(t.Context(), load(t, s, "cell"), []byte("2"))
	if err != nil {
		t.Fatal(err)
	}
	older := filepath.Join(t.TempDir(), "lock.db")
	if err := os.WriteFile(older, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, older)
	if _, err := s.Replace(t.Context(), held, []byte("3")); !errors.Is(err, lock.ErrConflict) {
		t.Errorf("Replace in the older file: %v, want %v", err, lock.ErrConflict)
	}
	other, err := s.Replace(t.Context(), load(t, s, "cell"), []byte("another 2"))
	if err != nil || other.Version != held.Version {
		t.Fatalf("version %q (%v), want %q, as before", other.Version, err, held.Version)
	}
	if _, err := s.Replace(t.Context(), held, []byte("3")); !errors.Is(err, lock.ErrConflict) {
		t.Errorf("Replace in the older file at the same version: %v, want %v", err, lock.ErrConflict)
	}
}

// foreign makes a SQLite file that is not ours.
func foreign(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
}

// ours makes a lock with some cells, and returns the file's bytes.
func ours(t *testing.T, path string) []byte {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if err := s.Create(t.Context(), fmt.Sprint("cell ", i), bytes.Repeat([]byte{byte(i)}, 2000)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// refusal is a file that Open refuses, with a word of the error.
type refusal struct {
	name, want string
	make       func(t *testing.T, path string)
}

func refusals() []refusal {
	return []refusal{
		{"text", errForeign.Error(), func(t *testing.T, path string) {
			write(t, path, []byte(strings.Repeat("listen: 127.0.0.1\n", 1000)))
		}},
		{"short text", errForeign.Error(), func(t *testing.T, path string) { write(t, path, []byte("x\n")) }},
		{"another database", errForeign.Error(), func(t *testing.T, path string) {
			foreign(t, path, "CREATE TABLE cells (id, version, body)")
		}},
		{"another database in WAL", errForeign.Error(), func(t *testing.T, path string) {
			foreign(t, path, "PRAGMA journal_mode = WAL", "CREATE TABLE t (a)")
		}},
		{"another application", "application_id", func(t *testing.T, path string) {
			foreign(t, path, "PRAGMA application_id = 7")
		}},
		{"another version", "user_version is 2", func(t *testing.T, path string) {
			ours(t, path)
			foreign(t, path, "PRAGMA user_version = 2")
		}},
		{"damaged", errDamaged.Error(), func(t *testing.T, path string) {
			data := ours(t, path)
			copy(data[2*4096:], bytes.Repeat([]byte{0xee}, 4096))
			write(t, path, data)
		}},
		{"cut off", advice, func(t *testing.T, path string) {
			data := ours(t, path)
			write(t, path, data[:len(data)/2])
		}},
		{"a folder", "", func(t *testing.T, path string) {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"no folder", "", func(t *testing.T, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range refusals() {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "lock.db")
			c.make(t, path)
			before, _ := os.ReadFile(path)
			_, err := Open(t.Context(), path)
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q, want the path and %q", err, c.want)
			}
			if c.want != "" && !strings.Contains(err.Error(), advice) {
				t.Errorf("error %q does not say what to do", err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the refused file was changed")
			}
		})
	}
}

// TestWaiting shows that a call that waits for another process ends with its
// context, has done nothing then, and goes through when the other is done.
func TestWaiting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock.db")
	s, other := open(t, path), open(t, path)
	if err := s.Create(t.Context(), "cell", []byte("1")); err != nil {
		t.Fatal(err)
	}
	held := load(t, s, "cell")
	tx, err := other.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	replace := func(ctx context.Context) {
		_, err := s.Replace(ctx, held, []byte("2"))
		done <- err
	}
	go replace(ctx)
	go replace(ctx) // one waits for the file, and one for the connection
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want %v", err, context.Canceled)
		}
	}
	go replace(t.Context())
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after the other was done: %v", err)
	}
}

func BenchmarkReplace(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "lock.db"))
	if err := s.Create(b.Context(), "cell", make([]byte, 400)); err != nil {
		b.Fatal(err)
	}
	held, err := s.Load(b.Context(), "cell")
	for b.Loop() && err == nil {
		held, err = s.Replace(b.Context(), held, held.Body)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// changes returns how many transactions have written to the file: SQLite's file
// change counter.
func changes(t *testing.T, path string) uint32 {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return binary.BigEndian.Uint32(data[24:])
}

// TestLoadMakesSure shows that Load answers with what it did not see become
// durable only after it has: the commit that is seen may be one whose last sync
// has failed, which a power cut takes back.
func TestLoadMakesSure(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock.db")
	writer, reader := open(t, path), open(t, path)
	if err := writer.Create(t.Context(), "cell", []byte("1")); err != nil {
		t.Fatal(err)
	}
	wrote := func(what string, want bool, do func()) {
		t.Helper()
		before := changes(t, path)
		do()
		if got := changes(t, path) != before; got != want {
			t.Errorf("%s: wrote %v, want %v", what, got, want)
		}
	}
	var held lock.Held
	wrote("Load of what this store wrote", false, func() { held = load(t, writer, "cell") })
	wrote("first Load of what another store wrote", true, func() { load(t, reader, "cell") })
	wrote("second", false, func() { load(t, reader, "cell") })
	if _, err := writer.Replace(t.Context(), held, []byte("2")); err != nil {
		t.Fatal(err)
	}
	wrote("Load after this store's Replace", false, func() { load(t, writer, "cell") })
	wrote("first Load after another store's Replace", true, func() {
		if h := load(t, reader, "cell"); string(h.Body) != "2" || h.Version != "2" {
			t.Errorf("the cell is %q at %s", h.Body, h.Version)
		}
	})
	wrote("second", false, func() { load(t, reader, "cell") })
}

// TestLoadReadOnly shows that who may only read the file can do so.
func TestLoadReadOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock.db")
	if err := open(t, path).Create(t.Context(), "cell", []byte("1")); err != nil {
		t.Fatal(err)
	}
	c := newConnector(path)
	c.dsn = strings.Replace(c.dsn, "mode=rwc", "mode=ro", 1)
	s := &Store{path: path, db: sql.OpenDB(c), sure: map[string]int64{}}
	defer s.db.Close()
	if h := load(t, s, "cell"); string(h.Body) != "1" {
		t.Errorf("the cell is %q", h.Body)
	}
}
