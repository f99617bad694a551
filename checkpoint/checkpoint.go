// Package checkpoint makes, opens and compares the signed checkpoints of a log:
// tree heads in the form of a C2SP signed note with an RFC 6962 signature
// (Static CT API v1.1.0, "Checkpoints"; CKP-01 to CKP-06).
//
// Invariants: what Sign returns was opened and compared by the verifying side
// before; Open accepts only checkpoints of one origin and one key, without
// extension lines.
//
// The package never knows tiles, storage or rounds.
package checkpoint

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"filippo.io/sunlight"
	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/logkey"
)

// MaxSize is the largest checkpoint that Open reads, in bytes.
const MaxSize = 64 << 10

// maxTree is the largest tree: leaf indexes have 40 bits.
const maxTree = 1 << 40

// noteRFC6962 is the signed-note signature type of an RFC 6962 tree head.
const noteRFC6962 = 0x05

// greaseName belongs to nobody (RFC 2606), so that no client can know a key of it.
const greaseName = "grease.invalid"

// Checkpoint is a signed tree head.
type Checkpoint struct {
	Origin          string    // the submission prefix without scheme and trailing slash
	Tree            tlog.Tree // size in entries, and root
	TimestampMillis int64     // milliseconds since 1970 UTC
}

// EmptyTree is the tree of size 0; its root is SHA-256 of nothing (CKP-06).
func EmptyTree() tlog.Tree {
	return tlog.Tree{N: 0, Hash: sha256.Sum256(nil)}
}

// Newer reports whether a reader that saw old may be given c: it has a later
// timestamp and is no smaller.
func (c Checkpoint) Newer(old Checkpoint) bool {
	return c.TimestampMillis > old.TimestampMillis && c.Tree.N >= old.Tree.N
}

// Verifier opens the checkpoints of one origin and key. It is safe for
// concurrent use.
type Verifier struct {
	origin   string
	verifier note.Verifier
}

// NewVerifier returns the verifier of an origin and a DER SubjectPublicKeyInfo.
func NewVerifier(origin string, spki []byte) (*Verifier, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("parse public key of %s: %w", origin, err)
	}
	v, err := sunlight.NewRFC6962Verifier(origin, pub)
	if err != nil {
		return nil, fmt.Errorf("make checkpoint verifier of %q: %w", origin, err)
	}
	return &Verifier{origin: origin, verifier: v}, nil
}

// Open verifies a checkpoint and returns what it says. Signature lines by other
// keys are ignored (CKP-12).
func (v *Verifier) Open(raw []byte) (Checkpoint, error) {
	if len(raw) > MaxSize {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: %d bytes, at most %d are read", v.origin, len(raw), MaxSize)
	}
	n, err := note.Open(raw, note.VerifierList(v.verifier))
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		return Checkpoint{}, fmt.Errorf("open checkpoint: no signature by the key of %s (the checkpoint says it is of %q)",
			v.origin, firstLine(unverified.Note.Text))
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: %w", v.origin, err)
	}
	c, err := torchwood.ParseCheckpoint(n.Text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: %w", v.origin, err)
	}
	if c.String() != n.Text {
		// The signature covers the hash, not its base64, whose last bits are free.
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: text is not in canonical form", v.origin)
	}
	ts, err := sunlight.RFC6962SignatureTimestamp(n.Sigs[0])
	if err != nil {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: %w", v.origin, err)
	}
	if c.N > maxTree {
		return Checkpoint{}, fmt.Errorf("open checkpoint of %s: size %d is over 2^40", v.origin, c.N)
	}
	return Checkpoint{Origin: c.Origin, Tree: c.Tree, TimestampMillis: ts}, nil
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// Signer makes the checkpoints of one log. It is safe for concurrent use.
type Signer struct {
	origin   string
	key      *logkey.Key
	keyID    uint32
	verifier *Verifier
	grease   bool
}

// NewSigner returns the signer of a log. With grease, each checkpoint carries
// one or two signature lines that nobody can verify, at random places, so that
// clients which choke on unknown lines are found early (CKP-17).
func NewSigner(origin string, key *logkey.Key, grease bool) (*Signer, error) {
	v, err := NewVerifier(origin, key.SPKI())
	if err != nil {
		return nil, err
	}
	return &Signer{origin: origin, key: key, keyID: keyID(origin, key.LogID()), verifier: v, grease: grease}, nil
}

// keyID is the note key ID of an RFC 6962 key: over the log ID, not the SPKI
// (CKP-03).
func keyID(origin string, logID [32]byte) uint32 {
	h := sha256.New()
	h.Write([]byte(origin))
	h.Write([]byte{'\n', noteRFC6962})
	h.Write(logID[:])
	return binary.BigEndian.Uint32(h.Sum(nil))
}

// Verifier returns the verifier of what the signer makes.
func (s *Signer) Verifier() *Verifier { return s.verifier }

// Sign returns the signed note of a tree head. It opens what it made and fails
// rather than return a checkpoint that does not verify or says anything else.
func (s *Signer) Sign(tree tlog.Tree, timestampMillis int64) ([]byte, error) {
	if tree.N < 0 || tree.N > maxTree {
		return nil, fmt.Errorf("sign checkpoint of %s: size %d is outside [0, 2^40]", s.origin, tree.N)
	}
	if timestampMillis < 0 {
		return nil, fmt.Errorf("sign checkpoint of %s: timestamp %d is negative", s.origin, timestampMillis)
	}
	signature, err := s.key.Sign(treeHeadInput(tree, timestampMillis))
	if err != nil {
		return nil, fmt.Errorf("sign checkpoint of %s: %w", s.origin, err)
	}
	blob := binary.BigEndian.AppendUint32(nil, s.keyID)
	blob = binary.BigEndian.AppendUint64(blob, uint64(timestampMillis))
	blob = append(blob, signature...)

	lines := []string{signatureLine(s.origin, blob)}
	if s.grease {
		lines = append(lines, s.greaseLines()...)
		rand.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	}
	raw := fmt.Appendf(nil, "%s\n%d\n%s\n\n%s", s.origin, tree.N,
		base64.StdEncoding.EncodeToString(tree.Hash[:]), strings.Join(lines, ""))

	got, err := s.verifier.Open(raw)
	if err != nil {
		return nil, fmt.Errorf("verify the checkpoint just signed: %w", err)
	}
	if want := (Checkpoint{Origin: s.origin, Tree: tree, TimestampMillis: timestampMillis}); got != want {
		return nil, fmt.Errorf("verify the checkpoint just signed: it says %+v, want %+v", got, want)
	}
	return raw, nil
}

// treeHeadInput is the TreeHeadSignature input of RFC 6962 section 3.5 (CKP-04).
func treeHeadInput(tree tlog.Tree, timestampMillis int64) []byte {
	b := []byte{0 /* v1 */, 1 /* tree_hash */}
	b = binary.BigEndian.AppendUint64(b, uint64(timestampMillis))
	b = binary.BigEndian.AppendUint64(b, uint64(tree.N))
	return append(b, tree.Hash[:]...)
}

func signatureLine(name string, blob []byte) string {
	return "— " + name + " " + base64.StdEncoding.EncodeToString(blob) + "\n"
}

// greaseLines returns one or two lines that no known key verifies. One under
// our own name must not collide with the real key ID, nor be shorter than a key
// ID and a byte: a monitor gives up on such lines (CKP-13).
func (s *Signer) greaseLines() []string {
	blob := func() []byte {
		b := make([]byte, 5+rand.IntN(60))
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		for binary.BigEndian.Uint32(b) == s.keyID {
			b[0]++
		}
		return b
	}
	lines := []string{signatureLine(greaseName, blob())}
	if rand.IntN(2) == 0 {
		lines = append(lines, signatureLine(s.origin, blob()))
	}
	return lines
}
