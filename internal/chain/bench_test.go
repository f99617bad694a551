package chain

import (
	"testing"

	"kiln/entry"
)

// benchmarkChains are real chains by the signature of the first certificate:
// SHA256-RSA under RSA-2048, ECDSA with P-256 and with P-384.
func benchmarkChains(b *testing.B, run func(b *testing.B, v *Validator, chain [][]byte, typ entry.Type)) {
	v := newValidator(b, Config{}, testRoots(b, "roots.pem")...)
	chains := readChains(b, "real-chains.jsonl.gz")
	for _, alg := range []string{"SHA256-RSA", "ECDSA-SHA256", "ECDSA-SHA384"} {
		for _, endpoint := range []string{"add-chain", "add-pre-chain"} {
			for i := range chains {
				if c := &chains[i]; c.SigAlg == alg && c.Endpoint == endpoint {
					b.Run(alg+"/"+endpoint, func(b *testing.B) { run(b, v, c.Chain, c.typ()) })
					break
				}
			}
		}
	}
}

// BenchmarkPrepare is all but the signature of the first certificate, with the
// links above it known.
func BenchmarkPrepare(b *testing.B) {
	benchmarkChains(b, func(b *testing.B, v *Validator, chain [][]byte, typ entry.Type) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Prepare(chain, typ); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkVerifyLeaf is the signature of the first certificate.
func BenchmarkVerifyLeaf(b *testing.B) {
	benchmarkChains(b, func(b *testing.B, v *Validator, chain [][]byte, typ entry.Type) {
		cand, err := v.Prepare(chain, typ)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := cand.VerifyLeaf(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
