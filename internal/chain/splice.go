package chain

import (
	"errors"
	"fmt"
)

const (
	derSequence    = 0x30
	derOctetString = 0x04
	derOID         = 0x06
	derBoolean     = 0x01
	derExtensions  = 0xa3
)

var errNotUnique = errors.New("its DER encoding is not unique")

// splice returns the TBSCertificate of c without the extensions of one OID, all
// other bytes kept but for the lengths around them; an extension list that
// becomes empty goes together with its [3] (SUB-28).
//
// With psc, the Precertificate Signing Certificate that signed c, issuer and
// authority key identifier become those of psc, which are those the final
// certificate will have (SUB-30): the identifier's value is replaced in its
// place, appended if only psc has one, dropped if psc has none.
//
// The parser let only minimal lengths through, so each length that is written
// anew has one form. What else would have two, an authority key identifier that
// is repeated or spells its default criticality out, is refused.
func splice(c *certificate, remove string, psc *certificate) ([]byte, error) {
	issuer := c.body[c.issuerAt:c.issuerEnd]
	var aki *extension
	if psc != nil {
		issuer = psc.issuer
		var err error
		if aki, err = onlyKeyID(psc, "Precertificate Signing Certificate"); err != nil {
			return nil, err
		}
		if _, err = onlyKeyID(c, "precertificate"); err != nil {
			return nil, err
		}
	}
	list := make([]byte, 0, len(c.body)-c.extensionsAt+512)
	replaced := false
	for i := range c.extensions {
		e := &c.extensions[i]
		switch {
		case string(e.oid) == remove:
		case psc != nil && string(e.oid) == oidAuthorityKeyID:
			if aki != nil {
				list = appendExtension(list, e.oid, e.critical, aki.value)
			}
			replaced = true
		default:
			list = append(list, e.raw...)
		}
	}
	if aki != nil && !replaced {
		list = appendExtension(list, aki.oid, false, aki.value)
	}
	return assemble(c, issuer, list), nil
}

// assemble puts a TBSCertificate together from the body of c, with another
// issuer and another list of extensions.
func assemble(c *certificate, issuer, list []byte) []byte {
	before, after := c.body[:c.issuerAt], c.body[c.issuerEnd:c.extensionsAt]
	size := len(before) + len(issuer) + len(after)
	if len(list) > 0 {
		size += elementSize(elementSize(len(list)))
	}
	out := make([]byte, 0, elementSize(size))
	out = appendHeader(out, derSequence, size)
	out = append(out, before...)
	out = append(out, issuer...)
	out = append(out, after...)
	if len(list) > 0 {
		out = appendHeader(out, derExtensions, elementSize(len(list)))
		out = appendHeader(out, derSequence, len(list))
		out = append(out, list...)
	}
	return out
}

// onlyKeyID returns the authority key identifier of c, nil if there is none.
func onlyKeyID(c *certificate, what string) (*extension, error) {
	e, n := c.find(oidAuthorityKeyID)
	switch {
	case n > 1:
		return nil, fmt.Errorf("%s has %d authority key identifiers: %w", what, n, errNotUnique)
	case n == 1 && e.explicit && !e.critical:
		return nil, fmt.Errorf("authority key identifier of the %s spells out critical FALSE: %w", what, errNotUnique)
	}
	return e, nil
}

func appendExtension(b, oid []byte, critical bool, value []byte) []byte {
	size := elementSize(len(oid)) + elementSize(len(value))
	if critical {
		size += 3
	}
	b = appendHeader(b, derSequence, size)
	b = append(appendHeader(b, derOID, len(oid)), oid...)
	if critical {
		b = append(b, derBoolean, 1, 0xff)
	}
	return append(appendHeader(b, derOctetString, len(value)), value...)
}

// elementSize returns the length of a DER element with n bytes of contents.
func elementSize(n int) int {
	size := 2 + n
	if n >= 0x80 {
		for ; n > 0; n >>= 8 {
			size++
		}
	}
	return size
}

// appendHeader appends tag and length of a DER element with n bytes of contents.
func appendHeader(b []byte, tag byte, n int) []byte {
	b = append(b, tag)
	if n < 0x80 {
		return append(b, byte(n))
	}
	octets := elementSize(n) - n - 2
	b = append(b, 0x80|byte(octets))
	for shift := 8 * (octets - 1); shift >= 0; shift -= 8 {
		b = append(b, byte(n>>shift))
	}
	return b
}
