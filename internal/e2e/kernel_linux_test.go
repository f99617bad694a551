package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// diesWithParent has a process that is started end when the tests do, however
// they end.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// holds reports whether a process has locked one of these files against others.
func holds(t *testing.T, pid int, files ...string) bool {
	t.Helper()
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		var info syscall.Stat_t
		if err := syscall.Stat(name, &info); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(locks)) {
			// 1: POSIX  ADVISORY  WRITE 4711 fe:00:131 1073741824 1073742335
			f := strings.Fields(line)
			if len(f) >= 6 && f[4] == fmt.Sprint(pid) && strings.HasSuffix(f[5], fmt.Sprintf(":%d", info.Ino)) {
				return true
			}
		}
	}
	return false
}
