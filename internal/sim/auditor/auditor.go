// Package auditor judges a log from outside, effect by effect: it is told what
// becomes visible in storage, what the lock holds and what clients were
// answered, and says at once when a promise is broken.
//
// Invariants: it believes nothing that the log says of itself; every hash, note,
// tile and certificate is read by code of its own. A promise once broken stays
// broken: [Auditor.Check] names the first fault for good. What it has judged it
// need not look at again, since no object of a log may change, so that a check
// after every step costs next to nothing.
//
// What it holds a log to (Static CT API v1.1.0, RFC 6962, and the design's "what
// must never happen"):
//
//   - Tiles and issuers never change. Full tiles, issuers and the tiles of every
//     published size never go, but for partial tiles whose full tile is there.
//     A staging bundle never changes, and that of a committed round stays until
//     the round is public.
//   - The lock and the published checkpoint only go forward, and never hold two
//     trees of one size. Bundle, lock, tiles, checkpoint: in this order.
//   - The moment a checkpoint is visible all its tiles and issuers are, and give
//     its root. All trees that were ever signed are prefixes of one another.
//   - An SCT leaves only when a published checkpoint covers its entry, which then
//     stands at its index with its timestamp, and is what was submitted.
//
// The package never knows kiln: it imports nothing of this module.
package auditor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
)

// Config says which log is judged.
type Config struct {
	Origin string // the name of its checkpoints
	SPKI   []byte // DER SubjectPublicKeyInfo of its P-256 key
}

// Auditor remembers all that a log has shown. It is safe for concurrent use, but
// the effects must be told in the order in which they happened.
type Auditor struct {
	origin string
	key    *ecdsa.PublicKey
	logID  [32]byte

	mu      sync.Mutex
	fault   error // the first
	objects map[string]*object

	locks     map[head]bool // all that the lock ever held
	locked    head          // what it holds
	lockedRaw []byte        // nil: the lock was never told of
	public    head          // the published checkpoint
	publicRaw []byte        // nil: there was none so far
	rewritten bool          // by the world
	heads     int           // distinct checkpoints that were published

	signed  map[int64]hash // the root of each size that was ever signed
	unknown []int64        // sizes in signed whose entries were not seen so far

	tree    tree
	entries []place
	first   map[hash]int64 // lowest index by identity
	repeats int
	tail    []byte        // the decoded data tile at the right edge
	certs   map[hash]cert // issuers that were taken apart
	shown   int64         // the published size whose tiles were all judged
	partial map[tile]bool // the partial tiles of published sizes

	offers map[hash][]extra // by identity, if Submitted is used
	scts   map[int64]promise
	early  []int64 // indexes of promises whose entry is in a tile that the world broke
	gunzip gunzipper
}

// object is an object as it is, or was when it went or was broken by the world.
type object struct {
	body   []byte // nil: it was never seen whole
	gone   bool
	broken bool // by the world, and to be judged no more
}

// place is what the tree holds at an index.
type place struct {
	id        hash // of entry_type || signed_entry
	timestamp uint64
	extra     // which the tree does not cover
}

// extra is what is stored of an entry beside what was signed, or was sent.
type extra struct {
	precert hash   // of the precertificate; zero for a final certificate
	chain   []hash // without the leaf
}

// promise is an SCT that was returned.
type promise struct {
	id        hash
	timestamp uint64
	signature string
	found     bool // in the tree
}

// New returns the auditor of a log that has shown nothing so far.
func New(cfg Config) (*Auditor, error) {
	pub, err := x509.ParsePKIXPublicKey(cfg.SPKI)
	if err != nil {
		return nil, fmt.Errorf("make auditor of %q: %w", cfg.Origin, err)
	}
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() || cfg.Origin == "" {
		return nil, errors.New("make auditor: want an origin and a P-256 key")
	}
	return &Auditor{
		origin: cfg.Origin, key: key, logID: sha256.Sum256(cfg.SPKI),
		objects: make(map[string]*object), signed: make(map[int64]hash),
		locks: make(map[head]bool), partial: make(map[tile]bool),
		first: make(map[hash]int64), certs: make(map[hash]cert),
		offers: make(map[hash][]extra), scts: make(map[int64]promise),
	}, nil
}

// broke keeps the first fault and returns the one at hand.
func (a *Auditor) broke(err error) error {
	if err != nil && a.fault == nil {
		a.fault = err
	}
	return err
}

// Check returns the first promise that was broken. Everything was judged when it
// happened, so there is nothing to look at again.
func (a *Auditor) Check() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fault
}

// Size returns the size of the published checkpoint.
func (a *Auditor) Size() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.public.size
}

// Tree returns size and root of the published checkpoint.
func (a *Auditor) Tree() (size int64, root [32]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.public.size, a.public.root
}

// Repeated returns how many entries of the tree stand at a lower index too,
// which is allowed but should be rare.
func (a *Auditor) Repeated() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.repeats
}

// SCTs returns how many different SCTs were returned.
func (a *Auditor) SCTs() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.scts)
}

// Checkpoints returns how many different checkpoints were published.
func (a *Auditor) Checkpoints() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heads
}

// Committed tells what the lock's cell holds now.
func (a *Auditor) Committed(body []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.broke(a.committed(body))
}

func (a *Auditor) committed(body []byte) error {
	if a.lockedRaw != nil && bytes.Equal(body, a.lockedRaw) {
		return nil
	}
	h, err := a.open(body)
	if err != nil {
		return fmt.Errorf("the lock's checkpoint: %w", err)
	}
	if a.lockedRaw != nil {
		switch {
		case h.timestamp <= a.locked.timestamp:
			return fmt.Errorf("the lock went from a checkpoint of %d ms to one of %d ms: a timestamp must be newer than all before",
				a.locked.timestamp, h.timestamp)
		case h.size < a.locked.size:
			return fmt.Errorf("the lock went back from %d to %d entries", a.locked.size, h.size)
		}
	}
	if err := a.sign(h); err != nil {
		return fmt.Errorf("the lock forked: %w", err)
	}
	if path := bundlePath(h); h.size > a.locked.size && !a.stands(path) {
		return fmt.Errorf("committed %d entries, but there is no bundle %s: a crash now would lose them", h.size, path)
	}
	a.locked, a.lockedRaw, a.locks[h] = h, bytes.Clone(body), true
	return nil
}

// sign notes a tree that the log has signed.
func (a *Auditor) sign(h head) error {
	root, ok := a.signed[h.size]
	switch {
	case ok && root != h.root:
		return fmt.Errorf("two trees of %d entries are signed, with roots %x and %x", h.size, root, h.root)
	case ok:
		return nil
	}
	a.signed[h.size] = h.root
	if h.size <= a.tree.size() {
		return a.checkRoot(h.size)
	}
	a.unknown = append(a.unknown, h.size)
	return nil
}

// checkRoot compares a signed root with that of the entries as they are public.
// That all of them are prefixes of one list of entries is consistency itself.
func (a *Auditor) checkRoot(size int64) error {
	if root := a.tree.root(size); root != a.signed[size] {
		return fmt.Errorf("the tree of %d entries is signed with root %x, but its entries have %x: not consistent", size, a.signed[size], root)
	}
	return nil
}

// stands reports whether an object is there, or was until the world broke it.
func (a *Auditor) stands(path string) bool {
	o := a.objects[path]
	return o != nil && (o.broken || !o.gone)
}
