package dedup

import (
	"path/filepath"
	"testing"

	"kiln/entry"
)

func keysOf(indices []int64) []entry.Key {
	keys := make([]entry.Key, len(indices))
	for i, n := range indices {
		keys[i] = key(n)
	}
	return keys
}

func placementsOf(indices []int64) []entry.Placement {
	placements := make([]entry.Placement, len(indices))
	for i, n := range indices {
		placements[i] = place(n)
	}
	return placements
}

// BenchmarkPut reports the time of one row in transactions of 500.
func BenchmarkPut(b *testing.B) {
	c := mustOpen(b, filepath.Join(b.TempDir(), "c.db"))
	const batch = 500
	indices := make([]int64, 0, batch)
	n := int64(0)
	for b.Loop() {
		indices = append(indices, n)
		n++
		if len(indices) == batch {
			if err := c.Put(b.Context(), keysOf(indices), placementsOf(indices)); err != nil {
				b.Fatal(err)
			}
			indices = indices[:0]
		}
	}
}

func BenchmarkGet(b *testing.B) {
	c := mustOpen(b, filepath.Join(b.TempDir(), "c.db"))
	const rows = 200_000
	for from := int64(0); from < rows; from += 10_000 {
		indices := upTo(10_000)
		for i := range indices {
			indices[i] += from
		}
		put(b, c, indices...)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		n := int64(0)
		for pb.Next() {
			n = (n + 7919) % rows
			if _, ok, err := c.Get(b.Context(), key(n)); err != nil || !ok {
				b.Fatal(ok, err)
			}
		}
	})
}
