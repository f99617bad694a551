package watch

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"

	"kiln/entry"
)

// How many receipts are kept: the newest, and a sample of all there ever were.
const (
	maxRecent = 32
	maxOld    = 224

	// recentEvery is how far apart the newest are, so that they are no burst.
	recentEvery = 50 * time.Millisecond
)

// Receipt is an SCT that the log answered, as far as it can be held against the
// tree.
type Receipt struct {
	Digest          []byte `json:"digest"` // of the submission, see [entry.Digest]
	Index           int64  `json:"leaf_index"`
	TimestampMillis int64  `json:"timestamp"`
	LeafHash        []byte `json:"leaf_hash"`
	Rank            uint64 `json:"rank"`
}

func (r *Receipt) valid() bool {
	pl := entry.Placement{Index: r.Index, TimestampMillis: r.TimestampMillis}
	return len(r.Digest) == 32 && len(r.LeafHash) == 32 && pl.Check() == nil
}

// sample is a bounded random sample of receipts. Each has a rank, which nobody
// can tell without the secret; those with the lowest are kept, so that all that
// ever were answered have the same chance, and who answers cannot know which are
// in it. It is safe for concurrent use.
type sample struct {
	secret [32]byte

	mu     sync.Mutex
	recent []Receipt // guarded by mu; a ring of maxRecent
	next   int       // guarded by mu; where in recent the next one goes
	old    []Receipt // guarded by mu; at most maxOld
	worst  uint64    // guarded by mu; highest rank in old, once that is full
	fresh  []Receipt // guarded by mu; kept since take, at most maxRecent
	count  int64     // guarded by mu; of those that were kept
	last   time.Time // guarded by mu; when the last of recent was taken
}

func newSample(secret []byte) *sample {
	return &sample{secret: sha256.Sum256(append([]byte("kiln watch sample\n"), secret...)), worst: math.MaxUint64}
}

// offer is called for each SCT that is answered. What is not kept costs a hash.
func (s *sample) offer(p *entry.Pending, sct entry.SCT) {
	key := p.Key()
	b := make([]byte, 0, 32+32+16)
	b = append(b, s.secret[:]...)
	b = append(b, key[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(sct.Index))
	b = binary.BigEndian.AppendUint64(b, uint64(sct.TimestampMillis))
	h := sha256.Sum256(b)
	rank := binary.BigEndian.Uint64(h[:])
	newest, keep := s.wants(rank, time.Now())
	if !newest && !keep {
		return
	}
	digest, leaf := p.Digest(), p.LeafHash(sct.Placement)
	r := Receipt{Digest: digest[:], Index: sct.Index, TimestampMillis: sct.TimestampMillis, LeafHash: leaf[:], Rank: rank}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if newest {
		if len(s.recent) < maxRecent {
			s.recent = append(s.recent, r)
		} else {
			s.recent[s.next] = r
		}
		s.next = (s.next + 1) % maxRecent
	}
	s.keepLocked(r)
	if len(s.fresh) < maxRecent {
		s.fresh = append(s.fresh, r)
	}
}

// take returns the receipts that were kept since it was called last, the first
// maxRecent of them.
func (s *sample) take() []Receipt {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := s.fresh
	s.fresh = nil
	return fresh
}

// wants reports whether a receipt belongs to the newest, of which one in a while
// is taken, and whether to the sample.
func (s *sample) wants(rank uint64, now time.Time) (newest, keep bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if newest = now.Sub(s.last) >= recentEvery; newest {
		s.last = now
	}
	return newest, rank < s.worst
}

func (s *sample) keepLocked(r Receipt) {
	if r.Rank >= s.worst {
		return
	}
	for _, o := range s.old {
		if o.Rank == r.Rank {
			return // the very same
		}
	}
	if s.old = append(s.old, r); len(s.old) > maxOld {
		s.old = slices.DeleteFunc(s.old, func(o Receipt) bool { return o.Rank == s.highestLocked() })
	}
	if len(s.old) == maxOld {
		s.worst = s.highestLocked()
	}
}

func (s *sample) highestLocked() (most uint64) {
	for _, o := range s.old {
		most = max(most, o.Rank)
	}
	return most
}

// kept returns how many receipts were kept so far.
func (s *sample) kept() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// all returns copies of the newest receipts, newest last, and of the sample.
func (s *sample) all() (recent, old []Receipt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.recent) < maxRecent {
		recent = slices.Clone(s.recent)
	} else {
		recent = slices.Concat(s.recent[s.next:], s.recent[:s.next])
	}
	return recent, slices.Clone(s.old)
}

// restore takes up what all returned before a restart.
func (s *sample) restore(recent, old []Receipt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recent = slices.Clone(recent[max(0, len(recent)-maxRecent):])
	s.next = len(s.recent) % maxRecent
	s.old, s.worst = nil, math.MaxUint64
	for _, r := range old {
		s.keepLocked(r)
	}
}
