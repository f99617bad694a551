package checkpoint_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/internal/fuzztest"
)

// FuzzSigned opens texts that the log's own key has signed, so that what comes
// after the signature is read too. Whatever opens is the one way to write what it
// says, and what the log itself would write.
func FuzzSigned(f *testing.F) {
	v := readVectors(f)
	key := v.key(f)
	id := key.LogID()
	signer, verifier := v.signer(f, false), v.verifier(f)
	root := v.tree3().Hash.String()
	for _, size := range []string{"3", "0", "03", "-1", "1099511627776", "1099511627777", "9223372036854775808", ""} {
		f.Add(fmt.Sprintf("%s\n%s\n%s\n", v.Log.Origin, size, root), int64(1_780_000_000_000))
	}
	f.Add(fmt.Sprintf("%s\n3\n%s\n", v.Log.Origin, otherSpelling(root)), int64(1))
	f.Add(fmt.Sprintf("%s\n3\n%s\nextension\n", v.Log.Origin, root), int64(1))
	f.Add(fmt.Sprintf("%s\n3\n%s=\n", v.Log.Origin, root), int64(1))
	f.Add(fmt.Sprintf("other\n3\n%s\n", root), int64(-1))
	f.Fuzz(func(t *testing.T, text string, timestamp int64) {
		tree := tlog.Tree{}
		if c, err := torchwood.ParseCheckpoint(text); err == nil {
			tree = c.Tree
		}
		signature, err := key.Sign(treeHead(tree, timestamp))
		if err != nil {
			t.Fatal(err)
		}
		blob := binary.BigEndian.AppendUint32(nil, noteKeyID(v.Log.Origin, id))
		blob = binary.BigEndian.AppendUint64(blob, uint64(timestamp))
		blob = append(blob, signature...)
		raw := text + "\n— " + v.Log.Origin + " " + base64.StdEncoding.EncodeToString(blob) + "\n"
		got, err := verifier.Open([]byte(raw))
		if err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		want := checkpoint.Checkpoint{Origin: v.Log.Origin, Tree: tree, TimestampMillis: timestamp}
		if got != want || timestamp < 0 {
			t.Fatalf("opened %+v, want %+v", got, want)
		}
		again, err := signer.Sign(got.Tree, got.TimestampMillis)
		if err != nil || string(again) != raw {
			t.Fatalf("opened %q, which the log signs as %q, %v", raw, again, err)
		}
	})
}

// treeHead is the TreeHeadSignature input, written a second time.
func treeHead(tree tlog.Tree, timestamp int64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{0, 1}, uint64(timestamp))
	b = binary.BigEndian.AppendUint64(b, uint64(tree.N))
	return append(b, tree.Hash[:]...)
}

// noteKeyID is the key ID of a signature of RFC 6962 in a note.
func noteKeyID(origin string, logID [32]byte) uint32 {
	sum := sha256.Sum256([]byte(origin + "\n\x05" + string(logID[:])))
	return binary.BigEndian.Uint32(sum[:])
}

// FuzzNewVerifier makes verifiers of any key. What is made opens what is no
// checkpoint with an error, and never panics on a key of an odd kind.
func FuzzNewVerifier(f *testing.F) {
	v := readVectors(f)
	key := v.key(f)
	raw := []byte(v.Checkpoints.Size3.Checkpoint)
	f.Add(v.Log.Origin, key.SPKI(), raw)
	f.Add("a b", key.SPKI(), raw)
	f.Add("", key.SPKI(), raw)
	f.Add("a+b", key.SPKI()[:20], raw)
	f.Fuzz(func(t *testing.T, origin string, spki, raw []byte) {
		verifier, err := checkpoint.NewVerifier(origin, spki)
		if err != nil {
			return
		}
		c, err := verifier.Open(raw)
		if err != nil {
			return
		}
		if c.Origin != origin {
			t.Fatalf("a checkpoint of %q was opened as one of %q", c.Origin, origin)
		}
		if _, err := note.Open(raw, note.VerifierList()); err == nil {
			t.Fatal("a note without a known signature opens")
		}
	})
}

// otherSpelling writes the same hash with other free bits at the end of its base64.
func otherSpelling(hash string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	at := len(hash) - 2 // before the padding
	return hash[:at] + string(alphabet[strings.IndexByte(alphabet, hash[at])^1]) + hash[at+1:]
}
