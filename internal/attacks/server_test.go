package attacks_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is kiln serve as a program of its own.
type server struct {
	cmd    *exec.Cmd
	admin  string // URL of its admin listener
	output *output
	exited chan struct{} // closed when it has ended, after err was set
	err    error
}

// output keeps what a process prints, and its lines that tell of a bug.
type output struct {
	mu   sync.Mutex
	tail []byte
	rest []byte
	bad  []string
}

var badLine = regexp.MustCompile(`panic|fatal error|goroutine \d+ \[|level=ERROR`)

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(o.tail, b...)
	o.tail = bytes.Clone(o.tail[max(0, len(o.tail)-8000):])
	o.rest = append(o.rest, b...)
	for {
		line, rest, ok := bytes.Cut(o.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		if badLine.Match(line) && len(o.bad) < 20 {
			o.bad = append(o.bad, string(line[:min(len(line), 400)]))
		}
		o.rest = rest
	}
}

// String returns the last of what was printed.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.tail)
}

// faults returns the lines that tell of a bug.
func (o *output) faults() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.bad...)
}

// startServer runs kiln serve and waits until it serves.
func startServer(t *testing.T, ctx context.Context, configPath, admin string) *server {
	t.Helper()
	path, err := kiln()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: exec.Command(path, "serve", "-c", configPath), admin: admin, output: new(output), exited: make(chan struct{})}
	s.cmd.Stdout, s.cmd.Stderr = s.output, s.output
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.exited)
		s.err = s.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-s.exited
	})
	if err := s.ready(ctx); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *server) ready(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if resp, err := get(ctx, http.DefaultClient, s.admin+"readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), fmt.Errorf("not ready:\n%s", s.output))
		case <-s.exited:
			return fmt.Errorf("has stopped by itself: %v\n%s", s.err, s.output)
		case <-tick.C:
		}
	}
}

// dead says how the process ended, nil while it lives.
func (s *server) dead() error {
	select {
	case <-s.exited:
		return fmt.Errorf("kiln serve has stopped: %v\n%s", s.err, s.output)
	default:
		return nil
	}
}

func get(ctx context.Context, c *http.Client, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// memory returns resident memory now and at its peak, in bytes.
func (s *server) memory() (now, peak int64, err error) { return memoryOf(s.cmd.Process.Pid) }

func memoryOf(pid int) (now, peak int64, err error) {
	file, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, 0, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name != "VmRSS" && name != "VmHWM" {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, 0, err
		}
		if name == "VmRSS" {
			now = kib << 10
		} else {
			peak = kib << 10
		}
	}
	return now, peak, lines.Err()
}

// resetPeak makes the peak what it is now.
func (s *server) resetPeak() error {
	return os.WriteFile(filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid), "clear_refs"), []byte("5"), 0)
}

// metrics returns the sums over the series of the admin listener's metrics, by
// name; those of requests also by their status code, as name:code.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	resp, err := get(ctx, http.DefaultClient, s.admin+"metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	sums := make(map[string]float64)
	code := regexp.MustCompile(`code="([^"]*)"`)
	for line := range strings.Lines(string(body)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") || line == "" {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		value, err := strconv.ParseFloat(line[i+1:], 64)
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(line[:i], "{")
		sums[name] += value
		if m := code.FindStringSubmatch(line); m != nil {
			sums[name+":"+m[1]] += value
		}
	}
	sums["series"] = float64(bytes.Count(body, []byte("\n")))
	return sums, nil
}

// profile saves what the server's memory is made of.
func (s *server) profile(ctx context.Context, folder string) {
	if folder == "" {
		return
	}
	for name, query := range map[string]string{"heap.pb.gz": "heap", "goroutines.txt": "goroutine?debug=1"} {
		resp, err := get(ctx, http.DefaultClient, s.admin+"debug/pprof/"+query)
		if err != nil {
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil {
			_ = os.WriteFile(filepath.Join(folder, name), body, 0o600)
		}
	}
}
