package fsck

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"kiln/internal/chain"
	"kiln/tiles"
)

// Bounds of what is remembered of issuers. A log has thousands of them; when a
// bound is reached all is forgotten and looked at again.
const (
	maxIssuers     = 1 << 16
	maxIssuerBytes = 64 << 20
	maxLinks       = 1 << 17
)

// issuers remembers which issuers were fetched and found to be what their names
// say. It is safe for concurrent use.
type issuers struct {
	mu    sync.Mutex // guards all below
	known map[[32]byte]*issuer
	bytes int
	links map[[64]byte]bool // child's and parent's fingerprint, which fit
}

// issuer is one certificate. All but ready may be read once that is closed.
type issuer struct {
	ready chan struct{}
	cert  *chain.Logged // nil if it cannot be read
	err   error         // why it could not be fetched, after all attempts
}

// issuer returns the issuer with a fingerprint, which is fetched at most once at
// a time.
func (c *checker) issuer(ctx context.Context, fingerprint [32]byte) (*issuer, error) {
	s := c.issuers
	s.mu.Lock()
	is, ok := s.known[fingerprint]
	if ok {
		s.mu.Unlock()
		select {
		case <-is.ready:
			return is, is.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s.known == nil || len(s.known) >= maxIssuers || s.bytes > maxIssuerBytes {
		s.known, s.bytes = make(map[[32]byte]*issuer), 0
	}
	is = &issuer{ready: make(chan struct{})}
	s.known[fingerprint] = is
	s.mu.Unlock()

	size, err := c.loadIssuer(ctx, fingerprint, is)
	is.err = err
	close(is.ready)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += size
	return is, err
}

func (c *checker) loadIssuer(ctx context.Context, fingerprint [32]byte, is *issuer) (size int, err error) {
	path := tiles.IssuerPath(fingerprint)
	der, err := c.small(ctx, path, maxIssuer)
	if err != nil {
		return 0, err
	}
	if got := sha256.Sum256(der); got != fingerprint {
		return 0, mismatch(path, -1, hexOf(got), hexOf(fingerprint), "SHA-256 of its %d bytes is not its name", len(der))
	}
	c.counts.issuers.Add(1)
	if cert, err := chain.ReadLogged(der); err == nil {
		is.cert = &cert
	} else {
		c.counts.note(path, "issuer is no certificate that this program can read")
	}
	return len(der), nil
}

// checkChain checks the issuers that an entry names: each is there, hashes to its
// name and fits the certificate before it; a precertificate entry follows from
// the precertificate (MON-13, SUB-28 to SUB-30). What a certificate says beyond
// that is the CA's affair.
func (c *checker) checkChain(ctx context.Context, path string, index int64, l *leaf) error {
	certs := make([]*chain.Logged, len(l.chain))
	for i, fingerprint := range l.chain {
		is, err := c.issuer(ctx, fingerprint)
		if err != nil {
			if absent(err) {
				err = missing(tiles.IssuerPath(fingerprint), index, err)
			}
			return namedBy(err, index)
		}
		certs[i] = is.cert
	}
	der := l.certificate
	if l.precert {
		der = l.submitted
	}
	first, err := chain.ReadLogged(der)
	if err != nil {
		c.counts.note(path, "certificate of an entry cannot be read by this program, so its chain is not checked")
		return nil
	}
	if len(certs) == 0 {
		if l.precert {
			c.counts.note(path, "precertificate entry has no issuers, so its issuer key hash is not checked")
		}
		return nil
	}
	if certs[0] != nil && !c.follows(path, first, *certs[0]) {
		return mismatch(path, index, "", "", "index %d names %s as the issuer of its certificate, which it is not", index, tiles.IssuerPath(l.chain[0]))
	}
	for i := 1; i < len(certs); i++ {
		if certs[i-1] != nil && certs[i] != nil && !c.linked(path, [2][32]byte{l.chain[i-1], l.chain[i]}, *certs[i-1], *certs[i]) {
			return mismatch(path, index, "", "", "index %d names %s as the issuer of %s, which it is not",
				index, tiles.IssuerPath(l.chain[i]), tiles.IssuerPath(l.chain[i-1]))
		}
	}
	if l.precert {
		return c.checkPrecert(path, index, l, first, certs)
	}
	return nil
}

// namedBy adds the entry that names an issuer to a fault of the issuer.
func namedBy(err error, index int64) error {
	var f *Fault
	if !errors.As(err, &f) {
		return err
	}
	g := *f // it may be shared with others that wait for the issuer
	g.Index = index
	g.Detail += fmt.Sprintf("; index %d names it", index)
	return &g
}

// linked is follows for two issuers, which it remembers.
func (c *checker) linked(path string, pair [2][32]byte, child, parent chain.Logged) bool {
	link := [64]byte(bytes.Join([][]byte{pair[0][:], pair[1][:]}, nil))
	s := c.issuers
	s.mu.Lock()
	known := s.links[link]
	s.mu.Unlock()
	if known {
		return true
	}
	if !c.follows(path, child, parent) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links == nil || len(s.links) >= maxLinks {
		s.links = make(map[[64]byte]bool)
	}
	s.links[link] = true
	return true
}

// follows reports whether parent may have issued child; in doubt it may. Without
// Options.Signatures it is enough that it has the name of the issuer: then the
// signature, which costs more than all else, is verified only if the names differ,
// as they may in their encoding.
func (c *checker) follows(path string, child, parent chain.Logged) bool {
	if child.NamesIssuer(parent) && !c.opts.Signatures {
		return true
	}
	signed, certain := child.SignedBy(parent)
	if !signed && !certain {
		c.counts.note(path, "signature of a certificate cannot be verified by this program")
	}
	return signed || !certain
}

// checkPrecert checks what is logged for a precertificate.
func (c *checker) checkPrecert(path string, index int64, l *leaf, precert chain.Logged, certs []*chain.Logged) error {
	final, signer := certs[0], (*chain.Logged)(nil)
	if final != nil && final.SignsPrecerts() {
		signer, final = final, nil
		if len(certs) > 1 {
			final = certs[1]
		}
	}
	if final == nil {
		c.counts.note(path, "issuer of the final certificate is not there or cannot be read, so the precertificate entry is not checked")
		return nil
	}
	switch want := final.KeyHash(); {
	case l.issuerKeyHash == want:
	case signer != nil && l.issuerKeyHash == signer.KeyHash():
		c.counts.note(path, "issuer key hash is that of the Precertificate Signing Certificate, not of the final issuer")
	default:
		return mismatch(path, index, hexOf(l.issuerKeyHash), hexOf(want), "issuer key hash of index %d is not that of its issuer", index)
	}
	want, err := chain.PrecertTBS(precert, signer)
	if err == nil && bytes.Equal(want, l.certificate) {
		return nil
	}
	if why := chain.Contradiction(precert, l.certificate, signer != nil); why != "" {
		return mismatch(path, index, hexOf(sha256.Sum256(l.certificate)), hexOf(sha256.Sum256(want)),
			"TBSCertificate of index %d does not follow from its precertificate: it %s", index, why)
	}
	c.counts.note(path, "TBSCertificate of an entry is encoded otherwise than this program makes it from the precertificate")
	return nil
}
