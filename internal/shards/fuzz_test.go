package shards

import (
	"slices"
	"strings"
	"testing"

	"kiln/storage"
	"kiln/tiles"
)

// FuzzKindOf: an object of a retired log is deleted only under a path that a log
// makes; whatever else is kept below its prefix stays.
func FuzzKindOf(f *testing.F) {
	for _, s := range []string{
		"checkpoint", "log.v3.json", "tile/0/000", "tile/data/000.p/3", "tile/names/000", "tile/7/000", "issuer/" + strings.Repeat("ab", 32), "issuer/" + strings.Repeat("AB", 32),
		"issuer/x", "staging/3-x", "staging/", "staging/a/b", "roots/latest", "roots/a/b", "index.html", "", "tile/", "checkpoint/", "a/checkpoint", "../checkpoint",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		kind := kindOf(path)
		if kind == "" {
			return
		}
		top, rest, _ := strings.Cut(path, "/")
		if !slices.Contains(Kinds(), kind) || !slices.Contains([]string{"checkpoint", "log.v3.json", "tile", "issuer", "staging", "roots"}, top) {
			t.Fatalf("%q is of the kind %q", path, kind)
		}
		if top == "tile" {
			tile, err := tiles.ParsePath(path)
			if err != nil || (kind == KindPartial) != (tile.W < tiles.Width) {
				t.Fatalf("%q is of the kind %q", path, kind)
			}
		}
		if top == "issuer" && (len(rest) != 64 || strings.Trim(rest, "0123456789abcdef") != "") {
			t.Fatalf("%q is of the kind %q", path, kind)
		}
		if storage.ValidPath(path) && strings.Contains(rest, "/") && top != "tile" {
			t.Fatalf("%q is of the kind %q", path, kind)
		}
	})
}
