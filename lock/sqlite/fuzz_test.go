package sqlite

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"kiln/internal/fuzztest"
	"kiln/lock"
)

// FuzzParseVersion: a version has one spelling.
func FuzzParseVersion(f *testing.F) {
	for _, s := range []string{"", "0", "1", "01", "+1", "-1", "1 ", "9223372036854775807", "9223372036854775808", "1_0", "0x1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n := parseVersion(s); n != 0 && strconv.FormatInt(n, 10) != s {
			t.Fatalf("%q is version %d", s, n)
		}
	})
}

// FuzzFile opens a lock file of any bytes. It is refused, or what is loaded from
// it is bounded and can be replaced by who loaded it and by nobody else.
func FuzzFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	s := open(f, path)
	for _, id := range []string{"log", "other"} {
		if err := s.Create(f.Context(), id, []byte("a checkpoint of "+id)); err != nil {
			f.Fatal(err)
		}
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for _, script := range fuzztest.Edits() {
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		path := filepath.Join(t.TempDir(), "lock.db")
		if err := os.WriteFile(path, fuzztest.Edit(sound, script), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), path)
		if err != nil {
			return
		}
		defer s.Close()
		held, err := s.Load(t.Context(), "log")
		if err != nil {
			return
		}
		if held.ID != "log" || len(held.Body) > lock.MaxBody {
			t.Fatalf("loaded %q of %d bytes", held.ID, len(held.Body))
		}
		if _, err := s.Replace(t.Context(), lock.Held{ID: "log", Version: held.Version, Body: append(held.Body, 0)}, nil); err == nil {
			t.Fatal("the cell was replaced by who did not hold it")
		}
	})
}
