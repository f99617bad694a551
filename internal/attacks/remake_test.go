package attacks_test

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/asn1"
	"slices"
)

// tbs is a TBSCertificate whose parts can be replaced by any bytes.
type tbs struct {
	Version    int `asn1:"explicit,tag:0"`
	Serial     asn1.RawValue
	Algorithm  asn1.RawValue
	Issuer     asn1.RawValue
	Validity   asn1.RawValue
	Subject    asn1.RawValue
	SPKI       asn1.RawValue
	Extensions []pkix.Extension `asn1:"explicit,tag:3,omitempty"`
}

// remake changes a certificate and signs it again.
func remake(der []byte, key crypto.Signer, change func(*tbs)) []byte {
	var whole struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	var inner tbs
	must(asn1.Unmarshal(der, &whole))
	must(asn1.Unmarshal(whole.TBS.FullBytes, &inner))
	change(&inner)
	raw := must(asn1.Marshal(inner))
	digest := sha256.Sum256(raw)
	signature := must(key.Sign(rand.Reader, digest[:], crypto.SHA256))
	whole.TBS = asn1.RawValue{FullBytes: raw}
	whole.Signature = asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return must(asn1.Marshal(whole))
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// nested is a DER sequence in a sequence in a sequence, of at most 120 KiB.
func nested(depth int) []byte {
	var heads [][]byte
	length := 0
	for ; depth > 0 && length < 120<<10; depth-- {
		head := []byte{0x30, byte(length)}
		switch {
		case length >= 1<<16:
			head = []byte{0x30, 0x83, byte(length >> 16), byte(length >> 8), byte(length)}
		case length >= 1<<8:
			head = []byte{0x30, 0x82, byte(length >> 8), byte(length)}
		case length >= 1<<7:
			head = []byte{0x30, 0x81, byte(length)}
		}
		heads = append(heads, head)
		length += len(head)
	}
	slices.Reverse(heads)
	return slices.Concat(heads...)
}

// element is one DER element.
func element(class, tag int, compound bool, contents []byte) []byte {
	return must(asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: compound, Bytes: contents}))
}
