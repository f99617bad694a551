package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"kiln/storage"
)

// gatedBucket is the storage as one life of a node reaches it. An Update is two
// calls, as on S3: a read, and a write on condition that nothing has changed.
type gatedBucket struct {
	w *world
	l *life
}

func (b gatedBucket) call(op, path string) *call {
	return &call{life: b.l, op: op, path: path}
}

func wrapped(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s object %s: %w", op, path, err)
}

// Create implements [storage.Bucket].
func (b gatedBucket) Create(ctx context.Context, o storage.Object) error {
	c := b.call(opCreate, o.Path)
	body := o.Body
	c.do = func() { c.err = b.w.create(o.Path, body) }
	c.keep = func() { body = slices.Clone(body) }
	c.flip = func(at uint64, inPlace bool) {
		if !inPlace {
			body = slices.Clone(o.Body)
		}
		right := slices.Clone(o.Body)
		flipBit(body, at)
		b.w.plant(o.Path, right)
		b.w.memory[o.Path] = inPlace
	}
	c.torn = func(at uint64) {
		b.w.plant(o.Path, slices.Clone(o.Body))
		body = slices.Clone(o.Body[:int(at%uint64(len(o.Body)))])
		c.do()
	}
	return wrapped("create", o.Path, b.w.gate.pass(ctx, c))
}

// Update implements [storage.Bucket].
func (b gatedBucket) Update(ctx context.Context, o storage.Object, next func([]byte) ([]byte, error)) error {
	for {
		var current []byte
		fetch := b.call(opFetch, o.Path)
		fetch.do = func() { current = b.w.read(o.Path) }
		if err := b.w.gate.pass(ctx, fetch); err != nil {
			return wrapped("update", o.Path, err)
		}
		body, err := next(slices.Clone(current))
		if err != nil {
			return wrapped("update", o.Path, err)
		}
		body = slices.Clone(body)
		conflict := false
		c := b.call(opUpdate, o.Path)
		c.do = func() { conflict = !b.w.update(o.Path, current, body) }
		if err := b.w.gate.pass(ctx, c); err != nil {
			return wrapped("update", o.Path, err)
		}
		if !conflict {
			return nil
		}
		b.w.mark("update-conflict")
	}
}

// Get implements [storage.Bucket].
func (b gatedBucket) Get(ctx context.Context, path string) ([]byte, error) {
	var body []byte
	c := b.call(opGet, path)
	c.do = func() {
		body, c.err = b.w.read(path), nil
		if body == nil {
			c.err = storage.ErrNotFound
		}
	}
	c.flip = func(at uint64, _ bool) {
		c.do()
		flipBit(body, at)
	}
	if err := b.w.gate.pass(ctx, c); err != nil {
		return nil, wrapped("get", path, err)
	}
	return body, nil
}

// Delete implements [storage.Bucket].
func (b gatedBucket) Delete(ctx context.Context, path string) error {
	c := b.call(opDelete, path)
	c.do = func() { c.err = b.w.remove(path) }
	return wrapped("delete", path, b.w.gate.pass(ctx, c))
}

// List implements [storage.Lister].
func (b gatedBucket) List(ctx context.Context, prefix string, each func(storage.Info) error) error {
	var found []storage.Info
	c := b.call(opList, prefix)
	c.do = func() {
		found = nil
		c.err = b.w.bucket.List(context.Background(), prefix, func(i storage.Info) error {
			found = append(found, i)
			return nil
		})
		slices.SortFunc(found, func(x, y storage.Info) int { return bytes.Compare([]byte(x.Path), []byte(y.Path)) })
	}
	if err := b.w.gate.pass(ctx, c); err != nil {
		return fmt.Errorf("list objects %q: %w", prefix, err)
	}
	for _, i := range found {
		if err := each(i); err != nil {
			return fmt.Errorf("list objects %q: %w", prefix, err)
		}
	}
	return nil
}

func flipBit(b []byte, at uint64) {
	if len(b) > 0 {
		at %= uint64(8 * len(b))
		b[at/8] ^= 1 << (at % 8)
	}
}

// What follows is called by the scheduler alone.

// create is the effect of a Create.
func (w *world) create(path string, body []byte) error {
	w.volatile = w.volatileNext
	err := w.bucket.Create(context.Background(), storage.Object{Path: path, Body: body})
	w.volatile, w.volatileNext = false, false
	if err != nil && !errors.Is(err, errCut) {
		return err
	}
	if w.visible[path] == nil {
		w.before[path] = nil
		w.visible[path] = slices.Clone(body)
		if planted, ok := w.planted[path]; ok && !bytes.Equal(body, planted) {
			w.audit.Corrupted(path)
			w.broken[path] = true
		} else if w.broken[path] {
			delete(w.broken, path)
			w.told(w.audit.Repaired(path, body))
		} else {
			w.told(w.audit.Changed(path, body))
		}
	}
	return err
}

// update is the second half of an Update; it reports whether the object was what
// it had been.
func (w *world) update(path string, was, body []byte) bool {
	if !bytes.Equal(w.visible[path], was) {
		return false
	}
	w.volatile = w.volatileNext
	err := w.bucket.Update(context.Background(), storage.Object{Path: path}, func([]byte) ([]byte, error) { return body, nil })
	w.volatile, w.volatileNext = false, false
	if err != nil && !errors.Is(err, errCut) {
		panic(err) // memory does not fail
	}
	if !bytes.Equal(was, body) || was == nil {
		w.before[path] = w.visible[path]
		w.visible[path] = slices.Clone(body)
		w.told(w.audit.Changed(path, body))
		if path == checkpointPath {
			w.overBroken("published", w.covers)
		}
	}
	return true
}

// overBroken is told that the log went a step further, which needs some objects:
// none of them may have changed in its memory while it wrote them, for it has what
// it takes to see that.
func (w *world) overBroken(step string, needs func(path string) bool) {
	for _, path := range slices.Sorted(maps.Keys(w.memory)) {
		if w.memory[path] && w.broken[path] && needs(path) {
			w.told(fmt.Errorf("%s although %s had changed in memory while it was written", step, path))
		}
	}
}

func (w *world) remove(path string) error {
	if w.visible[path] == nil {
		return nil
	}
	if err := w.bucket.Delete(context.Background(), path); err != nil {
		return err
	}
	delete(w.visible, path)
	delete(w.planted, path)
	delete(w.broken, path)
	w.told(w.audit.Changed(path, nil))
	return nil
}

// plant remembers what was meant to be at a path before it is spoiled on its way.
func (w *world) plant(path string, right []byte) { w.planted[path] = right }
