package checkpoint_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"testing"

	"filippo.io/sunlight"
	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
)

// line is a signature line, taken apart by hand.
type line struct {
	name  string
	keyID uint32
	blob  []byte // with the key ID
}

func linesOf(t *testing.T, raw []byte) []line {
	t.Helper()
	_, sigs, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok || !bytes.HasSuffix(sigs, []byte("\n")) {
		t.Fatalf("not a signed note: %q", raw)
	}
	var lines []line
	for s := range strings.Lines(string(sigs)) {
		f := strings.Split(strings.TrimSuffix(s, "\n"), " ")
		if len(f) != 3 || f[0] != "—" {
			t.Fatalf("signature line %q", s)
		}
		blob, err := base64.StdEncoding.Strict().DecodeString(f[2])
		if err != nil || len(blob) < 5 {
			t.Fatalf("signature line %q: %d bytes, %v", s, len(blob), err)
		}
		lines = append(lines, line{f[1], binary.BigEndian.Uint32(blob), blob})
	}
	return lines
}

// TestGrease makes 500 checkpoints with lines that nobody can verify, and opens
// them with readers that are not ours.
func TestGrease(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	signer := v.signer(t, true)
	sun, err := sunlight.NewRFC6962Verifier(v.Log.Origin, v.key(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	places, counts, own := map[int]int{}, map[int]int{}, 0
	for i := range int64(500) {
		ts := v.Checkpoints.Size3.Timestamp + i
		raw, err := signer.Sign(v.tree3(), ts)
		if err != nil {
			t.Fatal(err)
		}
		n, err := note.Open(raw, note.VerifierList(sun))
		if err != nil || len(n.Sigs) != 1 {
			t.Fatalf("note.Open: %v\n%s", err, raw)
		}
		if got, err := sunlight.RFC6962SignatureTimestamp(n.Sigs[0]); err != nil || got != ts {
			t.Fatalf("timestamp is %d, %v, want %d", got, err, ts)
		}
		if c, err := torchwood.ParseCheckpoint(n.Text); err != nil || c.Tree != v.tree3() || c.Origin != v.Log.Origin || c.Extension != "" {
			t.Fatalf("checkpoint says %+v, %v", c, err)
		}
		if c, err := signer.Verifier().Open(raw); err != nil || c.TimestampMillis != ts || c.Tree != v.tree3() {
			t.Fatalf("Open: %+v, %v", c, err)
		}
		real := 0
		lines := linesOf(t, raw)
		for place, l := range lines {
			switch {
			case l.keyID == sun.KeyHash():
				real++
				places[place]++
				if l.name != v.Log.Origin {
					t.Fatalf("the real key ID is under the name %q", l.name)
				}
			case l.name == v.Log.Origin:
				own++
			case l.name != "grease.invalid":
				t.Fatalf("line under the name %q", l.name)
			}
		}
		if real != 1 {
			t.Fatalf("%d lines have the key ID of the log:\n%s", real, raw)
		}
		counts[len(lines)]++
	}
	if len(places) != 3 || len(counts) != 2 || counts[2] == 0 || counts[3] == 0 || own == 0 {
		t.Errorf("grease does not vary: places of the real line %v, numbers of lines %v, %d under our name", places, counts, own)
	}
}

func TestNoGrease(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	raw, err := v.signer(t, false).Sign(v.tree3(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if lines := linesOf(t, raw); len(lines) != 1 {
		t.Errorf("%d signature lines, want 1", len(lines))
	}
}
