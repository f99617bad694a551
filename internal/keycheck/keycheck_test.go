package keycheck

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kiln/internal/config"
	"kiln/internal/logkey"
)

// rig is a folder with files for a test.
type rig struct {
	t   *testing.T
	dir string
}

func newRig(t *testing.T) *rig { return &rig{t, t.TempDir()} }

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) put(name string, data []byte) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	r.check(os.WriteFile(path, data, 0o600))
	return path
}

func (r *rig) pkcs8(key any) []byte {
	r.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	r.check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (r *rig) key() *ecdsa.PrivateKey {
	r.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r.check(err)
	return k
}

func (r *rig) secret() []byte {
	r.t.Helper()
	s, err := logkey.NewSecret()
	r.check(err)
	return s.PEM()
}

// certificate returns a self-signed certificate of a key.
func (r *rig) certificate(key *ecdsa.PrivateKey) []byte {
	r.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{DNSNames: []string{"localhost"}}, &x509.Certificate{}, key.Public(), key)
	r.check(err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// problems returns the problems one a line, with DIR for the folder.
func (r *rig) problems(report *Report) string {
	var lines []string
	for _, p := range report.Problems {
		lines = append(lines, p.Path+": "+p.What+"; "+p.Want)
	}
	return strings.ReplaceAll(strings.Join(lines, "\n"), r.dir+"/", "")
}

func TestFiles(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	good, same := r.key(), r.key()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	r.check(err)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	r.check(err)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	r.check(err)
	sec1, err := x509.MarshalECPrivateKey(r.key())
	r.check(err)
	public, err := hex.DecodeString("c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721")
	r.check(err)
	rfc, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), public)
	r.check(err)
	secret := r.secret()
	paths := []string{
		r.put("good", r.pkcs8(good)), r.put("one", r.pkcs8(same)), r.put("two", r.pkcs8(same)),
		r.put("p384", r.pkcs8(p384)), r.put("rsa", r.pkcs8(rsaKey)), r.put("ed25519", r.pkcs8(edwards)),
		r.put("sec1", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})),
		r.put("rfc", r.pkcs8(rfc)), r.put("secret", secret), r.put("copy", secret),
		r.put("zero", pem.EncodeToMemory(&pem.Block{Type: "KILN SECRET", Bytes: make([]byte, 32)})),
		r.put("empty", nil), filepath.Join(r.dir, "missing"), r.dir, r.put("open", r.pkcs8(r.key())), filepath.Join(r.dir, "good"),
	}
	r.check(os.Chmod(filepath.Join(r.dir, "open"), 0o644))
	report := Files(paths...)
	const form = "; want one PEM block PRIVATE KEY: PKCS#8, ECDSA P-256"
	const there = "; want the file where it was, from its backup if need be"
	want := strings.Join([]string{
		"two: holds the key of one too; want a key of its own: nothing else may have the key of a log",
		"p384: parse log key: the key is ECDSA P-384, want ECDSA P-256" + form,
		"rsa: parse log key: the key is RSA (2048 bits), want ECDSA P-256" + form,
		"ed25519: parse log key: the key is Ed25519, want ECDSA P-256" + form,
		`sec1: parse log key: PEM block is "EC PRIVATE KEY", want PRIVATE KEY (PKCS#8): openssl pkcs8 -topk8 -nocrypt makes one of it` + form,
		"rfc: the key is public: it is that of RFC 6979, A.2.5; anybody can sign with it: make another with kiln keys new",
		"copy: holds the secret of secret too; want one file, or another secret",
		"zero: parse secret: it is weak: it is one byte again and again; make another with kiln keys new",
		"empty: parse log key: no PEM block found, want one PRIVATE KEY (PKCS#8)" + form,
		"missing: cannot be read: no such file or directory" + there,
		r.dir + ": cannot be read: it is no regular file" + there,
		"open: has mode 0644, open to other users; run: chmod 600 open",
	}, "\n")
	if d := cmp.Diff(want, r.problems(report)); d != "" {
		t.Error(d)
	}
	if len(report.Files) != len(paths)-1 { // good was named twice
		t.Errorf("report has %d files, want %d", len(report.Files), len(paths)-1)
	}
	for _, f := range report.Files {
		if f.Unusable == (len(f.Logs) > 0 || f.Type == TypeSecret && !strings.HasSuffix(f.Path, "zero")) {
			t.Errorf("%s: unusable %v with %d logs", f.Path, f.Unusable, len(f.Logs))
		}
	}
}

// series is a configuration that names every kind of file.
const series = `listen: 127.0.0.1:443
tls: {cert_file: tls.cert, key_file: tls.key}
logs:
  - name: one2025h2
    submission_url: https://localhost/one2025h2/
    not_after_start: 2025-07-01T00:00:00Z
    not_after_limit: 2026-01-01T00:00:00Z
    key_file: one.pem
    roots_file: roots.pem
    storage: one
    lock: lock.db
    dedup: one.db
series:
  - name: one
    first: 2026h1
    ahead: 1
    submission_url: https://localhost/{shard}/
    secret_file: one.secret
    roots_file: roots.pem
    storage: s3://bucket/{shard}
    lock: etcd:lock
    dedup: dedup/{shard}
    shards:
      2026h2: {key_file: "{shard}.pem"}
s3: {credentials_file: s3.yaml}
etcd: {endpoints: ["https://localhost:1"], cert_file: etcd.cert, key_file: etcd.key, username: a, password_file: password}
`

// layOut writes what series names, but the key of a shard that is not made.
func layOut(t *testing.T) (*rig, *config.Config) {
	t.Helper()
	r := newRig(t)
	tlsKey, etcdKey := r.key(), r.key()
	r.put("one.pem", r.pkcs8(r.key()))
	r.put("one.secret", r.secret())
	r.put("tls.cert", r.certificate(tlsKey))
	r.put("tls.key", r.pkcs8(tlsKey))
	r.put("etcd.cert", r.certificate(etcdKey))
	r.put("etcd.key", r.pkcs8(etcdKey))
	r.put("s3.yaml", []byte("access_key_id: a\nsecret_access_key: b\n"))
	r.put("password", []byte("x\n"))
	cfg, err := config.Parse("kiln.yaml", []byte(series), r.dir, time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC))
	r.check(err)
	return r, cfg
}

func TestConfig(t *testing.T) {
	t.Parallel()
	r, cfg := layOut(t)
	report := Config(cfg)
	if got := r.problems(report); got != "" {
		t.Fatalf("problems with good files:\n%s", got)
	}
	var got []string
	for _, f := range report.Files {
		line := filepath.Base(f.Path) + " " + f.Type
		if f.Missing {
			line += " missing"
		}
		for _, l := range f.Logs {
			line += " " + l.Name + "=" + l.Origin
		}
		got = append(got, line)
	}
	want := []string{
		"one.pem log key one2025h2=localhost/one2025h2",
		"one.secret secret one2026h1=localhost/one2026h1 one2027h1=localhost/one2027h1",
		"one2026h2.pem log key missing",
		"tls.key TLS key", "tls.cert certificate", "etcd.key TLS key", "etcd.cert certificate", "password credentials", "s3.yaml credentials",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	s, err := logkey.LoadSecret(filepath.Join(r.dir, "one.secret"))
	r.check(err)
	key, err := s.LogKey("localhost/one2027h1")
	r.check(err)
	if report.Files[1].Logs[1].LogID != key.LogID() {
		t.Error("a shard has another log ID than its key")
	}
}

func TestConfigProblems(t *testing.T) {
	t.Parallel()
	const own = "; want a key of its own: nothing else may have the key of a log"
	for name, test := range map[string]struct {
		spoil func(r *rig)
		more  []string
		want  string
	}{
		"derived key in a file": {func(r *rig) {
			s, err := logkey.LoadSecret(filepath.Join(r.dir, "one.secret"))
			r.check(err)
			k, err := s.LogKey("localhost/one2026h1")
			r.check(err)
			data, err := k.PEM()
			r.check(err)
			r.put("one2026h2.pem", data)
		}, nil, "one2026h2.pem: holds the key of log one2026h1 too" + own},
		"two logs": {func(r *rig) {
			k := r.pkcs8(r.key())
			r.put("one.pem", k)
			r.put("one2026h2.pem", k)
		}, nil, "one2026h2.pem: holds the key of log one2025h2 too" + own},
		"TLS and log": {func(r *rig) {
			k := r.key()
			r.put("one.pem", r.pkcs8(k))
			r.put("tls.key", r.pkcs8(k))
			r.put("tls.cert", r.certificate(k))
		}, nil, "tls.key: holds the key of log one2025h2 too; want another for tls: nothing else may have the key of a log\n" +
			"tls.cert: holds the key of log one2025h2 too; want another for tls: nothing else may have the key of a log"},
		"client of etcd": {func(r *rig) {
			k := r.key()
			r.put("one.pem", r.pkcs8(k))
			r.put("etcd.key", r.pkcs8(k))
		}, nil, "etcd.key: holds the key of log one2025h2 too; want another for etcd: nothing else may have the key of a log"},
		"another with the key of TLS": {
			func(*rig) {},
			[]string{"tls.copy"},
			"tls.copy: holds the key of tls too" + own,
		},
		"copy of the secret": {
			func(*rig) {},
			[]string{"secret.copy"},
			"secret.copy: holds the secret of one.secret too; want one file, or another secret",
		},
		"no key": {
			func(r *rig) { r.check(os.Remove(filepath.Join(r.dir, "one.pem"))) },
			nil, "one.pem: cannot be read: no such file or directory; want the file where it was, from its backup if need be",
		},
		"no secret, once": {
			func(r *rig) { r.check(os.Remove(filepath.Join(r.dir, "one.secret"))) },
			nil, "one.secret: cannot be read: no such file or directory; want the file where it was, from its backup if need be",
		},
		"all open": {func(r *rig) {
			for _, name := range []string{"one.pem", "one.secret", "tls.key", "etcd.key", "s3.yaml", "password"} {
				r.check(os.Chmod(filepath.Join(r.dir, name), 0o604))
			}
		}, nil, strings.NewReplacer("%", " has mode 0604, open to other users; run: chmod 600").Replace(
			"one.pem:% one.pem\none.secret:% one.secret\ntls.key:% tls.key\netcd.key:% etcd.key\npassword:% password\ns3.yaml:% s3.yaml")},
		"weak": {func(r *rig) {
			b := make([]byte, 32)
			b[31] = 7
			k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
			r.check(err)
			r.put("one.pem", r.pkcs8(k))
			r.put("one.secret", pem.EncodeToMemory(&pem.Block{Type: "KILN SECRET", Bytes: []byte("a passphrase of thirty-two bytes")}))
		}, nil, "one.pem: the key is weak: its number has 3 bits only; anybody can sign with it: make another with kiln keys new\n" +
			"one.secret: parse secret: it is weak: it is readable text; make another with kiln keys new"},
		"no TLS key": {
			func(r *rig) { r.put("tls.key", []byte("x")) },
			nil, "tls.key: holds no private key; want the PEM of the private key of tls.cert",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, cfg := layOut(t)
			for from, to := range map[string]string{"tls.key": "tls.copy", "one.secret": "secret.copy"} {
				data, err := os.ReadFile(filepath.Join(r.dir, from))
				r.check(err)
				r.put(to, data)
			}
			test.spoil(r)
			var more []string
			for _, name := range test.more {
				more = append(more, filepath.Join(r.dir, name))
			}
			report := Config(cfg, more...)
			if d := cmp.Diff(test.want, r.problems(report)); d != "" {
				t.Error(d)
			}
			if name == "copy of the secret" && len(report.Files[len(report.Files)-1].Logs) != 2 {
				t.Error("a copy of the secret is not shown with its logs")
			}
		})
	}
}
