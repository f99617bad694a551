package attacks_test

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
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var (
	oidPoison  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}
	oidSCTs    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}
	oidBallast = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	oidSAN     = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// pki is an accepted root in the hands of the attacker.
type pki struct {
	root    authority
	inter   authority
	leafKey *ecdsa.PrivateKey
	serial  atomic.Int64
}

// authority is a certificate with its key, which is nil where nobody has it.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newPKI() (*pki, error) {
	p := new(pki)
	p.serial.Store(time.Now().UnixNano())
	var err error
	if p.leafKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	if p.root, err = p.authority("Evil Root", nil, nil); err != nil {
		return nil, err
	}
	p.inter, err = p.authority("Evil Intermediate", &p.root, nil)
	return p, err
}

func (p *pki) rootsPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.root.cert.Raw})
}

// authority issues a CA certificate with a new key; a root if parent is nil.
func (p *pki) authority(name string, parent *authority, extra []pkix.Extension) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	return p.certify(name, key.Public(), key, parent, extra)
}

// certify issues a CA certificate for any key.
func (p *pki) certify(name string, public any, key crypto.Signer, parent *authority, extra []pkix.Extension) (authority, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(p.serial.Add(1)), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, ExtraExtensions: extra,
		SubjectKeyId: []byte{1},
	}
	if parent == nil {
		parent = &authority{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, public, parent.key)
	if err != nil {
		return authority{}, fmt.Errorf("certify %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		// What the standard library does not read is just what is wanted.
		cert = &x509.Certificate{Raw: der, RawSubject: rawName(name), Subject: pkix.Name{CommonName: name}}
	}
	return authority{cert, key}, nil
}

func rawName(name string) []byte {
	b, err := asn1.Marshal(pkix.Name{CommonName: name}.ToRDNSequence())
	if err != nil {
		panic(err)
	}
	return b
}

// leafOptions say what a leaf is like.
type leafOptions struct {
	final   bool          // no precertificate
	age     time.Duration // of notBefore
	ballast int           // random bytes in an unknown extension
	extra   []pkix.Extension
	names   int // subject alternative names, as short as can be
	forged  bool
}

// leaf issues a leaf below an authority.
func (p *pki) leaf(by authority, o leafOptions) []byte {
	serial := p.serial.Add(1)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{fmt.Sprintf("%d.example", serial)},
		NotBefore: time.Now().Add(-o.age - time.Hour), NotAfter: time.Now().Add(80 * 24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, ExtraExtensions: o.extra,
	}
	if o.names > 0 {
		template.DNSNames = nil
		template.ExtraExtensions = append(template.ExtraExtensions, manyNames(o.names))
	}
	if o.ballast > 0 {
		value := make([]byte, o.ballast)
		_, _ = rand.Read(value)
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidBallast, Value: value})
	}
	if !o.final {
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidPoison, Critical: true, Value: asn1.NullBytes})
	}
	key := by.key
	if o.forged || key == nil {
		key = p.leafKey
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{
		Raw: by.cert.Raw, RawSubject: by.cert.RawSubject, Subject: by.cert.Subject, SubjectKeyId: []byte{1},
	}, p.leafKey.Public(), key)
	if err != nil {
		panic(err)
	}
	return der
}

// manyNames is a SubjectAltName of n names of three bytes each.
func manyNames(n int) pkix.Extension {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	var names []byte
	for i := range n {
		names = append(names, 0x82, 3, alphabet[i%36], alphabet[i/36%36], alphabet[i/1296%36])
	}
	value, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: names})
	if err != nil {
		panic(err)
	}
	return pkix.Extension{Id: oidSAN, Value: value}
}

// chainOf is a leaf with the certificates above it.
func chainOf(leaf []byte, above ...authority) [][]byte {
	c := [][]byte{leaf}
	for _, a := range above {
		c = append(c, a.cert.Raw)
	}
	return c
}

// fresh is the submission of a new precertificate below the attacker's
// intermediate.
func (p *pki) fresh(o leafOptions) []byte {
	return body(chainOf(p.leaf(p.inter, o), p.inter, p.root))
}

// stock makes n submissions before the clock starts.
func stock(n int, one func(i int) []byte) [][]byte {
	all := make([][]byte, n)
	for i := range all {
		all[i] = one(i)
	}
	return all
}

// hugeRSA is an RSA key that belongs to nobody.
func hugeRSA(bits, exponent int) *rsa.PublicKey {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	if err != nil {
		panic(err)
	}
	n.SetBit(n, bits-1, 1).SetBit(n, 0, 1)
	return &rsa.PublicKey{N: n, E: exponent}
}

// addTLS gives a configuration a certificate.
func addTLS(t *testing.T, configPath string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"kiln.localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(configPath)
	for name, block := range map[string]*pem.Block{
		"tls-cert.pem": {Type: "CERTIFICATE", Bytes: der}, "tls-key.pem": {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf, err := os.ReadFile(configPath)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.TrimRight(string(conf), "\n") + "\ntls: {cert_file: tls-cert.pem, key_file: tls-key.pem}\n"
	if err := os.WriteFile(configPath, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
