package s3

import (
	"strings"
	"testing"
)

// FuzzKey: two cells never have one object, nor is the object of one the folder
// of another, whatever their names.
func FuzzKey(f *testing.F) {
	f.Add("a", "A")
	f.Add("a/b", "a_2fb")
	f.Add("log", "log.frozen")
	f.Add(strings.Repeat("a", 200), strings.Repeat("a", 201))
	f.Add(strings.Repeat("/", 100), "_sha256_"+strings.Repeat("0", 64))
	r := &register{prefix: "locks/"}
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := r.key(a), r.key(b)
		if (x == y) != (a == b) || strings.HasPrefix(x, y+"/") {
			t.Fatalf("%q is at %s, %q at %s", a, x, b, y)
		}
		name, ok := strings.CutPrefix(x, r.prefix)
		if !ok || len(name) > maxName+len(suffix) || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
			t.Fatalf("%q is at %s", a, x)
		}
	})
}
