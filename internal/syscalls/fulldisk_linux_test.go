package syscalls_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/testlogs"
)

const (
	diskEnv = "KILN_SYSCALLS_DISK" // where the test that has mounts of its own puts its disk
	kilnEnv = "KILN_SYSCALLS_KILN" // the program that it runs

	diskSize = 8 << 20
)

// TestFullDiskWhileCommitting fills the disk of a log at work, to the last byte
// and to some more or less of them, so that it gets full within a round. Nothing is
// lost; clients are told to come again; when there is room the log goes on by
// itself. Then once more, and the process is killed and started on the full disk.
//
// The disk is a small tmpfs, in a mount namespace as Linux gives one to root and
// most users.
func TestFullDiskWhileCommitting(t *testing.T) {
	if disk := os.Getenv(diskEnv); disk != "" {
		mountDisk(t, disk)
		t.Setenv("TMPDIR", disk)
		fullDisk(t, disk)
		return
	}
	t.Parallel()
	program, err := kiln()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
	group := []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	var refused error
	for _, attr := range []*syscall.SysProcAttr{
		{Cloneflags: unix.CLONE_NEWNS},
		{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUSER, UidMappings: root, GidMappings: group},
	} {
		out := new(output)
		cmd := exec.CommandContext(deadline(t, 8*time.Minute), self, "-test.run=^TestFullDiskWhileCommitting$", "-test.timeout=7m", "-test.v")
		cmd.Env = append(os.Environ(), diskEnv+"="+t.TempDir(), kilnEnv+"="+program)
		cmd.SysProcAttr, cmd.Stdout, cmd.Stderr = attr, out, out
		if refused = cmd.Start(); refused != nil {
			continue
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	t.Fatalf("no mount namespace can be had (%v): run the tests as root, or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1)", refused)
}

func mountDisk(t *testing.T, disk string) {
	t.Helper()
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatalf("make mounts private: %v", err)
	}
	if err := unix.Mount("kiln", disk, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
		t.Fatalf("mount a small tmpfs, which takes root or user namespaces: %v", err)
	}
}

func fullDisk(t *testing.T, disk string) {
	ctx := deadline(t, 6*time.Minute)
	r := newRig(t, 0)
	w := &submitters{rig: r, ballast: filepath.Join(disk, "ballast"), client: r.log.ClientAt(r.url)}
	w.start(t)
	if err := w.proc.ready(ctx); err != nil {
		t.Fatal(err)
	}
	r.log.Auditor().SetURL(r.url)
	running, stop := context.WithCancel(ctx)
	defer stop()
	for range 4 {
		w.workers.Go(func() { w.submit(running) })
	}
	w.workers.Go(func() { w.watch(running) })
	for _, left := range []int64{0, 8 << 10, 52 << 10} {
		w.more(t, ctx, 30)
		w.fill(t, left)
		w.refused(t, ctx)
		w.free(t)
	}
	w.more(t, ctx, 30)
	if !w.proc.alive() {
		t.Fatalf("the process has ended: %v\n%s", w.proc.err, w.proc.output)
	}
	first := w.proc.output.all()
	w.fill(t, 0)
	w.refused(t, ctx)
	w.expectCuts(true)
	w.proc.kill()
	w.start(t)
	if err := w.proc.ready(ctx); err != nil && !errors.Is(err, errExited) {
		t.Fatal(err)
	}
	if !w.proc.alive() && !strings.Contains(w.proc.output.String(), "no space left on device") {
		t.Errorf("the process ended on a full disk and did not say so:\n%s", w.proc.output)
	}
	refusedStart := !w.proc.alive()
	w.free(t)
	if refusedStart {
		w.start(t)
	}
	w.more(t, ctx, 30)
	stop()
	w.workers.Wait()
	w.finish(t, ctx, first, refusedStart)
}

// submitters is submitters of a log whose disk gets full.
type submitters struct {
	*rig
	client  *testlogs.Client
	ballast string
	proc    *process // of the test's goroutine
	workers sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{} // closed and made anew when a number changes
	accepted int
	no       int // answers 503
	cuts     bool
	pending  []testlogs.Chain
	faults   []error
}

func (w *submitters) start(t *testing.T) {
	t.Helper()
	var err error
	if w.proc, err = serveAlone(w.log.ConfigPath, w.url, w.admin); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.proc.kill)
}

func (w *submitters) submit(ctx context.Context) {
	for ctx.Err() == nil {
		chain, err := w.log.CA.Precert(testlogs.LeafOptions{})
		if err != nil {
			w.note(func() { w.faults = append(w.faults, err) })
			return
		}
		w.try(ctx, chain)
	}
}

// try submits a chain until it has its SCT.
func (w *submitters) try(ctx context.Context, chain testlogs.Chain) {
	for {
		sct, err := w.client.Submit(ctx, chain)
		var status *testlogs.StatusError
		switch {
		case err == nil:
			w.log.Auditor().Remember(sct)
			w.note(func() { w.accepted++ })
			return
		case ctx.Err() != nil:
			w.note(func() { w.pending = append(w.pending, chain) })
			return
		case errors.As(err, &status) && status.Code == http.StatusServiceUnavailable && status.RetryAfter > 0:
			w.note(func() { w.no++ })
		case isCut(err) && w.expectsCuts():
		default:
			w.note(func() { w.faults = append(w.faults, err) })
			return
		}
		rest(ctx)
	}
}

func (w *submitters) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if _, err := w.log.Auditor().Observe(ctx); err != nil && ctx.Err() == nil && !(isCut(err) && w.expectsCuts()) {
			w.note(func() { w.faults = append(w.faults, err) })
			return
		}
		rest(ctx)
	}
}

// rest keeps clients from spinning.
func rest(ctx context.Context) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

func (w *submitters) note(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

func (w *submitters) expectCuts(yes bool) { w.note(func() { w.cuts = yes }) }

func (w *submitters) expectsCuts() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts
}

// await waits until one of the submitters' numbers has grown by n.
func (w *submitters) await(t *testing.T, ctx context.Context, what string, number *int, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for want := *number + n; *number < want && len(w.faults) == 0; {
		if w.changed == nil {
			w.changed = make(chan struct{})
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			t.Errorf("no more %s: %v\n%s", what, ctx.Err(), w.proc.output)
		}
		w.mu.Lock()
		if ctx.Err() != nil {
			break
		}
	}
	if err := errors.Join(append(w.faults, ctx.Err())...); err != nil {
		t.Fatal(err)
	}
}

func (w *submitters) more(t *testing.T, ctx context.Context, n int) {
	t.Helper()
	w.await(t, ctx, "SCTs", &w.accepted, n)
}

func (w *submitters) refused(t *testing.T, ctx context.Context) {
	t.Helper()
	w.await(t, ctx, "answers 503", &w.no, 1)
}

// fill leaves so many bytes free; rounds take them.
func (w *submitters) fill(t *testing.T, left int64) {
	t.Helper()
	f, err := os.Create(w.ballast)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var n int64
	for page := make([]byte, 4096); err == nil; {
		var k int
		k, err = f.Write(page)
		n += int64(k)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Truncate(max(0, n-left)); err != nil {
		t.Fatal(err)
	}
}

func (w *submitters) free(t *testing.T) {
	t.Helper()
	if err := os.Remove(w.ballast); err != nil {
		t.Fatal(err)
	}
}

func (w *submitters) finish(t *testing.T, ctx context.Context, first string, refusedStart bool) {
	t.Helper()
	pending := w.pending
	w.pending = nil
	for _, chain := range pending {
		w.try(ctx, chain)
	}
	report, err := w.log.Auditor().Audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report.Checkpoint.N != int64(w.accepted) || report.SCTs != w.accepted || len(report.Repeated) > 0 {
		t.Errorf("%d different submissions gave %d entries, %d SCTs, and twice %v", w.accepted, report.Checkpoint.N, report.SCTs, report.Repeated)
	}
	if !strings.Contains(first, "no space left on device") || !strings.Contains(first, w.root) {
		t.Errorf("the process did not say what it had no space for:\n%s", w.proc.output)
	}
	t.Logf("4 times full: %d SCTs, %d answers 503; a start on the full disk was refused: %v", w.accepted, w.no, refusedStart)
}
