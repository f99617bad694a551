// Package attacks_test attacks a real kiln serve from many addresses, and
// watches what it costs the server and what a well-behaved client sees
// meanwhile.
//
// Invariants: what is bounded is memory and correctness (no SCT is lost, nothing
// panics, no answer is a 500, the process lives, and normal clients are not shut
// out); times are printed and never judged. All traffic stays on 127.0.0.0/8.
// The package never knows how kiln defends itself.
package attacks_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

var flags = struct {
	attack   *string
	duration *time.Duration
	rss      *int64
	json     *bool
	all      *bool
	profile  *string
}{
	attack:   flag.String("attack", "", "regular expression of the attacks to run; all if empty"),
	duration: flag.Duration("duration", 10*time.Second, "how long each attack goes on"),
	rss:      flag.Int64("rss", 512, "MiB of memory that the server may hold in any attack"),
	json:     flag.Bool("json", false, "print a JSON object for each attack instead of a table"),
	profile:  flag.String("profile", "", "folder for heap and goroutine profiles of the server, the last before each attack ends"),
	all:      flag.Bool("all", false, "run every attack, not the short ones alone"),
}

// kiln builds cmd/kiln without the race detector, once.
var kiln func() (string, error)

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "kiln-attacks-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	kiln = sync.OnceValues(func() (string, error) {
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
