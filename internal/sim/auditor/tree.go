package auditor

import (
	"crypto/sha256"
	"math/bits"
)

type hash = [32]byte

// tree is all complete subtrees of a list of leaves: levels[k] holds, one after
// the other, the hashes of 2^k leaves each. A hash tile of level l is a piece of
// levels[8*l] as it stands.
type tree struct{ levels [][]byte }

func leafHash(prefix, data []byte) (h hash) {
	d := sha256.New()
	d.Write([]byte{0})
	d.Write(prefix)
	d.Write(data)
	d.Sum(h[:0])
	return h
}

func nodeHash(left, right []byte) hash {
	var b [65]byte
	b[0] = 1
	copy(b[1:], left)
	copy(b[33:], right)
	return sha256.Sum256(b[:])
}

func (t *tree) size() int64 {
	if len(t.levels) == 0 {
		return 0
	}
	return int64(len(t.levels[0]) / 32)
}

func (t *tree) append(h hash) {
	for k := 0; ; k++ {
		if k == len(t.levels) {
			t.levels = append(t.levels, nil)
		}
		l := append(t.levels[k], h[:]...)
		t.levels[k] = l
		if len(l)%64 != 0 {
			return
		}
		h = nodeHash(l[len(l)-64:len(l)-32], l[len(l)-32:])
	}
}

// root returns the hash of the first size leaves, which must be there (RFC 6962
// section 2.1).
func (t *tree) root(size int64) hash {
	if size == 0 {
		return sha256.Sum256(nil)
	}
	var root hash
	started := false
	for rest := size; rest > 0; rest &= rest - 1 {
		// From the right: the smallest complete subtree that is left.
		k := bits.TrailingZeros64(uint64(rest))
		i := rest>>k - 1
		sub := t.levels[k][i*32 : i*32+32]
		if !started {
			root, started = hash(sub), true
			continue
		}
		root = nodeHash(sub, root[:])
	}
	return root
}

// tile returns what a hash tile must hold.
func (t *tree) tile(level int, n, width int64) []byte {
	return t.levels[8*level][n*256*32 : (n*256+width)*32]
}
