package reader

import (
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
)

func (r *rig) sign(size int64, timestampMillis int64) []byte {
	r.t.Helper()
	tree := tlog.Tree{N: size, Hash: tlog.Hash{byte(size)}}
	if size == 0 {
		tree = checkpoint.EmptyTree()
	}
	raw, err := r.signer.Sign(tree, timestampMillis)
	if err != nil {
		r.t.Fatal(err)
	}
	return raw
}

// TestCheckpointOnlyForward shows that what readers see never shrinks or goes
// back, whatever storage does (CKP-10).
func TestCheckpointOnlyForward(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	start := r.v.Checkpoints.Size3.TimestampMillis
	served := r.v.Checkpoints.Size3.Checkpoint
	for _, step := range []struct {
		name string
		raw  []byte
		new  bool
		told bool
	}{
		{"grown", r.sign(4, start+1000), true, false},
		{"signed anew", r.sign(4, start+2000), true, false},
		{"the first again", []byte(served), false, false},
		{"older", r.sign(4, start+1500), false, false},
		{"smaller and newer", r.sign(3, start+5000), false, true},
		{"grown again", r.sign(5, start+6000), true, true},
	} {
		r.publish(step.raw)
		if step.new {
			served = string(step.raw)
		}
		for range 2 {
			if w := r.do("GET", "/checkpoint"); w.Code != 200 || w.Body.String() != served {
				t.Errorf("%s: got %d\n%s, want\n%s", step.name, w.Code, w.Body, served)
			}
		}
		if told := r.logs.String() != ""; told != step.told {
			t.Errorf("%s: log says %q", step.name, r.logs)
		}
	}
	if n := strings.Count(r.logs.String(), "smaller tree"); n != 1 {
		t.Errorf("the operator was told %d times of one shrunken checkpoint", n)
	}
}

func TestCheckpointUnreadable(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	other := strings.Replace(r.v.Checkpoints.Size3.Checkpoint, "\n3\n", "\n4\n", 1)
	for name, raw := range map[string]string{"cut off": "log.example.net", "changed": other, "empty": ""} {
		r.publish([]byte(raw))
		w := r.do("GET", "/checkpoint")
		if w.Code != 503 {
			t.Errorf("%s: got %d, want 503", name, w.Code)
		}
		checkError(t, name, w)
	}
	if err := r.bucket.Delete(t.Context(), "checkpoint"); err != nil {
		t.Fatal(err)
	}
	if w := r.do("GET", "/checkpoint"); w.Code != 503 {
		t.Errorf("none: got %d, want 503", w.Code)
	}
	if !strings.Contains(r.logs.String(), "checkpoint cannot be served") {
		t.Error("the operator was not told")
	}
	r.publish([]byte(r.v.Checkpoints.Size0.Checkpoint))
	if w := r.do("GET", "/checkpoint"); w.Code != 200 || w.Body.String() != r.v.Checkpoints.Size0.Checkpoint {
		t.Errorf("the empty log: got %d %s", w.Code, w.Body)
	}
}
