package attacks_test

import (
	"context"
	"crypto"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"io"
	"math/rand/v2"
)

func extension(id asn1.ObjectIdentifier, value []byte) pkix.Extension {
	return pkix.Extension{Id: id, Value: value}
}

// deepChains submits chains as long as they may be, and longer.
func deepChains(ctx context.Context, a *arena) {
	path := []authority{a.evil.root}
	for i := range 110 {
		path = append(path, must(a.evil.authority(fmt.Sprintf("Level %d", i), &path[len(path)-1], nil)))
	}
	submit := func(depth int) []byte {
		var above []authority
		for i := depth; i >= 0; i-- {
			above = append(above, path[i])
		}
		return body(chainOf(a.evil.leaf(path[depth], leafOptions{}), above...))
	}
	workers(ctx, 64, func(ctx context.Context, i int) {
		a.post(ctx, i, "add-pre-chain", submit([]int{18, 19, 60, 100}[i%4]))
	})
}

// largestCertificates submits valid leaves as large as they may be.
func largestCertificates(ctx context.Context, a *arena) {
	workers(ctx, 64, func(ctx context.Context, i int) {
		a.post(ctx, i, "add-chain", a.evil.fresh(leafOptions{final: true, ballast: 255 << 10}))
		a.post(ctx, i, "add-pre-chain", a.evil.fresh(leafOptions{ballast: 120 << 10}))
	})
}

// manySANs submits as many subject alternative names as fit, and more.
func manySANs(ctx context.Context, a *arena) {
	workers(ctx, 32, func(ctx context.Context, i int) {
		o := leafOptions{final: true, names: []int{1 << 16, 50000, 20000}[i%3]}
		a.post(ctx, i, "add-chain", a.evil.fresh(o))
	})
}

// largeIssuers submits chains of large issuers, all different.
func largeIssuers(ctx context.Context, a *arena) {
	workers(ctx, 32, func(ctx context.Context, i int) {
		big := extension(oidBallast, make([]byte, 100<<10))
		for j := range big.Value {
			big.Value[j] = byte(rand.Uint32())
		}
		inter := must(a.evil.authority(fmt.Sprintf("Large %d", i), &a.evil.root, []pkix.Extension{big}))
		lower := must(a.evil.authority(fmt.Sprintf("Lower %d", i), &inter, []pkix.Extension{big}))
		a.post(ctx, i, "add-pre-chain", body(chainOf(a.evil.leaf(lower, leafOptions{}), lower, inter, a.evil.root)))
	})
}

// newIssuers submits each leaf below intermediates that nobody has seen.
func newIssuers(ctx context.Context, a *arena) {
	workers(ctx, 64, func(ctx context.Context, i int) {
		path := []authority{a.evil.root}
		for j := range 6 {
			path = append(path, must(a.evil.authority(fmt.Sprintf("New %d %d", i, j), &path[len(path)-1], nil)))
		}
		a.post(ctx, i, "add-pre-chain", body(chainOf(a.evil.leaf(path[6], leafOptions{}),
			path[6], path[5], path[4], path[3], path[2], path[1], path[0])))
	})
}

// mazes submits chains of certificates that all have one name and one key, so
// that each can be the issuer of each.
func mazes(ctx context.Context, a *arena) {
	first := must(a.evil.authority("Maze", &a.evil.root, nil))
	maze := []authority{first}
	for range 40 {
		// Signed by the maze's key under the maze's name: a cross-certificate.
		maze = append(maze, must(a.evil.certify("Maze", first.key.Public(), first.key, &maze[0], nil)))
	}
	leaf := a.evil.leaf(first, leafOptions{})
	workers(ctx, 64, func(ctx context.Context, i int) {
		var above []authority
		for _, j := range rand.Perm(len(maze) - 1)[:2+i%17] {
			above = append(above, maze[j+1])
		}
		switch i % 3 {
		case 0:
			above = append(above, first) // leads to the root
		case 1:
			above = append(above, above[0]) // a ring
		}
		a.post(ctx, i, "add-pre-chain", body(chainOf(leaf, above...)))
	})
}

// slowKeys makes the log verify signatures under keys that take longest.
func slowKeys(ctx context.Context, a *arena) {
	var slow [][]byte
	for _, k := range []struct{ bits, exponent int }{
		{16384, 65537}, {16384, 1<<31 - 1}, {16383, 3}, {15360, 1<<31 - 1}, {17000, 65537}, {8192, 1<<31 - 1},
	} {
		key := hugeRSA(k.bits, k.exponent)
		for range 20 {
			inter := must(a.evil.certify("Slow", key, nil, &a.evil.root, nil))
			leaf := remake(a.evil.leaf(inter, leafOptions{}), noSignature{key.Size()}, func(t *tbs) { t.Algorithm.FullBytes = rsaSHA256 })
			slow = append(slow, body(chainOf(leaf, inter, a.evil.root)))
		}
	}
	workers(ctx, 64, func(ctx context.Context, i int) { a.post(ctx, i, "add-pre-chain", slow[i%len(slow)]) })
}

var rsaSHA256 = []byte{0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11, 5, 0}

// oddASN1 submits certificates with contents that parsers have died of.
func oddASN1(ctx context.Context, a *arena) {
	p := a.evil
	var all [][]byte
	add := func(certificates [][]byte) { all = append(all, body(certificates)) }
	leafWith := func(e ...pkix.Extension) {
		add(chainOf(p.leaf(p.inter, leafOptions{extra: e}), p.inter, p.root))
	}
	issuerWith := func(e ...pkix.Extension) {
		inter := must(p.authority("Odd", &p.root, e))
		add(chainOf(p.leaf(inter, leafOptions{}), inter, p.root))
	}
	constraint := func(n int) []byte {
		var b []byte
		for i := range n {
			b = append(b, element(0, asn1.TagSequence, true, element(2, 2, false, fmt.Appendf(nil, "%d", i)))...)
		}
		return element(0, asn1.TagSequence, true, element(2, 0, true, b))
	}
	for _, with := range []func(...pkix.Extension){leafWith, issuerWith} {
		with(extension(oidBallast, nested(20000)))
		with(extension(asn1.ObjectIdentifier(append([]int{1, 3}, make([]int, 100000)...)), []byte{5, 0}))
		with(extension(asn1.ObjectIdentifier{2, 5, 29, 30}, constraint(8000)))
		with(extension(asn1.ObjectIdentifier{2, 5, 29, 35}, nested(10000)), extension(asn1.ObjectIdentifier{2, 5, 29, 35}, nested(10000)))
		with(extension(oidSCTs, make([]byte, 100000)))
	}
	odd := func(change func(*tbs)) {
		leaf := remake(p.leaf(p.inter, leafOptions{}), p.inter.key, change)
		add(chainOf(leaf, p.inter, p.root))
		inter := p.inter
		cert := *inter.cert
		cert.Raw = remake(inter.cert.Raw, p.root.key, change)
		inter.cert = &cert
		add(chainOf(p.leaf(p.inter, leafOptions{}), inter, p.root))
	}
	odd(func(t *tbs) { t.Serial.FullBytes = element(0, asn1.TagInteger, false, make([]byte, 200000)) })
	odd(func(t *tbs) { t.Subject.FullBytes = element(0, asn1.TagSequence, true, nested(20000)) })
	odd(func(t *tbs) { t.SPKI.FullBytes = element(0, asn1.TagSequence, true, nested(20000)) })
	odd(func(t *tbs) { // a curve given by its parameters
		t.SPKI.FullBytes = element(0, asn1.TagSequence, true, append(element(0, asn1.TagSequence, true,
			append([]byte{6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1}, element(0, asn1.TagSequence, true, make([]byte, 1000))...)), 3, 2, 0, 4))
	})
	odd(func(t *tbs) { // RSA with an exponent as long as the modulus
		n := append([]byte{0}, hugeRSA(16384, 3).N.Bytes()...)
		key := element(0, asn1.TagSequence, true, append(element(0, asn1.TagInteger, false, n), element(0, asn1.TagInteger, false, n)...))
		t.SPKI.FullBytes = element(0, asn1.TagSequence, true, append([]byte{0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0},
			element(0, asn1.TagBitString, false, append([]byte{0}, key...))...))
	})
	odd(func(t *tbs) {
		t.Extensions = nil
		for range 30000 {
			t.Extensions = append(t.Extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2}, Value: []byte{}})
		}
	})
	workers(ctx, 64, func(ctx context.Context, i int) {
		b := all[rand.IntN(len(all))]
		a.post(ctx, i, []string{"add-pre-chain", "add-chain"}[i%2], b)
	})
}

// noSignature signs with bytes that have the right length.
type noSignature struct{ size int }

func (noSignature) Public() crypto.PublicKey { return nil }

func (n noSignature) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	b := make([]byte, n.size)
	for i := 1; i < len(b); i++ {
		b[i] = byte(rand.Uint32())
	}
	return b, nil
}
