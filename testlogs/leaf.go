package testlogs

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"time"
)

// Chain is a chain to submit, DER, end entity first, root last.
type Chain struct {
	Certificates [][]byte
	Precert      bool // goes to add-pre-chain
	OmitRoot     bool // leave the last certificate out of the submission
}

// Endpoint returns "add-chain" or "add-pre-chain".
func (c Chain) Endpoint() string {
	if c.Precert {
		return "add-pre-chain"
	}
	return "add-chain"
}

// Submitted returns the certificates that go into the request.
func (c Chain) Submitted() [][]byte {
	if c.OmitRoot {
		return c.Certificates[:len(c.Certificates)-1]
	}
	return c.Certificates
}

// LeafOptions says what a leaf certificate looks like. The zero value is valid
// for 90 days and has a random name.
type LeafOptions struct {
	NotBefore, NotAfter time.Time        // an hour ago and 90 days after that if zero
	DNS                 []string         // subject alternative names; one random name if empty
	Extra               int              // bytes of ballast in an unknown extension
	NoServerAuth        bool             // leave out the extended key usage
	Extensions          []pkix.Extension // further extensions, as they are
}

// Leaf issues a final certificate below the intermediate.
func (ca *CA) Leaf(opts LeafOptions) (Chain, error) {
	template, err := leafTemplate(opts)
	if err != nil {
		return Chain{}, err
	}
	return ca.issue(template, false, &ca.intermediate, &ca.root)
}

// Precert issues a precertificate below the intermediate.
func (ca *CA) Precert(opts LeafOptions) (Chain, error) {
	template, err := leafTemplate(opts)
	if err != nil {
		return Chain{}, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, poison())
	return ca.issue(template, true, &ca.intermediate, &ca.root)
}

// PrecertBySigner issues a precertificate below the Precertificate Signing
// Certificate.
func (ca *CA) PrecertBySigner(opts LeafOptions) (Chain, error) {
	template, err := leafTemplate(opts)
	if err != nil {
		return Chain{}, err
	}
	template.ExtraExtensions = append(template.ExtraExtensions, poison())
	return ca.issue(template, true, &ca.precertSigner, &ca.intermediate, &ca.root)
}

func poison() pkix.Extension {
	return pkix.Extension{Id: oidPoison, Critical: true, Value: asn1.NullBytes}
}

func leafTemplate(opts LeafOptions) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	if opts.NotBefore.IsZero() {
		opts.NotBefore = time.Now().Add(-time.Hour)
	}
	if opts.NotAfter.IsZero() {
		opts.NotAfter = opts.NotBefore.Add(90 * 24 * time.Hour)
	}
	if len(opts.DNS) == 0 {
		opts.DNS = []string{fmt.Sprintf("%x.example", serial)}
	}
	template := &x509.Certificate{
		SerialNumber:    serial,
		NotBefore:       opts.NotBefore,
		NotAfter:        opts.NotAfter,
		DNSNames:        opts.DNS,
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: append([]pkix.Extension(nil), opts.Extensions...),
	}
	if !opts.NoServerAuth {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if opts.Extra > 0 {
		ballast := make([]byte, opts.Extra)
		if _, err := rand.Read(ballast); err != nil {
			return nil, fmt.Errorf("make ballast: %w", err)
		}
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: oidExtra, Value: ballast})
	}
	return template, nil
}

func (ca *CA) issue(template *x509.Certificate, precert bool, path ...*issuer) (Chain, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, path[0].cert, ca.leafKey.Public(), path[0].key)
	if err != nil {
		return Chain{}, fmt.Errorf("issue leaf: %w", err)
	}
	chain := Chain{Certificates: [][]byte{der}, Precert: precert}
	for _, i := range path {
		chain.Certificates = append(chain.Certificates, i.cert.Raw)
	}
	return chain, nil
}
