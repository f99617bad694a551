package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"kiln/internal/config"
)

// reloadInterval is how old the look at the certificate files may be that a
// handshake relies on.
const reloadInterval = 10 * time.Second

// tlsConfig returns the configuration of the public listener, nil for plain
// HTTP.
func tlsConfig(c *config.TLS, now func() time.Time, log *slog.Logger, m *metrics) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	if c.ACME != nil {
		manager, err := acmeManager(c.ACME)
		if err != nil {
			return nil, err
		}
		conf.GetCertificate = manager.GetCertificate
		conf.NextProtos = append(conf.NextProtos, acme.ALPNProto)
		return conf, nil
	}
	files := &certificateFiles{certFile: c.CertFile, keyFile: c.KeyFile, now: now, log: log, metrics: m}
	if err := files.load(); err != nil {
		return nil, err
	}
	conf.GetCertificate = files.get
	return conf, nil
}

// acmeManager obtains and renews certificates by TLS-ALPN-01, which needs no
// listener beside the public one; it has to be reachable on port 443. HTTP-01
// would need a plain listener on port 80.
//
// Nothing is asked of the authority before a client asks for one of the hosts,
// so an authority that is down delays no start.
func acmeManager(c *config.ACME) (*autocert.Manager, error) {
	if len(c.Hosts) == 0 {
		return nil, fmt.Errorf("ACME: no hosts named, want at least one")
	}
	if err := os.MkdirAll(c.CacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("make ACME cache: %w", err)
	}
	manager := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(c.CacheDir),
		HostPolicy: autocert.HostWhitelist(c.Hosts...),
		Email:      c.Email,
	}
	if c.DirectoryURL != "" {
		manager.Client = &acme.Client{DirectoryURL: c.DirectoryURL}
	}
	return manager, nil
}

// certificateFiles serves the certificate in two files, and takes up a new one
// when they change. A pair that cannot be used (half replaced, say) leaves the
// old one in service.
type certificateFiles struct {
	certFile, keyFile string
	now               func() time.Time
	log               *slog.Logger
	metrics           *metrics

	current atomic.Pointer[tls.Certificate]

	// looking is held by the one handshake that looks at the files; others do
	// not wait for it.
	looking sync.Mutex
	looked  time.Time // when; guarded by looking
	stamps  []stamp   // of the files when current was loaded or refused; guarded by looking
}

// stamp tells one content of a file from another without reading it.
type stamp struct {
	size     int64
	modified time.Time
}

// load reads the files at start, where any fault is an error.
func (f *certificateFiles) load() error {
	f.looking.Lock()
	defer f.looking.Unlock()
	f.looked = f.now()
	f.stamps = f.stat()
	return f.readLocked()
}

func (f *certificateFiles) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if f.looking.TryLock() {
		f.lookLocked()
		f.looking.Unlock()
	}
	return f.current.Load(), nil
}

func (f *certificateFiles) lookLocked() {
	now := f.now()
	if elapsed := now.Sub(f.looked); elapsed >= 0 && elapsed < reloadInterval {
		return
	}
	f.looked = now
	stamps := f.stat()
	if slices.Equal(stamps, f.stamps) {
		return
	}
	f.stamps = stamps
	if err := f.readLocked(); err != nil {
		f.log.Error("cannot take up changed TLS certificate, the old one stays in service: replace the files",
			"path", f.certFile, "err", err)
		return
	}
	f.log.Info("took up changed TLS certificate", "path", f.certFile)
}

func (f *certificateFiles) stat() []stamp {
	var stamps []stamp
	for _, path := range []string{f.certFile, f.keyFile} {
		var s stamp
		if info, err := os.Stat(path); err == nil {
			s = stamp{info.Size(), info.ModTime()}
		}
		stamps = append(stamps, s)
	}
	return stamps
}

func (f *certificateFiles) readLocked() error {
	cert, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return fmt.Errorf("load TLS certificate %s with key %s: %w", f.certFile, f.keyFile, err)
	}
	if cert.Leaf == nil { // set by LoadX509KeyPair unless GODEBUG says otherwise
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return fmt.Errorf("parse TLS certificate %s: %w", f.certFile, err)
		}
	}
	if now := f.now(); now.After(cert.Leaf.NotAfter) {
		// Clients that authenticate the log by its signatures still read it.
		f.log.Error("TLS certificate has expired: replace the files", "path", f.certFile, "timestamp", cert.Leaf.NotAfter)
	}
	f.current.Store(&cert)
	f.metrics.certificateExpiry.Set(float64(cert.Leaf.NotAfter.Unix()))
	return nil
}
