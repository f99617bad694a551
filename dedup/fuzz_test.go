package dedup

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"kiln/entry"
	"kiln/internal/fuzztest"
)

// FuzzCovered: the mark of a cache file is what this cache wrote, or none.
func FuzzCovered(f *testing.F) {
	s := newSealer(secret("a"))
	for _, mark := range []int64{0, 1, 1 << 40, -1} {
		f.Add(s.covered(mark))
		f.Add(newSealer(secret("b")).covered(mark))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		mark, ok := s.parseCovered(b)
		if ok && (mark < 0 || !bytes.Equal(b, s.covered(mark))) {
			t.Fatalf("%x is %d", b, mark)
		}
	})
}

// FuzzRow: a row answers for its own key and placement alone, whatever stands in
// it.
func FuzzRow(f *testing.F) {
	s := newSealer(secret("a"))
	k, pl := key(7), place(7)
	mac := s.row(k, pl)
	f.Add(k[:], pl.Index, pl.TimestampMillis, mac[:])
	f.Add(k[:], pl.Index+1, pl.TimestampMillis, mac[:])
	f.Add(k[:], pl.Index, pl.TimestampMillis, mac[:8])
	f.Add(k[:], int64(-1), int64(-1), []byte{})
	f.Fuzz(func(t *testing.T, keyBytes []byte, index, timestamp int64, mac []byte) {
		var k entry.Key
		copy(k[:], keyBytes)
		pl := entry.Placement{Index: index, TimestampMillis: timestamp}
		want := s.row(k, pl)
		if got := s.holds(k, pl, mac); got != (bytes.Equal(mac, want[:]) && pl.Check() == nil) {
			t.Fatalf("row of %x at %+v with MAC %x: %v", k, pl, mac, got)
		}
	})
}

// FuzzFile opens a cache file of any bytes. It is taken or moved aside, and a
// cache that is open answers with what was put, or not at all.
func FuzzFile(f *testing.F) {
	const rows = 300
	path := filepath.Join(f.TempDir(), "seed.db")
	c := mustOpen(f, path)
	var indices []int64
	for i := range int64(rows) {
		indices = append(indices, i)
	}
	put(f, c, indices...)
	mustClose(f, c)
	sound, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for _, script := range fuzztest.Edits() {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		path := filepath.Join(t.TempDir(), "cache.db")
		if err := os.WriteFile(path, fuzztest.Edit(sound, script), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := Stat(t.Context(), Config{Path: path, Secret: secret("a")}, func(_, _ int64) {}); err == nil && s.Covered > rows {
			t.Fatalf("%d entries are said to be covered", s.Covered)
		}
		c, err := Open(t.Context(), Config{Path: path, Secret: secret("a")})
		if err != nil {
			t.Fatalf("neither taken nor moved aside: %v", err)
		}
		defer c.Close()
		if got := c.Covered(); got != 0 && got != rows {
			t.Fatalf("%d entries are said to be covered", got)
		}
		for i := int64(0); i < rows; i += 7 {
			pl, ok, err := c.Get(t.Context(), key(i))
			if err == nil && ok && pl != place(i) {
				t.Fatalf("entry %d is at %+v", i, pl)
			}
		}
		if _, ok, err := c.Get(t.Context(), key(rows)); err == nil && ok {
			t.Fatal("an entry that was never put is there")
		}
	})
}
