package auditor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// head is what a checkpoint says.
type head struct {
	size      int64
	root      hash
	timestamp uint64 // milliseconds since 1970
}

// maxSize is the largest tree: leaf indexes have 40 bits.
const maxSize = 1 << 40

// open verifies a checkpoint: a signed note of three lines, in canonical form,
// with exactly one signature by the log's key (CKP-01 to CKP-06).
func (a *Auditor) open(raw []byte) (head, error) {
	text, signatures, ok := strings.Cut(string(raw), "\n\n")
	lines := strings.Split(text, "\n")
	if !ok || len(lines) != 3 || !strings.HasSuffix(signatures, "\n") {
		return head{}, fmt.Errorf("%q is no signed note of three lines", clip(raw))
	}
	if lines[0] != a.origin {
		return head{}, fmt.Errorf("its origin is %q, want %q", lines[0], a.origin)
	}
	var h head
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || size > maxSize || strconv.FormatInt(size, 10) != lines[1] {
		return head{}, fmt.Errorf("%q is no tree size", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != len(h.root) {
		return head{}, fmt.Errorf("%q is no root", lines[2])
	}
	h.size, h.root = size, hash(root)
	if h.size == 0 && h.root != sha256.Sum256(nil) {
		return head{}, fmt.Errorf("the empty tree has root %x", h.root)
	}
	h.timestamp, err = a.verifyNote(h, signatures)
	return h, err
}

func (a *Auditor) verifyNote(h head, signatures string) (timestamp uint64, err error) {
	d := sha256.New()
	d.Write([]byte(a.origin + "\n\x05"))
	d.Write(a.logID[:])
	id := d.Sum(nil)[:4]

	found := 0
	for line := range strings.Lines(signatures) {
		name, blob64, ok := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(line, "\n"), "— "), " ")
		blob, err := base64.StdEncoding.Strict().DecodeString(blob64)
		if !ok || !strings.HasPrefix(line, "— ") || name == "" || err != nil || len(blob) < 5 {
			return 0, fmt.Errorf("%q is no signature line", line)
		}
		if name != a.origin || !bytes.Equal(blob[:4], id) {
			continue
		}
		found++
		if len(blob) < 16 {
			return 0, errors.New("its signature is too short")
		}
		timestamp = binary.BigEndian.Uint64(blob[4:])
		signed := append([]byte{0, 1}, blob[4:12]...)
		signed = binary.BigEndian.AppendUint64(signed, uint64(h.size))
		signed = append(signed, h.root[:]...)
		if err := a.verify(signed, blob[12:]); err != nil {
			return 0, fmt.Errorf("of %d entries at %d ms: %w", h.size, timestamp, err)
		}
	}
	if found != 1 {
		return 0, fmt.Errorf("it has %d signatures of the log's key, want one", found)
	}
	return timestamp, nil
}

// verify checks a TLS DigitallySigned structure of the log's key.
func (a *Auditor) verify(signed, signature []byte) error {
	if len(signature) < 4 || signature[0] != 4 || signature[1] != 3 || int(binary.BigEndian.Uint16(signature[2:])) != len(signature)-4 {
		return fmt.Errorf("%x is no signature by ECDSA with SHA-256", clip(signature))
	}
	digest := sha256.Sum256(signed)
	if !ecdsa.VerifyASN1(a.key, digest[:], signature[4:]) {
		return errors.New("its signature does not verify")
	}
	return nil
}

func clip(b []byte) []byte { return b[:min(len(b), 200)] }
