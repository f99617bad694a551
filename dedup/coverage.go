package dedup

import (
	"slices"

	"kiln/entry"
)

// maxSpans bounds the memory for rows that came out of order, 16 bytes each.
const maxSpans = 4096

// span is the half-open range [from, to) of indices.
type span struct{ from, to int64 }

// coverage says which indices are held: all below mark, and those in the spans,
// which are sorted, do not touch, and lie above mark. It is a value: with
// returns a new one, so that a Put that fails leaves the old one in place.
type coverage struct {
	mark  int64
	spans []span
}

// with returns the coverage after the placements are held too. When there are
// too many gaps the highest spans are forgotten: the mark then stops below them
// until they are put again, which a catch-up from the mark does.
func (c coverage) with(placements []entry.Placement) coverage {
	add := make([]int64, len(placements))
	for i, pl := range placements {
		add[i] = pl.Index
	}
	slices.Sort(add)
	next := coverage{mark: c.mark}
	held := append(make([]span, 0, len(c.spans)+1), span{0, c.mark})
	held = append(held, c.spans...)
	merged := make([]span, 0, len(held)+1)
	for len(held) > 0 || len(add) > 0 {
		var s span
		if len(add) == 0 || (len(held) > 0 && held[0].from <= add[0]) {
			s, held = held[0], held[1:]
		} else {
			s, add = span{add[0], add[0] + 1}, add[1:]
		}
		if last := len(merged) - 1; last >= 0 && s.from <= merged[last].to {
			merged[last].to = max(merged[last].to, s.to)
		} else {
			merged = append(merged, s)
		}
	}
	next.mark, next.spans = merged[0].to, merged[1:]
	if len(next.spans) > maxSpans {
		next.spans = slices.Clone(next.spans[:maxSpans])
	}
	return next
}
