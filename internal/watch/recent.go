package watch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"kiln/internal/fsck"
	"kiln/storage"
)

// How the newest full tiles are looked at, which are too many to be read in full
// within half a minute: what was verified once is only compared.
const (
	recentTiles   = 100 // data tiles, with all full hash tiles above and their issuers
	recentTurns   = 5   // polls in which each is looked at once
	recentSlow    = 4   // times slower, where the server gives no strong ETag
	recentIssuers = 256 // of those named last
	// recentErrors ends the asking of one poll: the server is not to be read.
	recentErrors = 4
)

// object is what is remembered of an object that was verified.
type object struct {
	path string
	web  digest   // at the public URL; without ETag if that is no strong one
	own  [32]byte // SHA-256 in the log's own storage; zero if not known
	tile int64    // the data tile whose check read it last
	kept int64    // counts up: when that was
}

// recent are the objects of the newest full tiles.
type recent struct {
	most    int64          // data tiles
	turn    int64          // polls that have looked
	count   int64          // checks that were kept
	tiles   map[int64]bool // those that were verified
	objects map[string]*object
}

func newRecent() *recent {
	return &recent{most: recentTiles, tiles: make(map[int64]bool), objects: make(map[string]*object)}
}

// keep remembers what a check of a tile that ended well has read. Of older tiles
// that is their issuers: newer entries may name them.
func (r *recent) keep(tile, total int64, read map[string]digest) {
	if r.most == 0 {
		return
	}
	newest := tile >= total-r.most
	if r.count++; newest {
		r.tiles[tile] = true
	}
	for path, d := range read {
		if !newest && !isIssuer(path) {
			continue
		}
		if !strings.HasPrefix(d.etag, `"`) {
			d.etag = "" // a weak one vouches for no byte
		}
		o := r.objects[path]
		if o == nil {
			o = &object{path: path}
			r.objects[path] = o
		}
		if o.web, o.kept = d, r.count; tile >= o.tile {
			o.tile = tile
		}
	}
}

func isIssuer(path string) bool { return strings.HasPrefix(path, "issuer/") }

// prune forgets the tiles that are no longer among the newest of so many, and the
// issuers beyond the bound that were read the longest ago.
func (r *recent) prune(total int64) {
	maps.DeleteFunc(r.tiles, func(n int64, _ bool) bool { return n < total-r.most })
	var issuers []*object
	for path, o := range r.objects {
		if isIssuer(path) {
			issuers = append(issuers, o)
		} else if o.tile < total-r.most {
			delete(r.objects, path)
		}
	}
	if n := len(issuers) - recentIssuers; n > 0 {
		slices.SortFunc(issuers, func(a, b *object) int { return cmp.Compare(a.kept, b.kept) })
		for _, o := range issuers[:n] {
			delete(r.objects, o.path)
		}
	}
}

// due returns what is to be looked at in this turn, by path: at the public URL,
// and in the log's own storage, where nothing is slow.
func (r *recent) due() (web, own []*object) {
	for _, path := range slices.Sorted(maps.Keys(r.objects)) {
		o := r.objects[path]
		phase := o.tile
		if isIssuer(path) { // many may be of one tile
			phase = int64(path[len(path)-1])
		}
		if (phase-r.turn)%recentTurns == 0 {
			own = append(own, o)
			if o.web.etag != "" || (phase-r.turn)/recentTurns%recentSlow == 0 {
				web = append(web, o)
			}
		}
	}
	return web, own
}

// recents looks at a part of the newest full tiles: whether they are still what
// was verified, at the public URL and, where that is cheap, in the log's own
// storage. Those that are new it verifies.
func (w *Watcher) recents(ctx context.Context) (*finding, error) {
	r := w.recent
	total := w.follower.Older()
	r.prune(total)
	web, own := r.due()
	defer func() {
		if w.absent == 0 { // else it is the turn of the same ones once more
			r.turn++
		}
	}()
	changed, unknown := w.changed(ctx, web)
	for _, n := range changed {
		w.follower.Forget() // it may be an issuer
		if found, err := w.verify(ctx, n); found != nil || err != nil {
			return found, err
		}
	}
	if w.cfg.Near && w.cfg.Storage != nil {
		for _, o := range own {
			if found := w.ownRecent(ctx, o); found != nil {
				return found, nil
			}
		}
	}
	if unknown != nil {
		return nil, unknown
	}
	return w.fill(ctx, total)
}

// fill verifies newest tiles that are not yet, the newest first.
func (w *Watcher) fill(ctx context.Context, total int64) (*finding, error) {
	r, begin := w.recent, w.cfg.Now()
	left := (r.most + recentTurns - 1) / recentTurns
	for n := total - 1; n >= max(0, total-r.most) && left > 0; n-- {
		if r.tiles[n] {
			continue
		}
		if found, err := w.verify(ctx, n); found != nil || err != nil {
			return found, err
		}
		if left--; w.cfg.Now().Sub(begin) >= w.cfg.Interval {
			break // the right edge must not wait for it
		}
	}
	return nil, nil
}

// verify checks a full data tile with all above and its issuers, and remembers
// what it read if all is well.
func (w *Watcher) verify(ctx context.Context, n int64) (*finding, error) {
	c := checkNote{Kind: checkTile, Tile: n}
	w.web.full.forget()
	if err := c.run(ctx, w.follower); err != nil {
		w.follower.Forget() // what was read beside it is not remembered
		return w.judge(ctx, c, err)
	}
	w.recent.keep(n, w.follower.Older(), w.web.full.all())
	return nil, nil
}

// changed asks for objects, and returns the data tiles whose checks have read
// those that are not what they were. The error says that some could not be read.
func (w *Watcher) changed(ctx context.Context, list []*object) (changed []int64, err error) {
	var mu sync.Mutex // guards all that follows
	var next, failed int
	tiles := make(map[int64]bool)
	take := func() *object {
		mu.Lock()
		defer mu.Unlock()
		if next++; next > len(list) || failed >= recentErrors {
			return nil
		}
		return list[next-1]
	}
	var wg sync.WaitGroup
	for range w.cfg.Parallel {
		wg.Go(func() {
			for o := take(); o != nil; o = take() {
				ctx, cancel := context.WithTimeout(ctx, w.cfg.Timeout)
				same, e := w.web.same(ctx, o.path, o.web)
				cancel()
				mu.Lock()
				if e != nil {
					failed++
					err = &fsck.UnknownError{Path: o.path, Err: e}
				} else if !same {
					tiles[o.tile] = true
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return slices.Sorted(maps.Keys(tiles)), err
}

// ownRecent compares an object in the log's own storage with what was verified.
// That it cannot be read there is not for it to say.
func (w *Watcher) ownRecent(ctx context.Context, o *object) *finding {
	sum, err := sumOf(ctx, w.cfg.Storage, o.path)
	switch {
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return nil
	case err == nil && o.own == ([32]byte{}) && sum == o.web.sum:
		o.own = sum
	}
	if err == nil && sum == o.own {
		return nil
	}
	// Changed, or never sent as it is stored.
	stored := recorder{w.cfg.Storage, newDigests(maxRead)}
	found, err := w.own(ctx, checkNote{Kind: checkTile, Tile: o.tile}, stored)
	if found != nil {
		return found
	}
	if err == nil {
		for path, d := range stored.read.all() {
			if o := w.recent.objects[path]; o != nil {
				o.own = d.sum
			}
		}
	}
	return nil
}

// sumOf returns the SHA-256 of an object as it is stored.
func sumOf(ctx context.Context, from fsck.Source, path string) (sum [32]byte, err error) {
	o, err := from.Open(ctx, path)
	if err != nil {
		return sum, err
	}
	defer o.Body.Close()
	h := sha256.New()
	_, err = io.Copy(h, io.LimitReader(o.Body, maxObject))
	return [32]byte(h.Sum(nil)), err
}

// recorder is a source that remembers the digests of what was read to its end.
type recorder struct {
	fsck.Source
	read *digests
}

// Open implements [fsck.Source].
func (r recorder) Open(ctx context.Context, path string) (*fsck.Object, error) {
	o, err := r.Source.Open(ctx, path)
	if err == nil {
		o.Body = &body{
			ReadCloser: o.Body, cancel: func() {}, sum: sha256.New(),
			done: func(sum [32]byte) { r.read.put(path, digest{sum: sum}) },
		}
	}
	return o, err
}
