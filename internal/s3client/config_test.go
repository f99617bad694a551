package s3client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/internal/s3client"
	"kiln/internal/servers"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	empty := filepath.Join(folder, "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		conf s3client.Config
		want string // in the error; empty is none
	}{
		{"AWS", s3client.Config{AccessKeyID: "a", SecretAccessKey: "b", SessionToken: "c"}, ""},
		{"Chain", s3client.Config{}, ""},
		{"NoSecret", s3client.Config{AccessKeyID: "a"}, "both its ID and its secret"},
		{"NoID", s3client.Config{SecretAccessKey: "b"}, "both its ID and its secret"},
		{"OnlyToken", s3client.Config{SessionToken: "c"}, "both its ID and its secret"},
		{"NoScheme", s3client.Config{Endpoint: "s3.test"}, "not of the form"},
		{"OtherScheme", s3client.Config{Endpoint: "ftp://s3.test"}, "not of the form"},
		{"NoHost", s3client.Config{Endpoint: "http:///x"}, "not of the form"},
		{"Query", s3client.Config{Endpoint: "http://s3.test?x=y"}, "not of the form"},
		{"Secret", s3client.Config{Endpoint: "http://a:b@s3.test"}, "not of the form"},
		{"NoURL", s3client.Config{Endpoint: "http://s3.test:port"}, "endpoint"},
		{"NoCA", s3client.Config{CAFile: filepath.Join(folder, "none.pem"), AccessKeyID: "a", SecretAccessKey: "b"}, "none.pem"},
		{"EmptyCA", s3client.Config{CAFile: empty, AccessKeyID: "a", SecretAccessKey: "b"}, "no certificate in it"},
	} {
		client, err := s3client.New(t.Context(), c.conf)
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		case err == nil:
			client.Close()
		}
	}
}

// TestDefaultChain takes the credentials from where AWS' tools look for them.
func TestDefaultChain(t *testing.T) {
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretAccessKey)
	t.Setenv("AWS_ENDPOINT_URL", "http://ignored.test")
	c := newClient(t, func(c *s3client.Config) { c.AccessKeyID, c.SecretAccessKey = "", "" })
	if _, err := c.Put(t.Context(), bucket, t.Name(), content("x")); err != nil {
		t.Error(err)
	}
}

// TestMetrics makes room for another client when one is closed.
func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	conf := s3client.Config{AccessKeyID: "a", SecretAccessKey: "b", Registerer: reg}
	for range 2 {
		c, err := s3client.New(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s3client.New(t.Context(), conf); err == nil {
			t.Error("two clients have the same metrics")
		}
		if families, err := reg.Gather(); err != nil || len(families) == 0 {
			t.Errorf("%d metrics, error %v", len(families), err)
		}
		c.Close()
	}
}

// TestTLS speaks to a server that only a CA file makes trusted.
func TestTLS(t *testing.T) {
	t.Parallel()
	certFile, keyFile := makeCertificate(t)
	binary, err := servers.BuildTool(t.Context(), "versitygw")
	if err != nil {
		t.Fatal(err)
	}
	s, err := servers.StartS3(t.Context(), servers.S3Config{
		Binary: binary, Dir: t.TempDir(), Buckets: []string{bucket}, CertFile: certFile, KeyFile: keyFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Kill() })
	conf := s3client.Config{Endpoint: s.Endpoint, PathStyle: true, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey}
	for caFile, want := range map[string]string{certFile: "", "": "certificate signed by unknown authority"} {
		conf.CAFile = caFile
		c, err := s3client.New(t.Context(), conf)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.PutIfAbsent(t.Context(), bucket, "key", content("over TLS"))
		if want == "" {
			var o *s3client.Object
			if err == nil {
				o, err = c.Get(t.Context(), bucket, "key")
			}
			if err != nil || string(o.Body) != "over TLS" {
				t.Errorf("with the CA file: %v", err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("without a CA file: error %v, want %q", err, want)
		}
		c.Close()
	}
}

// makeCertificate makes a self-signed one for loopback.
func makeCertificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	certFile, keyFile = filepath.Join(folder, "cert.pem"), filepath.Join(folder, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// TestVirtualHost names the bucket in the host, to a server that wants it so.
// The name leads to loopback by the connections, not by DNS.
func TestVirtualHost(t *testing.T) {
	t.Parallel()
	binary, err := servers.BuildTool(t.Context(), "versitygw")
	if err != nil {
		t.Fatal(err)
	}
	s, err := servers.StartS3(t.Context(), servers.S3Config{Binary: binary, Dir: t.TempDir(), Buckets: []string{bucket}, Domain: "s3.test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Kill() })
	connections := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, strings.TrimPrefix(s.Endpoint, "http://"))
	}}
	t.Cleanup(connections.CloseIdleConnections)
	for pathStyle, want := range map[bool]string{false: bucket + ".s3.test /a/b", true: "s3.test /" + bucket + "/a/b"} {
		var seen string
		c, err := s3client.New(t.Context(), s3client.Config{
			Endpoint: "http://s3.test", PathStyle: pathStyle, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey,
			Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
				seen = r.URL.Host + " " + r.URL.Path
				return connections.RoundTrip(r)
			}),
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), bucket, "a/b", content("x")); err != nil {
			t.Errorf("path style %v: %v", pathStyle, err)
		}
		if seen != want {
			t.Errorf("path style %v: the request went to %s, want %s", pathStyle, seen, want)
		}
		c.Close()
	}
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
