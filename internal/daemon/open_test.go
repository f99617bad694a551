package daemon_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kiln/batcher"
	"kiln/entry"
	"kiln/frontend"
	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/logkey"
	lockmem "kiln/lock/mem"
	"kiln/sequencer"
	storagemem "kiln/storage/mem"
	"kiln/testlogs"
)

// memParts makes a log in memory, and the PKI it accepts.
func memParts(t *testing.T) (*daemon.Parts, *testlogs.CA) {
	t.Helper()
	ca, err := testlogs.NewCA(testlogs.CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	dir, now, id := t.TempDir(), time.Now().UTC().Truncate(time.Second), key.LogID()
	p := &daemon.Parts{
		Conf: config.NewLog("one", "http://ct.test/one/", dir, now.AddDate(-1, 0, 0), now.AddDate(1, 0, 0)),
		Key:  key, Bucket: storagemem.New(), Lock: lockmem.New(), LockID: hex.EncodeToString(id[:]),
	}
	if err := os.WriteFile(filepath.Join(dir, "roots.pem"), ca.RootPEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	err = sequencer.Create(t.Context(), sequencer.Config{
		Origin: p.Conf.Origin, Key: key, Bucket: p.Bucket, Lock: p.Lock, LockID: p.LockID,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, ca
}

// passing counts what passes between two roles.
type passing struct {
	frontend.Batcher
	batcher.Sequencer
	adds, sequences int
}

func (p *passing) Add(ctx context.Context, e *entry.Pending) (entry.SCT, error) {
	p.adds++
	return p.Batcher.Add(ctx, e)
}

func (p *passing) Sequence(ctx context.Context, batch []*entry.Pending) ([]entry.Placement, error) {
	p.sequences++
	return p.Sequencer.Sequence(ctx, batch)
}

// A log that is run on parts in memory takes a submission through each seam.
func TestOpenLogOnParts(t *testing.T) {
	t.Parallel()
	parts, ca := memParts(t)
	chain, err := ca.Leaf(testlogs.LeafOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var seen passing
	l, err := daemon.OpenLog(t.Context(), parts, daemon.Options{}, daemon.Seams{
		Batcher:   func(b frontend.Batcher) frontend.Batcher { seen.Batcher = b; return &seen },
		Sequencer: func(s batcher.Sequencer) batcher.Sequencer { seen.Sequencer = s; return &seen },
	})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string][][]byte{"chain": chain.Submitted()})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	l.Submission().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/ct/v1/add-chain", bytes.NewReader(body)))
	if w.Code != http.StatusOK {
		t.Errorf("add-chain: %d %s", w.Code, w.Body)
	}
	w = httptest.NewRecorder()
	l.Monitoring().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/checkpoint", nil))
	if w.Code != http.StatusOK {
		t.Errorf("checkpoint: %d %s", w.Code, w.Body)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if seen.adds != 1 || seen.sequences != 1 {
		t.Errorf("%d calls of Add and %d of Sequence passed, want 1 of each", seen.adds, seen.sequences)
	}
	if l.Err() != nil {
		t.Error(l.Err())
	}
}
