package roots

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf16"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxName bounds a subject as it is written, in characters.
const maxName = 200

// nameOf writes the DER of a Name for people, the most specific attribute
// first: CN=Root, O=Company, C=XX. It is laxer than any decoder of Names, and
// what it returns is one line of printable characters: it goes into comments
// of the roots file, where a line break would be the end of the comment.
func nameOf(der []byte) string {
	in := cryptobyte.String(der)
	var name, set, attribute cryptobyte.String
	var parts []string
	if !in.ReadASN1(&name, asn1.SEQUENCE) {
		return "(unreadable)"
	}
	for !name.Empty() {
		if !name.ReadASN1(&set, asn1.SET) {
			parts = append(parts, "(unreadable)")
			break
		}
		for !set.Empty() {
			if !set.ReadASN1(&attribute, asn1.SEQUENCE) {
				parts = append(parts, "(unreadable)")
				break
			}
			parts = append(parts, attributeOf(attribute))
		}
	}
	if len(parts) == 0 {
		return "(no name)"
	}
	slices.Reverse(parts)
	text := []rune(strings.Join(parts, ", "))
	if len(text) > maxName {
		text = append(text[:maxName], '…')
	}
	return string(text)
}

func attributeOf(in cryptobyte.String) string {
	var oid, value cryptobyte.String
	var tag asn1.Tag
	if !in.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) || !in.ReadAnyASN1(&value, &tag) {
		return "(unreadable)"
	}
	return attributeName(oid) + "=" + printable(decode(tag, value))
}

// attributeName returns the usual name of an attribute type given the contents
// of its object identifier.
func attributeName(oid []byte) string {
	switch string(oid) {
	case "\x55\x04\x03":
		return "CN"
	case "\x55\x04\x05":
		return "serialNumber"
	case "\x55\x04\x06":
		return "C"
	case "\x55\x04\x07":
		return "L"
	case "\x55\x04\x08":
		return "ST"
	case "\x55\x04\x0a":
		return "O"
	case "\x55\x04\x0b":
		return "OU"
	case "\x55\x04\x61":
		return "organizationIdentifier"
	case "\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01":
		return "emailAddress"
	case "\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19":
		return "DC"
	}
	return "OID." + hex.EncodeToString(oid)
}

// decode returns the text of an attribute value.
func decode(tag asn1.Tag, value []byte) string {
	const numericString, visibleString, universalString, bmpString = 18, 26, 28, 30
	switch tag {
	case asn1.UTF8String, asn1.PrintableString, asn1.IA5String, asn1.T61String, numericString, visibleString:
		return strings.ToValidUTF8(string(value), "�")
	case bmpString:
		units := make([]uint16, 0, len(value)/2)
		for ; len(value) >= 2; value = value[2:] {
			units = append(units, uint16(value[0])<<8|uint16(value[1]))
		}
		return string(utf16.Decode(units))
	case universalString:
		runes := make([]rune, 0, len(value)/4)
		for ; len(value) >= 4; value = value[4:] {
			runes = append(runes, rune(uint32(value[0])<<24|uint32(value[1])<<16|uint32(value[2])<<8|uint32(value[3])))
		}
		return string(runes)
	}
	return "#" + hex.EncodeToString(value)
}

// printable writes characters that do not show, or that could be taken for the
// end of the value, as escapes.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == ',' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u{%x}`, r)
		}
	}
	return b.String()
}
