package chain

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"time"

	"kiln/entry"
)

// Candidate is a submission that is valid but, perhaps, for the signature of its
// first certificate. It never changes and is safe for concurrent use.
type Candidate struct {
	pending *entry.Pending
	leaf    *certificate
	path    []*issuer // the leaf's issuer first, the accepted root last
	done    bool      // nothing is left for VerifyLeaf
}

// Pending returns the entry to be logged. It must not be logged before
// [Candidate.VerifyLeaf] has returned nil.
func (c *Candidate) Pending() *entry.Pending { return c.pending }

// Issuers returns the DER of every certificate after the first, the accepted
// root included: what must be stored durably before the entry is sequenced
// (SUB-37). The caller must not modify the certificates.
func (c *Candidate) Issuers() [][]byte {
	ders := make([][]byte, len(c.path))
	for i, is := range c.path {
		ders[i] = is.raw
	}
	return ders
}

// VerifyLeaf checks the signature of the first certificate by its issuer's key,
// which [Validator.Prepare] leaves out because nothing else costs as much. Its
// error is a *RejectedError.
func (c *Candidate) VerifyLeaf() error {
	if c.done {
		return nil
	}
	if err := c.path[0].verifies(c.leaf); err != nil {
		return rejectSignature(place(0), err)
	}
	return nil
}

// Prepare checks a submission, first certificate first, in all but the signature
// of the first certificate: see [Candidate.VerifyLeaf]. Every error is a
// *RejectedError. The slices must not be modified afterwards.
func (v *Validator) Prepare(chain [][]byte, typ entry.Type) (*Candidate, error) {
	c, rejected := v.prepare(chain, typ)
	if rejected != nil {
		return nil, rejected // not before: a nil *RejectedError is not a nil error
	}
	return c, nil
}

func (v *Validator) prepare(chain [][]byte, typ entry.Type) (*Candidate, *RejectedError) {
	if rejected := v.checkSizes(chain); rejected != nil {
		return nil, rejected
	}
	leaf, err := parseCertificate(chain[0])
	if err != nil {
		return nil, rejectf(ReasonMalformed, "%s cannot be read: %v", place(0), err)
	}
	if rejected := v.checkLeaf(leaf, typ); rejected != nil {
		return nil, rejected
	}
	c := &Candidate{leaf: leaf}
	pool := v.roots.Load()
	if pool.byFingerprint[sha256.Sum256(leaf.raw)] != nil {
		// Accepted as it is, whoever signed it: the path ends here (MON-13).
		if len(chain) > 1 {
			return nil, rejectf(ReasonBrokenChain, "%s is itself an accepted root, want it alone", place(0))
		}
		c.done = true
	} else if rejected := v.findPath(c, pool, chain); rejected != nil {
		return nil, rejected
	}
	if rejected := c.makePending(typ, v.lowPriority(leaf, typ)); rejected != nil {
		return nil, rejected
	}
	return c, nil
}

// place names a certificate by its index in the submitted chain.
func place(i int) string { return fmt.Sprintf("chain[%d]", i) }

func (v *Validator) checkSizes(chain [][]byte) *RejectedError {
	if len(chain) == 0 {
		return rejectf(ReasonEmpty, "chain is empty, want at least one certificate")
	}
	if len(chain) > v.cfg.MaxChain {
		return rejectf(ReasonTooLarge, "chain has %d certificates, at most %d are taken", len(chain), v.cfg.MaxChain)
	}
	for i, der := range chain {
		if len(der) > v.cfg.MaxCertificateSize {
			return rejectf(ReasonTooLarge, "%s has %d bytes, at most %d are taken", place(i), len(der), v.cfg.MaxCertificateSize)
		}
	}
	return nil
}

// checkLeaf checks what the first certificate says about itself.
func (v *Validator) checkLeaf(leaf *certificate, typ entry.Type) *RejectedError {
	if rejected := checkPoison(leaf, typ); rejected != nil {
		return rejected
	}
	if bounds := v.outside(leaf.notAfter); bounds != "" {
		return rejectf(ReasonNotAfter, "NotAfter %s is %s", stamp(leaf.notAfter), bounds)
	}
	if v.cfg.RequireServerAuth && !leaf.hasUsage(oidServerAuth) {
		return rejectf(ReasonExtKeyUsage, "%s lacks the extended key usage serverAuth, which this log requires", place(0))
	}
	return nil
}

// outside says how a NotAfter misses the window of the log, and nothing if it
// does not (SUB-21).
func (v *Validator) outside(notAfter time.Time) string {
	start, limit := v.cfg.NotAfterStart, v.cfg.NotAfterLimit
	early := !start.IsZero() && notAfter.Before(start)
	late := !limit.IsZero() && !notAfter.Before(limit)
	switch {
	case !early && !late:
		return ""
	case limit.IsZero():
		return "before " + stamp(start)
	case start.IsZero():
		return "not before " + stamp(limit)
	}
	return fmt.Sprintf("outside [%s, %s)", stamp(start), stamp(limit))
}

// checkPoison checks that a precertificate is one, and a final certificate not
// (SUB-26, SUB-27).
func checkPoison(leaf *certificate, typ entry.Type) *RejectedError {
	poison, n := leaf.find(oidPoison)
	switch {
	case typ == entry.X509 && n > 0:
		return rejectf(ReasonWrongEndpoint, "%s is a precertificate (it has the poison extension), want a final certificate: use add-pre-chain", place(0))
	case typ == entry.X509:
		return nil
	case n == 0:
		return rejectf(ReasonWrongEndpoint, "%s is not a precertificate (it has no poison extension): use add-chain", place(0))
	case n > 1:
		return rejectf(ReasonPoison, "%s has %d poison extensions, want one", place(0), n)
	case !poison.critical:
		return rejectf(ReasonPoison, "poison extension of %s is not critical, want critical", place(0))
	case !bytes.Equal(poison.value, []byte{0x05, 0x00}):
		return rejectf(ReasonPoison, "poison extension of %s does not hold NULL, want the value 05 00", place(0))
	}
	return nil
}

// findPath sets c.path, from the issuer of the first certificate to an accepted
// root, and verifies all its links but the first.
func (v *Validator) findPath(c *Candidate, pool *rootPool, chain [][]byte) *RejectedError {
	if len(chain) == 1 {
		return closeLeaf(c, pool)
	}
	if rejected := v.walk(c, pool, chain); rejected != nil {
		return rejected
	}
	last := c.path[len(c.path)-1]
	if pool.byFingerprint[last.fingerprint] == nil {
		root, rejected := v.findRoot(c, pool, last)
		if rejected != nil {
			return rejected
		}
		c.path = append(c.path, root)
	}
	// From the root down: a key is used only once it is certified.
	for i := len(c.path) - 2; i >= 0; i-- {
		if err := v.seen.verify(c.path[i], c.path[i+1]); err != nil {
			return rejectSignature(place(i+1), err)
		}
	}
	return nil
}

// walk reads the submitted issuers into c.path and checks that each one can be
// the issuer of the certificate before it, signatures aside.
func (v *Validator) walk(c *Candidate, pool *rootPool, chain [][]byte) *RejectedError {
	for i := 1; i < len(chain); i++ {
		fingerprint := sha256.Sum256(chain[i])
		is := pool.byFingerprint[fingerprint]
		accepted := is != nil
		if !accepted {
			var err error
			if is, err = v.seen.issuer(chain[i], fingerprint); err != nil {
				return rejectf(ReasonMalformed, "%s cannot be read: %v", place(i), err)
			}
		}
		if c.contains(is) {
			return rejectf(ReasonBrokenChain, "%s was given before, want each certificate once", place(i))
		}
		if !bytes.Equal(c.top().issuer, is.subject) {
			return rejectf(ReasonBrokenChain, "%s is not the issuer of %s: its subject differs from the issuer named there", place(i), place(i-1))
		}
		if !is.mayIssue(accepted) {
			return rejectf(ReasonNotCA, "%s is no CA certificate (BasicConstraints with CA:true), so it cannot be the issuer of %s", place(i), place(i-1))
		}
		c.path = append(c.path, is)
	}
	return nil
}

// top returns the last certificate known of the path.
func (c *Candidate) top() *certificate {
	if len(c.path) == 0 {
		return c.leaf
	}
	return c.path[len(c.path)-1].certificate
}

// contains reports whether a certificate is on the path already.
func (c *Candidate) contains(is *issuer) bool {
	for _, p := range c.path {
		if p.fingerprint == is.fingerprint {
			return true
		}
	}
	return bytes.Equal(c.leaf.raw, is.raw)
}

// findRoot returns the first accepted root that verifies the last submitted
// certificate, in order of fingerprints (SUB-20).
func (v *Validator) findRoot(c *Candidate, pool *rootPool, last *issuer) (*issuer, *RejectedError) {
	rejected := unknownRoot(len(c.path))
	for _, root := range pool.bySubject[string(last.issuer)] {
		if c.contains(root) {
			continue
		}
		err := v.seen.verify(last, root)
		if err == nil {
			return root, nil
		}
		rejected = rejectSignature(place(len(c.path)), err)
	}
	return nil, rejected
}

// closeLeaf completes the path of a leaf that was submitted alone. Where all
// roots by its issuer's name have one key, the first is right or none is, and
// the signature can wait for VerifyLeaf.
func closeLeaf(c *Candidate, pool *rootPool) *RejectedError {
	roots := pool.bySubject[string(c.leaf.issuer)]
	if len(roots) == 0 {
		return unknownRoot(0)
	}
	oneKey := true
	for _, root := range roots[1:] {
		oneKey = oneKey && bytes.Equal(root.spki, roots[0].spki)
	}
	if oneKey {
		c.path = roots[:1:1]
		return nil
	}
	var rejected *RejectedError
	for i, root := range roots {
		err := root.verifies(c.leaf)
		if err == nil {
			c.path, c.done = roots[i:i+1:i+1], true
			return nil
		}
		rejected = rejectSignature(place(0), err)
	}
	return rejected
}

func unknownRoot(last int) *RejectedError {
	return rejectf(ReasonUnknownRoot, "%s is neither an accepted root nor issued by one: an intermediate is missing, or the root is not in get-roots", place(last))
}

// makePending makes the entry of a complete path.
func (c *Candidate) makePending(typ entry.Type, low bool) *RejectedError {
	fingerprints := make([][32]byte, len(c.path))
	for i, is := range c.path {
		fingerprints[i] = is.fingerprint
	}
	var err error
	if typ == entry.Precert {
		var tbs []byte
		var keyHash [32]byte
		var rejected *RejectedError
		if tbs, keyHash, rejected = c.precert(); rejected != nil {
			return rejected
		}
		c.pending, err = entry.NewPrecert(tbs, keyHash, c.leaf.raw, fingerprints, low)
	} else {
		c.pending, err = entry.NewX509(c.leaf.raw, fingerprints, low)
	}
	if err != nil {
		return rejectf(ReasonTooLarge, "%s cannot be logged: %v", place(0), err)
	}
	if size := c.pending.Size(); size > MaxEntrySize {
		return rejectf(ReasonTooLarge, "entry would have %d bytes, at most %d are taken", size, MaxEntrySize)
	}
	return nil
}

// precert returns the TBSCertificate that is logged for a precertificate, and
// the hash of the key that will sign the final certificate (SUB-28 to SUB-30).
func (c *Candidate) precert() (tbs []byte, keyHash [32]byte, rejected *RejectedError) {
	if len(c.path) == 0 {
		return nil, keyHash, rejectf(ReasonPrecertIssuer, "%s is an accepted root and a precertificate, want a precertificate with an issuer", place(0))
	}
	final := c.path[0]
	var psc *certificate
	if final.hasUsage(oidPrecertSigning) {
		if len(c.path) == 1 || !final.isCA {
			return nil, keyHash, rejectf(ReasonPrecertIssuer, "%s is a Precertificate Signing Certificate, want a CA certificate certified by the issuer of the final certificate", place(1))
		}
		psc, final = final.certificate, c.path[1]
	}
	tbs, err := splice(c.leaf, oidPoison, psc)
	if err != nil {
		return nil, keyHash, rejectf(ReasonPrecertTBS, "TBSCertificate of %s cannot be logged: %v", place(0), err)
	}
	return tbs, sha256.Sum256(final.spki), nil
}

// lowPriority reports whether an entry can wait, when the log is full: who has
// SCTs in it has been issued, and what is old has waited before (SUB-38).
func (v *Validator) lowPriority(leaf *certificate, typ entry.Type) bool {
	if leaf.notBefore.Before(v.cfg.Now().Add(-lowPriorityAge)) {
		return true
	}
	if typ == entry.Precert {
		return false
	}
	_, n := leaf.find(oidSCTList)
	return n > 0
}
