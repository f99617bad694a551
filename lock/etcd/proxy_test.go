package etcd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy is a TCP proxy before a server. It cuts connections when the server has
// answered, and keeps the answer.
type proxy struct {
	endpoint string

	mu      sync.Mutex // guards all below
	target  string
	every   int // of so many pieces that the server sends one is a cut; 0 is none
	pieces  int
	cutting int
	conns   map[net.Conn]bool
	done    bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{endpoint: "http://" + l.Addr().String(), target: target, conns: make(map[net.Conn]bool)}
	p.serve(t, l)
	return p
}

func (p *proxy) serve(t *testing.T, l net.Listener) {
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.forward(conn) })
		}
	})
	t.Cleanup(func() {
		p.mu.Lock()
		p.done = true
		p.mu.Unlock()
		l.Close()
		p.cut()
		running.Wait()
	})
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.done {
		p.conns[c] = true
	}
	return !p.done
}

func (p *proxy) forward(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	target := strings.TrimPrefix(p.target, "http://")
	p.mu.Unlock()
	server, err := net.Dial("tcp", target)
	if err != nil || !p.keep(client) || !p.keep(server) {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(server, client)
		server.Close()
	})
	buf := make([]byte, 32<<10)
	for {
		n, err := server.Read(buf)
		if err != nil || p.cutNow() {
			break
		}
		if _, err := client.Write(buf[:n]); err != nil {
			break
		}
	}
	client.Close()
	server.Close()
	up.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

func (p *proxy) cutNow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pieces++
	cut := p.every > 0 && p.pieces%p.every == 0
	if cut {
		p.cutting++
	}
	return cut
}

func (p *proxy) cutEvery(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.every = n
}

func (p *proxy) cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cutting
}

// retarget lets another server have the address.
func (p *proxy) retarget(endpoint string) {
	p.mu.Lock()
	p.target = endpoint
	p.mu.Unlock()
	p.cut()
}

// writeCert makes a certificate that serves as CA, server and client, for name.
func writeCert(t *testing.T, dir, name string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestTLS speaks to etcd by TLS with certificates on both sides, and shows that
// neither side takes a stranger for the other.
func TestTLS(t *testing.T) {
	t.Parallel()
	e := start(t, t.TempDir())
	dir := t.TempDir()
	cert, key := writeCert(t, dir, "server")
	clientCert, clientKey := writeCert(t, dir, "client")
	strangeCert, strangeKey := writeCert(t, dir, "stranger")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	data, err := os.ReadFile(clientCert)
	if err != nil || !clients.AppendCertsFromPEM(data) {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"},
		ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: e.Endpoint, conns: make(map[net.Conn]bool)}
	p.serve(t, l)
	conf := at("https://" + l.Addr().String())
	conf.Prefix, conf.CAFile, conf.CertFile, conf.KeyFile = "kiln", cert, clientCert, clientKey
	create(t, open(t, conf), "cell", "0")

	conf.Timeout = time.Second
	for name, c := range map[string]Config{
		"strange server": {CAFile: strangeCert, CertFile: clientCert, KeyFile: clientKey},
		"strange client": {CAFile: cert, CertFile: strangeCert, KeyFile: strangeKey},
		"no client":      {CAFile: cert},
		"system's roots": {CertFile: clientCert, KeyFile: clientKey},
	} {
		c.Endpoints, c.Prefix, c.Timeout = conf.Endpoints, conf.Prefix, conf.Timeout
		if _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
