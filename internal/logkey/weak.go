package logkey

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"math/bits"
)

// Weak returns why a key must not be a log's, with what to do, or nil: a key that
// is public, or whose number was not made by chance as far as that can be seen.
// A key made by chance passes, but for one in 10^12. [Parse] and [Load] do not
// ask: it is for commands that make a log or check its key, since a log that is
// running cannot change its key.
func (k *Key) Weak() error {
	const want = "; anybody can sign with it: make another with kiln keys new"
	if name, ok := publicKey(k.logID); ok {
		return errors.New("the key is public: it is " + name + want)
	}
	scalar, err := k.priv.Bytes()
	if err != nil {
		return fmt.Errorf("encode log key: %w", err)
	}
	d := new(big.Int).SetBytes(scalar)
	// A number beside the order is as near as one beside 0.
	negative := new(big.Int).Sub(elliptic.P256().Params().N, d)
	const least = 192 // bits: one in 2^64 has fewer
	if d.BitLen() < least || negative.BitLen() < least {
		return fmt.Errorf("the key is weak: its number has %d bits only%s", min(d.BitLen(), negative.BitLen()), want)
	}
	if why := weakBytes(scalar); why != "" {
		return errors.New("the key is weak: its number " + why + want)
	}
	return nil
}

// Check reads a key as [Parse], and refuses one that is [Key.Weak].
func Check(data []byte) (*Key, error) {
	k, err := Parse(data)
	if err != nil {
		return nil, err
	}
	if err := k.Weak(); err != nil {
		return nil, err
	}
	return k, nil
}

// kindOf says in words what a key of crypto/x509 is.
func kindOf(key any) string {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		return fmt.Sprintf("RSA (%d bits)", k.N.BitLen())
	case ed25519.PrivateKey:
		return "Ed25519"
	case *ecdsa.PrivateKey:
		return "ECDSA " + k.Curve.Params().Name
	}
	return fmt.Sprintf("a %T", key)
}

// weakBytes says what about 32 bytes is not as chance has it, or nothing. Each
// of its questions has the odds of a wrong answer beside it.
func weakBytes(b []byte) string {
	for _, text := range []string{
		"", "0", "1", "a", "abc", "test", "testing", "secret", "password", "123456", "hello", "hello world", "foo", "example",
		"kiln", "kiln test", "kiln vector secret 1", "kiln vector secret 2", // the last two stand in this package's tests
	} {
		if sum := sha256.Sum256([]byte(text)); string(sum[:]) == string(b) {
			return fmt.Sprintf("is the SHA-256 of %q", text)
		}
	}
	for period := 1; period <= len(b)/2; period++ { // 2^-128
		if repeats(b, period) {
			if period == 1 {
				return "is one byte again and again"
			}
			return fmt.Sprintf("repeats every %d bytes", period)
		}
	}
	if counts(b) { // 2^-240
		return "counts up or down"
	}
	if text(b) { // 3 * 10^-14
		return "is readable text"
	}
	seen := make(map[byte]bool)
	run, longest, ones := 0, 0, 0
	for i, x := range b {
		seen[x] = true
		ones += bits.OnesCount8(x)
		if i > 0 && b[i-1] == x {
			run++
		} else {
			run = 1
		}
		longest = max(longest, run)
	}
	switch {
	case longest >= 8: // 4 * 10^-16
		return fmt.Sprintf("has one byte %d times in a row", longest)
	case len(seen) <= 16: // 5 * 10^-14
		return fmt.Sprintf("has %d different bytes only", len(seen))
	case ones < 64 || ones > 192: // 10^-15: eight standard deviations
		return fmt.Sprintf("has %d one bits of %d", ones, 8*len(b))
	}
	return ""
}

func repeats(b []byte, period int) bool {
	for i := period; i < len(b); i++ {
		if b[i] != b[i-period] {
			return false
		}
	}
	return true
}

func counts(b []byte) bool {
	for i := 2; i < len(b); i++ {
		if b[i]-b[i-1] != b[1]-b[0] {
			return false
		}
	}
	return true
}

func text(b []byte) bool {
	for _, x := range b {
		if (x < ' ' || x > '~') && x != '\n' && x != '\t' && x != '\r' {
			return false
		}
	}
	return true
}

// publicKey returns where a private key was published, by the SHA-256 of its
// SubjectPublicKeyInfo.
func publicKey(logID [32]byte) (name string, ok bool) {
	switch hex.EncodeToString(logID[:]) {
	case "16d998442e4ed7c055f93e949f3da5227158633df425fa3465b265041b12a903":
		return "the log of the test vectors", true
	case "5a7a78cca4a0f420d9bc62bb669c3c2759e39f723d3ae10dcbe0f0815a07ecd4":
		return "that of RFC 6979, A.2.5", true
	case "2bd1bb0c44a897c30a7aa0991cde38d8062fe441de50da0f46825344f602e827":
		return "that of RFC 7515, A.3", true
	case "51b944cdfa544d4c3273aa6bf350625a7dd53bbb6a71723274f538b19a207760":
		return "that of RFC 7517, A.2", true
	case "f2f0eaf8dc295d10959c904a4d4b4cb764b5f15b4263628c3a9dfcae785d786b",
		"412ae803cfb9f0eda9249822d5d7930c3b8befb5188d7b3281a5b6fb45fe414a":
		return "one of RFC 5903, 8.1", true
	case "96bbe2369088ff02c62f95537cadb96fc70e75b3f4600eed1a841a9398d24fda",
		"e929731384bb4f430c08c4fe1093b25417402a27ee103279afc3a51c0984a2cf":
		return "a test key of certificate-transparency-go", true
	case "226acd9b52f5731987d46521bbe02fa88045f9eb0c4a262690022d23cbb5eef2",
		"fc7575b99276181ddc2ceded6d0c4a423b025ae39a0a1f94363dd2545f0331a4":
		return "a test key of Go's standard library", true
	case "278670fcbd09ff7c0d71a028613705ed458766a7c8670b850eea734ef8cbeaec",
		"2e984af2cc8e11a04fdf8683f8486868b5113f26edcacc2f569e43825cb65be1",
		"2ee7ac2500ad97e8addb5e1965cd4b7fb6ab60555ce34391328d2e7b613cc9fa",
		"b1a7f4c236dc1e0d3ba2e0cde7f2a5238aa533a1e3becb4e5461ea03b49477b3":
		return "a test key of golang.org/x/crypto", true
	}
	return "", false
}
