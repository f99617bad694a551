// Package roots keeps the accepted roots of logs: it reads the reports of the
// root programmes, adds what is new in them to the file that logs accept from,
// and keeps copies of that file.
//
// Invariants: it only adds. A root that no report lists any more stays, and
// leaves by one way alone: its fingerprint in the file of refused roots. A
// report that cannot be read whole, or lists far fewer roots than it did, is not
// followed, and never means that a root is gone: unknown is not gone. The roots
// file changes by one rename, after its last content was kept beside it and
// before any log is told, so that what a log has accepted it accepts again after
// a crash. The content of the file follows from its inputs alone: no order, no
// time.
//
// The package never knows chains of submissions, HTTP endpoints of the log, or
// the configuration file.
package roots

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kiln/internal/chain"
)

// The reports that CCADB publishes for operators of CT logs.
const (
	// IncludedReport lists the roots that are in the store of at least one of
	// Apple, Chrome, Microsoft and Mozilla. Chrome wants logs to accept them all
	// (OPS-07); it covers Apple's and Mozilla's wishes too (OPS-08, OPS-09).
	IncludedReport = "https://ccadb.my.salesforce-sites.com/ccadb/RootCACertificatesIncludedByRSReportCSV"

	// InclusionReport lists the roots that have applied to one of them and are
	// not in the other report.
	InclusionReport = "https://ccadb.my.salesforce-sites.com/ccadb/RootCACertificatesInclusionReportCSV"
)

// Sources of roots that are no reports. The names of reports have no parentheses.
const (
	SourceHand    = "(by hand)"    // stands in the roots file without a source
	SourceExtra   = "(extra file)" // stands in the file of extra roots
	SourceBuiltIn = "(built in)"   // Google's Merge Delay Monitor Root
)

// monitorPEM is Google's Merge Delay Monitor Root, whose chains probe every log
// that Chrome knows (OPS-06).
//
//go:embed monitor.pem
var monitorPEM []byte

// maxCertificate bounds one root, in bytes. The largest known has 2.7 kB.
const maxCertificate = 64 << 10

// Fingerprint is the SHA-256 of a certificate's DER.
type Fingerprint [sha256.Size]byte

// String returns the fingerprint in lower-case hexadecimal.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// ParseFingerprint reads 64 hexadecimal digits. Upper case, and colons between
// pairs, are how some tools print them.
func ParseFingerprint(s string) (Fingerprint, error) {
	var f Fingerprint
	digits := s
	if pairs := strings.Split(s, ":"); len(pairs) == len(f) && !slices.ContainsFunc(pairs, func(p string) bool { return len(p) != 2 }) {
		digits = strings.Join(pairs, "")
	}
	if len(digits) != 2*len(f) {
		return f, fmt.Errorf("%.80q is no SHA-256 fingerprint: want 64 hexadecimal digits", s)
	}
	if _, err := hex.Decode(f[:], []byte(digits)); err != nil {
		return f, fmt.Errorf("%.80q is no SHA-256 fingerprint: want 64 hexadecimal digits", s)
	}
	return f, nil
}

// Root is an accepted root, or one that may become so. It never changes.
type Root struct {
	Fingerprint Fingerprint
	DER         []byte
	// Subject is for people: one line of printable characters.
	Subject  string
	NotAfter time.Time
	// Sources are the names of what lists the root, sorted; Formerly those that
	// did once and do no more.
	Sources, Formerly []string

	selfIssued bool
}

// NewRoot reads a certificate as the logs do, without any source.
func NewRoot(der []byte) (Root, error) {
	if len(der) > maxCertificate {
		return Root{}, fmt.Errorf("it has %d bytes, at most %d are taken", len(der), maxCertificate)
	}
	info, err := chain.ParseRoot(der)
	if err != nil {
		return Root{}, err
	}
	return Root{
		Fingerprint: sha256.Sum256(der), DER: der,
		Subject: nameOf(info.Subject), NotAfter: info.NotAfter,
		selfIssued: bytes.Equal(info.Subject, info.Issuer),
	}, nil
}

// String names the root in one line.
func (r Root) String() string { return r.Fingerprint.String() + " " + r.Subject }

// from returns the root with other sources.
func (r Root) from(sources, formerly []string) Root {
	r.Sources, r.Formerly = sortedUnion(sources), sortedUnion(formerly)
	return r
}

// Set is a set of roots in order of their fingerprints. It never changes. The
// zero value is empty.
type Set struct {
	roots []Root
}

// NewSet makes a Set. Roots with one fingerprint become one, with the sources of
// all.
func NewSet(roots ...Root) *Set {
	s := &Set{roots: slices.Clone(roots)}
	slices.SortStableFunc(s.roots, byFingerprint)
	distinct := s.roots[:0]
	for _, r := range s.roots {
		if last := len(distinct) - 1; last >= 0 && distinct[last].Fingerprint == r.Fingerprint {
			distinct[last] = distinct[last].from(append(slices.Clone(distinct[last].Sources), r.Sources...),
				append(slices.Clone(distinct[last].Formerly), r.Formerly...))
			continue
		}
		distinct = append(distinct, r)
	}
	s.roots = distinct
	return s
}

func byFingerprint(a, b Root) int { return bytes.Compare(a.Fingerprint[:], b.Fingerprint[:]) }

// Len returns how many roots there are.
func (s *Set) Len() int { return len(s.roots) }

// All returns the roots in order of their fingerprints. The caller may change
// the slice, not what it points to.
func (s *Set) All() []Root { return slices.Clone(s.roots) }

// Get returns the root with a fingerprint.
func (s *Set) Get(f Fingerprint) (Root, bool) {
	i, ok := slices.BinarySearchFunc(s.roots, f, func(r Root, f Fingerprint) int { return bytes.Compare(r.Fingerprint[:], f[:]) })
	if !ok {
		return Root{}, false
	}
	return s.roots[i], true
}

// DERs returns the certificates in order of their fingerprints.
func (s *Set) DERs() [][]byte {
	ders := make([][]byte, len(s.roots))
	for i, r := range s.roots {
		ders[i] = r.DER
	}
	return ders
}

// listedBy returns how many roots a source lists.
func (s *Set) listedBy(source string) (n int) {
	for _, r := range s.roots {
		if slices.Contains(r.Sources, source) {
			n++
		}
	}
	return n
}

// same reports whether two sets have the same certificates.
func (s *Set) same(o *Set) bool {
	return slices.EqualFunc(s.roots, o.roots, func(a, b Root) bool { return a.Fingerprint == b.Fingerprint })
}

// parsePEM returns the roots of a PEM file of roots, all from one source. A file
// with nothing but comments has none; an empty one is refused, as it states
// nothing.
func parsePEM(data []byte, source string) ([]Root, error) {
	if onlyComments(data) {
		return nil, nil
	}
	ders, err := chain.ParseRoots(data)
	if err != nil {
		return nil, err
	}
	roots := make([]Root, 0, len(ders))
	for n, der := range ders {
		r, err := NewRoot(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n+1, err)
		}
		roots = append(roots, r.from([]string{source}, nil))
	}
	return roots, nil
}

// onlyComments reports whether there are lines that begin with #, and no others.
func onlyComments(data []byte) bool {
	if len(bytes.TrimSpace(data)) == 0 {
		return false
	}
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// parseRefused reads a file of refused roots: fingerprints, one a line, and PEM
// certificates, in any mixture. What follows # is a comment.
func parseRefused(data []byte) (map[Fingerprint]bool, error) {
	refused := make(map[Fingerprint]bool)
	var block []byte // the PEM block that is being read, nil outside of one
	n := 0
	for line := range bytes.Lines(data) {
		n++
		trimmed := bytes.TrimSpace(line)
		switch {
		case block == nil && bytes.HasPrefix(trimmed, []byte("-----BEGIN ")):
			block = []byte{}
			fallthrough
		case block != nil:
			block = append(append(block, trimmed...), '\n')
			if !bytes.HasPrefix(trimmed, []byte("-----END ")) {
				continue
			}
			ders, err := chain.ParseRoots(block)
			if err != nil {
				return nil, fmt.Errorf("the block that ends in line %d: %w", n, err)
			}
			refused[sha256.Sum256(ders[0])] = true
			block = nil
		default:
			text, _, _ := bytes.Cut(trimmed, []byte("#"))
			if text = bytes.TrimSpace(text); len(text) == 0 {
				continue
			}
			f, err := ParseFingerprint(string(text))
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			refused[f] = true
		}
	}
	if block != nil {
		return nil, errors.New("its last PEM block has no end")
	}
	return refused, nil
}

// sortedUnion returns the distinct strings in order, nil if there are none.
func sortedUnion(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.SortFunc(all, cmp.Compare[string])
	if all = slices.Compact(all); len(all) == 0 {
		return nil
	}
	return all
}
