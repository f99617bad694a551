package dedup

import (
	"path/filepath"
	"testing"

	"kiln/entry"
)

// TestRegressWholeKey: two keys that differ in any one byte, and so share 128 bits
// of either half, have rows of their own, also after a restart.
func TestRegressWholeKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.db")
	c := mustOpen(t, path)
	var keys []entry.Key
	var placements []entry.Placement
	for i := range int64(len(entry.Key{})) {
		k := entry.Key{0: 7}
		k[i] ^= 1
		keys, placements = append(keys, k), append(placements, place(i))
	}
	if err := c.Put(t.Context(), keys, placements); err != nil {
		t.Fatal(err)
	}
	mustClose(t, c)
	c = mustOpen(t, path)
	for i, k := range keys {
		wantHit(t, c, k, placements[i])
	}
	wantMiss(t, c, entry.Key{0: 7})
}
