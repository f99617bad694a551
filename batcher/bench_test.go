package batcher

import (
	"sync/atomic"
	"testing"
)

// BenchmarkAdd is a new entry each time, from many submitters, with a sequencer
// and a signer that cost next to nothing.
func BenchmarkAdd(b *testing.B) {
	r := newRig(b, Config{}, nil)
	var next atomic.Int64
	b.SetParallelism(512)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := r.Add(b.Context(), x509(int(next.Add(1)))); err != nil {
				b.Fatal(err)
			}
		}
	})
	r.mustClose(b)
}

func BenchmarkLookup(b *testing.B) {
	r := newRig(b, Config{}, nil)
	p := x509(1)
	r.mustAdd(b, p)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, ok := r.Lookup(b.Context(), p.Key(), p.Digest()); !ok {
				b.Fatal("miss")
			}
		}
	})
	r.mustClose(b)
}
