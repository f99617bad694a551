package sim

import (
	"math/rand/v2"
	"slices"
)

// staleRand is what stale reads are drawn from: apart from all else, so that the
// worlds without them are what they were before there were any.
func staleRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0x7374616c)) }

// behind reports whether a read sees what was there before the last change. No
// backend is like that; a log on one that is may stop, whatever it takes its
// storage for, but not lose or sign anything wrong. The scheduler alone calls it.
func (w *world) behind(what string) bool {
	if w.stale == nil || w.healing || w.stale.IntN(10) > 0 {
		return false
	}
	w.flips, w.ruins, w.clocks = true, true, true
	w.mark("fault: stale " + what)
	return true
}

// read returns a copy of what a read of an object sees, nil for nothing.
func (w *world) read(path string) []byte {
	if old, ok := w.before[path]; ok && w.behind("object") {
		return slices.Clone(old)
	}
	return slices.Clone(w.visible[path])
}
