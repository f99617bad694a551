package mem

import (
	"fmt"
	"maps"
	"slices"

	"kiln/storage"
)

// Violations says which objects changed other than through Update or [Bucket.Corrupt]:
// none, if the callers keep the contract that what Create made never changes.
// It sees an object that was deleted and came back with other content, also when
// a crash clone was made in between.
func (b *Bucket) Violations() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.violations)
}

// History returns every content that was durable at a path, oldest first, with
// nil where it was deleted. Writing the same again is no new content.
// The caller must not modify the bytes.
func (b *Bucket) History(path string) [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.history[path])
}

// Paths returns the paths of all visible objects, sorted.
func (b *Bucket) Paths() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.visible))
}

// Corrupt replaces an object, as a broken disk would, by what f makes of a copy
// of it; nil removes it. There are no faults, no history and no violation. It
// returns [storage.ErrNotFound] if there is no such object.
func (b *Bucket) Corrupt(path string, f func(body []byte) []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	body, ok := b.visible[path]
	if !ok {
		return fmt.Errorf("corrupt object %s: %w", path, storage.ErrNotFound)
	}
	body = slices.Clone(f(append([]byte{}, body...)))
	set(b.visible, path, body)
	set(b.durable, path, body)
	return nil
}
