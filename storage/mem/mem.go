// Package mem is a [storage.Bucket] in memory, for tests: it fails on demand,
// crashes on demand, and watches that nobody changes an object.
//
// Invariants: the effects of calls happen one after the other, in the order in
// which the bucket took them; a call that returned nil has a durable effect; a
// crash clone has every durable effect and no other.
//
// The package never knows what the objects are.
package mem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"kiln/storage"
)

// Op is one of the five calls of a bucket.
type Op string

// The calls.
const (
	OpCreate Op = "create"
	OpUpdate Op = "update"
	OpGet    Op = "get"
	OpDelete Op = "delete"
	OpList   Op = "list" // its path is the prefix
)

// Fault is what goes wrong in one call. The zero value is nothing.
type Fault struct {
	// Delay holds the call back, before any effect, until it is closed or sent
	// to, or the call's context ends.
	Delay <-chan struct{}
	// Before fails the call without any effect.
	Before error
	// Volatile makes the effect visible but lost in a crash, as if a folder
	// could not be synced. It needs After: a call that returns nil is durable.
	Volatile bool
	// DelayAfter is as Delay, when the effect has happened. If the context ends
	// there, the call returns its error.
	DelayAfter <-chan struct{}
	// After fails the call although its effect happened.
	After error
}

// Faults is asked once at the begin of each call with a valid path, and of each
// List. It may be called by many goroutines at once, and may use the bucket.
type Faults func(op Op, path string) Fault

// Bucket is a bucket in memory. It is safe for concurrent use.
type Bucket struct {
	updating chan struct{} // held during Update; never together with mu around next

	mu         sync.Mutex
	faults     Faults               // guarded by mu, as all below
	now        func() time.Time     // the storage's clock
	modified   map[string]time.Time // when the visible content was written, or was last visible
	visible    map[string][]byte    // what Get sees
	durable    map[string][]byte    // what a crash leaves
	history    map[string][][]byte  // durable contents, oldest first; nil: deleted
	replaced   map[string]bool      // paths that were written by Update
	violations []string
}

var (
	_ storage.Bucket = (*Bucket)(nil)
	_ storage.Lister = (*Bucket)(nil)
)

// New returns an empty bucket without faults.
func New() *Bucket {
	return &Bucket{
		updating: make(chan struct{}, 1),
		now:      time.Now,
		modified: make(map[string]time.Time),
		visible:  make(map[string][]byte),
		durable:  make(map[string][]byte),
		history:  make(map[string][][]byte),
		replaced: make(map[string]bool),
	}
}

// SetFaults puts f in the place of the faults so far, for calls that begin from
// now on. nil is no faults.
func (b *Bucket) SetFaults(f Faults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = f
}

// SetClock puts now in the place of time.Now as the clock of the storage, which
// says when an object was written. It must not use the bucket.
func (b *Bucket) SetClock(now func() time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = now
}

// CrashClone returns what a crash at this moment leaves: an independent bucket
// with the durable content, its history, the violations and the clock, and
// without faults.
// Calls that are running go on in the old bucket and have no effect on the new.
func (b *Bucket) CrashClone() *Bucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := New()
	// Contents are never changed in place, so the two may share them.
	c.durable = maps.Clone(b.durable)
	c.visible = maps.Clone(b.durable)
	c.now = b.now
	c.modified = maps.Clone(b.modified)
	for path, h := range b.history {
		c.history[path] = slices.Clone(h)
	}
	c.replaced = maps.Clone(b.replaced)
	c.violations = slices.Clone(b.violations)
	return c
}

// begin checks the path and plays the part of the fault that is before the effect.
func (b *Bucket) begin(ctx context.Context, op Op, path string) (Fault, error) {
	if err := ctx.Err(); err != nil {
		return Fault{}, err
	}
	if op != OpList && !storage.ValidPath(path) {
		return Fault{}, errors.New("invalid path")
	}
	b.mu.Lock()
	faults := b.faults
	b.mu.Unlock()
	if faults == nil {
		return Fault{}, nil
	}
	f := faults(op, path)
	if f.Volatile && f.After == nil {
		return Fault{}, errors.New("fault is volatile without an error after: a call that returns nil must be durable")
	}
	if err := wait(ctx, f.Delay); err != nil {
		return Fault{}, err
	}
	return f, f.Before
}

// end plays the part of the fault that is after the effect.
func (f Fault) end(ctx context.Context) error {
	if err := wait(ctx, f.DelayAfter); err != nil {
		return err
	}
	return f.After
}

func wait(ctx context.Context, delay <-chan struct{}) error {
	if delay == nil {
		return nil
	}
	select {
	case <-delay:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func wrap(op Op, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case op == OpList:
		return fmt.Errorf("list objects %q: %w", path, err)
	case storage.ValidPath(path):
		return fmt.Errorf("%s object %s: %w", op, path, err)
	default:
		return fmt.Errorf("%s object %q: %w", op, path, err)
	}
}

// Create implements [storage.Bucket].
func (b *Bucket) Create(ctx context.Context, o storage.Object) error {
	return wrap(OpCreate, o.Path, b.create(ctx, o))
}

func (b *Bucket) create(ctx context.Context, o storage.Object) error {
	f, err := b.begin(ctx, OpCreate, o.Path)
	if err != nil {
		return err
	}
	b.mu.Lock()
	current, ok := b.visible[o.Path]
	if ok && !bytes.Equal(current, o.Body) {
		err = storage.ErrDifferent
	} else {
		b.writeLocked(OpCreate, o.Path, append([]byte{}, o.Body...), f.Volatile)
	}
	b.mu.Unlock()
	return errors.Join(err, f.end(ctx))
}

// writeLocked makes body, which it keeps, the content at a path; nil is none.
func (b *Bucket) writeLocked(op Op, path string, body []byte, volatile bool) {
	switch _, ok := b.visible[path]; {
	case body == nil: // the time stays, for a crash may bring the object back
	case !ok || op == OpUpdate:
		b.modified[path] = b.now()
	}
	set(b.visible, path, body)
	if volatile {
		return
	}
	last, had := b.durable[path]
	set(b.durable, path, body)
	if had == (body != nil) && bytes.Equal(last, body) {
		return
	}
	if op == OpUpdate {
		b.replaced[path] = true
	}
	if op == OpCreate && !b.replaced[path] {
		for _, h := range b.history[path] {
			if h != nil && !bytes.Equal(h, body) {
				b.violations = append(b.violations, fmt.Sprintf("object %s was deleted and created again with other content", path))
				break
			}
		}
	}
	b.history[path] = append(b.history[path], body)
}

func set(m map[string][]byte, path string, body []byte) {
	if body == nil {
		delete(m, path)
	} else {
		m[path] = body
	}
}

// Update implements [storage.Bucket]. Updates of a bucket run one at a time, so
// next must not call Update of the same bucket.
func (b *Bucket) Update(ctx context.Context, o storage.Object, next func(current []byte) ([]byte, error)) error {
	return wrap(OpUpdate, o.Path, b.update(ctx, o.Path, next))
}

func (b *Bucket) update(ctx context.Context, path string, next func([]byte) ([]byte, error)) error {
	f, err := b.begin(ctx, OpUpdate, path)
	if err != nil {
		return err
	}
	select {
	case b.updating <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	err = func() error {
		defer func() { <-b.updating }()
		b.mu.Lock()
		current, ok := b.visible[path]
		if ok {
			current = append([]byte{}, current...)
		}
		b.mu.Unlock()
		body, err := next(current)
		if err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.writeLocked(OpUpdate, path, append([]byte{}, body...), f.Volatile)
		return nil
	}()
	if err != nil {
		return err // next's, and no effect: nothing to fail after
	}
	return f.end(ctx)
}

// Get implements [storage.Bucket].
func (b *Bucket) Get(ctx context.Context, path string) ([]byte, error) {
	f, err := b.begin(ctx, OpGet, path)
	if err != nil {
		return nil, wrap(OpGet, path, err)
	}
	b.mu.Lock()
	body, ok := b.visible[path]
	b.mu.Unlock()
	err = f.end(ctx)
	if !ok {
		err = errors.Join(storage.ErrNotFound, err)
	}
	if err == nil {
		err = storage.Announce(ctx, int64(len(body)))
	}
	if err != nil {
		return nil, wrap(OpGet, path, err)
	}
	return append([]byte{}, body...), nil
}

// Delete implements [storage.Bucket].
func (b *Bucket) Delete(ctx context.Context, path string) error {
	f, err := b.begin(ctx, OpDelete, path)
	if err != nil {
		return wrap(OpDelete, path, err)
	}
	b.mu.Lock()
	b.writeLocked(OpDelete, path, nil, f.Volatile)
	b.mu.Unlock()
	return wrap(OpDelete, path, f.end(ctx))
}

// List implements [storage.Lister]. A fault is before the first call of each, or
// after the last.
func (b *Bucket) List(ctx context.Context, prefix string, each func(storage.Info) error) error {
	return wrap(OpList, prefix, b.list(ctx, prefix, each))
}

func (b *Bucket) list(ctx context.Context, prefix string, each func(storage.Info) error) error {
	f, err := b.begin(ctx, OpList, prefix)
	if err != nil {
		return err
	}
	var found []storage.Info
	b.mu.Lock()
	for path, body := range b.visible {
		if strings.HasPrefix(path, prefix) {
			found = append(found, storage.Info{Path: path, Size: int64(len(body)), Modified: b.modified[path]})
		}
	}
	b.mu.Unlock()
	for _, info := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := each(info); err != nil {
			return err
		}
	}
	return f.end(ctx)
}
