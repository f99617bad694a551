package e2e_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"kiln/testlogs"
)

// readWithCertspotter runs the monitor over the whole log until its state says
// that it has verified the checkpoint, and has it find the certificate of one
// name.
func readWithCertspotter(t *testing.T, ctx context.Context, log *testlogs.Log, want testlogs.Checkpoint, name string) {
	t.Helper()
	dir := t.TempDir()
	logID := sha256.Sum256(log.SPKI)
	list, err := json.Marshal(map[string]any{
		"version": "1",
		"operators": []any{map[string]any{
			"name": "kiln", "email": []string{"kiln@kiln.example"},
			"tiled_logs": []any{map[string]any{
				"description": log.Conf.Name, "log_id": logID[:], "key": log.SPKI, "mmd": 60,
				"submission_url": log.Conf.SubmissionURL, "monitoring_url": log.URL(),
				"state": map[string]any{"usable": map[string]any{"timestamp": time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)}},
			}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string][]byte{"logs.json": list, "watchlist": []byte(name + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, certspotterBinary(t), "-verbose", "-stdout", "-no_save",
		"-logs", filepath.Join(dir, "logs.json"), "-watchlist", filepath.Join(dir, "watchlist"),
		"-state_dir", filepath.Join(dir, "state"))
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_CACHE_HOME="+dir, "CERTSPOTTER_CONFIG_DIR="+dir, "CERTSPOTTER_CACHE_DIR="+filepath.Join(dir, "cache"))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	state := filepath.Join(dir, "state", "logs", base64.RawURLEncoding.EncodeToString(logID[:]), "state.json")
	waitErr := waitForSize(ctx, state, want.N, exited)
	if waitErr == nil { // it follows the log for ever, so it is told to stop
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		waitErr = <-exited
	}
	if waitErr != nil {
		t.Fatalf("certspotter: %v\n%s", waitErr, &stderr)
	}
	if !bytes.Contains(stdout.Bytes(), []byte(name)) {
		t.Errorf("certspotter has not found %s:\n%s\n%s", name, &stdout, &stderr)
	}
	t.Logf("certspotter has verified %d entries", want.N)
}

// waitForSize polls certspotter's state until it has verified a tree of size n.
func waitForSize(ctx context.Context, path string, n int64, exited <-chan error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-exited:
			return errors.Join(errors.New("has stopped by itself"), err)
		case <-tick.C:
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var state struct {
			STH *struct {
				Size int64 `json:"tree_size"`
			} `json:"verified_sth"`
		}
		// A file that is being replaced may be read half-written.
		if json.Unmarshal(data, &state) == nil && state.STH != nil && state.STH.Size == n {
			return nil
		}
	}
}
