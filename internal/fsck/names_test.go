package fsck

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	encodingasn1 "encoding/asn1"
	"encoding/json"
	"math/big"
	"slices"
	"testing"

	"filippo.io/sunlight"
)

// A names tile is written with one parser and checked with another. Where the two
// differ in what an odd certificate says, the log is not at fault.
func TestOddNames(t *testing.T) {
	t.Parallel()
	field := func(tag byte, body ...[]byte) []byte {
		b := slices.Concat(body...)
		return append([]byte{tag, byte(len(b))}, b...)
	}
	name := func(tag byte, text string) []byte {
		id := []byte{6, 3, 0x55, 4, 3} // commonName
		return field(0x31, field(0x30, id, field(tag, []byte(text))))
	}
	usual := field(0x82, []byte("a.example"))
	plain := name(12, "a.example")
	for _, c := range []struct {
		name         string
		subject, san []byte
		checked      bool // the line is held against the certificate
	}{
		{"usual", plain, slices.Concat(usual, field(0x87, []byte{192, 0, 2, 1})), true},
		{"BMP common name", name(30, "\x00a\x00.\x00b"), usual, true},
		{"T61 common name", name(20, "a.b"), usual, true},
		{"two common names", slices.Concat(name(12, "a"), name(12, "b")), usual, true},
		{"other name", plain, slices.Concat(usual, field(0xa0, []byte{6, 3, 0x55, 4, 3})), true},
		{"constructed DNS name", plain, slices.Concat(usual, field(0xa2, field(22, []byte("x")))), false},
		{"universal 2", plain, slices.Concat(usual, field(0x02, []byte("x"))), false},
		{"application 7", plain, slices.Concat(usual, field(0x47, []byte{192, 0, 2, 1})), false},
		{"common name of bits", name(3, "\x00b"), usual, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			template := &x509.Certificate{SerialNumber: big.NewInt(1), RawSubject: field(0x30, c.subject), ExtraExtensions: []pkix.Extension{
				{Id: encodingasn1.ObjectIdentifier{2, 5, 29, 17}, Value: field(0x30, c.san)},
			}}
			der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
			if err != nil {
				t.Fatal(err)
			}
			// As package tiles writes it.
			trimmed, err := (&sunlight.LogEntry{Certificate: der, Timestamp: 7}).TrimmedEntry()
			if err != nil {
				trimmed = &sunlight.TrimmedEntry{Timestamp: 7}
			}
			line, err := json.Marshal(trimmed)
			if err != nil {
				t.Fatal(err)
			}
			want := sumNames(&leaf{certificate: der, timestamp: 7})
			if want.readable != c.checked {
				t.Errorf("the line is checked: %t, want %t", want.readable, c.checked)
			}
			counts := new(tally)
			if err := (&checker{access: &access{counts: counts}, counts: counts}).checkLine("tile/names/000", 0, line, want); err != nil {
				t.Errorf("line %s: %v", line, err)
			}
		})
	}
}
