package sequencer

import (
	"testing"

	"kiln/entry"
)

// TestRegressWholeKey: two keys that differ in any one byte, and so share 128 bits
// of either half, have places of their own in the index of recent entries.
func TestRegressWholeKey(t *testing.T) {
	r := newRecent(1000)
	var keys []entry.Key
	for i := range len(entry.Key{}) {
		k := entry.Key{0: 7}
		k[i] ^= 1
		keys = append(keys, k)
		r.add(k, entry.Placement{Index: int64(i)})
	}
	for i, k := range keys {
		if pl, ok := r.get(k); !ok || pl.Index != int64(i) {
			t.Errorf("key %x is at %+v, %t", k, pl, ok)
		}
	}
	if _, ok := r.get(entry.Key{0: 7}); ok {
		t.Error("a key that was not added is there")
	}
}
