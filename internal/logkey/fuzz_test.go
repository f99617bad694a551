package logkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/google/certificate-transparency-go/tls"

	"kiln/internal/fuzztest"
)

// FuzzParse reads any bytes as the key of a log. What is taken is ECDSA on P-256,
// is the same key for crypto/x509, and is read again from what is written of it.
func FuzzParse(f *testing.F) {
	k, err := Generate()
	if err != nil {
		f.Fatal(err)
	}
	data, err := k.PEM()
	if err != nil {
		f.Fatal(err)
	}
	ec, err := x509.MarshalECPrivateKey(k.priv)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(vectorPEM(f)))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: ec}))
	f.Add(append(bytes.Clone(data), data...))
	f.Add(append([]byte("text\n"), data...))
	f.Add([]byte(strings.Repeat("-----BEGIN PRIVATE KEY-----\n", 1000)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := Parse(data)
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		block, _ := pem.Decode(data)
		theirs, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if priv, ok := theirs.(*ecdsa.PrivateKey); !ok || !priv.Equal(k.priv) || priv.Curve != elliptic.P256() {
			t.Fatalf("crypto/x509 reads %T", theirs)
		}
		written, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(written)
		if err != nil || again.LogID() != k.LogID() {
			t.Fatalf("read again: %v", err)
		}
		signature, err := k.Sign(data)
		if err != nil || !again.Verify(data, signature) {
			t.Fatalf("signature of the same key: %v", err)
		}
	})
}

// FuzzVerify: a signature is in the one form there is, as certificate-transparency-go
// reads it, and a change of any byte of it is no signature of something else.
func FuzzVerify(f *testing.F) {
	k, err := Parse([]byte(vectorPEM(f)))
	if err != nil {
		f.Fatal(err)
	}
	signature, err := k.Sign([]byte("message"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("message"), signature)
	f.Add([]byte("message"), append(bytes.Clone(signature), 0))
	f.Add([]byte("message"), signature[:4])
	longer := bytes.Clone(signature)
	longer[3]++
	f.Add([]byte("message"), longer)
	f.Add([]byte{}, []byte{4, 3, 0, 0})
	f.Fuzz(func(t *testing.T, message, signature []byte) {
		if !k.Verify(message, signature) {
			return
		}
		var ds tls.DigitallySigned
		if rest, err := tls.Unmarshal(signature, &ds); err != nil || len(rest) > 0 {
			t.Fatalf("certificate-transparency-go says %v, and leaves %x", err, rest)
		}
		if err := tls.VerifySignature(k.Public(), message, ds); err != nil {
			t.Fatal(err)
		}
	})
}

// vectorPEM is the key of the vectors.
func vectorPEM(t testing.TB) string {
	t.Helper()
	var v struct {
		Log struct {
			PEM string `json:"private_key_pkcs8_pem"`
		} `json:"log"`
	}
	fuzztest.Vectors(t, &v)
	return v.Log.PEM
}
