// Package chain turns a submitted chain of DER certificates into an
// [entry.Pending], or says why not.
//
// Invariants: every signature between the leaf and an accepted root is verified,
// by the certificates submitted and the accepted roots alone (SUB-17); every
// submitted certificate is on that path, in order (SUB-18); what will be logged
// ends in the accepted root, submitted or not (SUB-19). The log observes and
// does not police (SUB-22): nothing else in a certificate is judged but its
// place in the NotAfter window, its poison and, if so configured, serverAuth.
// Bytes that will be logged are cut out of what was submitted, never re-encoded
// (SUB-28). Work is linear in the bytes of a submission, and every key is
// trusted before it is used: links are verified from the root down.
//
// Certificates are cut up by a parser of our own, which looks at the structure
// and leaves names, serial numbers and most extensions alone. Where contents
// matter, the keys of issuers, certificate-transparency-go's x509 reads them: it
// takes what crypto/x509 refuses and CAs have issued nevertheless.
//
// The package never knows HTTP, storage or where an entry goes.
package chain

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Defaults and limits.
const (
	// DefaultMaxChain is the number of certificates taken in one submission,
	// first certificate and root included.
	DefaultMaxChain = 20

	// DefaultMaxCertificateSize bounds one certificate, in bytes.
	DefaultMaxCertificateSize = 256 << 10

	// MaxEntrySize bounds the MerkleTreeLeaf and the TileLeaf of an entry, in
	// bytes. A data tile of 256 such entries has 64 MiB, which is the most that
	// monitors in use read.
	MaxEntrySize = 256 << 10

	// lowPriorityAge is the age of notBefore from which an entry may be refused
	// first under load (SUB-38).
	lowPriorityAge = 48 * time.Hour
)

// Config says which submissions are valid. The zero value takes any NotAfter
// and any extended key usage.
type Config struct {
	// NotAfterStart and NotAfterLimit are the bounds of the shard: NotAfter of
	// the first certificate must be in [NotAfterStart, NotAfterLimit) (SUB-21).
	// They are whole seconds. A zero time is no bound.
	NotAfterStart, NotAfterLimit time.Time

	// RequireServerAuth refuses first certificates without the extended key
	// usage serverAuth (SUB-25).
	RequireServerAuth bool

	// MaxChain bounds the number of submitted certificates; 0 means
	// DefaultMaxChain.
	MaxChain int

	// MaxCertificateSize bounds the bytes of each certificate; 0 means
	// DefaultMaxCertificateSize.
	MaxCertificateSize int

	// Now is the clock behind low priority, nothing else; nil means time.Now.
	Now func() time.Time
}

// Validator checks submissions against the accepted roots. It is safe for
// concurrent use. A new one has no roots and refuses everything.
type Validator struct {
	cfg   Config
	roots atomic.Pointer[rootPool]
	seen  *seen
}

// New makes a Validator; the accepted roots are given to it by
// [Validator.SetRoots]. It fails when the configuration cannot be meant.
func New(cfg Config) (*Validator, error) {
	if cfg.MaxChain == 0 {
		cfg.MaxChain = DefaultMaxChain
	}
	if cfg.MaxCertificateSize == 0 {
		cfg.MaxCertificateSize = DefaultMaxCertificateSize
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	start, limit := cfg.NotAfterStart, cfg.NotAfterLimit
	switch {
	case cfg.MaxChain < 0 || cfg.MaxCertificateSize < 0:
		return nil, errors.New("make chain validator: a limit is negative")
	case start.Nanosecond() != 0 || limit.Nanosecond() != 0:
		return nil, fmt.Errorf("make chain validator: NotAfter window [%v, %v) is not in whole seconds", start, limit)
	case !start.IsZero() && !limit.IsZero() && !start.Before(limit):
		return nil, fmt.Errorf("make chain validator: NotAfter window [%s, %s) is empty", stamp(start), stamp(limit))
	}
	v := &Validator{cfg: cfg, seen: newSeen()}
	v.roots.Store(&rootPool{})
	return v, nil
}

// SetRoots replaces the accepted roots, given as DER. A submission sees either
// the old or the new ones, never a mixture. Repeated certificates count once.
// On an error, which names the root by its place (from 0), nothing changes.
//
// A root need not be self-signed. One that cannot issue (version 3 without
// CA:true, or with a key that is neither RSA, ECDSA nor Ed25519) is taken, but
// chains below it are refused.
func (v *Validator) SetRoots(ders [][]byte) error {
	pool, err := newRootPool(ders)
	if err != nil {
		return fmt.Errorf("set accepted roots: %w", err)
	}
	v.roots.Store(pool)
	return nil
}

// Roots returns the accepted roots as DER, in the order they were given to
// [Validator.SetRoots] without repetitions. The caller must not modify it.
func (v *Validator) Roots() [][]byte { return v.roots.Load().ders }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
