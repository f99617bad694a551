package sequencer

import "kiln/entry"

// recentLimit is how many of the newest entries a sequencer remembers at least.
// It is far beyond what a batcher can have in retry at any time.
const recentLimit = 64 << 10

// recent remembers the placements of the newest entries, so that a batch which
// is tried again after an unknown outcome is not logged twice. It holds between
// one and two times its limit. It is for one goroutine.
type recent struct {
	limit    int
	cur, old map[entry.Key]entry.Placement
}

func newRecent(limit int) *recent {
	return &recent{limit: limit, cur: make(map[entry.Key]entry.Placement)}
}

func (r *recent) get(k entry.Key) (entry.Placement, bool) {
	if pl, ok := r.cur[k]; ok {
		return pl, true
	}
	pl, ok := r.old[k]
	return pl, ok
}

// add remembers a placement. The first one of a key stays.
func (r *recent) add(k entry.Key, pl entry.Placement) {
	if _, ok := r.get(k); ok {
		return
	}
	if len(r.cur) >= r.limit {
		r.old, r.cur = r.cur, make(map[entry.Key]entry.Placement, r.limit)
	}
	r.cur[k] = pl
}
