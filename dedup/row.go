package dedup

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"sync"

	"kiln/entry"
)

// macSize is the length of a stored MAC in bytes: HMAC-SHA256, truncated. A
// forger has no oracle but the cache itself, and each failure raises an alarm.
const macSize = 16

// Labels of the MACs that are not over a row. A row is 48 bytes, none of these
// is, so that no MAC can stand in for another.
const (
	checkLabel   = "kiln dedup cache: secret check v1\n"
	coveredLabel = "kiln dedup cache: every index below is held v1\n"
)

// sealer makes and checks MACs under one secret. It is safe for concurrent use.
type sealer struct {
	pool sync.Pool // of hash.Hash, keyed with the secret
}

func newSealer(secret []byte) *sealer {
	s := &sealer{}
	s.pool.New = func() any { return hmac.New(sha256.New, secret) }
	return s
}

func (s *sealer) mac(message []byte) [macSize]byte {
	h := s.pool.Get().(hash.Hash)
	defer s.pool.Put(h)
	h.Reset()
	h.Write(message)
	var sum [sha256.Size]byte
	return [macSize]byte(h.Sum(sum[:0]))
}

// row returns the MAC that binds a placement to its key.
func (s *sealer) row(key entry.Key, pl entry.Placement) [macSize]byte {
	b := make([]byte, 0, 48)
	b = append(b, key[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(pl.Index))
	b = binary.BigEndian.AppendUint64(b, uint64(pl.TimestampMillis))
	return s.mac(b)
}

// holds reports whether a stored row is one that this cache wrote.
func (s *sealer) holds(key entry.Key, pl entry.Placement, mac []byte) bool {
	want := s.row(key, pl)
	return hmac.Equal(mac, want[:]) && pl.Check() == nil
}

// check returns the value that a file of this secret carries.
func (s *sealer) check() []byte {
	m := s.mac([]byte(checkLabel))
	return m[:]
}

// covered encodes the mark with its MAC.
func (s *sealer) covered(mark int64) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(mark))
	m := s.mac(append([]byte(coveredLabel), b...))
	return append(b, m[:]...)
}

// parseCovered returns the mark, or false if this cache did not write it.
func (s *sealer) parseCovered(b []byte) (int64, bool) {
	if len(b) != 8+macSize {
		return 0, false
	}
	mark := int64(binary.BigEndian.Uint64(b))
	return mark, mark >= 0 && hmac.Equal(b, s.covered(mark))
}
