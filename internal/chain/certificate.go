package chain

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// Contents of the object identifiers this package knows in certificates.
const (
	oidPoison           = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03" // 1.3.6.1.4.1.11129.2.4.3
	oidSCTList          = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02" // 1.3.6.1.4.1.11129.2.4.2
	oidPrecertSigning   = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x04" // 1.3.6.1.4.1.11129.2.4.4
	oidServerAuth       = "\x2b\x06\x01\x05\x05\x07\x03\x01"         // 1.3.6.1.5.5.7.3.1
	oidBasicConstraints = "\x55\x1d\x13"                             // 2.5.29.19
	oidAuthorityKeyID   = "\x55\x1d\x23"                             // 2.5.29.35
	oidExtKeyUsage      = "\x55\x1d\x25"                             // 2.5.29.37
)

// Context-specific tags in TBSCertificate.
var (
	tagVersion    = asn1.Tag(0).ContextSpecific().Constructed()
	tagIssuerUID  = asn1.Tag(1).ContextSpecific()
	tagSubjectUID = asn1.Tag(2).ContextSpecific()
	tagExtensions = asn1.Tag(3).ContextSpecific().Constructed()
)

// extension is one Extension, cut up.
type extension struct {
	raw      []byte // whole element
	oid      []byte // contents of extnID
	critical bool
	explicit bool   // critical is written out, be it TRUE or FALSE
	value    []byte // contents of extnValue
}

// certificate is a certificate cut up but not interpreted. All slices point
// into raw, which never changes.
type certificate struct {
	raw       []byte // whole Certificate
	tbs       []byte // whole TBSCertificate, which is what is signed
	algorithm []byte // AlgorithmIdentifier, the same inside and outside
	signature []byte // contents of signatureValue

	issuer, subject     []byte // whole Name
	spki                []byte // whole SubjectPublicKeyInfo
	notBefore, notAfter time.Time
	extensions          []extension

	body                 []byte // contents of TBSCertificate
	issuerAt, issuerEnd  int    // where issuer is in body
	extensionsAt         int    // where [3] is in body, len(body) if it is not
	hasExtensions        bool   // [3] is there
	version              int64  // as encoded: 0 is v1, 2 is v3
	basicConstraintsSeen bool
	isCA                 bool // BasicConstraints with CA:true, and none without
}

// maxExtensions bounds what a certificate takes in memory beside its bytes: an
// extension may have seven bytes, and twelve times as many when it is cut up.
// Certificates in use have 5 to 20.
const maxExtensions = 1000

var errTruncated = errors.New("not the DER of an X.509 certificate")

// parseCertificate cuts a certificate up. It wants DER framing (minimal definite
// lengths) of everything it walks through, no bytes left over at any of these
// levels, and both algorithm identifiers to be the same bytes (SUB-24): whatever
// else varied there would not be covered by the signature. It does not look into
// names, serial numbers, keys and unknown extensions.
func parseCertificate(der []byte) (*certificate, error) {
	c := &certificate{raw: der}
	in := cryptobyte.String(der)
	var outer, tbs, inner, algorithm cryptobyte.String
	if !in.ReadASN1(&outer, asn1.SEQUENCE) {
		return nil, errTruncated
	}
	if !in.Empty() {
		return nil, fmt.Errorf("%d bytes follow the certificate", len(in))
	}
	if !outer.ReadASN1Element(&tbs, asn1.SEQUENCE) ||
		!outer.ReadASN1Element(&algorithm, asn1.SEQUENCE) ||
		!outer.ReadASN1BitStringAsBytes(&c.signature) {
		return nil, errTruncated
	}
	if !outer.Empty() {
		return nil, fmt.Errorf("%d bytes follow the signature inside the certificate", len(outer))
	}
	c.tbs, c.algorithm = tbs, algorithm
	if err := c.parseTBS(&inner); err != nil {
		return nil, err
	}
	if !bytes.Equal(inner, algorithm) {
		return nil, errors.New("signatureAlgorithm differs from the one inside TBSCertificate")
	}
	return c, nil
}

func (c *certificate) parseTBS(algorithm *cryptobyte.String) error {
	tbs := cryptobyte.String(c.tbs)
	var in, issuer, validity, subject, spki cryptobyte.String
	if !tbs.ReadASN1(&in, asn1.SEQUENCE) {
		return errTruncated
	}
	c.body = in
	var version cryptobyte.String
	var hasVersion bool
	ok := in.ReadOptionalASN1(&version, &hasVersion, tagVersion) &&
		(!hasVersion || (version.ReadASN1Integer(&c.version) && version.Empty())) &&
		in.SkipASN1(asn1.INTEGER) &&
		in.ReadASN1Element(algorithm, asn1.SEQUENCE)
	c.issuerAt = len(c.body) - len(in)
	ok = ok && in.ReadASN1Element(&issuer, asn1.SEQUENCE)
	c.issuerEnd = len(c.body) - len(in)
	ok = ok && in.ReadASN1(&validity, asn1.SEQUENCE) &&
		in.ReadASN1Element(&subject, asn1.SEQUENCE) &&
		in.ReadASN1Element(&spki, asn1.SEQUENCE) &&
		in.SkipOptionalASN1(tagIssuerUID) &&
		in.SkipOptionalASN1(tagSubjectUID)
	c.extensionsAt = len(c.body) - len(in)
	if !ok {
		return errTruncated
	}
	c.issuer, c.subject, c.spki = issuer, subject, spki
	if !readTime(&validity, &c.notBefore) || !readTime(&validity, &c.notAfter) || !validity.Empty() {
		return errors.New("validity is not two times in the forms of RFC 5280")
	}
	return c.parseExtensions(in)
}

// readTime reads a Time: UTCTime or GeneralizedTime, whichever the year.
func readTime(in *cryptobyte.String, out *time.Time) bool {
	if in.PeekASN1Tag(asn1.UTCTime) {
		return in.ReadASN1UTCTime(out)
	}
	return in.ReadASN1GeneralizedTime(out)
}

// parseExtensions reads what is left of the body: [3] or nothing.
func (c *certificate) parseExtensions(in cryptobyte.String) error {
	if in.Empty() {
		return nil
	}
	var wrapped, list cryptobyte.String
	if !in.ReadASN1(&wrapped, tagExtensions) || !in.Empty() ||
		!wrapped.ReadASN1(&list, asn1.SEQUENCE) || !wrapped.Empty() {
		return errors.New("extensions are not the last of TBSCertificate, or not a sequence")
	}
	c.hasExtensions = true
	c.extensions = make([]extension, 0, 12)
	for !list.Empty() {
		if len(c.extensions) == maxExtensions {
			return fmt.Errorf("it has more than %d extensions", maxExtensions)
		}
		e, ok := readExtension(&list)
		if !ok {
			return fmt.Errorf("extension %d is malformed", len(c.extensions))
		}
		c.extensions = append(c.extensions, e)
		if string(e.oid) == oidBasicConstraints {
			c.isCA = isCA(e.value) && (c.isCA || !c.basicConstraintsSeen)
			c.basicConstraintsSeen = true
		}
	}
	return nil
}

func readExtension(list *cryptobyte.String) (extension, bool) {
	var e extension
	var raw, in, oid, value cryptobyte.String
	if !list.ReadASN1Element(&raw, asn1.SEQUENCE) {
		return e, false
	}
	e.raw = raw
	if !raw.ReadASN1(&in, asn1.SEQUENCE) || !in.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
		return e, false
	}
	e.explicit = in.PeekASN1Tag(asn1.BOOLEAN)
	if e.explicit && !in.ReadASN1Boolean(&e.critical) {
		return e, false
	}
	if !in.ReadASN1(&value, asn1.OCTET_STRING) || !in.Empty() {
		return e, false
	}
	e.oid, e.value = oid, value
	return e, true
}

// isCA reports whether a BasicConstraints value says CA:true. The path length
// after it is not looked at (SUB-22).
func isCA(value []byte) bool {
	in := cryptobyte.String(value)
	var seq cryptobyte.String
	var ca bool
	return in.ReadASN1(&seq, asn1.SEQUENCE) && seq.PeekASN1Tag(asn1.BOOLEAN) && seq.ReadASN1Boolean(&ca) && ca
}

// find returns the first extension with an OID and how many there are.
func (c *certificate) find(oid string) (first *extension, count int) {
	for i := range c.extensions {
		if string(c.extensions[i].oid) == oid {
			if count++; count == 1 {
				first = &c.extensions[i]
			}
		}
	}
	return first, count
}

// hasUsage reports whether an extended key usage is listed. A list that cannot
// be read counts as far as it can.
func (c *certificate) hasUsage(oid string) bool {
	for i := range c.extensions {
		if string(c.extensions[i].oid) != oidExtKeyUsage {
			continue
		}
		in := cryptobyte.String(c.extensions[i].value)
		var list, usage cryptobyte.String
		if !in.ReadASN1(&list, asn1.SEQUENCE) {
			continue
		}
		for list.ReadASN1(&usage, asn1.OBJECT_IDENTIFIER) {
			if string(usage) == oid {
				return true
			}
		}
	}
	return false
}
