package logkey_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiln/internal/logkey"
)

// vectors is the part of vectors.json that concerns the key.
type vectors struct {
	Entries []struct {
		Input     []byte `json:"sct_signing_input_b64"`
		Signature []byte `json:"sct_signature_b64"`
	} `json:"entries"`
	Log struct {
		LogID []byte `json:"log_id_b64"`
		IDHex string `json:"log_id_hex"`
		PEM   string `json:"private_key_pkcs8_pem"`
		SPKI  []byte `json:"spki_der_b64"`
	} `json:"log"`
	Checkpoints struct {
		Size3 struct {
			Input     string `json:"sth_signing_input_hex"`
			Signature []byte `json:"tree_head_signature_b64"`
		} `json:"size_3"`
	} `json:"checkpoints"`
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	data, err := os.ReadFile("../../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
	return v
}

func vectorKey(t testing.TB, v *vectors) *logkey.Key {
	t.Helper()
	k, err := logkey.Parse([]byte(v.Log.PEM))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestVectors(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	k := vectorKey(t, v)
	if id := k.LogID(); !bytes.Equal(id[:], v.Log.LogID) || hex.EncodeToString(id[:]) != v.Log.IDHex {
		t.Errorf("log ID is %x, want %s", id, v.Log.IDHex)
	}
	if !bytes.Equal(k.SPKI(), v.Log.SPKI) {
		t.Errorf("SPKI is %x, want %x", k.SPKI(), v.Log.SPKI)
	}
	if got, err := k.PEM(); err != nil || string(got) != v.Log.PEM {
		t.Errorf("PEM is %s, %v, want %s", got, err, v.Log.PEM)
	}
	pub, err := x509.ParsePKIXPublicKey(v.Log.SPKI)
	if err != nil || !k.Public().Equal(pub) {
		t.Errorf("public key differs from that of the vectors (%v)", err)
	}

	// RFC 6979 leaves one signature for each message.
	sth, err := hex.DecodeString(v.Checkpoints.Size3.Input)
	if err != nil {
		t.Fatal(err)
	}
	messages, signatures := [][]byte{sth}, [][]byte{v.Checkpoints.Size3.Signature}
	for _, e := range v.Entries {
		if e.Input != nil {
			messages, signatures = append(messages, e.Input), append(signatures, e.Signature)
		}
	}
	if len(messages) < 3 {
		t.Fatalf("vectors.json has %d messages", len(messages))
	}
	for i, m := range messages {
		for range 2 {
			got, err := k.Sign(m)
			if err != nil || !bytes.Equal(got, signatures[i]) {
				t.Errorf("message %d: signature is %s, %v, want %s", i, base64.StdEncoding.EncodeToString(got), err,
					base64.StdEncoding.EncodeToString(signatures[i]))
			}
		}
		if !k.Verify(m, signatures[i]) {
			t.Errorf("message %d: signature of the vectors does not verify", i)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	k, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	sig, err := k.Sign(message)
	if err != nil {
		t.Fatal(err)
	}
	if !k.Verify(message, sig) {
		t.Fatal("signature does not verify")
	}
	if k.Verify([]byte("messagf"), sig) || k.Verify(nil, sig) {
		t.Error("signature verifies another message")
	}
	for i := range sig {
		for bit := range 8 {
			bad := slices.Clone(sig)
			bad[i] ^= 1 << bit
			if k.Verify(message, bad) {
				t.Errorf("signature with bit %d of byte %d flipped verifies", bit, i)
			}
		}
	}
	for n := range sig {
		if k.Verify(message, sig[:n]) {
			t.Errorf("first %d bytes of the signature verify", n)
		}
	}
	if k.Verify(message, append(slices.Clone(sig), 0)) {
		t.Error("signature with a trailing byte verifies")
	}
	other, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	if other.Verify(message, sig) {
		t.Error("signature verifies under another key")
	}
}

func pkcs8(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

func block(typ string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	good := vectorKey(t, readVectors(t))
	goodPEM, err := good.PEM()
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "no PEM block"},
		{"text", []byte("not a key\n"), "no PEM block"},
		{"P-384", pkcs8(t, p384), "the key is ECDSA P-384, want ECDSA P-256"},
		{"RSA", pkcs8(t, rsaKey), "the key is RSA (2048 bits), want ECDSA P-256"},
		{"Ed25519", pkcs8(t, ed), "the key is Ed25519, want ECDSA P-256"},
		{"SEC1", block("EC PRIVATE KEY", sec1), `"EC PRIVATE KEY", want PRIVATE KEY (PKCS#8)`},
		{"SEC1 called PKCS#8", block("PRIVATE KEY", sec1), "parse log key"},
		{"public key", block("PUBLIC KEY", good.SPKI()), `"PUBLIC KEY"`},
		{"garbage in PEM", block("PRIVATE KEY", []byte("garbage")), "parse log key"},
		{"truncated", goodPEM[:len(goodPEM)/2], "no PEM block"},
		{"two keys", append(pkcs8(t, p256), goodPEM...), "more than one PEM block"},
		{"key and certificate", append(slices.Clone(goodPEM), block("CERTIFICATE", []byte{1})...), "more than one PEM block"},
		{"damaged block before", append(slices.Clone(goodPEM[:60]), goodPEM...), "parse log key"},
		{"text before", append([]byte("a comment\n"), goodPEM...), "text before or after"},
		{"text after", append(slices.Clone(goodPEM), "a comment\n"...), "text before or after"},
		{"damaged block after", append(slices.Clone(goodPEM), goodPEM[:60]...), "more than one PEM block"},
		{"PEM headers", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: []byte{1}}), "parse log key"},
	} {
		k, err := logkey.Parse(c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
		if k != nil {
			t.Errorf("%s: a key is returned with the error", c.name)
		}
	}
	if _, err := logkey.Parse(append([]byte("\n\n"), append(goodPEM, "\n \r\n"...)...)); err != nil {
		t.Errorf("key among blank lines: %v", err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	k, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	data, err := k.PEM()
	if err != nil {
		t.Fatal(err)
	}
	good, bad := filepath.Join(dir, "good.pem"), filepath.Join(dir, "bad.pem")
	for path, data := range map[string][]byte{good: data, bad: []byte("?")} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := logkey.Load(good)
	if err != nil || got.LogID() != k.LogID() || got.LogID() != sha256.Sum256(k.SPKI()) {
		t.Errorf("Load: %v, want the key that was written", err)
	}
	for _, path := range []string{bad, filepath.Join(dir, "missing.pem")} {
		if _, err := logkey.Load(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Load of %s: error %v does not name the file", path, err)
		}
	}
}

func TestDerive(t *testing.T) {
	t.Parallel()
	k := vectorKey(t, readVectors(t))
	derive := func(k *logkey.Key, label string) string {
		secret, err := k.Derive(label)
		if err != nil || len(secret) != 32 {
			t.Fatalf("Derive(%q): %d bytes, %v", label, len(secret), err)
		}
		return string(secret)
	}
	other, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	a := derive(k, "a")
	if a != derive(k, "a") {
		t.Error("Derive is not deterministic")
	}
	if a == derive(k, "b") || a == derive(other, "a") {
		t.Error("Derive does not depend on label and key")
	}
}

func BenchmarkSign(b *testing.B) {
	v := readVectors(b)
	k := vectorKey(b, v)
	for b.Loop() {
		if _, err := k.Sign(v.Entries[0].Input); err != nil {
			b.Fatal(err)
		}
	}
}
