package syscalls_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is kiln serve under a supervisor.
type process struct {
	cmd    *exec.Cmd
	sup    *supervisor
	url    string // of the log, with a slash at its end
	admin  string // prefix of the admin pages
	output *output
	exited chan struct{} // closed when it and its supervisor have ended, after err was set
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

// String returns the last of what was printed.
func (o *output) String() string {
	all := o.all()
	return all[max(0, len(all)-4000):]
}

func (o *output) all() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// command is kiln serve, not started.
func command(conf, url, admin string) (*process, error) {
	program, err := kiln()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(program, "serve", "-c", conf), url: url, admin: admin, output: new(output), exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	return p, nil
}

// serveAlone starts kiln serve without a supervisor.
func serveAlone(conf, url, admin string) (*process, error) {
	p, err := command(conf, url, admin)
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

// serve starts kiln serve under a supervisor and does not wait. judge may be nil.
func serve(conf, root, url, admin string, judge func(*sysCall) verdict) (*process, error) {
	p, err := command(conf, url, admin)
	if err != nil {
		return nil, err
	}
	listener, err := start(p.cmd)
	if err != nil {
		if p.cmd.Process != nil {
			_ = p.cmd.Wait()
		}
		return nil, fmt.Errorf("%w\n%s", err, p.output)
	}
	if p.sup, err = supervise(listener, p.cmd.Process.Pid, root); err != nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		return nil, err
	}
	p.sup.setJudge(judge)
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
		<-p.sup.done
	}()
	return p, nil
}

func (s *supervisor) setJudge(judge func(*sysCall) verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.judge = judge
}

// kill is kill -9; it returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// cut is a power cut.
func (p *process) cut() error {
	p.sup.mu.Lock()
	err := p.sup.kill()
	p.sup.mu.Unlock()
	<-p.exited
	if err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return p.sup.disk.store()
}

func (p *process) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// errExited says that the process has ended by itself.
var errExited = errors.New("the process has ended")

// ready waits until the log serves its checkpoint.
func (p *process) ready(ctx context.Context) error {
	return p.until(ctx, "the log is not ready", func() bool {
		body, err := get(ctx, p.url+"checkpoint")
		return err == nil && len(body) > 0
	})
}

// until waits for something that has no event to wait for.
func (p *process) until(ctx context.Context, what string, done func() bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s", what, ctx.Err(), p.output)
		case <-p.exited:
			return fmt.Errorf("%s: %w: %v\n%s", what, errExited, p.err, p.output)
		case <-tick.C:
		}
	}
	return nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d", url, resp.StatusCode)
	}
	return body, err
}

// metric returns the sum over the series of a metric, -1 if there is none or the
// process is gone.
func (p *process) metric(ctx context.Context, name string) int64 {
	body, err := get(ctx, p.admin+"metrics")
	if err != nil {
		return -1
	}
	sum := int64(-1)
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(?:\{.*\})? (.+)$`).FindAllSubmatch(body, -1) {
		if v, err := strconv.ParseFloat(string(m[1]), 64); err == nil {
			sum = max(sum, 0) + int64(v)
		}
	}
	return sum
}

// stopped returns what the process says of a log that it stopped for good.
func (p *process) stopped() string {
	for line := range strings.Lines(p.output.all()) {
		if strings.Contains(line, "log stopped for good") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
