package daemon_test

import (
	"bytes"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"kiln/internal/daemon"
	"kiln/lock/sqlite"
)

// What has killed logs, at the level of the process: docs/reliability.md maps each
// case to its test.

// grow submits n chains at once to the first log.
func (r *rig) grow(n int) {
	r.t.Helper()
	client := r.client(0)
	var g errgroup.Group
	g.SetLimit(64)
	for range n {
		chain := r.chain()
		g.Go(func() error {
			_, err := client.Submit(r.t.Context(), chain)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		r.t.Fatal(err)
	}
}

// cell reads the first log's cell of the lock.
func (r *rig) cell() string {
	r.t.Helper()
	var body string
	r.decided2(0, func(p *daemon.Parts) error {
		held, err := p.Lock.Load(r.t.Context(), p.LockID)
		body = string(held.Body)
		return err
	})
	return body
}

func (r *rig) read(path string) []byte {
	r.t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	return body
}

func overwrite(t *testing.T, path string, body []byte) {
	t.Helper()
	_ = os.Chmod(path, 0o600)
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
}

// refuses starts the one log, which must fail for a reason that says want, and sign
// nothing.
func (r *rig) refuses(t *testing.T, want string) {
	t.Helper()
	checkpoint := filepath.Join(r.cfg.Logs[0].Storage, "checkpoint")
	public, cell := r.read(checkpoint), r.cell()
	d, err := daemon.Start(t.Context(), r.cfg, r.opts)
	if err == nil {
		_ = d.Close(t.Context())
		t.Fatal("it started")
	}
	if !strings.Contains(err.Error(), want) {
		t.Errorf("the reason does not say %q: %v", want, err)
	}
	if !bytes.Equal(r.read(checkpoint), public) || r.cell() != cell {
		t.Error("something was signed")
	}
}

// TestRegressFlipBeforeStart flips one bit in each object of the right edge, one
// after the other: no start signs on it, and the reason names the object.
func TestRegressFlipBeforeStart(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	r.grow(260)
	r.stop()
	for _, path := range []string{"tile/0/001.p/4", "tile/1/000.p/1", "tile/data/001.p/4", "tile/0/000", "tile/data/000", "checkpoint"} {
		t.Run(path, func(t *testing.T) {
			file := filepath.Join(r.cfg.Logs[0].Storage, path)
			sound := r.read(file)
			damage(t, file)
			r.refuses(t, path)
			overwrite(t, file, sound)
		})
	}
	r.start() // and brought back, it goes on
	r.submit(0, r.chain())
}

// TestRegressRolledBackBeforeStart puts an old copy of one part in its place.
func TestRegressRolledBackBeforeStart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		back func(r *rig, putBack func())
		want string
	}{
		"data directory, the lock intact": {func(r *rig, putBack func()) {
			lock := r.read(r.cfg.Logs[0].Lock)
			putBack()
			overwrite(r.t, r.cfg.Logs[0].Lock, lock)
		}, "staging bundle is gone"},
		"lock, the storage ahead": {func(r *rig, putBack func()) {
			now := r.t.TempDir()
			storage := r.cfg.Logs[0].Storage
			if err := os.CopyFS(now, os.DirFS(storage)); err != nil {
				r.t.Fatal(err)
			}
			putBack()
			replaceTree(r.t, storage, now)
		}, "newer than the lock's"},
	} {
		t.Run(name, func(t *testing.T) {
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
			r.removeDedup(0) // it would know as well
			test.back(r, putBack)
			r.refuses(t, test.want)
		})
	}
}

// replaceTree puts the files below one folder in the place of those below another,
// which stays the folder it is: a process may have it open.
func replaceTree(t *testing.T, to, from string) {
	t.Helper()
	entries, err := os.ReadDir(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != ".serve.lock" {
			remove(t, filepath.Join(to, e.Name()))
		}
	}
	err = filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, _ := filepath.Rel(from, path)
		switch {
		case e.IsDir():
			return os.MkdirAll(filepath.Join(to, below), 0o755)
		case e.Name() == ".serve.lock":
			return nil
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, below), body, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRegressWhileRunning damages or rolls back what a running log stands on. It
// stops for good without signing on it, says why, and the log beside it goes on.
func TestRegressWhileRunning(t *testing.T) {
	t.Parallel()
	flip := func(path string) func(*rig, string, string) {
		return func(r *rig, _, _ string) { damage(r.t, filepath.Join(r.cfg.Logs[0].Storage, path)) }
	}
	for name, test := range map[string]struct {
		fault func(r *rig, old, cell string)
		want  string
	}{
		"flipped bit in a hash tile":      {flip("tile/0/000.p/4"), "tile/0/000.p/4"},
		"flipped bit in a data tile":      {flip("tile/data/000.p/4"), "tile/data/000.p/4"},
		"flipped bit in the checkpoint":   {flip("checkpoint"), "checkpoint"},
		"data directory rolled back":      {func(r *rig, old, _ string) { replaceTree(r.t, r.cfg.Logs[0].Storage, old) }, "staging bundle is gone"},
		"lock rolled back, storage ahead": {func(r *rig, _, cell string) { r.setCell(cell) }, "newer than the lock's"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "one", "two")
			r.start()
			r.submit(0, r.chain())
			old, cell := t.TempDir(), r.cell()
			if err := os.CopyFS(old, os.DirFS(r.cfg.Logs[0].Storage)); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				r.submit(0, r.chain())
			}
			said := r.said.said("log takes no more submissions and is only read: repair what the error names, then restart\" log=one")
			test.fault(r, old, cell)
			within(t, "stop", said)
			if _, body := r.admin("/readyz"); !strings.Contains(body, test.want) || !strings.Contains(body, "ok: log two") {
				t.Errorf("/readyz lacks %q: %s", test.want, body)
			}
			if _, err := r.client(0).Submit(t.Context(), r.chain()); err == nil {
				t.Error("it gave an SCT")
			}
			r.submit(1, r.chain())
		})
	}
}

// setCell writes what an old copy of the lock holds.
func (r *rig) setCell(body string) {
	r.t.Helper()
	cells, err := sqlite.Open(r.t.Context(), r.cfg.Logs[0].Lock)
	if err != nil {
		r.t.Fatal(err)
	}
	defer cells.Close()
	for { // the log may sign in between
		held, err := cells.Load(r.t.Context(), hex.EncodeToString(r.info(0).LogID))
		if err != nil {
			r.t.Fatal(err)
		}
		if _, err := cells.Replace(r.t.Context(), held, []byte(body)); err == nil {
			return
		}
	}
}
