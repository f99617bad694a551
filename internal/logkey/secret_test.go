package logkey

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLogKeyVectors holds the derivation to values that another implementation
// computed, of HKDF and of the curve. A log whose key changed is lost: these
// values never change.
func TestLogKeyVectors(t *testing.T) {
	t.Parallel()
	for _, v := range []struct{ secret, origin, scalar, logID string }{
		{"b9216a78200d71c2b5b7c42541dc46c3f702f52b9f73b9513702e2ca97d8af23", "log.example.net/2026h2", "f37e12a4131434bee83a680122996feb67653526fa052f1c8185cba0dac57b0c", "8919847bdcdd9a50bf933bfcbf24fe5e11cf616722f23db9d125f4d844bc9463"},
		{"b9216a78200d71c2b5b7c42541dc46c3f702f52b9f73b9513702e2ca97d8af23", "ct.example.org/example2026h1", "c510277dd9548e273df1304b916ba582923f22ec73f7df9880e18e47784050e2", "272b4f5ad2b296e086cbd1599c98d9adfce02b0afff9a9c91e66fc530f4291db"},
		{"b9216a78200d71c2b5b7c42541dc46c3f702f52b9f73b9513702e2ca97d8af23", "ct.example.org/example2026h2", "502736eb3b45cd7042606d5a818c9bf7251075caba66299344ed579de556eb22", "62d8fb3f5c2cc49735661f33db3f7c6e524fbf11311f0033c19d50124443575c"},
		{"b9216a78200d71c2b5b7c42541dc46c3f702f52b9f73b9513702e2ca97d8af23", "a", "3d7a7782a05ce2a6bab82a0093f634458e32b2fab755ad42d842f9480695baef", "c66a77dddb52920901954932893afa1f710e5276b7be25a642876daa036a3c38"},
		{"5f0b0930979880fc12ec6b159b18e49905e847415574af7a49c0da5981f7835f", "log.example.net/2026h2", "7557913eb9f7572bc5333d2943e81fbe1724591a6dee17ada7241dcdd160a904", "67abfdbe962843f002cbf86b2875afea9abedd27e01dbe2f1de018f7a327090e"},
		{"5f0b0930979880fc12ec6b159b18e49905e847415574af7a49c0da5981f7835f", "ct.example.org/example2026h1", "d5cf6d467e1e417c598af548c1ea18d8c42e08f58d53859c185ecfff989d2c96", "9134241284a2976afcbd4e8e630f881b7492b3b34741eccb70846430279ff49f"},
		{"5f0b0930979880fc12ec6b159b18e49905e847415574af7a49c0da5981f7835f", "ct.example.org/example2026h2", "896d3326b60261b66863eb4b87c5c67ff3792312645854e1332a2afc6f31ee18", "2854f73c7eff7b4947ac47f4fadbef7d96798c76085d091ff756b00de98263bf"},
		{"5f0b0930979880fc12ec6b159b18e49905e847415574af7a49c0da5981f7835f", "a", "e085b103aeddf36752750164607a0d8b3568c1fc736d78e47880ebd63ffda059", "a98e37d8650640a68e26935f55e9e2ae8403474637859abbd66f06bb67fa3224"},
	} {
		s := &Secret{[32]byte(unhex(t, v.secret))}
		for range 2 {
			k, err := s.LogKey(v.origin)
			if err != nil {
				t.Fatal(err)
			}
			scalar, err := k.priv.Bytes()
			if id := k.LogID(); err != nil || hex.EncodeToString(scalar) != v.scalar || hex.EncodeToString(id[:]) != v.logID {
				t.Errorf("key of %s is %x with log ID %x, %v; want %s, %s", v.origin, scalar, id, err, v.scalar, v.logID)
			}
			if err := k.Weak(); err != nil {
				t.Errorf("key of %s: %v", v.origin, err)
			}
		}
		if _, err := ParseSecret(s.PEM()); err == nil || !strings.Contains(err.Error(), "is the SHA-256 of") {
			t.Errorf("a secret that stands in this file was taken: %v", err)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestNoOrigin(t *testing.T) {
	t.Parallel()
	s, err := NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	if k, err := s.LogKey(""); err == nil || k != nil {
		t.Error("a key of no origin was derived")
	}
}

func TestSecretFile(t *testing.T) {
	t.Parallel()
	s, err := NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, s.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := LoadSecret(path)
	if err != nil || !got.Equal(s) {
		t.Fatalf("secret is another: %v", err)
	}
	shown := fmt.Sprintf("%v %+v %#v %s %x %d %v %+v %#v %x %d", s, s, s, s, s, s, *s, *s, *s, *s, *s)
	if encoded := hex.EncodeToString(s.bytes[:4]); strings.Contains(shown, encoded) || strings.Count(shown, "(secret)") != 11 || len(shown) != 11*9-1 {
		t.Errorf("the secret is shown: %s", shown)
	}
	other, err := NewSecret()
	if err != nil || other.Equal(s) {
		t.Fatalf("two secrets are equal, or %v", err)
	}
	for _, mode := range []os.FileMode{0o644, 0o604, 0o620, 0o601} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSecret(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+path) {
			t.Errorf("a secret of mode %04o was taken, or %v", mode, err)
		}
	}
	if _, err := LoadSecret(path + "x"); err == nil || !strings.Contains(err.Error(), path+"x") {
		t.Errorf("error %v does not name the file", err)
	}
	if _, err := LoadSecret(filepath.Dir(path)); err == nil {
		t.Error("a folder was read")
	}
}

func TestParseSecretErrors(t *testing.T) {
	t.Parallel()
	s, err := NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	block := func(typ string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}) }
	for name, test := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":   {nil, "no PEM block found, want one KILN SECRET"},
		"bare":      {s.bytes[:], "no PEM block found"},
		"key":       {block("PRIVATE KEY", s.bytes[:]), `PEM block is "PRIVATE KEY", want KILN SECRET`},
		"short":     {block(secretType, s.bytes[:31]), "holds 31 bytes"},
		"long":      {block(secretType, append(s.bytes[:], 1)), "holds 33 bytes"},
		"two":       {append(s.PEM(), s.PEM()...), "more than one PEM block"},
		"text":      {append([]byte("x\n"), s.PEM()...), "text before or after"},
		"truncated": {s.PEM()[:50], "no PEM block"},
		"headers":   {pem.EncodeToMemory(&pem.Block{Type: secretType, Headers: map[string]string{"a": "b"}, Bytes: s.bytes[:]}), "1 headers"},
	} {
		if got, err := ParseSecret(test.data); err == nil || got != nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	if _, err := ParseSecret(append([]byte("\n"), append(s.PEM(), '\n')...)); err != nil {
		t.Errorf("secret among blank lines: %v", err)
	}
}

// weakValues are 32 bytes that nobody should use, with a part of what is said.
func weakValues() map[string][]byte {
	h := sha256.Sum256([]byte("something else"))
	ramp := make([]byte, 32)
	for i := range ramp {
		ramp[i] = byte(5 + 3*i)
	}
	sparse := make([]byte, 32)
	for i := range sparse {
		sparse[i] = 1 << (i % 8)
	}
	sparse[31], sparse[30], sparse[29] = 3, 5, 9
	few := bytes.Repeat([]byte("\x93\x11\x47\xf0\xbe\x0c"), 6)[:32]
	few[31] ^= 1
	dense := make([]byte, 32)
	for i := range dense {
		dense[i] = []byte{0xff, 0xef, 0xfe, 0xfd, 0xbf, 0xdf, 0x7f, 0xf7, 0xfb, 0xee, 0xf6, 0xbb, 0xdd, 0xd7, 0x77, 0xeb, 0xed, 0x7d}[i*7%18]
	}
	sum := sha256.Sum256([]byte("test"))
	empty := sha256.Sum256(nil)
	return map[string][]byte{
		"one byte again":         bytes.Repeat([]byte{0xa7}, 32),
		"repeats every 4 bytes":  bytes.Repeat([]byte{0xde, 0xad, 0xbe, 0xef}, 8),
		"repeats every 16 bytes": append(bytes.Clone(h[:16]), h[:16]...),
		"counts":                 ramp,
		"readable text":          []byte("correct horse battery staple 42!"),
		"times in a row":         append(bytes.Clone(h[:24]), make([]byte, 8)...),
		"different bytes only":   few,
		"one bits":               dense,
		`SHA-256 of "test"`:      sum[:],
		`SHA-256 of ""`:          empty[:],
		" different bytes":       sparse,
	}
}

func TestWeakBytes(t *testing.T) {
	t.Parallel()
	for want, b := range weakValues() {
		if got := weakBytes(b); !strings.Contains(got, want) {
			t.Errorf("%x: %q, want %q", b, got, want)
		}
		if _, err := ParseSecret(pem.EncodeToMemory(&pem.Block{Type: secretType, Bytes: b})); err == nil || !strings.Contains(err.Error(), "weak") {
			t.Errorf("secret %x was taken: %v", b, err)
		}
		priv, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		wantWeak(t, priv, "the key is weak")
	}
	// Chance is never called weak.
	for range 20000 {
		b := make([]byte, 32)
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		if why := weakBytes(b); why != "" {
			t.Fatalf("%x %s", b, why)
		}
	}
}

func wantWeak(t *testing.T, priv *ecdsa.PrivateKey, want string) {
	t.Helper()
	k, err := New(priv)
	if err != nil {
		t.Fatal(err)
	}
	data, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(data); err != nil {
		t.Errorf("a log with this key could not go on: %v", err)
	}
	if got, err := Check(data); err == nil || got != nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "kiln keys new") {
		t.Errorf("Check of %x: %v, want %q", k.LogID(), err, want)
	}
}

func TestTinyScalars(t *testing.T) {
	t.Parallel()
	n := elliptic.P256().Params().N
	for _, hexed := range []string{"01", "02", "0123456789abcdef", "7fffffffffffffffffffffffffffffffffffffffffffffff"} {
		d := unhex(t, hexed)
		small := append(make([]byte, 32-len(d)), d...)
		large := make([]byte, 32)
		borrow := 0
		order := n.Bytes()
		for i := 31; i >= 0; i-- { // n - d
			v := int(order[i]) - int(small[i]) - borrow
			borrow = 0
			if v < 0 {
				v, borrow = v+256, 1
			}
			large[i] = byte(v)
		}
		for _, b := range [][]byte{small, large} {
			priv, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), b)
			if err != nil {
				t.Fatal(err)
			}
			wantWeak(t, priv, "bits only")
		}
	}
}

func TestPublicKeys(t *testing.T) {
	t.Parallel()
	for want, d := range map[string]string{
		"RFC 6979": "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721",
		"RFC 5903": "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
		"vectors":  "6e78a47525126033c8eb89c6f5b9dcd20b209bb9400dbc7458487d65e82647f1",
	} {
		priv, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), unhex(t, d))
		if err != nil {
			t.Fatal(err)
		}
		wantWeak(t, priv, want)
	}
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Weak(); err != nil {
		t.Errorf("a new key: %v", err)
	}
}

func FuzzParseSecret(f *testing.F) {
	s, err := NewSecret()
	if err != nil {
		f.Fatal(err)
	}
	k, err := Generate()
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.priv)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.PEM())
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f.Add([]byte("-----BEGIN KILN SECRET-----\nAAAA\n-----END KILN SECRET-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := ParseSecret(data); err == nil {
			if again, err := ParseSecret(s.PEM()); err != nil || !again.Equal(s) {
				t.Fatalf("secret is another when read again: %v", err)
			}
		}
		if k, err := Check(data); err == nil && k.Weak() != nil {
			t.Fatal("a weak key was taken")
		}
	})
}
