package tiles

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
)

// Beyond returns the path of an object that only a larger tree than that of a
// size has, and how many entries such a tree has at least; "" if there is none.
// Tiles are published after the lock has moved, so it proves that the lock was
// once that far. Level 0 alone is enough: a tree that has grown has a wider tile
// at the old right edge, and keeps the full one for good.
func Beyond(ctx context.Context, l storage.Lister, size int64) (path string, least int64, err error) {
	edge := tlog.Tile{H: Height, L: 0, N: size / Width, W: Width}
	least = size
	err = l.List(ctx, Path(edge), func(i storage.Info) error {
		t, err := ParsePath(i.Path)
		if err == nil && t.L == 0 && t.N == edge.N && t.N*Width+int64(t.W) > least {
			path, least = i.Path, t.N*Width+int64(t.W)
		}
		return nil
	})
	if err != nil {
		return "", 0, fmt.Errorf("look for tiles beyond %d entries: %w", size, err)
	}
	return path, least, nil
}

// Any returns the path of some tile, "" if there is none.
func Any(ctx context.Context, l storage.Lister) (path string, err error) {
	enough := errors.New("enough")
	err = l.List(ctx, "tile/", func(i storage.Info) error {
		path = i.Path
		return enough
	})
	if err != nil && !errors.Is(err, enough) {
		return "", fmt.Errorf("look for tiles: %w", err)
	}
	return path, nil
}
