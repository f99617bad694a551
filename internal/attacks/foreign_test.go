package attacks_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"kiln/internal/config"
	"kiln/testlogs"
)

// foreign is what one command made of one hostile answer. There is no
// well-behaved side: the command has nobody but the attacker to talk to.
type foreign struct {
	Attack  string  `json:"attack"`
	Command string  `json:"command"`
	PeakMiB int64   `json:"peak_rss_mib"`
	CPU     float64 `json:"cpu_seconds"`
	Seconds float64 `json:"seconds"`
	Said    string  `json:"said"`
}

// foreignGuard ends a command that would go on for ever.
const foreignGuard = 3 * time.Minute

// readers are the commands that read what others store or serve.
var readers = []string{"fsck folder", "fsck URL", "fsck s3", "watch", "restore"}

// TestForeignStorage runs the commands that read foreign storage against
// storage that wants to exhaust them.
func TestForeignStorage(t *testing.T) {
	if testing.Short() && !*flags.all {
		return // it starts servers
	}
	which, err := regexp.Compile("(?i)" + *flags.attack)
	if err != nil {
		t.Fatal(err)
	}
	wanted := func(raid *raid, command string) bool {
		return raid.reaches(command) && (*flags.all || raid.short) && which.MatchString(raid.title(command))
	}
	if !slices.ContainsFunc(raids, func(r raid) bool {
		return slices.ContainsFunc(readers, func(command string) bool { return wanted(&r, command) })
	}) {
		return
	}
	h := newHost(t)
	for _, command := range readers {
		h.raid.Store(nil)
		if r, out := h.run(t, command); r.Said != "exit status 0" {
			t.Fatalf("%s fails with honest storage: %s\n%s", command, r.Said, out)
		}
	}
	var results []foreign
	for i := range raids {
		for _, command := range readers {
			raid := &raids[i]
			if !wanted(raid, command) {
				continue
			}
			t.Run(raid.title(command), func(t *testing.T) {
				h.raid.Store(raid)
				r, out := h.run(t, command)
				r.Attack = raid.name
				results = append(results, r)
				if *flags.json {
					_ = json.NewEncoder(os.Stdout).Encode(r)
				} else {
					t.Logf("%+v", r)
				}
				r.judge(t, raid, out)
			})
		}
	}
	if !*flags.json && testing.Verbose() {
		printForeign(results)
	}
}

// judge says what must not be.
func (r *foreign) judge(t *testing.T, raid *raid, out string) {
	t.Helper()
	if r.PeakMiB > *flags.rss {
		t.Errorf("the command held %d MiB, at most %d may be", r.PeakMiB, *flags.rss)
	}
	if !strings.HasPrefix(r.Said, "exit status 1: ") {
		t.Errorf("it ended with %s, want exit status 1 and an error", r.Said)
	}
	if badOutput.MatchString(out) {
		t.Errorf("it says:\n%s", out)
	}
	if !strings.Contains(r.Said, raid.path) {
		t.Errorf("the error does not name %s: %s", raid.path, r.Said)
	}
}

// badOutput is what no command may print.
var badOutput = regexp.MustCompile(`panic|fatal error|goroutine \d+ \[`)

func printForeign(results []foreign) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "attack\tcommand\tpeak MiB\tCPU s\tseconds\tit ended with")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%d\t%.1f\t%.1f\t%s\n", r.Attack, r.Command, r.PeakMiB, r.CPU, r.Seconds, r.Said)
	}
	_ = w.Flush()
}

// newHost makes a log of a full tile and a part, whose server has ended.
func newHost(t *testing.T) *host {
	t.Helper()
	h := new(host)
	h.log = testlogs.Start(t, testlogs.Options{
		Backend: testlogs.S3, Through: func(endpoint string) string { return h.serve(t, endpoint) },
		Configure: func(c *config.Log) { c.Names = true },
	})
	h.folder = filepath.Join(filepath.Dir(h.log.ConfigPath), "s3", "kiln-test", h.log.Conf.Name)
	h.fill(t)
	h.log.Stop()
	h.key = filepath.Join(t.TempDir(), "log.pub")
	if err := os.WriteFile(h.key, []byte(base64.StdEncoding.EncodeToString(h.log.SPKI)), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// fill makes the log as large as tiles in [raids] are named.
func (h *host) fill(t *testing.T) {
	t.Helper()
	client := h.log.Client()
	errs := make(chan error)
	for range 16 {
		go func() {
			for range hostSize / 16 {
				chain, err := h.log.CA.Leaf(testlogs.LeafOptions{})
				if err == nil {
					_, err = client.Submit(t.Context(), chain)
				}
				errs <- err
			}
		}()
	}
	for range hostSize {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

// run runs a command to its end.
func (h *host) run(t *testing.T, command string) (foreign, string) {
	t.Helper()
	path, err := kiln()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), foreignGuard)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, h.args(t, command)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+h.log.S3.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+h.log.S3.SecretAccessKey, "AWS_REGION=us-east-1")
	before := ownPeak(t)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	peak := watchPeak(cmd.Process.Pid)
	err = cmd.Wait()
	r := foreign{Command: command, Seconds: time.Since(began).Seconds(), Said: "exit status 0", PeakMiB: peak() >> 20}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok && usage.Maxrss<<10 > before {
		r.PeakMiB = usage.Maxrss >> 10 // else it is that of this process, when it forked
	}
	r.CPU = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.Said = fmt.Sprintf("no end within %v", foreignGuard)
	case errors.As(err, &exit):
		r.Said = exit.Error() + ": " + lastLine(out.String())
	case err != nil:
		t.Fatal(err)
	}
	return r, out.String()
}

// lastLine is the line of the error.
func lastLine(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

// args is the command line.
func (h *host) args(t *testing.T, command string) []string {
	t.Helper()
	known := []string{"--public-key", h.key, "--origin", h.log.Conf.Origin}
	if raid := h.raid.Load(); raid != nil && raid.path == metadataPath {
		known = nil
	}
	switch command {
	case "fsck folder":
		return append([]string{"fsck", h.copy(t)}, known...)
	case "fsck URL":
		return append([]string{"fsck", h.url + monitoring}, known...)
	case "fsck s3":
		return append([]string{"fsck", h.log.Conf.Storage, "--endpoint", h.url}, known...)
	case "watch":
		return append([]string{"watch", h.url + monitoring, "--once", "--from", "all", "--max-age", "24h"}, known...)
	}
	if err := os.RemoveAll(h.log.Conf.Dedup); err != nil { // it holds how far an earlier run came
		t.Fatal(err)
	}
	return []string{"restore", "-c", h.log.ConfigPath, "--no-serve"}
}

// ownPeak is the peak of this process's memory, in bytes.
func ownPeak(t *testing.T) int64 {
	t.Helper()
	_, peak, err := memoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return peak
}

// watchPeak follows the peak of a process's memory until that ends, and returns
// how to ask for it then.
func watchPeak(pid int) func() int64 {
	peak, quit := make(chan int64), make(chan struct{})
	go func() {
		most := int64(0)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				peak <- most
				return
			case <-tick.C:
				if _, p, err := memoryOf(pid); err == nil {
					most = max(most, p)
				}
			}
		}
	}()
	return func() int64 {
		close(quit)
		return <-peak
	}
}
