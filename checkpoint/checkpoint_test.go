package checkpoint_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/internal/logkey"
)

// vectors is the part of vectors.json that concerns checkpoints.
type vectors struct {
	Assets struct {
		Root []byte `json:"root_hash_b64"`
	} `json:"assets_at_size_3"`
	Checkpoints struct {
		MustNotVerify []struct {
			Checkpoint string `json:"checkpoint"`
			Why        string `json:"why"`
		} `json:"must_not_verify"`
		KeyID string           `json:"rfc6962_key_id_hex"`
		Size0 checkpointVector `json:"size_0"`
		Size3 checkpointVector `json:"size_3"`
		Multi checkpointVector `json:"size_3_multi_signature"`
	} `json:"checkpoints"`
	Log struct {
		Origin string `json:"origin"`
		PEM    string `json:"private_key_pkcs8_pem"`
		SPKI   []byte `json:"spki_der_b64"`
	} `json:"log"`
}

type checkpointVector struct {
	Checkpoint  string `json:"checkpoint"`
	Blob        string `json:"note_signature_blob_hex"`
	Timestamp   int64  `json:"timestamp_ms"`
	WitnessVKey string `json:"witness_vkey"`
}

func readVectors(t testing.TB) *vectors {
	t.Helper()
	data, err := os.ReadFile("../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	v := new(vectors)
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
	if len(v.Checkpoints.MustNotVerify) == 0 || v.Log.Origin == "" {
		t.Fatal("vectors.json has no checkpoints")
	}
	return v
}

func (v *vectors) tree3() tlog.Tree { return tlog.Tree{N: 3, Hash: tlog.Hash(v.Assets.Root)} }

func (v *vectors) key(t testing.TB) *logkey.Key {
	t.Helper()
	k, err := logkey.Parse([]byte(v.Log.PEM))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (v *vectors) signer(t testing.TB, grease bool) *checkpoint.Signer {
	t.Helper()
	s, err := checkpoint.NewSigner(v.Log.Origin, v.key(t), grease)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (v *vectors) verifier(t testing.TB) *checkpoint.Verifier {
	t.Helper()
	c, err := checkpoint.NewVerifier(v.Log.Origin, v.Log.SPKI)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVectors(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for _, c := range []struct {
		tree tlog.Tree
		want checkpointVector
	}{
		{checkpoint.EmptyTree(), v.Checkpoints.Size0},
		{v.tree3(), v.Checkpoints.Size3},
	} {
		raw, err := v.signer(t, false).Sign(c.tree, c.want.Timestamp)
		if err != nil || string(raw) != c.want.Checkpoint {
			t.Errorf("size %d: checkpoint is\n%s\n%v, want\n%s", c.tree.N, raw, err, c.want.Checkpoint)
		}
		want := checkpoint.Checkpoint{Origin: v.Log.Origin, Tree: c.tree, TimestampMillis: c.want.Timestamp}
		if got, err := v.verifier(t).Open([]byte(c.want.Checkpoint)); err != nil || got != want {
			t.Errorf("size %d: opens as %+v, %v, want %+v", c.tree.N, got, err, want)
		}
	}
	got := linesOf(t, []byte(v.Checkpoints.Size3.Checkpoint))[0]
	if id := fmt.Sprintf("%08x", got.keyID); id != v.Checkpoints.KeyID {
		t.Errorf("key ID is %s, want %s", id, v.Checkpoints.KeyID)
	}
	if blob := hex.EncodeToString(got.blob); blob != v.Checkpoints.Size3.Blob {
		t.Errorf("signature is %s, want %s", blob, v.Checkpoints.Size3.Blob)
	}
}

func TestMultiSignature(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	c, err := v.verifier(t).Open([]byte(v.Checkpoints.Multi.Checkpoint))
	want := checkpoint.Checkpoint{Origin: v.Log.Origin, Tree: v.tree3(), TimestampMillis: v.Checkpoints.Size3.Timestamp}
	if err != nil || c != want {
		t.Errorf("opens as %+v, %v, want %+v", c, err, want)
	}
	witness, err := torchwood.NewCosignatureVerifier(v.Checkpoints.Multi.WitnessVKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open([]byte(v.Checkpoints.Multi.Checkpoint), note.VerifierList(witness)); err != nil {
		t.Errorf("witness cosignature of the vector: %v", err)
	}
}

func TestMustNotVerify(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for _, c := range v.Checkpoints.MustNotVerify {
		if got, err := v.verifier(t).Open([]byte(c.Checkpoint)); err == nil {
			t.Errorf("%s: opens as %+v", c.Why, got)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	good := v.Checkpoints.Size3.Checkpoint
	other, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := checkpoint.NewSigner(v.Log.Origin, other, false)
	if err != nil {
		t.Fatal(err)
	}
	otherKey, err := foreign.Sign(v.tree3(), 1)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := checkpoint.NewSigner("log.example.net/2027h1", v.key(t), false)
	if err != nil {
		t.Fatal(err)
	}
	otherOrigin, err := elsewhere.Sign(v.tree3(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ raw, want string }{
		"empty":            {"", "malformed"},
		"no signature":     {good[:strings.Index(good, "\n\n")+2], ""},
		"truncated":        {good[:len(good)-1], ""},
		"trailing text":    {good + "x\n", ""},
		"size altered":     {strings.Replace(good, "\n3\n", "\n4\n", 1), ""},
		"negative size":    {strings.Replace(good, "\n3\n", "\n-3\n", 1), ""},
		"root's spare bit": {strings.Replace(good, "RVkMI=", "RVkMK=", 1), "canonical"},
		"other key":        {string(otherKey), `of "` + v.Log.Origin},
		"other origin":     {string(otherOrigin), `of "log.example.net/2027h1"`},
		"too large":        {good + strings.Repeat("— a AAAAAAA=\n", 6000), "at most"},
	} {
		if got, err := v.verifier(t).Open([]byte(c.raw)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: opens as %+v, %v, want an error with %q", name, got, err, c.want)
		}
	}
}

// TestOpenRange opens checkpoints with right signatures over tree heads that no
// log has.
func TestOpenRange(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for name, c := range map[string]struct {
		size, timestamp uint64
		want            string // part of the error; empty: none
	}{
		"largest":             {1 << 40, 1<<63 - 1, ""},
		"size over 2^40":      {1<<40 + 1, 1, "over 2^40"},
		"timestamp over 2^63": {1, 1 << 63, "malformed"},
	} {
		input := binary.BigEndian.AppendUint64([]byte{0, 1}, c.timestamp)
		input = binary.BigEndian.AppendUint64(input, c.size)
		sig, err := v.key(t).Sign(append(input, v.Assets.Root...))
		if err != nil {
			t.Fatal(err)
		}
		blob := binary.BigEndian.AppendUint64(unhex(t, v.Checkpoints.KeyID), c.timestamp)
		raw := fmt.Sprintf("%s\n%d\n%s\n\n— %s %s\n", v.Log.Origin, c.size, base64.StdEncoding.EncodeToString(v.Assets.Root),
			v.Log.Origin, base64.StdEncoding.EncodeToString(append(blob, sig...)))
		got, err := v.verifier(t).Open([]byte(raw))
		switch {
		case c.want == "" && (err != nil || uint64(got.Tree.N) != c.size || uint64(got.TimestampMillis) != c.timestamp):
			t.Errorf("%s: opens as %+v, %v", name, got, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: opens as %+v, %v, want an error with %q", name, got, err, c.want)
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

// TestOpenFlips flips every bit of a checkpoint: it no longer opens.
func TestOpenFlips(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	good := []byte(v.Checkpoints.Size3.Checkpoint)
	for i := range good {
		for bit := range 8 {
			bad := slices.Clone(good)
			bad[i] ^= 1 << bit
			if got, err := v.verifier(t).Open(bad); err == nil {
				t.Errorf("bit %d of byte %d flipped opens as %+v:\n%s", bit, i, got, bad)
			}
		}
	}
}

func TestManyLines(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	good := v.Checkpoints.Size3.Checkpoint
	body, line, _ := strings.Cut(good, "— ")
	var lines string
	for i := range 16 {
		lines += fmt.Sprintf("— witness-%d.example.org %s\n", i, base64.StdEncoding.EncodeToString([]byte{0, 0, 0, byte(i), 1}))
	}
	if _, err := v.verifier(t).Open([]byte(body + lines + "— " + line)); err != nil {
		t.Errorf("checkpoint with 16 unknown lines: %v", err)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for name, c := range map[string]struct {
		n, ts int64
		want  string
	}{
		"largest":        {1 << 40, 1<<63 - 1, ""},
		"size over 2^40": {1<<40 + 1, 1, "outside [0, 2^40]"},
		"negative size":  {-1, 1, "outside [0, 2^40]"},
		"negative time":  {1, -1, "is negative"},
	} {
		raw, err := v.signer(t, true).Sign(tlog.Tree{N: c.n}, c.ts)
		if (err == nil) != (c.want == "") || err != nil && (raw != nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %d bytes, %v", name, len(raw), err)
		}
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	t.Parallel()
	v := readVectors(t)
	for _, origin := range []string{"", "a b", "a+b", "a\nb", "\xff"} {
		if _, err := checkpoint.NewVerifier(origin, v.Log.SPKI); err == nil {
			t.Errorf("origin %q is taken", origin)
		}
		if _, err := checkpoint.NewSigner(origin, v.key(t), false); err == nil {
			t.Errorf("origin %q is taken by the signer", origin)
		}
	}
	if _, err := checkpoint.NewVerifier(v.Log.Origin, v.Log.SPKI[1:]); err == nil || !strings.Contains(err.Error(), v.Log.Origin) {
		t.Errorf("damaged SPKI: error %v, want one that names the origin", err)
	}
}

func TestNewer(t *testing.T) {
	t.Parallel()
	at := func(n, ts int64) checkpoint.Checkpoint {
		return checkpoint.Checkpoint{Origin: "o", Tree: tlog.Tree{N: n}, TimestampMillis: ts}
	}
	for _, c := range []struct {
		n, ts int64
		want  bool
	}{
		{10, 100, false},
		{10, 101, true},
		{11, 101, true},
		{11, 100, false},
		{9, 101, false},
		{10, 99, false},
		{11, 99, false},
		{9, 99, false},
	} {
		if got := at(c.n, c.ts).Newer(at(10, 100)); got != c.want {
			t.Errorf("size %d at %d is newer than size 10 at 100: %v, want %v", c.n, c.ts, got, c.want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	v := readVectors(f)
	for _, c := range []checkpointVector{v.Checkpoints.Size0, v.Checkpoints.Size3, v.Checkpoints.Multi} {
		f.Add([]byte(c.Checkpoint))
	}
	for _, c := range v.Checkpoints.MustNotVerify {
		f.Add([]byte(c.Checkpoint))
	}
	verifier := v.verifier(f)
	known := map[checkpoint.Checkpoint]bool{
		{Origin: v.Log.Origin, Tree: checkpoint.EmptyTree(), TimestampMillis: v.Checkpoints.Size0.Timestamp}: true,
		{Origin: v.Log.Origin, Tree: v.tree3(), TimestampMillis: v.Checkpoints.Size3.Timestamp}:              true,
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		// The key signs nothing else, so all that opens is one of two.
		if c, err := verifier.Open(raw); err == nil && !known[c] {
			t.Fatalf("forged: %+v\n%s", c, raw)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	v := readVectors(b)
	s := v.signer(b, true)
	for b.Loop() {
		if _, err := s.Sign(v.tree3(), 1); err != nil {
			b.Fatal(err)
		}
	}
}
