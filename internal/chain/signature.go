package chain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	_ "crypto/sha1" // for crypto.SHA1, see algorithms
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"

	ctx509 "github.com/google/certificate-transparency-go/x509"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// maxRSABits bounds the modulus of an issuer: verifying is quadratic in it.
const maxRSABits = 16384

type keyKind string

const (
	kindRSA     keyKind = "RSA"
	kindPSS     keyKind = "RSA-PSS"
	kindECDSA   keyKind = "ECDSA"
	kindEd25519 keyKind = "Ed25519"
)

// algorithm is a signature algorithm: which key, over which hash, and for
// RSA-PSS the length of the salt.
type algorithm struct {
	kind keyKind
	hash crypto.Hash
	salt int
}

const oidPKCS1 = "\x2a\x86\x48\x86\xf7\x0d\x01\x01" // 1.2.840.113549.1.1

// signatureAlgorithm reads an AlgorithmIdentifier. Parameters of PKCS#1 v1.5 and
// ECDSA say nothing and are not looked at. SHA-1 is taken (SUB-23): a chain that
// ends in an accepted root is to be seen, whatever its strength. MD2 and MD5 are
// not, since anybody can forge them.
func signatureAlgorithm(der []byte) (algorithm, error) {
	in := cryptobyte.String(der)
	var seq, oid cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
		return algorithm{}, fmt.Errorf("%w algorithm identifier: malformed", errAlgorithm)
	}
	switch string(oid) {
	case oidPKCS1 + "\x0b":
		return algorithm{kind: kindRSA, hash: crypto.SHA256}, nil
	case oidPKCS1 + "\x0c":
		return algorithm{kind: kindRSA, hash: crypto.SHA384}, nil
	case oidPKCS1 + "\x0d":
		return algorithm{kind: kindRSA, hash: crypto.SHA512}, nil
	case oidPKCS1 + "\x0e":
		return algorithm{kind: kindRSA, hash: crypto.SHA224}, nil
	case oidPKCS1 + "\x05", "\x2b\x0e\x03\x02\x1d": // sha1WithRSAEncryption, and OIW's older name of it
		return algorithm{kind: kindRSA, hash: crypto.SHA1}, nil
	case oidPKCS1 + "\x0a":
		return pssAlgorithm(seq)
	case "\x2a\x86\x48\xce\x3d\x04\x03\x02": // 1.2.840.10045.4.3.2
		return algorithm{kind: kindECDSA, hash: crypto.SHA256}, nil
	case "\x2a\x86\x48\xce\x3d\x04\x03\x03":
		return algorithm{kind: kindECDSA, hash: crypto.SHA384}, nil
	case "\x2a\x86\x48\xce\x3d\x04\x03\x04":
		return algorithm{kind: kindECDSA, hash: crypto.SHA512}, nil
	case "\x2a\x86\x48\xce\x3d\x04\x03\x01":
		return algorithm{kind: kindECDSA, hash: crypto.SHA224}, nil
	case "\x2a\x86\x48\xce\x3d\x04\x01": // 1.2.840.10045.4.1
		return algorithm{kind: kindECDSA, hash: crypto.SHA1}, nil
	case "\x2b\x65\x70": // 1.3.101.112
		return algorithm{kind: kindEd25519}, nil
	case oidPKCS1 + "\x02", oidPKCS1 + "\x03", oidPKCS1 + "\x04":
		return algorithm{}, fmt.Errorf("%w algorithm: MD2, MD4 and MD5 can be forged", errAlgorithm)
	}
	return algorithm{}, fmt.Errorf("%w algorithm: want RSA, ECDSA or Ed25519, with SHA-1 or SHA-2", errAlgorithm)
}

// pssAlgorithm reads RSASSA-PSS-params (RFC 4055 section 3.1). Hash and mask
// generation hash must be one, as crypto/rsa has it.
func pssAlgorithm(params cryptobyte.String) (algorithm, error) {
	bad := fmt.Errorf("%w RSA-PSS parameters", errAlgorithm)
	var seq, field, mgf, mgfOID cryptobyte.String
	var present bool
	if !params.ReadASN1(&seq, asn1.SEQUENCE) || !params.Empty() {
		return algorithm{}, bad
	}
	a := algorithm{kind: kindPSS, hash: crypto.SHA1, salt: 20}
	mgfHash := crypto.SHA1
	explicit := func(n asn1.Tag) bool {
		return seq.ReadOptionalASN1(&field, &present, n.ContextSpecific().Constructed())
	}
	if !explicit(0) || (present && !readHash(&field, &a.hash)) {
		return algorithm{}, bad
	}
	if !explicit(1) || (present && (!field.ReadASN1(&mgf, asn1.SEQUENCE) ||
		!mgf.ReadASN1(&mgfOID, asn1.OBJECT_IDENTIFIER) ||
		string(mgfOID) != oidPKCS1+"\x08" || !readHash(&mgf, &mgfHash))) {
		return algorithm{}, bad
	}
	if !explicit(2) || (present && !field.ReadASN1Integer(&a.salt)) {
		return algorithm{}, bad
	}
	trailer := 1
	if !explicit(3) || (present && !field.ReadASN1Integer(&trailer)) {
		return algorithm{}, bad
	}
	if mgfHash != a.hash || trailer != 1 || a.salt < 0 || a.salt > maxRSABits/8 || !seq.Empty() {
		return algorithm{}, bad
	}
	if a.salt == 0 {
		// crypto/rsa reads 0 as "find the length out": no weaker, so no harm.
		a.salt = rsa.PSSSaltLengthAuto
	}
	return a, nil
}

func readHash(in *cryptobyte.String, out *crypto.Hash) bool {
	var seq, oid cryptobyte.String
	if !in.ReadASN1(&seq, asn1.SEQUENCE) || !seq.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) {
		return false
	}
	switch string(oid) {
	case "\x2b\x0e\x03\x02\x1a": // 1.3.14.3.2.26
		*out = crypto.SHA1
	case "\x60\x86\x48\x01\x65\x03\x04\x02\x01": // 2.16.840.1.101.3.4.2.1
		*out = crypto.SHA256
	case "\x60\x86\x48\x01\x65\x03\x04\x02\x02":
		*out = crypto.SHA384
	case "\x60\x86\x48\x01\x65\x03\x04\x02\x03":
		*out = crypto.SHA512
	default:
		return false
	}
	return true
}

// publicKey reads the key of an issuer. certificate-transparency-go takes odd
// encodings (RSA without NULL parameters, integers with needless zeros) only
// when it parses a whole certificate, and refuses certificates for reasons that
// have nothing to do with the key: so the key alone first, then the whole.
func publicKey(c *certificate) (crypto.PublicKey, error) {
	key, err := ctx509.ParsePKIXPublicKey(c.spki)
	if err != nil {
		whole, wholeErr := ctx509.ParseCertificate(c.raw)
		if whole == nil || ctx509.IsFatal(wholeErr) {
			return nil, fmt.Errorf("%w issuer key: %v", errAlgorithm, err)
		}
		key = whole.PublicKey
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if key.N.Sign() <= 0 || key.N.BitLen() > maxRSABits {
			return nil, fmt.Errorf("%w issuer key: RSA modulus is not in (0, 2^%d)", errAlgorithm, maxRSABits)
		}
		return key, nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P224(), elliptic.P256(), elliptic.P384(), elliptic.P521():
			return key, nil
		}
		return nil, fmt.Errorf("%w issuer key: curve %s", errAlgorithm, key.Curve.Params().Name)
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize { // ed25519.Verify would panic
			return nil, fmt.Errorf("%w issuer key: Ed25519 key of %d bytes", errAlgorithm, len(key))
		}
		return key, nil
	}
	return nil, fmt.Errorf("%w issuer key: %T, want RSA, ECDSA or Ed25519", errAlgorithm, key)
}

// verifySignature checks the signature of c under a key that [publicKey] gave.
// Errors wrap errAlgorithm unless the signature is simply wrong.
func verifySignature(c *certificate, key crypto.PublicKey) error {
	a, err := signatureAlgorithm(c.algorithm)
	if err != nil {
		return err
	}
	var digest []byte
	if a.hash != 0 {
		h := a.hash.New()
		h.Write(c.tbs)
		digest = h.Sum(nil)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch a.kind {
		case kindRSA:
			return rsa.VerifyPKCS1v15(key, a.hash, digest, c.signature)
		case kindPSS:
			return rsa.VerifyPSS(key, a.hash, digest, c.signature, &rsa.PSSOptions{SaltLength: a.salt})
		}
	case *ecdsa.PublicKey:
		if a.kind == kindECDSA {
			return holds(ecdsa.VerifyASN1(key, digest, c.signature))
		}
	case ed25519.PublicKey:
		if a.kind == kindEd25519 {
			return holds(ed25519.Verify(key, c.tbs, c.signature))
		}
	}
	return fmt.Errorf("it is made by %s, but the issuer's key is a %T", a.kind, key)
}

func holds(ok bool) error {
	if !ok {
		return errors.New("verification error")
	}
	return nil
}
