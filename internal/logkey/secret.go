package logkey

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
)

// secretSize is the length of a secret, in bytes.
const secretSize = 32

// secretType is the type of a secret's PEM block.
const secretType = "KILN SECRET"

// keyInfo begins the info of the derivation of a log's key. It can never change:
// with another one, every log of a secret would have another key.
const keyInfo = "kiln log key v1\x00"

// Secret is what the keys of many logs are derived from, so that one backup keeps
// them all (CKP-19). It is safe for concurrent use, and no verb of fmt shows it.
type Secret struct{ bytes [secretSize]byte }

// NewSecret makes a new secret from the system's randomness.
func NewSecret() (*Secret, error) {
	s := new(Secret)
	if _, err := rand.Read(s.bytes[:]); err != nil {
		return nil, fmt.Errorf("generate secret: %w", err)
	}
	if why := weakBytes(s.bytes[:]); why != "" { // one in a billion years, or a broken system
		return nil, fmt.Errorf("generate secret: what the system calls random %s", why)
	}
	return s, nil
}

// ParseSecret reads a secret from its PEM form, one block KILN SECRET with 32
// bytes, which must be the only thing in data. It refuses one that was not made
// by chance, or is public, as far as that can be seen.
func ParseSecret(data []byte) (*Secret, error) {
	block, err := onlyBlock(data, secretType)
	if err != nil {
		return nil, fmt.Errorf("parse secret: %w", err)
	}
	if len(block.Bytes) != secretSize || len(block.Headers) > 0 {
		return nil, fmt.Errorf("parse secret: the PEM block holds %d bytes and %d headers, want %d bytes alone",
			len(block.Bytes), len(block.Headers), secretSize)
	}
	if why := weakBytes(block.Bytes); why != "" {
		return nil, fmt.Errorf("parse secret: it is weak: it %s; make another with kiln keys new", why)
	}
	return &Secret{[secretSize]byte(block.Bytes)}, nil
}

// LoadSecret reads the secret in a file, as [ParseSecret]. It refuses a file that
// other users can read.
func LoadSecret(path string) (*Secret, error) {
	if err := CheckMode(path); err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read secret: %w", err)
	}
	s, err := ParseSecret(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// PEM returns the secret as one PEM block.
func (s *Secret) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: secretType, Bytes: s.bytes[:]})
}

// Equal reports whether two secrets are the same.
func (s *Secret) Equal(other *Secret) bool { return s.bytes == other.bytes }

// Format hides the secret, whatever the verb.
func (Secret) Format(w fmt.State, _ rune) { io.WriteString(w, "(secret)") }

// LogKey returns the key of the log with an origin. A secret and an origin give
// the same key for ever, two origins two keys (CKP-18):
//
//	c = HKDF-SHA256(secret, no salt, info "kiln log key v1" || 00 || origin), 48 bytes, big-endian
//	d = (c mod (n-1)) + 1
//
// where n is the order of P-256: FIPS 186-5 A.2.1, with 128 extra bits.
func (s *Secret) LogKey(origin string) (*Key, error) {
	if origin == "" {
		return nil, errors.New("derive log key: no origin")
	}
	c, err := hkdf.Key(sha256.New, s.bytes[:], nil, keyInfo+origin, 48)
	if err != nil {
		return nil, fmt.Errorf("derive log key of %s: %w", origin, err)
	}
	// math/big takes a time that depends on the value: nobody can measure this
	// one step at start.
	d := new(big.Int).SetBytes(c)
	d.Mod(d, new(big.Int).Sub(elliptic.P256().Params().N, big.NewInt(1)))
	d.Add(d, big.NewInt(1))
	priv, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d.FillBytes(make([]byte, 32)))
	if err != nil {
		return nil, fmt.Errorf("derive log key of %s: %w", origin, err)
	}
	return New(priv)
}

// CheckMode returns an error if a file with a secret can be read by other users,
// or changed by its group.
func CheckMode(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("is no regular file")}
	case info.Mode().Perm()&0o027 != 0:
		return fmt.Errorf("%s has mode %04o, open to other users; run: chmod 600 %[1]s", path, info.Mode().Perm())
	}
	return nil
}
