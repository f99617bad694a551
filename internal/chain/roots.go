package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ParseRoots returns the DER of all certificates in a PEM file. Text around the
// blocks is ignored. Blocks of another type, certificates that cannot be read
// and a file without any are errors that name the block by its number, from 1.
func ParseRoots(data []byte) ([][]byte, error) {
	var ders [][]byte
	for n := 1; ; n++ {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("parse roots: PEM block %d is %q, want CERTIFICATE", n, block.Type)
		}
		if _, err := parseCertificate(block.Bytes); err != nil {
			return nil, fmt.Errorf("parse roots: PEM block %d: %w", n, err)
		}
		ders = append(ders, block.Bytes)
	}
	if len(ders) == 0 {
		return nil, errors.New("parse roots: no PEM block found, want at least one CERTIFICATE")
	}
	if bytes.Contains(data, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("parse roots: what follows PEM block %d begins a block that cannot be read", len(ders))
	}
	return ders, nil
}

// Root is what a certificate says of itself as an accepted root. Nothing of it
// is verified.
type Root struct {
	// Subject and Issuer are the DER of the Names.
	Subject, Issuer []byte
	// NotBefore and NotAfter are its validity, in UTC.
	NotBefore, NotAfter time.Time
}

// ParseRoot reads a certificate as a Validator does that is given it as a root:
// any serial number, any signature algorithm, any name. The slices point into der.
func ParseRoot(der []byte) (Root, error) {
	c, err := parseCertificate(der)
	if err != nil {
		return Root{}, err
	}
	return Root{Subject: c.subject, Issuer: c.issuer, NotBefore: c.notBefore.UTC(), NotAfter: c.notAfter.UTC()}, nil
}

// rootPool is a set of accepted roots. It never changes after it was made.
type rootPool struct {
	ders          [][]byte
	byFingerprint map[[32]byte]*issuer
	bySubject     map[string][]*issuer // those that may issue, by raw Name, in order of fingerprints
}

func newRootPool(ders [][]byte) (*rootPool, error) {
	if len(ders) == 0 {
		return nil, errors.New("there are none")
	}
	pool := &rootPool{byFingerprint: make(map[[32]byte]*issuer), bySubject: make(map[string][]*issuer)}
	for n, der := range ders {
		fingerprint := sha256.Sum256(der)
		if pool.byFingerprint[fingerprint] != nil {
			continue
		}
		c, err := parseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("root %d: %w", n, err)
		}
		root := newIssuer(c, fingerprint)
		pool.ders = append(pool.ders, der)
		pool.byFingerprint[fingerprint] = root
		if root.mayIssue(true) {
			pool.bySubject[string(c.subject)] = append(pool.bySubject[string(c.subject)], root)
		}
	}
	// The order of fingerprints does not depend on that of the file: the same
	// roots always complete a chain in the same way (SUB-20).
	for _, roots := range pool.bySubject {
		slices.SortFunc(roots, func(a, b *issuer) int { return bytes.Compare(a.fingerprint[:], b.fingerprint[:]) })
	}
	return pool, nil
}
