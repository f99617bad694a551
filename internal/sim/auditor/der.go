package auditor

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"
)

// Tags of DER that matter here.
const (
	tagBoolean    = 0x01
	tagOctets     = 0x04
	tagOID        = 0x06
	tagSequence   = 0x30
	tagVersion    = 0xa0 // [0] EXPLICIT in TBSCertificate
	tagExtensions = 0xa3 // [3] EXPLICIT in TBSCertificate
)

// Object identifiers, with tag and length.
const (
	oidPoison        = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x03"
	oidPrecertSigner = "\x06\x0a\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x04"
	oidExtKeyUsage   = "\x06\x03\x55\x1d\x25"
	oidAuthorityKey  = "\x06\x03\x55\x1d\x23"
)

// der is one DER element: with its header, and what is in it.
type der struct {
	tag  byte
	full []byte
	body []byte
}

// split takes one element from the front.
func split(b []byte) (e der, rest []byte, err error) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return e, nil, errors.New("no DER element")
	}
	head, n := 2, int(b[1])
	if n >= 0x80 {
		digits := n - 0x80
		if digits < 1 || digits > 3 || len(b) < 2+digits {
			return e, nil, errors.New("DER element of bad length")
		}
		n = 0
		for _, c := range b[2 : 2+digits] {
			n = n<<8 | int(c)
		}
		head += digits
	}
	if n > len(b)-head {
		return e, nil, errors.New("DER element is cut off")
	}
	return der{b[0], b[:head+n], b[head : head+n]}, b[head+n:], nil
}

// inside splits what an element holds.
func inside(e der) (list []der, err error) {
	for b := e.body; len(b) > 0; {
		var x der
		if x, b, err = split(b); err != nil {
			return nil, err
		}
		list = append(list, x)
	}
	return list, nil
}

// build puts a header before the joined parts.
func build(tag byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := []byte{tag}
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x100:
		b = append(b, 0x81, byte(n))
	case n < 0x10000:
		b = append(b, 0x82, byte(n>>8), byte(n))
	default:
		b = append(b, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// cert is a certificate taken apart.
type cert struct {
	fields     []der // of TBSCertificate, but for the extensions
	first      int   // index in fields of the serial number
	extensions []extension
}

type extension struct {
	oid   string // with its header
	full  []byte
	flag  []byte // critical, as it stands
	value []byte // what the OCTET STRING holds
}

func parseCert(b []byte) (c cert, err error) {
	outer, rest, err := split(b)
	if err != nil || len(rest) > 0 || outer.tag != tagSequence {
		return c, errors.New("no certificate")
	}
	parts, err := inside(outer)
	if err != nil || len(parts) != 3 {
		return c, errors.New("no certificate of three parts")
	}
	fields, err := inside(parts[0])
	if err != nil {
		return c, err
	}
	for _, f := range fields {
		if f.tag != tagExtensions {
			c.fields = append(c.fields, f)
			continue
		}
		if c.extensions, err = parseExtensions(f); err != nil {
			return c, err
		}
	}
	if len(c.fields) > 0 && c.fields[0].tag == tagVersion {
		c.first = 1
	}
	if len(c.fields) < c.first+6 {
		return c, errors.New("a TBSCertificate with too few fields")
	}
	return c, nil
}

func parseExtensions(f der) (list []extension, err error) {
	sequence, rest, err := split(f.body)
	if err != nil || len(rest) > 0 {
		return nil, errors.New("no list of extensions")
	}
	items, err := inside(sequence)
	if err != nil {
		return nil, err
	}
	for _, item := range items {
		parts, err := inside(item)
		if err != nil || len(parts) < 2 || parts[0].tag != tagOID || parts[len(parts)-1].tag != tagOctets {
			return nil, errors.New("no extension")
		}
		e := extension{oid: string(parts[0].full), full: item.full, value: parts[len(parts)-1].body}
		if parts[1].tag == tagBoolean {
			e.flag = parts[1].full
		}
		list = append(list, e)
	}
	return list, nil
}

func (c *cert) issuer() []byte { return c.fields[c.first+2].full }

// keyHash is the issuer_key_hash of what the certificate's key signs.
func (c *cert) keyHash() hash { return sha256.Sum256(c.fields[c.first+5].full) }

func (c *cert) find(oid string) int {
	return slices.IndexFunc(c.extensions, func(e extension) bool { return e.oid == oid })
}

// signsPrecerts reports a Precertificate Signing Certificate.
func (c *cert) signsPrecerts() bool {
	i := c.find(oidExtKeyUsage)
	return i >= 0 && bytes.Contains(c.extensions[i].value, []byte(oidPrecertSigner))
}

// tbs returns the TBSCertificate of a precertificate as it is logged: without
// the poison and, if it was signed by a certificate just for that, with issuer
// and authority key identifier of the final certificate (RFC 6962 section 3.2).
func (c *cert) tbs(signer *cert) []byte {
	issuer := c.issuer()
	var authority *extension
	if signer != nil {
		issuer = signer.issuer()
		if i := signer.find(oidAuthorityKey); i >= 0 {
			authority = &signer.extensions[i]
		}
	}
	var fields, extensions [][]byte
	for i, f := range c.fields {
		if i == c.first+2 {
			fields = append(fields, issuer)
			continue
		}
		fields = append(fields, f.full)
	}
	for _, e := range c.extensions {
		switch {
		case e.oid == oidPoison:
		case signer == nil || e.oid != oidAuthorityKey:
			extensions = append(extensions, e.full)
		case authority != nil:
			extensions = append(extensions, build(tagSequence, []byte(e.oid), e.flag, build(tagOctets, authority.value)))
		}
	}
	if authority != nil && c.find(oidAuthorityKey) < 0 {
		extensions = append(extensions, authority.full)
	}
	if len(extensions) > 0 {
		fields = append(fields, build(tagExtensions, build(tagSequence, extensions...)))
	}
	return build(tagSequence, fields...)
}
