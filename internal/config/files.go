package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxPEM is the largest key or roots file that is read, in bytes.
const maxPEM = 64 << 20

// checkFiles reports files that are named but cannot be used, and keys that two
// logs share.
func (r *reader) checkFiles(c *Config) {
	keys := make(map[string]int) // by SubjectPublicKeyInfo
	for i := range c.Logs {
		l := &c.Logs[i]
		report := func(key string, p *problem) {
			if p != nil {
				r.logFault(i, key, p.what, p.want)
			}
		}
		// A shard that was not created yet has none of these.
		made := func(path string) bool { return path != "" && (!l.FromSeries || there(path)) }
		if made(l.KeyFile) {
			spki, p := checkKey(l.KeyFile)
			report("key_file", p)
			if j, ok := keys[spki]; ok && c.Logs[j].KeyFile != l.KeyFile {
				r.fault2(i, "key_file", j, "key_file", fmt.Sprintf("%s holds the key of %s too", l.KeyFile, r.who(j)),
					"want a key of its own: two logs may not share a log ID")
			} else if spki != "" {
				keys[spki] = i
			}
		}
		if l.SecretFile != "" {
			report("secret_file", checkSecret(l.SecretFile))
		}
		if l.RootsFile != "" {
			report("roots_file", checkRoots(l.RootsFile))
		}
		if filepath.IsAbs(l.Storage) && made(l.Storage) {
			report("storage", checkKind(l.Storage, true))
		}
		if filepath.IsAbs(l.Lock) && made(l.Lock) {
			report("lock", checkKind(l.Lock, false))
		}
	}
	if c.TLS != nil {
		r.checkTLS(c.TLS)
	}
	r.checkServiceFiles(c)
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// checkSecret reports a file that is no secret as logkey reads it.
func checkSecret(path string) *problem {
	const want = "want one PEM block KILN SECRET of 32 bytes, as kiln keys new makes it"
	data, p := readPEM(path, want)
	if p == nil {
		p = private(path)
	}
	if p != nil {
		return p
	}
	block, rest := pem.Decode(data)
	switch {
	case block == nil || block.Type != "KILN SECRET":
		return &problem{path + " holds no secret", want}
	case len(block.Bytes) != 32 || len(block.Headers) > 0:
		return &problem{fmt.Sprintf("%s is damaged: it holds %d bytes", path, len(block.Bytes)), want}
	case bytes.Contains(rest, []byte("-----BEGIN")):
		return &problem{path + " holds more than one PEM block", want}
	}
	return nil
}

// checkKind reports a path that a created log would have, and that is not there.
func checkKind(path string, dir bool) *problem {
	info, err := os.Stat(path)
	const want = "want the path of a log that exists; kiln init makes a new one"
	switch {
	case err != nil:
		return unreadable(path, err, want)
	case dir && !info.IsDir():
		return &problem{path + " is no directory", want}
	case !dir && !info.Mode().IsRegular():
		return &problem{path + " is no file", want}
	}
	return nil
}

// checkKey returns the public key of a log's private key.
func checkKey(path string) (spki string, p *problem) {
	const want = "want one PEM block PRIVATE KEY: PKCS#8, ECDSA P-256"
	data, p := readPEM(path, want)
	if p != nil {
		return "", p
	}
	if p := private(path); p != nil {
		return "", p
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return "", &problem{path + " holds no private key", want}
	}
	if more, _ := pem.Decode(rest); more != nil {
		return "", &problem{path + " holds more than one PEM block", want}
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return "", &problem{fmt.Sprintf("%s is damaged: %v", path, err), want}
	}
	priv, ok := k.(*ecdsa.PrivateKey)
	if !ok || priv.Curve != elliptic.P256() {
		return "", &problem{path + " holds a key of another kind", want}
	}
	der, err := x509.MarshalPKIXPublicKey(priv.Public())
	if err != nil {
		return "", &problem{fmt.Sprintf("%s is damaged: %v", path, err), want}
	}
	return string(der), nil
}

// private reports a secret that other users may read or its group may change.
func private(path string) *problem {
	info, err := os.Stat(path)
	if err != nil {
		return unreadable(path, err, "")
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return &problem{fmt.Sprintf("%s has mode %04o, open to other users", path, mode), "run: chmod 600 " + path}
	}
	return nil
}

// CheckRoots returns an error if a file does not do as a roots_file.
func CheckRoots(path string) error {
	if p := checkRoots(path); p != nil {
		return errors.New(p.what + "; " + p.want)
	}
	return nil
}

// checkRoots reports a roots file without any certificate, unless there is
// nothing in it but comments: that is a log that accepts nothing as yet, rather
// than the wrong file. What is in the certificates is for the log to judge,
// which is laxer than crypto/x509.
func checkRoots(path string) *problem {
	const want = "want PEM with the roots whose chains are accepted, or nothing but lines that begin with #"
	data, p := readPEM(path, want)
	if p != nil {
		return p
	}
	found, comments := 0, NoRoots(data)
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return &problem{fmt.Sprintf("%s: block %d is %q", path, found+1, shorten(block.Type)), want}
		}
		found++
	}
	if found == 0 && !comments {
		return &problem{path + " holds no certificate", want}
	}
	return nil
}

// NoRoots reports whether the content of a roots file is nothing but comments:
// the statement that the log accepts nothing as yet. An empty file states nothing.
func NoRoots(data []byte) bool {
	if len(bytes.TrimSpace(data)) == 0 {
		return false
	}
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

func (r *reader) checkTLS(t *TLS) {
	if t.CertFile == "" || t.KeyFile == "" {
		return
	}
	_, cert := readPEM(t.CertFile, "want the PEM of the certificate chain")
	_, key := readPEM(t.KeyFile, "want the PEM of the certificate's private key")
	if cert != nil {
		r.faults.add(r.lines["tls.cert_file"], "tls.cert_file", cert.what, cert.want)
	}
	if key == nil {
		key = private(t.KeyFile)
	}
	if key != nil {
		r.faults.add(r.lines["tls.key_file"], "tls.key_file", key.what, key.want)
	}
	if cert != nil || key != nil {
		return
	}
	if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
		r.faults.add(r.lines["tls.cert_file"], "tls.cert_file", fmt.Sprintf("%s and %s cannot be used: %v", t.CertFile, t.KeyFile, err),
			"want a PEM chain and the private key of its first certificate")
	}
}

// readPEM reads a file of bounded size.
func readPEM(path, want string) ([]byte, *problem) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err, want)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, &problem{path + " is no regular file", want}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err != nil {
		return nil, unreadable(path, err, want)
	}
	if len(data) > maxPEM {
		return nil, &problem{fmt.Sprintf("%s is larger than %d bytes", path, maxPEM), want}
	}
	return data, nil
}

// unreadable says why a path cannot be used, naming it once.
func unreadable(path string, err error, want string) *problem {
	if errors.Is(err, fs.ErrNotExist) {
		return &problem{path + " does not exist", want}
	}
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		err = pe.Err
	}
	return &problem{fmt.Sprintf("%s cannot be read: %v", path, err), want}
}
