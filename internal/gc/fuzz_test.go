package gc

import (
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
	"kiln/tiles"
)

// FuzzListed reads any name of an object as what may be deleted. A bundle is one
// that a round would stage, and a partial tile one that a full tile can replace;
// nothing else ever is, and never what every reader needs.
func FuzzListed(f *testing.F) {
	for _, s := range []string{
		tiles.BundlePath(tlog.Tree{N: 3}), "staging/3-" + strings.Repeat("A", 64), "staging/03-" + strings.Repeat("0", 64), "staging/-1-" + strings.Repeat("0", 64),
		"staging/3", "staging/", "staging/9223372036854775808-" + strings.Repeat("0", 64), "staging/+3-" + strings.Repeat("0", 64),
		"tile/0/000.p/3", "tile/0/000", "tile/data/x001/000.p/255", "tile/names/000.p/1", "checkpoint", "log.v3.json", "issuer/" + strings.Repeat("0", 64), "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		i := storage.Info{Path: path}
		p, partial := partialOf(i)
		bundle := bundleOf(i)
		if bundle {
			if !strings.HasPrefix(path, bundlePrefix) || !storage.ValidPath(path) || strings.Count(path, "/") != 1 || partial {
				t.Fatalf("%q is a bundle", path)
			}
		}
		if !partial {
			return
		}
		full := p.full()
		if tiles.Path(p.tile) != path || p.tile.W < 1 || p.tile.W >= tiles.Width || full.W != tiles.Width || p.end() <= 0 || p.end() > tiles.MaxTree {
			t.Fatalf("%q is the partial tile %+v, up to %d", path, p.tile, p.end())
		}
		if _, err := tiles.ParsePath(tiles.Path(full)); err != nil {
			t.Fatalf("%q would be replaced by %s: %v", path, tiles.Path(full), err)
		}
	})
}
