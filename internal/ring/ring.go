// Package ring says which member of a group owns a key, by rendezvous hashing:
// every member has a score for the key, and the highest score owns it.
//
// Invariants: the owner depends on the key and on the set of member names, not
// on their order; when a member joins, a key either keeps its owner or goes to
// the new member, so n to n+1 members moves about 1/(n+1) of the keys; when a
// member leaves, only its own keys move. Both hold by construction, since the
// scores of the other members do not change.
//
// The ring has no secret. Keys are SHA-256 values that a submitter can grind,
// and whoever knows the member names can pick keys of one owner, at the cost of
// n hashes (and n certificates) for each. A secret would hide that only until
// the attacker sees which submissions are slow together, and all frontends would
// have to share it. So the limit is drawn elsewhere: each owner's queues are
// bounded, and a chosen owner that is full refuses while the others go on.
//
// The package never knows what members do.
package ring

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Ring is a fixed set of members. It is immutable and safe for concurrent use.
type Ring struct {
	members []member // by seed, so that a tie does not depend on member order
}

type member struct {
	seed  uint64
	index int // position in the slice given to New
}

// New makes a ring of members, which are known by their names: at least one,
// none empty, all different.
func New(members []string) (*Ring, error) {
	if len(members) == 0 {
		return nil, errors.New("make ring: no members")
	}
	r := &Ring{members: make([]member, len(members))}
	seen := make(map[string]bool, len(members))
	for i, name := range members {
		if name == "" {
			return nil, fmt.Errorf("make ring: member %d has an empty name", i)
		}
		if seen[name] {
			return nil, fmt.Errorf("make ring: member name %q is repeated", name)
		}
		seen[name] = true
		sum := sha256.Sum256([]byte("kiln ring member v1\n" + name))
		r.members[i] = member{seed: binary.BigEndian.Uint64(sum[:]), index: i}
	}
	slices.SortFunc(r.members, func(a, b member) int { return cmp.Compare(a.seed, b.seed) })
	return r, nil
}

// Owner returns the position, in the slice given to [New], of the member that
// owns the key. It does not allocate.
func (r *Ring) Owner(key [32]byte) int {
	k0 := binary.LittleEndian.Uint64(key[0:])
	k1 := binary.LittleEndian.Uint64(key[8:])
	k2 := binary.LittleEndian.Uint64(key[16:])
	k3 := binary.LittleEndian.Uint64(key[24:])
	best, owner := uint64(0), -1
	for i := range r.members {
		m := &r.members[i]
		// All 256 bits count. Each step is a bijection of the state, so that a
		// uniform key gives every member a uniform score; the scores of two
		// members differ by their seeds, which mix spreads over the state
		// before the next word comes in.
		score := mix(mix(mix(mix(m.seed^k0)^k1)^k2) ^ k3)
		if owner < 0 || score > best {
			best, owner = score, m.index
		}
	}
	return owner
}

// mix is a bijection on 64 bits in which each input bit flips each output bit
// with probability close to one half: shifts and odd multipliers, as in the
// finalizer of SplitMix64. It is no cryptographic hash and need not be one: the
// most that a ground key can do is to have a chosen owner (see the package).
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return x
}
