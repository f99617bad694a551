package testlogs

import (
	"bytes"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
)

// signedEntry is entry_type || signed_entry of RFC 6962 section 3.2, made from a
// whole chain by this package's own reading of the rules.
type signedEntry []byte

// newSignedEntry makes it for a chain, which must reach at least to the final
// issuer. Certificates are taken apart element by element, as every strict
// decoder refuses some that a log has to take.
func newSignedEntry(chain [][]byte, precert bool) (signedEntry, error) {
	if len(chain) == 0 {
		return nil, errors.New("make signed entry: empty chain")
	}
	if !precert {
		return appendUint24Prefixed([]byte{0, 0}, chain[0]), nil
	}
	if len(chain) < 2 {
		return nil, errors.New("make signed entry: no issuer in the chain")
	}
	leaf, err := parseCert(chain[0])
	if err != nil {
		return nil, fmt.Errorf("make signed entry: precertificate: %w", err)
	}
	issuer, err := parseCert(chain[1])
	if err != nil {
		return nil, fmt.Errorf("make signed entry: issuer: %w", err)
	}
	leaf.removeExtension(oidPoison)
	if issuer.hasExtKeyUsage(oidPrecertSigner) {
		if len(chain) < 3 {
			return nil, errors.New("make signed entry: no issuer of the precertificate signing certificate in the chain")
		}
		leaf.adoptIssuer(issuer)
		if issuer, err = parseCert(chain[2]); err != nil {
			return nil, fmt.Errorf("make signed entry: final issuer: %w", err)
		}
	}
	keyHash := sha256.Sum256(issuer.spki())
	b := append([]byte{0, 1}, keyHash[:]...)
	return appendUint24Prefixed(b, leaf.tbs()), nil
}

// merkleTreeLeaf returns the bytes that both the SCT's signature and the leaf
// hash cover.
func (e signedEntry) merkleTreeLeaf(timestampMillis int64, extensions []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{0, 0}, uint64(timestampMillis))
	b = append(b, e...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(extensions)))
	return append(b, extensions...)
}

func appendUint24Prefixed(b, data []byte) []byte {
	b = append(b, byte(len(data)>>16), byte(len(data)>>8), byte(len(data)))
	return append(b, data...)
}

// cert is a certificate in pieces: the DER elements of its TBSCertificate before
// the extensions, and each extension.
type cert struct {
	fields     [][]byte // version (if present) to the last unique ID
	extensions []extension
}

type extension struct {
	raw      []byte
	id       asn1.ObjectIdentifier
	critical []byte // the BOOLEAN as it stands, empty if absent
	value    []byte
}

const tagExtensions = 3 // [3] EXPLICIT in TBSCertificate

func parseCert(der []byte) (*cert, error) {
	outer, err := elements(der)
	if err != nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	if len(outer) != 3 {
		return nil, fmt.Errorf("certificate has %d elements, want 3", len(outer))
	}
	fields, err := elements(outer[0].FullBytes)
	if err != nil {
		return nil, fmt.Errorf("TBSCertificate: %w", err)
	}
	if len(fields) < 7 {
		return nil, fmt.Errorf("TBSCertificate has %d elements, want at least 7", len(fields))
	}
	c := &cert{}
	for _, f := range fields {
		if f.Class != asn1.ClassContextSpecific || f.Tag != tagExtensions {
			c.fields = append(c.fields, f.FullBytes)
			continue
		}
		list, err := elements(f.Bytes)
		if err != nil {
			return nil, fmt.Errorf("extensions: %w", err)
		}
		for _, e := range list {
			ext, err := parseExtension(e)
			if err != nil {
				return nil, err
			}
			c.extensions = append(c.extensions, ext)
		}
	}
	if len(c.fields) == 0 || len(c.fields) <= c.field(spkiField) {
		return nil, fmt.Errorf("TBSCertificate has %d elements before its extensions, and no key", len(c.fields))
	}
	return c, nil
}

func parseExtension(raw asn1.RawValue) (extension, error) {
	parts, err := elements(raw.FullBytes)
	if err != nil || len(parts) < 2 || len(parts) > 3 {
		return extension{}, fmt.Errorf("extension has %d elements: %v", len(parts), err)
	}
	e := extension{raw: raw.FullBytes, value: parts[len(parts)-1].Bytes}
	if _, err := asn1.Unmarshal(parts[0].FullBytes, &e.id); err != nil {
		return extension{}, fmt.Errorf("extension identifier: %w", err)
	}
	if len(parts) == 3 {
		e.critical = parts[1].FullBytes
	}
	return e, nil
}

// elements splits a constructed DER value, which must be all of der.
func elements(der []byte) ([]asn1.RawValue, error) {
	var outer asn1.RawValue
	rest, err := asn1.Unmarshal(der, &outer)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 || !outer.IsCompound {
		return nil, errors.New("want one constructed value and nothing after it")
	}
	var list []asn1.RawValue
	for body := outer.Bytes; len(body) > 0; {
		var e asn1.RawValue
		if body, err = asn1.Unmarshal(body, &e); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

const (
	issuerField = 2
	spkiField   = 5
)

// field returns the index of a field, counted as if version were absent:
// serial 0, signature 1, issuer 2, validity 3, subject 4, spki 5.
func (c *cert) field(i int) int {
	if c.fields[0][0] == 0xa0 {
		return i + 1
	}
	return i
}

func (c *cert) issuerName() []byte { return c.fields[c.field(issuerField)] }
func (c *cert) spki() []byte       { return c.fields[c.field(spkiField)] }

func (c *cert) removeExtension(id asn1.ObjectIdentifier) {
	kept := c.extensions[:0:0]
	for _, e := range c.extensions {
		if !e.id.Equal(id) {
			kept = append(kept, e)
		}
	}
	c.extensions = kept
}

func (c *cert) find(id asn1.ObjectIdentifier) int {
	for i, e := range c.extensions {
		if e.id.Equal(id) {
			return i
		}
	}
	return -1
}

// hasExtKeyUsage reports whether a certificate has a usage. One that cannot be
// read has none: the bytes of the identifier may stand for something else.
func (c *cert) hasExtKeyUsage(id asn1.ObjectIdentifier) bool {
	for _, e := range c.extensions {
		if !e.id.Equal(asn1.ObjectIdentifier{2, 5, 29, 37}) {
			continue
		}
		var list asn1.RawValue
		if _, err := asn1.Unmarshal(e.value, &list); err != nil || list.Class != asn1.ClassUniversal || list.Tag != asn1.TagSequence || !list.IsCompound {
			continue
		}
		for rest := list.Bytes; len(rest) > 0; {
			var usage asn1.ObjectIdentifier
			var err error
			if rest, err = asn1.Unmarshal(rest, &usage); err != nil {
				break
			}
			if usage.Equal(id) {
				return true
			}
		}
	}
	return false
}

// adoptIssuer gives a precertificate the issuer and the authority key
// identifier that the final certificate will have: those of its Precertificate
// Signing Certificate (RFC 6962 section 3.2).
func (c *cert) adoptIssuer(signer *cert) {
	c.fields[c.field(issuerField)] = signer.issuerName()
	aki := asn1.ObjectIdentifier{2, 5, 29, 35}
	mine, theirs := c.find(aki), signer.find(aki)
	switch {
	case theirs < 0:
		c.removeExtension(aki)
	case mine < 0:
		c.extensions = append(c.extensions, signer.extensions[theirs])
	default:
		own := c.extensions[mine]
		oid, _ := asn1.Marshal(aki)
		body := append(oid, own.critical...)
		body = append(body, wrap(asn1.TagOctetString, signer.extensions[theirs].value)...)
		c.extensions[mine].raw = wrap(0x20|asn1.TagSequence, body)
	}
}

// tbs puts the TBSCertificate together again.
func (c *cert) tbs() []byte {
	body := bytes.Join(c.fields, nil)
	if len(c.extensions) > 0 {
		var list []byte
		for _, e := range c.extensions {
			list = append(list, e.raw...)
		}
		body = append(body, wrap(0xa0|tagExtensions, wrap(0x20|asn1.TagSequence, list))...)
	}
	return wrap(0x20|asn1.TagSequence, body)
}

// wrap puts a DER header before a body.
func wrap(tag byte, body []byte) []byte {
	n := len(body)
	switch {
	case n < 1<<7:
		return append([]byte{tag, byte(n)}, body...)
	case n < 1<<8:
		return append([]byte{tag, 0x81, byte(n)}, body...)
	case n < 1<<16:
		return append([]byte{tag, 0x82, byte(n >> 8), byte(n)}, body...)
	default:
		return append([]byte{tag, 0x83, byte(n >> 16), byte(n >> 8), byte(n)}, body...)
	}
}
