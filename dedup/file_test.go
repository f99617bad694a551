package dedup

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	sqlite3 "github.com/mattn/go-sqlite3"
	"github.com/prometheus/client_golang/prometheus"
)

const fill = 3000

// filled returns the bytes of a closed cache file with fill entries.
func filled(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "filled.db")
	c := mustOpen(t, path)
	put(t, c, upTo(fill)...)
	mustClose(t, c)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func writeFile(t testing.TB, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBadFiles: a file that cannot serve is moved aside, whole, and the cache
// begins anew.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	good := filled(t)
	change := func(f func(b []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, path string) { writeFile(t, path, f(bytes.Clone(good))) }
	}
	statement := func(s string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			writeFile(t, path, good)
			raw(t, path, s)
		}
	}
	for name, plant := range map[string]func(*testing.T, string){
		"cut in half":              change(func(b []byte) []byte { return b[:len(b)/2] }),
		"cut inside a page":        change(func(b []byte) []byte { return b[:len(b)/2+100] }),
		"cut inside the header":    change(func(b []byte) []byte { return b[:50] }),
		"only the first page":      change(func(b []byte) []byte { return b[:4096] }),
		"zero-filled":              change(func(b []byte) []byte { clear(b); return b }),
		"first page zero-filled":   change(func(b []byte) []byte { clear(b[:4096]); return b }),
		"flipped bit in magic":     change(func(b []byte) []byte { b[3] ^= 1; return b }),
		"flipped bit in app id":    change(func(b []byte) []byte { b[68] ^= 1; return b }),
		"not SQLite":               change(func([]byte) []byte { return bytes.Repeat([]byte("text\n"), 5000) }),
		"another version":          statement(`PRAGMA user_version = 2`),
		"another application":      statement(`PRAGMA application_id = 1`),
		"a trigger":                statement(`CREATE TRIGGER t AFTER INSERT ON meta BEGIN DELETE FROM placements; END`),
		"a table is missing":       statement(`DROP TABLE placements`),
		"no secret check":          statement(`DELETE FROM meta WHERE name = 'check'`),
		"a forged secret check":    statement(`UPDATE meta SET value = zeroblob(16) WHERE name = 'check'`),
		"a directory in the way":   func(t *testing.T, path string) { os.Mkdir(path, 0o700) },
		"another application's":    func(t *testing.T, path string) { raw(t, path, `CREATE TABLE t (a)`) },
		"marked by an earlier use": func(t *testing.T, path string) { writeFile(t, path, good); writeFile(t, suspectPath(path), nil) },
		"another log's": func(t *testing.T, path string) {
			c, err := Open(t.Context(), Config{Path: path, Secret: secret("another log")})
			if err != nil {
				t.Fatal(err)
			}
			put(t, c, upTo(fill)...)
			mustClose(t, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "c.db")
			plant(t, path)
			before, _ := os.ReadFile(path)
			c := mustOpen(t, path)
			if got := value(c.metrics.badFiles); got != 1 {
				t.Errorf("bad files counted: %v, want 1", got)
			}
			wantCovered(t, c, 0)
			wantMiss(t, c, key(1))
			put(t, c, 0, 1)
			mustClose(t, c)
			if after, _ := os.ReadFile(path + ".bad-1"); !bytes.Equal(before, after) {
				t.Error("the file moved aside is not the one that was found")
			}
			c = mustOpen(t, path)
			wantCovered(t, c, 2)
			wantHit(t, c, key(1), place(1))
		})
	}
}

// TestGoodFiles: what only looks odd is not moved aside.
func TestGoodFiles(t *testing.T) {
	t.Parallel()
	good := filled(t)
	for name, b := range map[string][]byte{"as it was": good, "empty": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "c.db")
			writeFile(t, path, b)
			c := mustOpen(t, path)
			if got := value(c.metrics.badFiles); got != 0 {
				t.Errorf("bad files counted: %v, want 0", got)
			}
			put(t, c, fill)
			wantHit(t, c, key(fill), place(fill))
		})
	}
}

func TestAsideIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "c.db")
	for i := range maxAside + 3 {
		writeFile(t, path, fmt.Appendf(nil, "bad file number %d, longer than a database header would be", i))
		writeFile(t, path+"-wal", []byte("a log that must not be replayed"))
		c := mustOpen(t, path)
		put(t, c, 0)
		mustClose(t, c)
	}
	found, err := filepath.Glob(path + ".bad-?")
	if err != nil || len(found) != maxAside {
		t.Errorf("%d files moved aside are kept (%v), want %d", len(found), err, maxAside)
	}
	for i, want := range []int{0, 1, 2, maxAside + 2} {
		b, _ := os.ReadFile(fmt.Sprintf("%s.bad-%d", path, i+1))
		if !bytes.HasPrefix(b, fmt.Appendf(nil, "bad file number %d,", want)) {
			t.Errorf("bad-%d holds %q, want file number %d", i+1, b, want)
		}
	}
}

// TestFlippedBits: wherever a bit flips in the file, the cache opens, and what
// it answers is right, a miss or an error.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	good := filled(t)
	rng := rand.New(rand.NewPCG(7, 11))
	dir := t.TempDir()
	missed, failed, aside := 0, 0, 0
	for n := range 150 {
		b := bytes.Clone(good)
		at := rng.IntN(len(b))
		if n%3 == 0 {
			at = rng.IntN(len(b)/4096)*4096 + rng.IntN(100) // where page headers are
		}
		b[at] ^= 1 << rng.IntN(8)
		path := filepath.Join(dir, fmt.Sprintf("c%d.db", n))
		writeFile(t, path, b)
		c := mustOpen(t, path)
		aside += int(value(c.metrics.badFiles))
		for i := int64(0); i < fill; i += 7 {
			pl, ok, err := c.Get(t.Context(), key(i))
			switch {
			case err != nil:
				failed++
			case !ok:
				missed++
			case pl != place(i):
				t.Fatalf("bit flipped at %d: Get of entry %d = %v", at, i, pl)
			}
		}
		// Writing may fail, but must leave what is read right.
		_ = c.Put(t.Context(), keysOf(upTo(50)), placementsOf(upTo(50)))
		for i := range int64(50) {
			if pl, ok, err := c.Get(t.Context(), key(i)); err == nil && ok && pl != place(i) {
				t.Fatalf("bit flipped at %d, after Put: Get of entry %d = %v", at, i, pl)
			}
		}
		mustClose(t, c)
		removeFiles(path)
	}
	t.Logf("%d misses, %d errors, %d files moved aside", missed, failed, aside)
	if missed == 0 || failed == 0 {
		t.Error("no flipped bit hit a row or a page header: the test does not bite")
	}
}

// TestDamageInUse: damage in the middle of a file is not seen at once. It is an
// error where it is met, other rows are served, and the next Open begins anew.
func TestDamageInUse(t *testing.T) {
	t.Parallel()
	b := filled(t)
	for page := 10; page < 20; page++ {
		for i := page * 4096; i < (page+1)*4096; i++ {
			b[i] = 0xff
		}
	}
	path := filepath.Join(t.TempDir(), "c.db")
	writeFile(t, path, b)
	c := mustOpen(t, path)
	served, failed := 0, 0
	for i := range int64(fill) {
		switch pl, ok, err := c.Get(t.Context(), key(i)); {
		case err != nil:
			failed++
		case ok && pl == place(i):
			served++
		case ok:
			t.Fatalf("Get of entry %d = %v", i, pl)
		}
	}
	if served == 0 || failed == 0 {
		t.Fatalf("%d served and %d failed, want some of each", served, failed)
	}
	mustClose(t, c)
	c = mustOpen(t, path)
	if got := value(c.metrics.badFiles); got != 1 {
		t.Errorf("bad files counted: %v, want 1", got)
	}
	put(t, c, upTo(fill)...)
	wantCovered(t, c, fill)
	mustClose(t, c)
	c = mustOpen(t, path)
	wantCovered(t, c, fill)
}

// TestResetOfDamage: Reset works on a file that nothing else works on.
func TestResetOfDamage(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.db")
	c := mustOpen(t, path)
	put(t, c, upTo(fill)...)
	mustClose(t, c)
	c = mustOpen(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{0xff}, 60*4096), 4096); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, c, 0)
	wantCovered(t, c, 1)
	mustClose(t, c)
	c = mustOpen(t, path)
	wantCovered(t, c, 1)
}

// TestCrash cuts the write-ahead log at random places, as a power cut would: the
// mark never counts a row that is gone.
func TestCrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "c.db")
	c := mustOpen(t, path)
	rng := rand.New(rand.NewPCG(3, 5))
	marks := make(map[int64]bool)
	for n := range int64(40) {
		var indices []int64
		for i := range int64(25) {
			indices = append(indices, n*25+i)
		}
		put(t, c, indices...)
		db, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		wal, err := os.ReadFile(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		clone := filepath.Join(dir, fmt.Sprintf("clone%d.db", n))
		writeFile(t, clone, db)
		writeFile(t, clone+"-wal", wal[:rng.IntN(len(wal)+1)])
		crashed := mustOpen(t, clone)
		covered := crashed.Covered()
		marks[covered] = true
		for i := range (n + 1) * 25 {
			pl, ok, err := crashed.Get(t.Context(), key(i))
			if err != nil || (ok && pl != place(i)) || ok != (i < covered) {
				t.Fatalf("with %d covered, Get of entry %d = %v, %v, %v", covered, i, pl, ok, err)
			}
		}
		mustClose(t, crashed)
	}
	if len(marks) < 5 {
		t.Errorf("only %d different marks were seen: the test does not bite", len(marks))
	}
}

// TestClassify: only what a new file would cure moves the old one aside.
func TestClassify(t *testing.T) {
	t.Parallel()
	for code, bad := range map[sqlite3.ErrNo]bool{
		sqlite3.ErrCorrupt: true, sqlite3.ErrNotADB: true, sqlite3.ErrCantOpen: true, sqlite3.ErrIoErr: true,
		sqlite3.ErrBusy: false, sqlite3.ErrLocked: false, sqlite3.ErrFull: false, sqlite3.ErrNomem: false, sqlite3.ErrInterrupt: false,
	} {
		if got := errors.Is(classify(sqlite3.Error{Code: code}), errBadFile); got != bad {
			t.Errorf("%v: bad file = %v, want %v", code, got, bad)
		}
	}
}

func TestUnusableDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "file"), nil)
	if _, err := Open(t.Context(), Config{Path: filepath.Join(dir, "file", "c.db"), Secret: secret("a")}); err == nil {
		t.Error("Open succeeded below a file")
	}
	if _, err := Open(t.Context(), Config{Secret: secret("a")}); err == nil {
		t.Error("Open succeeded without a path")
	}
}

// TestSharedRegisterer: a cache that is opened again goes on with its metrics.
func TestSharedRegisterer(t *testing.T) {
	t.Parallel()
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"log": "x"}, prometheus.NewRegistry())
	path := filepath.Join(t.TempDir(), "c.db")
	for range 2 {
		c, err := Open(t.Context(), Config{Path: path, Secret: secret("a"), Registerer: reg})
		if err != nil {
			t.Fatal(err)
		}
		put(t, c, 0)
		if got := value(c.metrics.covered); got != 1 {
			t.Errorf("covered metric = %v, want 1", got)
		}
		mustClose(t, c)
	}
}
