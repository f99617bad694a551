package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLockFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), ".serve.lock")
	var first, second lockFiles
	if err := first.acquire(path); err != nil {
		t.Fatal(err)
	}
	err := second.acquire(path)
	if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("second lock: %v, want an error with the path and the pid", err)
	}
	first.release()
	if err := second.acquire(path); err != nil {
		t.Errorf("lock after release: %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != fmt.Sprintf("%d\n", os.Getpid()) {
		t.Errorf("lock file holds %q, %v", data, err)
	}
	second.release()
	if err := second.acquire(filepath.Join(path, "below a file")); err == nil {
		t.Error("locked a file that cannot be")
	}
}
