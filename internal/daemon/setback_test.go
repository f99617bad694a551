package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/daemon"
)

// snapshot copies lock and storage of a stopped log, and returns what puts the
// copy in their place.
func (r *rig) snapshot(i int) (putBack func()) {
	r.t.Helper()
	conf, dir := r.cfg.Logs[i], r.t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "storage"), os.DirFS(conf.Storage)); err != nil {
		r.t.Fatal(err)
	}
	lock, err := os.ReadFile(conf.Lock)
	if err != nil {
		r.t.Fatal(err)
	}
	return func() {
		r.t.Helper()
		if err := os.RemoveAll(conf.Storage); err != nil {
			r.t.Fatal(err)
		}
		if err := os.CopyFS(conf.Storage, os.DirFS(filepath.Join(dir, "storage"))); err != nil {
			r.t.Fatal(err)
		}
		for _, suffix := range []string{"-wal", "-shm"} {
			_ = os.Remove(conf.Lock + suffix)
		}
		if err := os.WriteFile(conf.Lock, lock, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

// TestSetBack puts an old copy of lock and storage in their place, as a snapshot
// of a volume or a restored bucket would. The deduplication cache knows better:
// nothing is signed, and the evidence stays.
func TestSetBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	r.submit(0, r.chain())
	r.stop()
	putBack := r.snapshot(0)
	r.start()
	for range 3 {
		r.submit(0, r.chain())
	}
	r.stop()
	putBack()
	before, err := os.ReadFile(filepath.Join(r.cfg.Logs[0].Storage, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := daemon.Start(t.Context(), r.cfg, r.opts); err == nil || !strings.Contains(err.Error(), "were set back") {
			t.Fatalf("start: %v", err)
		}
	}
	after, err := os.ReadFile(filepath.Join(r.cfg.Logs[0].Storage, "checkpoint"))
	if err != nil || string(after) != string(before) {
		t.Errorf("something was signed: %v\n%s", err, after)
	}
}

// TestCreateBesideRemains refuses to make a log anew whose storage and lock are
// elsewhere than they were.
func TestCreateBesideRemains(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	r.submit(0, r.chain())
	r.stop()
	conf := r.cfg.Logs[0]
	conf.Storage, conf.Lock = filepath.Join(t.TempDir(), "empty"), filepath.Join(t.TempDir(), "lock.db")
	if err := daemon.CreateLog(t.Context(), r.cfg, conf, r.opts); err == nil || !strings.Contains(err.Error(), "there was a log") {
		t.Errorf("CreateLog: %v", err)
	}
	if _, err := os.Stat(filepath.Join(conf.Storage, "checkpoint")); err == nil {
		t.Error("a checkpoint was made")
	}
}
