// Package keycheck says what is wrong with the private keys and secrets that logs
// live by, and which logs they make.
//
// Invariants: nothing is changed; a report holds every problem that could be
// found, in the order in which the files were named; no report holds anything of
// a private key but its public half.
//
// The package never knows whether a log was created, or is being served.
package keycheck

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"kiln/internal/config"
	"kiln/internal/logkey"
)

// maxSize bounds what is read of a file, in bytes.
const maxSize = 1 << 20

// The types of a File.
const (
	TypeSecret      = "secret"      // what log keys are derived from
	TypeLog         = "log key"     // the key of one log
	TypeTLS         = "TLS key"     // of the public listener, or of the client of etcd
	TypeCertificate = "certificate" // for a TLS key
	TypeCredentials = "credentials" // of S3 or etcd
)

// Report is what was found.
type Report struct {
	Files    []File
	Problems []Problem
}

// File is one file, and what is made with it.
type File struct {
	Path string
	Type string // one of the types, or "" if that could not be told
	// Missing says that the file is not there yet, which is right for a shard
	// that was not created.
	Missing bool
	// Unusable says that a Problem keeps the file from being used at all.
	Unusable bool
	Logs     []Log // of a secret those that derive their key from it
}

// Log is the public side of a log's key.
type Log struct {
	Name   string // in the configuration; empty if the file was named by itself
	Origin string // as Name
	LogID  [32]byte
	SPKI   []byte
}

// Problem is one thing that is wrong.
type Problem struct {
	Path string
	What string
	Want string // what to do
}

// Files looks at files by themselves, and against each other.
func Files(paths ...string) *Report {
	c := newChecker()
	c.files(paths)
	return &c.report
}

// Config looks at every file with a secret that a configuration names, and at
// more files if there are any, all against each other.
func Config(cfg *config.Config, more ...string) *Report {
	c := newChecker()
	for i := range cfg.Logs {
		c.log(&cfg.Logs[i])
	}
	if t := cfg.TLS; t != nil && t.KeyFile != "" {
		c.pair("tls", t.CertFile, t.KeyFile)
	}
	if e := cfg.Etcd; e != nil {
		if e.KeyFile != "" {
			c.pair("etcd", e.CertFile, e.KeyFile)
		}
		if e.PasswordFile != "" {
			_, err := config.LoadPassword(e.PasswordFile)
			c.credentials(e.PasswordFile, err)
		}
	}
	if cfg.S3 != nil && cfg.S3.CredentialsFile != "" {
		_, err := config.LoadCredentials(cfg.S3.CredentialsFile)
		c.credentials(cfg.S3.CredentialsFile, err)
	}
	c.files(more)
	return &c.report
}

// checker gathers a report. It is used by one goroutine.
type checker struct {
	report  Report
	at      map[string]int    // of a path in report.Files
	owners  map[string]string // of a SubjectPublicKeyInfo: what it is the key of
	logKeys map[string]bool   // by SubjectPublicKeyInfo
	secrets []held
}

// held is a secret that was read.
type held struct {
	path   string
	secret *logkey.Secret
}

func newChecker() *checker {
	return &checker{at: make(map[string]int), owners: make(map[string]string), logKeys: make(map[string]bool)}
}

func (c *checker) problem(path, what, want string) {
	c.report.Problems = append(c.report.Problems, Problem{path, what, want})
}

// unusable reports what keeps a file from being used.
func (c *checker) unusable(path, what, want string) {
	f, _ := c.file(path, "")
	f.Unusable = true
	c.problem(path, what, want)
}

// file returns the entry of a path, and whether it is new.
func (c *checker) file(path, typ string) (f *File, first bool) {
	clean, err := filepath.Abs(path)
	if err != nil {
		clean = path
	}
	if i, ok := c.at[clean]; ok {
		return &c.report.Files[i], false
	}
	c.at[clean] = len(c.report.Files)
	c.report.Files = append(c.report.Files, File{Path: path, Type: typ})
	return &c.report.Files[len(c.report.Files)-1], true
}

// read returns a file's content, and reports what keeps it from being used.
func (c *checker) read(path string) ([]byte, bool) {
	data, err := readFile(path)
	if err != nil {
		c.unusable(path, "cannot be read: "+err.Error(), "want the file where it was, from its backup if need be")
		return nil, false
	}
	return data, true
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cause(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.New("it is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, cause(err)
	}
	if len(data) > maxSize {
		return nil, fmt.Errorf("it is larger than %d bytes", maxSize)
	}
	return data, nil
}

// cause leaves the path out of an error, which stands before it already.
func cause(err error) error {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// mode reports a file that others can read.
func (c *checker) mode(path string) {
	info, err := os.Stat(path)
	if err != nil { // it was just read
		c.problem(path, "cannot be read: "+cause(err).Error(), "")
		return
	}
	if logkey.CheckMode(path) != nil {
		c.problem(path, fmt.Sprintf("has mode %04o, open to other users", info.Mode().Perm()), "run: chmod 600 "+path)
	}
}

// log looks at the key of a log of the configuration.
func (c *checker) log(l *config.Log) {
	path, typ := l.KeyFile, TypeLog
	if l.SecretFile != "" {
		path, typ = l.SecretFile, TypeSecret
	}
	f, first := c.file(path, typ)
	if first && typ == TypeLog && l.FromSeries {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			f.Missing = true
			return
		}
	}
	if typ == TypeLog {
		if data, ok := c.read(path); ok {
			c.mode(path)
			c.key(path, data, l)
		}
		return
	}
	if first {
		if data, ok := c.read(path); ok {
			c.mode(path)
			c.secret(path, data)
		}
	}
	for _, h := range c.secrets {
		if h.path != path {
			continue
		}
		key, err := h.secret.LogKey(l.Origin)
		if err != nil {
			c.problem(path, err.Error(), "")
			return
		}
		c.own(path, key, l)
	}
}

// files looks at files of which nothing is known.
func (c *checker) files(paths []string) {
	for _, path := range paths {
		f, first := c.file(path, "")
		if !first {
			continue
		}
		data, ok := c.read(path)
		if !ok {
			continue
		}
		c.mode(path)
		if block, _ := pem.Decode(data); block != nil && block.Type == "KILN SECRET" {
			f.Type = TypeSecret
			c.secret(path, data)
			continue
		}
		c.key(path, data, nil)
	}
}

// secret looks at a secret, and keeps it if it is good.
func (c *checker) secret(path string, data []byte) {
	s, err := logkey.ParseSecret(data)
	if err != nil {
		what, want, said := strings.Cut(err.Error(), "; ")
		if !said {
			want = "want one PEM block KILN SECRET, as kiln keys new makes it"
		}
		c.unusable(path, what, want)
		return
	}
	for _, h := range c.secrets {
		if h.secret.Equal(s) {
			c.problem(path, "holds the secret of "+h.path+" too", "want one file, or another secret")
			same, _ := c.file(h.path, TypeSecret)
			logs := same.Logs
			f, _ := c.file(path, TypeSecret)
			f.Logs = logs
		}
	}
	c.secrets = append(c.secrets, held{path, s})
}

// key looks at the key of one log. l is nil if that is not known.
func (c *checker) key(path string, data []byte, l *config.Log) {
	key, err := logkey.Parse(data)
	if err != nil {
		c.unusable(path, err.Error(), "want one PEM block PRIVATE KEY: PKCS#8, ECDSA P-256")
		return
	}
	f, _ := c.file(path, TypeLog)
	f.Type = TypeLog
	if err := key.Weak(); err != nil {
		what, want, _ := strings.Cut(err.Error(), "; ")
		c.problem(path, what, want)
	}
	c.own(path, key, l)
}

// own notes whose key a log key is, and reports one that is something else's.
func (c *checker) own(path string, key *logkey.Key, l *config.Log) {
	spki := string(key.SPKI())
	is, log := path, Log{LogID: key.LogID(), SPKI: key.SPKI()}
	if l != nil {
		is = "log " + l.Name
		log.Name, log.Origin = l.Name, l.Origin
	}
	if owner, taken := c.owners[spki]; taken {
		c.problem(path, "holds the key of "+owner+" too", "want a key of its own: nothing else may have the key of a log")
	} else {
		c.owners[spki] = is
	}
	c.logKeys[spki] = true
	f, _ := c.file(path, "")
	f.Logs = append(f.Logs, log)
}

// pair looks at a certificate and key for TLS, neither of which may be a log's.
func (c *checker) pair(section, certFile, keyFile string) {
	_, first := c.file(keyFile, TypeTLS)
	if data, ok := c.read(keyFile); ok {
		if first {
			c.mode(keyFile)
		}
		if spki := privateSPKI(data); spki == nil {
			c.unusable(keyFile, "holds no private key", "want the PEM of the private key of "+certFile)
		} else {
			c.apart(keyFile, spki, section)
		}
	}
	if certFile == "" {
		return
	}
	c.file(certFile, TypeCertificate)
	if data, ok := c.read(certFile); ok {
		for _, spki := range certificateSPKIs(data) {
			c.apart(certFile, spki, section)
		}
	}
}

// apart reports a public key that is a log's, and keeps another for files that
// follow.
func (c *checker) apart(path string, spki []byte, section string) {
	if c.logKeys[string(spki)] {
		c.problem(path, "holds the key of "+c.owners[string(spki)]+" too", "want another for "+section+": nothing else may have the key of a log")
		return
	}
	if _, taken := c.owners[string(spki)]; !taken {
		c.owners[string(spki)] = section
	}
}

// credentials notes a file that config read.
func (c *checker) credentials(path string, err error) {
	c.file(path, TypeCredentials)
	if err != nil {
		what, want, _ := strings.Cut(err.Error(), "; ")
		c.problem(path, strings.TrimLeft(strings.TrimPrefix(what, path), ": "), want)
	}
}

// privateSPKI returns the public half of the first private key in PEM data, or
// nil.
func privateSPKI(data []byte) []byte {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil
		}
		spki, err := x509.MarshalPKIXPublicKey(signer.Public())
		if err != nil {
			return nil
		}
		return spki
	}
	return nil
}

// certificateSPKIs returns the public keys of the certificates in PEM data.
func certificateSPKIs(data []byte) (list [][]byte) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, bytes.Clone(cert.RawSubjectPublicKeyInfo))
		}
	}
	return list
}
