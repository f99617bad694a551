// Package logkey is a log's private key: read it or derive it from a secret, name
// it, sign with it.
//
// Invariants: the key is ECDSA on P-256 (SUB-09); signatures are deterministic
// (RFC 6979, SUB-32), over SHA-256, in the form of TLS DigitallySigned (SUB-11),
// and each is verified before it is returned (SUB-36); a secret and an origin
// give the same key for ever.
//
// The package never knows what is signed.
package logkey

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
)

// Key is a log's private key. It is safe for concurrent use.
type Key struct {
	priv  *ecdsa.PrivateKey
	spki  []byte
	logID [32]byte
}

// Generate makes a new key from the system's randomness.
func Generate() (*Key, error) {
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate log key: %w", err)
	}
	return New(priv)
}

// New wraps an ECDSA P-256 key.
func New(priv *ecdsa.PrivateKey) (*Key, error) {
	if priv.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the key is %s, want ECDSA P-256", kindOf(priv))
	}
	spki, err := x509.MarshalPKIXPublicKey(&priv.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("encode log public key: %w", err)
	}
	return &Key{priv: priv, spki: spki, logID: sha256.Sum256(spki)}, nil
}

// Parse reads a key from the PEM of its PKCS#8 form, which must be the only
// thing in data.
func Parse(data []byte) (*Key, error) {
	block, err := onlyBlock(data, "PRIVATE KEY")
	if err != nil {
		return nil, fmt.Errorf("parse log key: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse log key: %w", err)
	}
	priv, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("parse log key: the key is %s, want ECDSA P-256", kindOf(k))
	}
	key, err := New(priv)
	if err != nil {
		return nil, fmt.Errorf("parse log key: %w", err)
	}
	return key, nil
}

// onlyBlock returns the one PEM block of a type that data is.
func onlyBlock(data []byte, want string) (*pem.Block, error) {
	named := want
	if want == "PRIVATE KEY" {
		named += " (PKCS#8)"
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil:
		return nil, fmt.Errorf("no PEM block found, want one %s", named)
	case block.Type == "EC PRIVATE KEY" && want == "PRIVATE KEY":
		return nil, fmt.Errorf("PEM block is %q, want %s: openssl pkcs8 -topk8 -nocrypt makes one of it", block.Type, named)
	case block.Type != want:
		return nil, fmt.Errorf("PEM block is %q, want %s", block.Type, named)
	}
	// pem.Decode skips text and damaged blocks around the one it returns.
	if bytes.Count(data, []byte("-----BEGIN")) > 1 {
		return nil, errors.New("more than one PEM block")
	}
	if len(bytes.TrimSpace(rest)) > 0 || !bytes.HasPrefix(bytes.TrimSpace(data), []byte("-----BEGIN")) {
		return nil, errors.New("text before or after the PEM block")
	}
	return block, nil
}

// Load reads the key in a file, as [Parse].
func Load(path string) (*Key, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read log key: %w", err)
	}
	k, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// PEM returns the key as one PKCS#8 PEM block.
func (k *Key) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.priv)
	if err != nil {
		return nil, fmt.Errorf("encode log key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Public returns the public key.
func (k *Key) Public() *ecdsa.PublicKey { return &k.priv.PublicKey }

// SPKI returns the DER SubjectPublicKeyInfo. The caller must not modify it.
func (k *Key) SPKI() []byte { return k.spki }

// LogID returns SHA-256 of the SubjectPublicKeyInfo (SUB-08).
func (k *Key) LogID() [32]byte { return k.logID }

// Sign returns the DigitallySigned structure over message: 04 03, a 16-bit
// length and the ASN.1 ECDSA signature. It verifies what it signed and fails
// rather than return a signature that does not hold.
func (k *Key) Sign(message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	der, err := k.priv.Sign(nil, digest[:], crypto.SHA256) // nil reader: RFC 6979
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if !ecdsa.VerifyASN1(&k.priv.PublicKey, digest[:], der) {
		return nil, errors.New("sign: the signature just made does not verify: hardware fault?")
	}
	b := make([]byte, 0, 4+len(der))
	b = append(b, 4 /* sha256 */, 3 /* ecdsa */)
	b = binary.BigEndian.AppendUint16(b, uint16(len(der)))
	return append(b, der...), nil
}

// Verify reports whether signature is a DigitallySigned structure by this key
// over message.
func (k *Key) Verify(message, signature []byte) bool {
	if len(signature) < 4 || signature[0] != 4 || signature[1] != 3 ||
		int(binary.BigEndian.Uint16(signature[2:])) != len(signature)-4 {
		return false
	}
	digest := sha256.Sum256(message)
	return ecdsa.VerifyASN1(&k.priv.PublicKey, digest[:], signature[4:])
}

// Derive returns a 32-byte secret that depends on the key and on a label, by
// HKDF-SHA256.
func (k *Key) Derive(label string) ([]byte, error) {
	scalar, err := k.priv.Bytes()
	if err != nil {
		return nil, fmt.Errorf("derive %s: %w", label, err)
	}
	secret, err := hkdf.Key(sha256.New, scalar, nil, "kiln "+label, 32)
	if err != nil {
		return nil, fmt.Errorf("derive %s: %w", label, err)
	}
	return secret, nil
}
