package config

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// layOut writes good's configuration and the files that it names, and returns
// the directory.
func layOut(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"keys", "logs/example2026h2", "logs/example2027h1"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, "kiln.yaml", []byte(text))
	put(t, dir, "keys/example2026h2.pem", ecKey(t, elliptic.P256()))
	put(t, dir, "keys/example2027h1.pem", ecKey(t, elliptic.P256()))
	put(t, dir, "roots.pem", []byte("text before\n-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"))
	put(t, dir, "lock.db", nil)
	return dir
}

func put(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func ecKey(t *testing.T, curve elliptic.Curve) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pkcs8(t, key)
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := layOut(t, good+second)
	c, err := Load(filepath.Join(dir, "kiln.yaml"), july)
	if err != nil {
		t.Fatal(err)
	}
	if c.Dir != dir || c.Logs[1].KeyFile != filepath.Join(dir, "keys", "example2027h1.pem") {
		t.Errorf("paths are not below %s: %+v", dir, c)
	}
}

func TestLoadNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kiln.yaml")
	if _, err := Load(path, july); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v, want it to name %s", err, path)
	}
	if err := os.WriteFile(path, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path, july); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("error is %v, want one about the size", err)
	}
}

func TestFileFaults(t *testing.T) {
	t.Parallel()
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const keyWant = "; want one PEM block PRIVATE KEY: PKCS#8, ECDSA P-256"
	const rootsWant = "; want PEM with the roots whose chains are accepted, or nothing but lines that begin with #"
	const logWant = "; want the path of a log that exists; kiln init makes a new one"
	for name, test := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string // DIR stands for the directory
	}{
		"no key": {
			func(t *testing.T, dir string) { remove(t, dir, "keys/example2026h2.pem") },
			"8: logs[0].key_file: DIR/keys/example2026h2.pem does not exist" + keyWant,
		},
		"directory as key": {func(t *testing.T, dir string) {
			remove(t, dir, "keys/example2026h2.pem")
			if err := os.Mkdir(filepath.Join(dir, "keys/example2026h2.pem"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "8: logs[0].key_file: DIR/keys/example2026h2.pem is no regular file" + keyWant},
		"empty key": {
			func(t *testing.T, dir string) { put(t, dir, "keys/example2026h2.pem", nil) },
			"8: logs[0].key_file: DIR/keys/example2026h2.pem holds no private key" + keyWant,
		},
		"P-384": {
			func(t *testing.T, dir string) { put(t, dir, "keys/example2026h2.pem", ecKey(t, elliptic.P384())) },
			"8: logs[0].key_file: DIR/keys/example2026h2.pem holds a key of another kind" + keyWant,
		},
		"Ed25519": {
			func(t *testing.T, dir string) { put(t, dir, "keys/example2026h2.pem", pkcs8(t, edwards)) },
			"8: logs[0].key_file: DIR/keys/example2026h2.pem holds a key of another kind" + keyWant,
		},
		"two keys": {func(t *testing.T, dir string) {
			put(t, dir, "keys/example2026h2.pem", append(ecKey(t, elliptic.P256()), ecKey(t, elliptic.P256())...))
		}, "8: logs[0].key_file: DIR/keys/example2026h2.pem holds more than one PEM block" + keyWant},
		"open key": {func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, "keys/example2026h2.pem"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "8: logs[0].key_file: DIR/keys/example2026h2.pem has mode 0644, open to other users; run: chmod 600 DIR/keys/example2026h2.pem"},
		"one key for two": {func(t *testing.T, dir string) {
			key := ecKey(t, elliptic.P256())
			put(t, dir, "keys/example2026h2.pem", key)
			put(t, dir, "keys/example2027h1.pem", key)
		}, "17: logs[1].key_file: DIR/keys/example2027h1.pem holds the key of logs[0] too (line 8); want a key of its own: two logs may not share a log ID"},
		"no roots": {
			func(t *testing.T, dir string) { put(t, dir, "roots.pem", []byte("\x30\x00")) },
			"9: logs[0].roots_file: DIR/roots.pem holds no certificate" + rootsWant + "\n18: logs[1].roots_file: DIR/roots.pem holds no certificate" + rootsWant,
		},
		"no roots yet": {func(t *testing.T, dir string) { put(t, dir, "roots.pem", []byte("# none yet\n\n")) }, ""},
		"key as roots": {
			func(t *testing.T, dir string) { put(t, dir, "roots.pem", ecKey(t, elliptic.P256())) },
			`9: logs[0].roots_file: DIR/roots.pem: block 1 is "PRIVATE KEY"` + rootsWant + "\n" + `18: logs[1].roots_file: DIR/roots.pem: block 1 is "PRIVATE KEY"` + rootsWant,
		},
		"no storage": {
			func(t *testing.T, dir string) { remove(t, dir, "logs/example2026h2") },
			"10: logs[0].storage: DIR/logs/example2026h2 does not exist" + logWant,
		},
		"no lock": {
			func(t *testing.T, dir string) { remove(t, dir, "lock.db") },
			"11: logs[0].lock: DIR/lock.db does not exist" + logWant + "\n20: logs[1].lock: DIR/lock.db does not exist" + logWant,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := layOut(t, good+second)
			test.spoil(t, dir)
			if d := cmp.Diff(test.want, loadReport(dir)); d != "" {
				t.Error(d)
			}
		})
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// loadReport returns the faults of dir's kiln.yaml as faultsOf does.
func loadReport(dir string) string {
	path := filepath.Join(dir, "kiln.yaml")
	_, err := Load(path, july)
	if err == nil {
		return ""
	}
	report := strings.ReplaceAll(err.Error(), path+":", "")
	return strings.ReplaceAll(report, dir, "DIR")
}

// TestSyntaxAndFilesTogether has faults of both kinds and wants both.
func TestSyntaxAndFilesTogether(t *testing.T) {
	t.Parallel()
	dir := layOut(t, good+"    batchers: 0\n")
	put(t, dir, "keys/example2026h2.pem", nil)
	report := loadReport(dir)
	if !strings.Contains(report, "8: logs[0].key_file: ") || !strings.Contains(report, "\n13: logs[0].batchers: ") {
		t.Errorf("report lacks a fault:\n%s", report)
	}
}

func TestTLSFiles(t *testing.T) {
	t.Parallel()
	text := strings.ReplaceAll(good, "http:", "https:") + "tls:\n  cert_file: cert.pem\n  key_file: key.pem\n"
	dir := layOut(t, text)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{DNSNames: []string{"localhost"}}, &x509.Certificate{}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := loadReport(dir), "14: tls.cert_file: DIR/cert.pem does not exist; want the PEM of the certificate chain\n"+
		"15: tls.key_file: DIR/key.pem does not exist; want the PEM of the certificate's private key"; got != want {
		t.Errorf("without files:\n%s", cmp.Diff(want, got))
	}
	put(t, dir, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	put(t, dir, "key.pem", ecKey(t, elliptic.P256()))
	if got := loadReport(dir); !strings.HasPrefix(got, "14: tls.cert_file: DIR/cert.pem and DIR/key.pem cannot be used: ") {
		t.Errorf("another's key: %q", got)
	}
	put(t, dir, "key.pem", pkcs8(t, key))
	if got := loadReport(dir); got != "" {
		t.Errorf("a pair: %q", got)
	}
}
