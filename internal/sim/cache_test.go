package sim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"

	"kiln/dedup"
	"kiln/entry"
	"kiln/internal/daemon"
)

// store is what a cache keeps its rows in: memory, or SQLite.
type store interface {
	Get(ctx context.Context, key entry.Key) (entry.Placement, bool, error)
	Put(ctx context.Context, keys []entry.Key, placements []entry.Placement) error
	Covered() int64
	Close() error
}

// gatedCache is the long-term cache of one life of a node.
type gatedCache struct {
	store
	w *world
	l *life
}

var _ daemon.DedupCache = gatedCache{}

// Get implements [batcher.Dedup].
func (g gatedCache) Get(ctx context.Context, key entry.Key) (entry.Placement, bool, error) {
	c := &call{life: g.l, op: opCacheGet, path: fmt.Sprintf("%x", key[:4]), do: func() {}}
	if err := g.w.gate.pass(ctx, c); err != nil {
		return entry.Placement{}, false, err
	}
	pl, ok, err := g.store.Get(ctx, key)
	if err != nil || c.verdict == kOK {
		return pl, ok, err
	}
	// A store that lies. What it says is wrong in a way that the key decides.
	other := int64(key[0])
	switch c.verdict {
	case kLieOther:
		return entry.Placement{Index: other % max(1, g.w.known()), TimestampMillis: g.w.lastMillis()}, true, nil
	case kLieIndex:
		pl.Index += other%5 - 2
		return pl, true, nil
	case kLieTime:
		pl.TimestampMillis += other - 128
		return pl, true, nil
	case kLieLost:
		return entry.Placement{}, false, nil
	}
	return pl, ok, err
}

// Put implements [batcher.Dedup].
func (g gatedCache) Put(ctx context.Context, keys []entry.Key, placements []entry.Placement) error {
	c := &call{life: g.l, op: opCachePut, path: fmt.Sprintf("%x+%d", keys[0][:4], len(keys)-1), do: func() {}}
	if err := g.w.gate.pass(ctx, c); err != nil {
		return err
	}
	switch c.verdict {
	case kLieLost: // it says that it has the rows, and has not
		return nil
	case kFailAfter:
		_ = g.store.Put(ctx, keys, placements)
		return errCut
	}
	return g.store.Put(ctx, keys, placements)
}

// rows is a cache in memory, which survives the lives of its node.
type rows struct {
	mu     sync.Mutex // guards what follows
	places map[entry.Key]entry.Placement
	have   map[int64]bool
	mark   int64
}

func newRows() *rows {
	return &rows{places: make(map[entry.Key]entry.Placement), have: make(map[int64]bool)}
}

// openRows is one opening of a cache in memory. Its calls run one at a time: each
// is let through the gate by itself.
type openRows struct{ r *rows }

func (o openRows) Get(_ context.Context, key entry.Key) (entry.Placement, bool, error) {
	o.r.mu.Lock()
	defer o.r.mu.Unlock()
	pl, ok := o.r.places[key]
	return pl, ok, nil
}

func (o openRows) Put(_ context.Context, keys []entry.Key, placements []entry.Placement) error {
	o.r.mu.Lock()
	defer o.r.mu.Unlock()
	for i, key := range keys {
		if old, ok := o.r.places[key]; !ok || placements[i].Index < old.Index {
			o.r.places[key] = placements[i]
		}
		o.r.have[placements[i].Index] = true
	}
	for o.r.have[o.r.mark] {
		o.r.mark++
	}
	return nil
}

func (o openRows) Covered() int64 {
	o.r.mu.Lock()
	defer o.r.mu.Unlock()
	return o.r.mark
}

func (o openRows) Close() error { return nil }

// forget loses some rows, without a word or with the mark going back.
func (r *rows) forget(at uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([]entry.Key, 0, len(r.places))
	for k := range r.places {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return r.places[keys[i]].Index < r.places[keys[j]].Index })
	for i, k := range keys {
		if (at>>(uint(i)%60))&1 == 0 {
			continue
		}
		if at%3 == 0 {
			delete(r.have, r.places[k].Index)
			r.mark = min(r.mark, r.places[k].Index)
		}
		delete(r.places, k)
	}
}

// scramble makes rows name the places of others.
func (r *rows) scramble() {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := make([]entry.Key, 0, len(r.places))
	for k := range r.places {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return r.places[keys[i]].Index < r.places[keys[j]].Index })
	for i := 0; i+1 < len(keys); i += 2 {
		r.places[keys[i]], r.places[keys[i+1]] = r.places[keys[i+1]], r.places[keys[i]]
	}
}

// files is the SQLite file of a node. Each life has a copy of its own of what the
// last one left, as after a kill.
type files struct {
	dir  string
	name string
	life int
}

func (f *files) path() string { return filepath.Join(f.dir, fmt.Sprintf("%s-%d.db", f.name, f.life)) }

// next copies the file for the next life.
func (f *files) next() {
	from := f.path()
	f.life++
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(from + suffix)
		if err == nil {
			err = os.WriteFile(f.path()+suffix, data, 0o600)
		}
		if err != nil && !os.IsNotExist(err) {
			panic(err)
		}
	}
}

// remove begins with no file.
func (f *files) remove() { f.life += 1000 }

// ruin damages the file between two lives.
func (f *files) ruin(how string, at uint64, b *base) {
	data, err := os.ReadFile(f.path())
	switch how {
	case "truncate":
		if err == nil && len(data) > 0 {
			data = data[:at%uint64(len(data))]
		}
	case "flip":
		for i := range uint64(8) {
			flipBit(data, at*(i+1))
		}
	case "foreign":
		data = b.foreign
	case "future":
		data = b.future
	}
	if data == nil {
		return
	}
	if how == "foreign" || how == "future" {
		_ = os.Remove(f.path() + "-wal")
	}
	if err := os.WriteFile(f.path(), slices.Clone(data), 0o600); err != nil {
		panic(err)
	}
}

// openCache is what [daemon.Seams] gets.
func (l *life) openCache(ctx context.Context, cfg dedup.Config) (daemon.DedupCache, error) {
	n := l.node
	if n.files == nil {
		return gatedCache{openRows{n.rows}, l.node.w, l}, nil
	}
	cfg.Path = n.files.path()
	c, err := dedup.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return gatedCache{c, l.node.w, l}, nil
}
