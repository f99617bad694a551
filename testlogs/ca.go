package testlogs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Algorithm is the key type of a whole [CA]; its leaves have P-256 keys.
type Algorithm int

// The key types of a CA. Signatures are over SHA-256, with P384 over SHA-384.
const (
	P256 Algorithm = iota
	P384
	RSA2048
)

// Object identifiers of RFC 6962.
var (
	oidPoison        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidPrecertSigner = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4}
	oidExtra         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1} // carries LeafOptions.Extra
)

// CAOptions says what [NewCA] makes. The zero value is fine.
type CAOptions struct {
	Name      string    // in every subject; "Kiln Test" if empty
	Algorithm Algorithm // of root, intermediate and Precertificate Signing Certificate
	Now       time.Time // the certificates are valid from a day before, for ten years; time.Now() if zero
}

// CA is a throw-away PKI: a root, an intermediate below it, and a
// Precertificate Signing Certificate below the intermediate. Nothing may ever
// trust its root but a test log. It is safe for concurrent use.
type CA struct {
	root, intermediate, precertSigner issuer
	leafKey                           crypto.Signer // shared by all leaves: making keys is slow
}

type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes a PKI with new keys.
func NewCA(opts CAOptions) (*CA, error) {
	if opts.Name == "" {
		opts.Name = "Kiln Test"
	}
	if opts.Now.IsZero() {
		opts.Now = time.Now()
	}
	ca := &CA{}
	var err error
	if ca.leafKey, err = newKey(P256); err != nil {
		return nil, err
	}
	if ca.root, err = ca.newIssuer(opts, "Root", nil, nil); err != nil {
		return nil, err
	}
	if ca.intermediate, err = ca.newIssuer(opts, "Intermediate", &ca.root, nil); err != nil {
		return nil, err
	}
	ca.precertSigner, err = ca.newIssuer(opts, "Precertificate Signer", &ca.intermediate, []asn1.ObjectIdentifier{oidPrecertSigner})
	return ca, err
}

func (ca *CA) newIssuer(opts CAOptions, role string, parent *issuer, eku []asn1.ObjectIdentifier) (issuer, error) {
	key, err := newKey(opts.Algorithm)
	if err != nil {
		return issuer{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return issuer{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{opts.Name}, CommonName: opts.Name + " " + role},
		NotBefore:             opts.Now.Add(-24 * time.Hour),
		NotAfter:              opts.Now.AddDate(10, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		UnknownExtKeyUsage:    eku,
	}
	if parent == nil {
		parent = &issuer{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		return issuer{}, fmt.Errorf("issue %s: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return issuer{}, fmt.Errorf("parse %s: %w", template.Subject.CommonName, err)
	}
	return issuer{cert: cert, key: key}, nil
}

func newKey(alg Algorithm) (key crypto.Signer, err error) {
	switch alg {
	case P256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case P384:
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case RSA2048:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		return nil, fmt.Errorf("make key: unknown algorithm %d", alg)
	}
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// Root returns the DER of the root certificate.
func (ca *CA) Root() []byte { return ca.root.cert.Raw }

// RootPEM returns the root certificate as PEM, as a roots file holds it.
func (ca *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root()})
}

// The files of a saved CA, in the order of CA.issuers.
var caFiles = [...]string{"root", "intermediate", "precert-signer"}

func (ca *CA) issuers() [len(caFiles)]*issuer {
	return [...]*issuer{&ca.root, &ca.intermediate, &ca.precertSigner}
}

// Save writes certificates (NAME.pem) and keys (NAME-key.pem, readable by the
// owner only) into a folder, which it makes. root.pem is written last, so that a
// folder with it is whole.
func (ca *CA) Save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("save CA: %w", err)
	}
	issuers := ca.issuers()
	for i := len(caFiles) - 1; i >= 0; i-- {
		der, err := x509.MarshalPKCS8PrivateKey(issuers[i].key)
		if err != nil {
			return fmt.Errorf("save CA: encode key of %s: %w", caFiles[i], err)
		}
		key := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
		if err := os.WriteFile(filepath.Join(dir, caFiles[i]+"-key.pem"), key, 0o600); err != nil {
			return fmt.Errorf("save CA: %w", err)
		}
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuers[i].cert.Raw})
		if err := os.WriteFile(filepath.Join(dir, caFiles[i]+".pem"), cert, 0o644); err != nil {
			return fmt.Errorf("save CA: %w", err)
		}
	}
	return nil
}

// LoadCA reads what [CA.Save] wrote. If the folder holds no root.pem, the error
// matches fs.ErrNotExist.
func LoadCA(dir string) (*CA, error) {
	ca := &CA{}
	for i, to := range ca.issuers() {
		der, err := readPEM(filepath.Join(dir, caFiles[i]+".pem"), "CERTIFICATE")
		if err != nil {
			return nil, fmt.Errorf("load CA: %w", err)
		}
		if to.cert, err = x509.ParseCertificate(der); err != nil {
			return nil, fmt.Errorf("load CA: parse %s certificate: %w", caFiles[i], err)
		}
		if der, err = readPEM(filepath.Join(dir, caFiles[i]+"-key.pem"), "PRIVATE KEY"); err != nil {
			return nil, fmt.Errorf("load CA: %w", err)
		}
		key, err := x509.ParsePKCS8PrivateKey(der)
		if err != nil {
			return nil, fmt.Errorf("load CA: parse %s key: %w", caFiles[i], err)
		}
		var ok bool
		if to.key, ok = key.(crypto.Signer); !ok {
			return nil, fmt.Errorf("load CA: %s key is a %T, which cannot sign", caFiles[i], key)
		}
	}
	var err error
	ca.leafKey, err = newKey(P256)
	return ca, err
}

func readPEM(path, typ string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != typ {
		return nil, fmt.Errorf("%s: %w", path, errors.New("want one PEM block "+typ))
	}
	return block.Bytes, nil
}
