package storage_test

import (
	"io/fs"
	"path"
	"regexp"
	"strings"
	"testing"

	"kiln/storage"
)

// FuzzValidPath holds what is a path to a second reading of its rule.
func FuzzValidPath(f *testing.F) {
	for _, s := range []string{
		"", "a", "tile/0/000.p/3", "/a", "a/", "a//b", "..", "a/../b", "a/.b", ".a", "a.b", "a~b", "-", "_", "a\x00", "a b", "é", "A/Z/0-9_.", "a\n",
		strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a/", 127) + "a",
	} {
		f.Add(s)
	}
	form := regexp.MustCompile(`\A[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*\z`)
	f.Fuzz(func(t *testing.T, s string) {
		got := storage.ValidPath(s)
		if want := form.MatchString(s) && len(s) <= 255; got != want {
			t.Fatalf("%q is a path: %v, want %v", s, got, want)
		}
		if got && (!fs.ValidPath(s) || path.Clean(s) != s || s == ".") {
			t.Fatalf("%q is taken, and is no clean path", s)
		}
	})
}
