package sim

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"kiln/lock"
)

// gatedLock is the lock as one life of a node reaches it.
type gatedLock struct {
	w *world
	l *life
}

func wrappedCell(op, id string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s lock cell %q: %w", op, id, err)
}

// Create implements [lock.Store].
func (g gatedLock) Create(ctx context.Context, id string, body []byte) error {
	c := &call{life: g.l, op: opLockMake, path: g.w.cellName(id)}
	c.do = func() {
		if c.err = g.w.lock.Create(context.Background(), id, body); c.err == nil {
			g.w.made(id, body)
		}
	}
	return wrappedCell("create", id, g.w.gate.pass(ctx, c))
}

// Load implements [lock.Store].
func (g gatedLock) Load(ctx context.Context, id string) (lock.Held, error) {
	var held lock.Held
	c := &call{life: g.l, op: opLockLoad, path: g.w.cellName(id)}
	c.do = func() {
		held, c.err = g.w.lock.Load(context.Background(), id)
		if id == g.w.base.lockID && g.w.cellBefore.Version != "" && g.w.behind("lock") {
			held = g.w.cellBefore
			held.Body = slices.Clone(held.Body)
		}
	}
	c.flip = func(at uint64, _ bool) {
		c.do()
		flipBit(held.Body, at)
	}
	if err := g.w.gate.pass(ctx, c); err != nil {
		return lock.Held{}, wrappedCell("load", id, err)
	}
	return held, nil
}

// Replace implements [lock.Store].
func (g gatedLock) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	var next lock.Held
	wire := body
	c := &call{life: g.l, op: opLockSwap, path: g.w.cellName(held.ID)}
	c.do = func() {
		before, _ := g.w.lock.Load(context.Background(), held.ID) // there is one, or Replace fails too
		if next, c.err = g.w.lock.Replace(context.Background(), held, wire); c.err == nil {
			if held.ID == g.w.base.lockID {
				g.w.cellBefore = before
			}
			g.w.swapped(held.ID, wire)
		}
	}
	c.keep = func() { wire = slices.Clone(wire) }
	c.flip = func(at uint64, inPlace bool) {
		if !inPlace {
			wire = slices.Clone(body)
		}
		flipBit(wire, at)
		if held, err := g.w.lock.Load(context.Background(), held.ID); err == nil {
			g.w.cell = &brokenCell{bad: slices.Clone(wire), before: held.Body}
		}
	}
	if err := g.w.gate.pass(ctx, c); err != nil {
		return lock.Held{}, wrappedCell("replace", held.ID, err)
	}
	return next, nil
}

// brokenCell is a checkpoint that was changed on its way into the lock.
type brokenCell struct{ bad, before []byte }

// What follows is called by the scheduler alone.

// cellName is what a cell is called in the trace.
func (w *world) cellName(id string) string { return "cell" + id[len(w.base.lockID):] }

// made is told of each cell that came to be.
func (w *world) made(id string, body []byte) {
	if id == w.base.lockID {
		w.told(w.audit.Committed(body))
	}
}

// swapped is told of each new content of a cell.
func (w *world) swapped(id string, body []byte) {
	w.mark("commit")
	if w.cell != nil && string(body) == string(w.cell.bad) {
		w.cellBroken = true
		return
	}
	w.told(w.audit.Committed(body))
	if lines := strings.SplitN(string(body), "\n", 4); len(lines) == 4 {
		if root, err := base64.StdEncoding.DecodeString(lines[2]); err == nil {
			staged := fmt.Sprintf("staging/%s-%x", lines[1], root)
			w.overBroken("committed", func(path string) bool { return path == staged })
		}
	}
}

// mendLock is the operator, who puts the last checkpoint into the lock again.
func (w *world) mendLock() {
	if !w.cellBroken {
		return
	}
	w.cellBroken = false
	held, err := w.lock.Load(context.Background(), w.base.lockID)
	if err != nil || string(held.Body) != string(w.cell.bad) {
		return
	}
	if _, err := w.lock.Replace(context.Background(), held, w.cell.before); err != nil {
		panic(err)
	}
	w.told(w.audit.Committed(w.cell.before))
	w.note("operator", "mends", "cell", "lock")
}
