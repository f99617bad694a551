package chain

import (
	"crypto"
	"sync"
)

// Bounds of what is remembered. Only certificates below an accepted root get in,
// so that a submitter cannot push out what is in use by what he makes up.
const (
	maxSeenLinks      = 1 << 15 // in each generation: about 4 MiB in all
	maxSeenIssuers    = 1 << 11 // in each generation
	maxSeenIssuerSize = 16 << 10
)

// issuer is a certificate that may sign others.
type issuer struct {
	*certificate
	fingerprint [32]byte                         // SHA-256 of the DER
	key         func() (crypto.PublicKey, error) // reads the key once, when first needed
}

func newIssuer(c *certificate, fingerprint [32]byte) *issuer {
	return &issuer{
		certificate: c,
		fingerprint: fingerprint,
		key:         sync.OnceValues(func() (crypto.PublicKey, error) { return publicKey(c) }),
	}
}

// mayIssue reports whether BasicConstraints let a certificate issue others. They
// must, and no other constraint is looked at (SUB-22); only an accepted root of
// version 1 or 2, which has none, may without.
func (i *issuer) mayIssue(accepted bool) bool {
	return i.isCA || (accepted && i.version < 2 && !i.basicConstraintsSeen)
}

// verifies checks the signature of c by this issuer's key.
func (i *issuer) verifies(c *certificate) error {
	key, err := i.key()
	if err != nil {
		return err
	}
	return verifySignature(c, key)
}

// link is a child's and an issuer's fingerprint: the issuer's key verifies the
// child's signature. That is a fact about bytes, which no change of roots alters.
type link [64]byte

// seen remembers verified links and the issuers in them. It is safe for
// concurrent use.
type seen struct {
	mu      sync.RWMutex
	links   generations[link, struct{}] // guarded by mu
	issuers generations[[32]byte, *issuer]
}

func newSeen() *seen {
	return &seen{links: newGenerations[link, struct{}](maxSeenLinks), issuers: newGenerations[[32]byte, *issuer](maxSeenIssuers)}
}

// issuer returns the issuer of these bytes, parsing it if need be.
func (s *seen) issuer(der []byte, fingerprint [32]byte) (*issuer, error) {
	s.mu.RLock()
	known, ok := s.issuers.get(fingerprint)
	s.mu.RUnlock()
	if ok {
		return known, nil
	}
	c, err := parseCertificate(der)
	if err != nil {
		return nil, err
	}
	return newIssuer(c, fingerprint), nil
}

// verify checks that parent signed child, once for all. The parent must be
// certified by an accepted root already, or be one.
func (s *seen) verify(child, parent *issuer) error {
	var l link
	copy(l[:32], child.fingerprint[:])
	copy(l[32:], parent.fingerprint[:])
	s.mu.RLock()
	_, ok := s.links.get(l)
	s.mu.RUnlock()
	if ok {
		return nil
	}
	if err := parent.verifies(child.certificate); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links.put(l, struct{}{})
	if len(child.raw) <= maxSeenIssuerSize {
		s.issuers.put(child.fingerprint, child)
	}
	return nil
}

// generations is a map of bounded size that forgets the older half at once. What
// is in use comes back at the cost of one verification, so that reading needs no
// bookkeeping and readers do not exclude each other.
type generations[K comparable, V any] struct {
	limit      int
	young, old map[K]V
}

func newGenerations[K comparable, V any](limit int) generations[K, V] {
	return generations[K, V]{limit: limit, young: make(map[K]V)}
}

func (g *generations[K, V]) get(k K) (V, bool) {
	if v, ok := g.young[k]; ok {
		return v, true
	}
	v, ok := g.old[k]
	return v, ok
}

func (g *generations[K, V]) put(k K, v V) {
	if len(g.young) >= g.limit {
		g.old, g.young = g.young, make(map[K]V)
	}
	g.young[k] = v
}
