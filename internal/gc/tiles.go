package gc

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sync/errgroup"

	"kiln/storage"
	"kiln/tiles"
)

// partial is a listed partial tile.
type partial struct {
	tile tlog.Tile
	info storage.Info
}

func partialOf(i storage.Info) (partial, bool) {
	t, err := tiles.ParsePath(i.Path)
	return partial{t, i}, err == nil && t.W < tiles.Width
}

// full is the tile that takes the place of the partial one.
func (p partial) full() tlog.Tile {
	t := p.tile
	t.W = tiles.Width
	return t
}

// end is the size of the smallest tree that has the full tile.
func (p partial) end() int64 { return tiles.FullEnd(p.tile) }

// seenTiles remembers places of tiles, a bit each.
type seenTiles struct{ levels map[int][]uint64 }

// add reports whether the place is new. The number of a tile bounds the memory:
// what is added is inside a tree that exists.
func (s *seenTiles) add(t tlog.Tile) bool {
	if s.levels == nil {
		s.levels = make(map[int][]uint64)
	}
	word, bit := int(t.N/64), uint64(1)<<(t.N%64)
	bits := s.levels[t.L]
	if word >= len(bits) {
		bits = append(bits, make([]uint64, word+1-len(bits))...)
		s.levels[t.L] = bits
	}
	fresh := bits[word]&bit == 0
	bits[word] |= bit
	return fresh
}

// tile deletes the partial tiles of one full tile, if they are due.
func (c *collector) tile(ctx context.Context, full tlog.Tile) error {
	stands, partials, err := c.listTile(ctx, full)
	if err != nil {
		return err
	}
	switch {
	case len(partials) == 0:
		return nil // another run was here
	case stands == nil && full.L == tiles.LevelNames:
		// Names tiles were switched off before it was full.
	case stands == nil:
		return fmt.Errorf("%s is missing, although the published tree of %d has it: nothing of it is deleted; "+
			"bring it back from a copy", tiles.Path(full), c.first.public.Tree.N)
	case stands.Modified.After(c.due.written):
	default:
		return c.removePartials(ctx, full, partials)
	}
	for _, p := range partials {
		c.wait(p.info)
	}
	return nil
}

// listTile returns the full tile, nil if there is none, and its partial tiles.
func (c *collector) listTile(ctx context.Context, full tlog.Tile) (stands *storage.Info, partials []partial, err error) {
	path := tiles.Path(full)
	err = c.call(ctx, func() error {
		stands, partials = nil, nil
		return c.cfg.Lister.List(ctx, path, func(i storage.Info) error {
			if i.Path == path {
				stands = &i
			}
			if p, ok := partialOf(i); ok && p.full() == full {
				partials = append(partials, p)
			}
			return nil
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list partial tiles of %s: %w", path, err)
	}
	return stands, partials, nil
}

// removePartials deletes partial tiles of a full tile that stands long enough,
// once the full tile is proved and each of them is found in it.
func (c *collector) removePartials(ctx context.Context, full tlog.Tile, partials []partial) error {
	if !c.remove {
		for _, p := range partials {
			c.gone(&c.result.Partials, p.info)
		}
		return nil
	}
	body, err := tiles.ReadFull(ctx, reader{c.cfg.Bucket, c}, c.first.public.Tree, full.L, full.N)
	if err != nil {
		return fmt.Errorf("prove %s before its partial tiles are deleted: %w", tiles.Path(full), err)
	}
	v, err := c.lookAgain(ctx)
	if err != nil {
		return err
	}
	if end := body.End(); end > c.due.safe || end > v.public.Tree.N || end > v.head.Tree.N {
		return fmt.Errorf("%s is not full in all trees that count: stopped", tiles.Path(full))
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Parallel)
	for _, p := range partials {
		g.Go(func() error { return c.removePartial(ctx, body, p) })
	}
	return g.Wait()
}

func (c *collector) removePartial(ctx context.Context, full *tiles.Full, p partial) error {
	body, err := c.get(ctx, p.info.Path)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // another run was faster
	}
	if err != nil {
		return fmt.Errorf("compare partial tile with the full one: %w", err)
	}
	if err := full.Covers(p.tile.W, body); err != nil {
		if p.tile.L == tiles.LevelNames {
			// Lines of names are made anew at a start, perhaps by other code.
			c.cfg.Logger.Warn("a partial names tile is not the begin of the full one: it is left", "path", p.info.Path, "err", err)
			c.wait(p.info)
			return nil
		}
		return fmt.Errorf("a partial tile is not the begin of the full one, and is left: %w", err)
	}
	if err := c.delete(ctx, p.info); err != nil {
		return err
	}
	c.gone(&c.result.Partials, p.info)
	return nil
}
