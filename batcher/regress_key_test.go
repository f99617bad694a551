package batcher

import (
	"testing"

	"kiln/entry"
)

// TestRegressWholeKey: two keys that differ in any one byte, and so share 128 bits
// of either half, have flights and SCTs of their own. Flights and the short-term
// cache are maps by the whole key, which the assignments hold.
func TestRegressWholeKey(t *testing.T) {
	t.Parallel()
	c := newCache(1000)
	var flights map[entry.Key]*flight = (&Batcher{}).flights
	_, _ = flights[entry.Key{}], [32]byte(entry.Key{})
	var keys []entry.Key
	for i := range len(entry.Key{}) {
		k := entry.Key{0: 7}
		k[i] ^= 1
		keys = append(keys, k)
		c.put([]cached{{key: k, sct: entry.SCT{Placement: entry.Placement{Index: int64(i)}}}})
	}
	for i, k := range keys {
		if sct, ok := c.lookup(k, entry.Digest{}); !ok || sct.Index != int64(i) {
			t.Errorf("key %x has %+v, %t", k, sct, ok)
		}
	}
	if _, ok := c.adopt(entry.Key{0: 7}, entry.Digest{}); ok {
		t.Error("a key that was not put is there")
	}
}
