package sim

import (
	"context"
	"encoding/hex"
	"strconv"
	"time"

	"kiln/batcher"
	"kiln/entry"
	"kiln/frontend"
)

// gatedBatcher stands between a frontend and its batchers. Of two submissions
// that one event has woken the scheduler says which comes first.
type gatedBatcher struct {
	frontend.Batcher
	w *world
	l *life
}

// Add implements [frontend.Batcher].
func (g gatedBatcher) Add(ctx context.Context, p *entry.Pending) (entry.SCT, error) {
	c := &call{life: g.l, op: opAdd, path: keyName(p), do: func() {}}
	c.flip = func(at uint64, _ bool) { flipEntry(p, at) }
	if err := g.w.gate.pass(ctx, c); err != nil {
		return entry.SCT{}, err
	}
	return g.Batcher.Add(ctx, p)
}

// gatedSequencer stands between the batchers and the sequencer, which may be on
// another machine: a batch may get lost on its way, come late or twice, and so
// may its answer.
type gatedSequencer struct {
	batcher.Sequencer
	w *world
	l *life
}

// Sequence implements [batcher.Sequencer].
func (g gatedSequencer) Sequence(ctx context.Context, batch []*entry.Pending) ([]entry.Placement, error) {
	name := keyName(batch[0]) + "+" + strconv.Itoa(len(batch)-1)
	flip := func(at uint64, _ bool) { flipEntry(batch[at%uint64(len(batch))], at/7) }
	c := &call{life: g.l, op: opSequence, path: name, do: func() {}, flip: flip}
	if err := g.w.gate.pass(ctx, c); err != nil {
		return nil, err
	}
	switch c.verdict {
	case kGhost:
		g.again(batch, name, time.Second)
		return nil, entry.ErrUnavailable
	case kTwice:
		g.again(batch, name, 0)
	}
	placements, err := g.Sequencer.Sequence(ctx, batch)
	back := &call{life: g.l, op: opSequenced, path: name, do: func() {}, flip: flip}
	if err := g.w.gate.pass(ctx, back); err != nil {
		return nil, err
	}
	return placements, err
}

// again gives a batch to the sequencer beside its batcher, who never learns what
// becomes of it.
func (g gatedSequencer) again(batch []*entry.Pending, name string, after time.Duration) {
	ctx, cancel := context.WithTimeout(g.l.ctx, 10*time.Second)
	g.w.strays.Go(func() {
		defer cancel()
		c := &call{life: g.l, op: opSequence, path: "again " + name, do: func() {}, held: g.w.now() + after}
		if g.w.gate.pass(ctx, c) == nil {
			_, _ = g.Sequencer.Sequence(ctx, batch)
		}
	})
}

func keyName(p *entry.Pending) string {
	key := p.Key()
	return hex.EncodeToString(key[:4])
}

// flipEntry changes a bit of an entry after it was admitted.
func flipEntry(p *entry.Pending, at uint64) {
	parts := [][]byte{p.Certificate()}
	if pre := p.PreCertificate(); pre != nil {
		parts = append(parts, pre)
	}
	if chain := p.Chain(); len(chain) > 0 {
		parts = append(parts, chain[at%uint64(len(chain))][:])
	}
	flipBit(parts[at%uint64(len(parts))], at/3)
}
