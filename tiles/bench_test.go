package tiles

import (
	"fmt"
	"testing"

	"kiln/entry"
	"kiln/storage"
)

// benchRound is the round that adds real entries to a log of 100.
func benchRound(b *testing.B, n int) (*Edge, []*entry.Pending) {
	b.Helper()
	var entries []*entry.Pending
	for _, r := range realEntries(b) {
		entries = append(entries, r.pending)
	}
	e, _ := round(b, NewEdge(false), entries[:100], 1)
	for len(entries) < 100+n {
		entries = append(entries, entries...)
	}
	return e, entries[100 : 100+n]
}

// BenchmarkRound is the work of a round but for storage and signature.
func BenchmarkRound(b *testing.B) {
	for _, n := range []int{1, 256, 1024} {
		b.Run(fmt.Sprintf("entries=%d", n), func(b *testing.B) {
			e, entries := benchRound(b, n)
			b.ReportAllocs()
			for b.Loop() {
				round(b, e, entries, 2)
			}
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func BenchmarkAppend(b *testing.B) {
	e, entries := benchRound(b, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := e.Append(entries, 2); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	e, entries := benchRound(b, 1024)
	next, objects, err := e.Append(entries, 2)
	if err != nil {
		b.Fatal(err)
	}
	r := Round{Old: e.Tree(), New: next.Tree(), Edge: e, Bundle: encode(b, objects...), Entries: entries, TimestampMillis: 2}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Verify(r); err != nil {
			b.Fatal(err)
		}
	}
}

func benchBundle(b *testing.B) ([]storage.Object, []byte) {
	b.Helper()
	e, entries := benchRound(b, 1024)
	_, objects, err := e.Append(entries, 2)
	if err != nil {
		b.Fatal(err)
	}
	return objects, encode(b, objects...)
}

func BenchmarkEncodeBundle(b *testing.B) {
	objects, bundle := benchBundle(b)
	b.SetBytes(int64(len(bundle)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := EncodeBundle(objects); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeBundle(b *testing.B) {
	_, bundle := benchBundle(b)
	b.SetBytes(int64(len(bundle)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBundle(bundle); err != nil {
			b.Fatal(err)
		}
	}
}
