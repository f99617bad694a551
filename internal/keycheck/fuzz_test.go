package keycheck

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/logkey"
)

// FuzzFile looks at a file of any bytes as a key, a secret, and the key and
// certificate of TLS. The report names the file and tells nothing of what is in
// it, and what it takes for good is what a log would start with.
func FuzzFile(f *testing.F) {
	key, err := logkey.Generate()
	if err != nil {
		f.Fatal(err)
	}
	data, err := key.PEM()
	if err != nil {
		f.Fatal(err)
	}
	secret, err := logkey.NewSecret()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(secret.PEM())
	f.Add(append(bytes.Clone(data), secret.PEM()...))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "file.pem")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		c := newChecker()
		c.files([]string{path})
		_, keyErr := logkey.Parse(data)
		_, secretErr := logkey.ParseSecret(data)
		if file := c.report.Files[0]; !file.Unusable && keyErr != nil && secretErr != nil {
			t.Fatalf("taken for a %v: %v, %v", file.Type, keyErr, secretErr)
		}
		c.pair("tls", path, path)
		for _, p := range c.report.Problems {
			if p.Path != path || len(p.What)+len(p.Want) > 2000+2*len(path) || strings.ContainsAny(p.What+p.Want, "\n\r\x1b\x00") {
				t.Fatalf("%+v", p)
			}
		}
		if shown := fmt.Sprintf("%+v", c.report); tells(shown, data) {
			t.Fatalf("the report tells what is in the file: %s", shown)
		}
		if spki := privateSPKI(data); spki != nil {
			if pub, err := x509.ParsePKIXPublicKey(spki); err != nil || pub.(interface{ Equal(crypto.PublicKey) bool }) == nil {
				t.Fatalf("the public half of a key is %x, %v", spki, err)
			}
		}
		for _, spki := range certificateSPKIs(data) {
			if !bytes.Contains(decoded(data), spki) {
				t.Fatalf("%x is no key of it", spki)
			}
		}
	})
}

// tells reports whether a text holds a line of base64 that data holds.
func tells(text string, data []byte) bool {
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if _, err := base64.StdEncoding.DecodeString(string(line)); err == nil && len(line) >= 40 && strings.Contains(text, string(line)) {
			return true
		}
	}
	return false
}

// decoded returns what is in the PEM blocks.
func decoded(data []byte) (all []byte) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		all = append(all, block.Bytes...)
	}
	return all
}
