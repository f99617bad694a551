package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// process is kiln serve as a program of its own.
type process struct {
	cmd    *exec.Cmd
	began  time.Time
	output *output
	exited chan struct{} // closed when it has ended, after err was set
	err    error
}

// output keeps what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

// String returns the last of what was printed, for messages.
func (o *output) String() string {
	all := o.since(0)
	return all[max(0, len(all)-8000):]
}

// len returns how much was printed.
func (o *output) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Len()
}

// since returns what was printed after the first n bytes.
func (o *output) since(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.buf.Bytes()[n:])
}

// freeAddress returns an address of the loopback interface that was free just
// now, for a listener that has to come back to the same port.
func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := servers.FreeAddress(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// serve starts kiln serve on a log's configuration and does not wait.
func serve(t *testing.T, log *testlogs.Log) *process {
	t.Helper()
	return serveFile(t, log.ConfigPath)
}

// serveFile is serve of a configuration file. What the process prints is also
// written beside that.
func serveFile(t *testing.T, config string) *process {
	t.Helper()
	printed, err := os.OpenFile(config+".out", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{output: new(output), exited: make(chan struct{}), began: time.Now()}
	p.cmd = exec.Command(kilnBinary(t), "serve", "-c", config)
	to := io.MultiWriter(p.output, printed)
	p.cmd.Stdout, p.cmd.Stderr = to, to
	p.cmd.SysProcAttr = diesWithParent()
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // for the kernel the thread that started it is the parent
		defer runtime.UnlockOSThread()
		defer printed.Close()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9; it returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// signal sends a signal and returns how the process ended.
func (p *process) signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return err
	}
	<-p.exited
	return p.err
}

// ready waits until the log serves its checkpoint.
func (p *process) ready(ctx context.Context, url string) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"checkpoint", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("not ready:\n%s", p.output))
		case <-p.exited:
			return fmt.Errorf("has stopped by itself: %v\n%s", p.err, p.output)
		case <-tick.C:
		}
	}
}

// metric returns the sum over the series of a metric; -1 if there is none.
func metric(t *testing.T, ctx context.Context, adminURL, name string) int64 {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, adminURL+"metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := int64(-1)
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(?:\{.*\})? (.+)$`).FindAllSubmatch(body, -1) {
		v, err := strconv.ParseFloat(string(m[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		sum = max(sum, 0) + int64(v)
	}
	return sum
}

// TestDrain asks the process to end while submissions wait for a round that is
// seconds away: all of them get their SCT, and the process ends with status 0.
func TestDrain(t *testing.T) {
	t.Parallel()
	const waiting = 40
	ctx := deadline(t, 2*time.Minute)
	address, admin := freeAddress(t), freeAddress(t)
	log := testlogs.New(t, testlogs.Options{
		Listen: address, Admin: admin,
		Configure: func(c *config.Log) { c.Period = 5 * time.Second },
	})
	url := "http://" + address + "/" + log.Conf.Name + "/"
	p := serve(t, log)
	if err := p.ready(ctx, url); err != nil {
		t.Fatal(err)
	}
	var chains []testlogs.Chain
	for i := range waiting {
		chains = append(chains, issue(t, log.CA, i, testlogs.LeafOptions{}))
	}
	c := log.ClientAt(url)
	var g errgroup.Group
	for _, chain := range chains {
		g.Go(func() error {
			sct, err := c.Submit(ctx, chain)
			if err == nil {
				log.Auditor().Remember(sct)
			}
			return err
		})
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for metric(t, ctx, "http://"+admin+"/", "kiln_batcher_waiters_count") < waiting {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the submissions do not wait")
		}
	}
	if err := p.signal(syscall.SIGINT); err != nil {
		t.Errorf("asked to end: %v\n%s", err, p.output)
	}
	if err := g.Wait(); err != nil {
		t.Errorf("a waiting submission: %v", err)
	}
	log.Start()
	if report := audit(t, ctx, log.Auditor()); report.Checkpoint.N != waiting || report.SCTs != waiting {
		t.Errorf("report is %+v, want %d entries and SCTs", report, waiting)
	}
}
