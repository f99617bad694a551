package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"kiln/internal/config"
)

// writeCertificate writes a throw-away certificate for a name into cert.pem and
// key.pem of a folder.
func writeCertificate(t testing.TB, folder, name string) (c config.TLS) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	c = config.TLS{CertFile: filepath.Join(folder, "cert.pem"), KeyFile: filepath.Join(folder, "key.pem")}
	for path, block := range map[string]*pem.Block{
		c.CertFile: {Type: "CERTIFICATE", Bytes: der},
		c.KeyFile:  {Type: "PRIVATE KEY", Bytes: keyDER},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestCertificateFilesAreReloaded(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	conf := writeCertificate(t, folder, "old.example")
	now := time.Now()
	tlsConf, err := tlsConfig(&conf, func() time.Time { return now }, slog.New(slog.DiscardHandler), newMetrics(nil, ""))
	if err != nil {
		t.Fatal(err)
	}
	served := func() string {
		t.Helper()
		cert, err := tlsConf.GetCertificate(&tls.ClientHelloInfo{})
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf.Subject.CommonName
	}
	steps := []struct {
		what string
		do   func()
		want string
	}{
		{"start", func() {}, "old.example"},
		{"new files", func() { writeCertificate(t, folder, "new-and-longer.example") }, "old.example"},
		{"looked at again", func() { now = now.Add(reloadInterval) }, "new-and-longer.example"},
		{"damaged files", func() {
			now = now.Add(reloadInterval)
			if err := os.WriteFile(conf.KeyFile, []byte("no key"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "new-and-longer.example"},
		{"good files", func() {
			now = now.Add(reloadInterval)
			writeCertificate(t, folder, "newest.example")
		}, "newest.example"},
		{"clock set back", func() {
			now = now.Add(-time.Hour)
			writeCertificate(t, folder, "after-the-clock.example")
		}, "after-the-clock.example"},
	}
	for _, step := range steps {
		step.do()
		if got := served(); got != step.want {
			t.Errorf("%s: serving %s, want %s", step.what, got, step.want)
		}
	}
}

func TestTLSConfigRefusesBadFiles(t *testing.T) {
	t.Parallel()
	one, other := writeCertificate(t, t.TempDir(), "one"), writeCertificate(t, t.TempDir(), "other")
	for name, conf := range map[string]config.TLS{
		"missing":        {CertFile: "missing.pem", KeyFile: one.KeyFile},
		"wrong key":      {CertFile: one.CertFile, KeyFile: other.KeyFile},
		"ACME, no hosts": {ACME: &config.ACME{CacheDir: t.TempDir()}},
	} {
		if _, err := tlsConfig(&conf, time.Now, slog.New(slog.DiscardHandler), newMetrics(nil, "")); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestACME(t *testing.T) {
	t.Parallel()
	cache := filepath.Join(t.TempDir(), "below", "acme")
	section := &config.ACME{
		Hosts: []string{"ct.example", "mon.example"}, Email: "ct@example.com",
		CacheDir: cache, DirectoryURL: "https://ca.example/directory",
	}
	conf, err := tlsConfig(&config.TLS{ACME: section}, time.Now, slog.New(slog.DiscardHandler), newMetrics(nil, ""))
	if err != nil {
		t.Fatal(err)
	}
	if conf.GetCertificate == nil || !slices.Contains(conf.NextProtos, acme.ALPNProto) || !slices.Contains(conf.NextProtos, "http/1.1") {
		t.Errorf("TLS configuration does not answer TLS-ALPN-01: %v", conf.NextProtos)
	}
	if info, err := os.Stat(cache); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("cache folder: %v, %v; want mode 0700", info, err)
	}
	m, err := acmeManager(section)
	if err != nil {
		t.Fatal(err)
	}
	if m.Cache != autocert.DirCache(cache) || m.Client.DirectoryURL != section.DirectoryURL || m.Email != section.Email {
		t.Errorf("manager does not have what was configured: %+v", m)
	}
	for host, want := range map[string]bool{"ct.example": true, "mon.example": true, "other.example": false} {
		if err := m.HostPolicy(t.Context(), host); (err == nil) != want {
			t.Errorf("host %s: %v", host, err)
		}
	}
	// A host that is not ours is refused without asking anybody.
	if _, err := conf.GetCertificate(&tls.ClientHelloInfo{ServerName: "other.example"}); err == nil {
		t.Error("certificate for another host")
	}
	// A cached certificate is served without asking anybody.
	if err := cacheCertificate(t, m); err != nil {
		t.Fatal(err)
	}
	if _, err := conf.GetCertificate(&tls.ClientHelloInfo{
		ServerName: "ct.example", CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.CurveP256},
	}); err != nil {
		t.Errorf("cached certificate: %v", err)
	}
}

// cacheCertificate puts a certificate where an earlier run would have left it.
func cacheCertificate(t *testing.T, m *autocert.Manager) error {
	t.Helper()
	c := writeCertificate(t, t.TempDir(), "ct.example")
	cert, err1 := os.ReadFile(c.CertFile)
	keyPEM, err2 := os.ReadFile(c.KeyFile)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	block, _ := pem.Decode(keyPEM)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return m.Cache.Put(context.Background(), "ct.example", append(data, cert...))
}
