package main

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"kiln/internal/config"
)

// TestInitKilled kills kiln init at random moments of its work, then runs it to
// its end: it makes a whole log, with the key that was made first.
func TestInitKilled(t *testing.T) {
	t.Parallel()
	const want = 10
	halfMade, within := 0, 50*time.Millisecond
	for range 200 {
		dir := filepath.Join(t.TempDir(), "log")
		cmd := func() *exec.Cmd {
			c := exec.Command("kiln", "init", dir, "--name", "kill2026h2")
			c.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // the race detector's second at the end is no moment of init
			return c
		}
		marker := filepath.Join(dir, markerName)
		killed(t, cmd(), marker, rand.N(within))
		if _, err := os.Stat(marker); err != nil {
			within = max(within*3/4, time.Microsecond) // it was too fast to be hit
			continue
		}
		complete(t, cmd(), dir)
		if halfMade++; halfMade == want {
			return
		}
	}
	t.Fatalf("only %d of 200 were killed half-way, want %d", halfMade, want)
}

// killed runs a command, and kills it some time after it has made the marker. It
// may be done by then.
func killed(t *testing.T, cmd *exec.Cmd, marker string, after time.Duration) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // what it left behind is what counts
	}()
	look := time.NewTicker(100 * time.Microsecond)
	defer look.Stop()
	for {
		if _, err := os.Stat(marker); err == nil {
			break
		}
		select {
		case <-look.C:
		case <-done:
			return
		}
	}
	select {
	case <-time.After(after):
	case <-done:
	}
	_ = cmd.Process.Kill()
	<-done
}

// complete runs kiln init again, and looks at what came of it.
func complete(t *testing.T, cmd *exec.Cmd, dir string) {
	t.Helper()
	key := filepath.Join(dir, "keys", "kill2026h2.pem")
	before, err := os.ReadFile(key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the same command again: %v: %s", err, out)
	}
	after, err := os.ReadFile(key)
	if err != nil || before != nil && !bytes.Equal(before, after) {
		t.Errorf("the key is another (%v)", err)
	}
	if _, err := config.Load(filepath.Join(dir, configName), time.Now()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, markerName)); err == nil {
		t.Error("the marker is left over")
	}
}
