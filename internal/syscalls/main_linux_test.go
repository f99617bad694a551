package syscalls_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var kiln func() (string, error) // the path of cmd/kiln, built once without the race detector

func TestMain(m *testing.M) {
	if os.Getenv(launchEnv) != "" {
		os.Unsetenv(launchEnv)
		fmt.Fprintln(os.Stderr, "launcher:", launch(os.Args[1:]))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "kiln-syscalls-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	kiln = sync.OnceValues(func() (string, error) {
		if path := os.Getenv(kilnEnv); path != "" {
			return path, nil
		}
		path := filepath.Join(dir, "kiln")
		out, err := exec.Command("go", "build", "-C", "../..", "-o", path, "./cmd/kiln").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("build kiln: %w\n%s", err, out)
		}
		return path, nil
	})
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}
