package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stepTimeout is how long one step of a guide may take.
const stepTimeout = 2 * time.Minute

// readLoop makes bash a terminal without a person: it takes commands, each
// ended by a zero byte, from one descriptor, runs them with job control, and
// writes their status to another, after a zero byte behind what they printed.
// What it started ends with it.
const readLoop = `set -m
while IFS= read -r -u 4 -d '' command; do
	eval "$command" 3>&- 4<&-
	status=$?
	printf '\0'
	echo $status >&3
done
kill -KILL $(jobs -p) 2>/dev/null`

// shell is one bash in which the commands of a guide are run, one after the
// other, in a session of its own.
type shell struct {
	cmd      *exec.Cmd
	commands *os.File
	statuses *os.File
	status   *bufio.Reader
	screen   *screen
}

// startShell starts a shell in a folder. The caller calls close.
func startShell(dir string, env []string) (*shell, error) {
	s := &shell{cmd: exec.Command("bash", "--norc", "--noprofile", "-c", readLoop), screen: &screen{changed: make(chan struct{})}}
	s.cmd.Dir, s.cmd.Env = dir, env
	s.cmd.Stdout, s.cmd.Stderr = s.screen, s.screen
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	s.cmd.WaitDelay = 5 * time.Second
	statuses, statusEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	commandEnd, commands, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, statuses.Close(), statusEnd.Close())
	}
	s.commands, s.statuses, s.status = commands, statuses, bufio.NewReader(statuses)
	s.cmd.ExtraFiles = []*os.File{statusEnd, commandEnd} // 3 and 4
	err = s.cmd.Start()
	if err := errors.Join(err, statusEnd.Close(), commandEnd.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start bash: %w", err), commands.Close(), statuses.Close())
	}
	return s, nil
}

// run runs a step as a reader would, and returns an error, with what was
// printed, if it does not go as the guide says.
func (s *shell) run(ctx context.Context, st step) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if st.file != "" {
		path := filepath.Join(s.cmd.Dir, st.file)
		return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(st.text), 0o644))
	}
	from := s.screen.size()
	if err := s.follow(ctx, st, from); err != nil {
		return fmt.Errorf("line %d, under %q: %s\n%w\n%s", st.line, st.heading, st.text, err, s.screen.after(from))
	}
	return nil
}

func (s *shell) follow(ctx context.Context, st step, from int) error {
	before, err := s.processes()
	if err != nil {
		return err
	}
	if _, err := io.WriteString(s.commands, st.text+"\x00"); err != nil {
		return err
	}
	started := func() (bool, error) { return s.started(before) }
	if st.interrupt {
		if err := s.screen.wait(ctx, from, st.says, started); err != nil {
			return err
		}
		if err := s.interrupt(before); err != nil {
			return err
		}
	}
	status, err := s.readStatus(ctx)
	if err == nil {
		err = s.screen.wait(ctx, from, "\x00", func() (bool, error) { return true, nil }) // all that it printed is here
	}
	switch {
	case err != nil:
		return err
	case status != st.status:
		return fmt.Errorf("status is %d, want %d", status, st.status)
	case st.background && st.says != "":
		return s.screen.wait(ctx, from, st.says, started)
	}
	return nil
}

// started reports whether a process runs that was not there before.
func (s *shell) started(before map[int]jobProcess) (bool, error) {
	now, err := s.processes()
	for pid := range now {
		if _, there := before[pid]; !there {
			return true, err
		}
	}
	return false, err
}

// readStatus waits until a command has ended.
func (s *shell) readStatus(ctx context.Context) (int, error) {
	deadline, _ := ctx.Deadline()
	if err := s.statuses.SetReadDeadline(deadline); err != nil {
		return 0, err
	}
	line, err := s.status.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("it does not end: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(line))
}

// interrupt sends what Ctrl-C sends, to the job that was not there before.
func (s *shell) interrupt(before map[int]jobProcess) error {
	now, err := s.processes()
	if err != nil {
		return err
	}
	for pid, p := range now {
		if _, there := before[pid]; !there && p.parent == s.cmd.Process.Pid {
			return syscall.Kill(-p.group, syscall.SIGINT)
		}
	}
	return errors.New("it has ended by itself")
}

// close ends the shell, and returns an error if anything that it started still
// ran. That is ended too.
func (s *shell) close() error {
	left, err := s.processes()
	for pid, p := range left {
		err = errors.Join(err, fmt.Errorf("a process is left behind: %d %s", pid, p.command))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	err = errors.Join(err, s.commands.Close(), s.statuses.Close())
	_ = s.cmd.Wait() // the status is that of the last kill
	return err
}

// jobProcess is a process in the session of a shell.
type jobProcess struct {
	command       string
	parent, group int
}

// processes returns the processes of the session, by ID, but the shell and
// those that have ended.
func (s *shell) processes() (map[int]jobProcess, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	found := map[int]jobProcess{}
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended meanwhile
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		name := bytes.LastIndexByte(data, ')')
		var state string
		var p jobProcess
		var session int
		if _, err := fmt.Sscan(string(data[name+1:]), &state, &p.parent, &p.group, &session); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if p.command = string(data[:name+1]); session == s.cmd.Process.Pid && pid != session && state != "Z" {
			found[pid] = p
		}
	}
	return found, nil
}

// screen keeps what a shell prints. It is safe for concurrent use.
type screen struct {
	mu      sync.Mutex // guards all below
	data    []byte
	changed chan struct{} // closed at the next write
}

// Write implements [io.Writer].
func (c *screen) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = append(c.data, b...)
	close(c.changed)
	c.changed = make(chan struct{})
	return len(b), nil
}

func (c *screen) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.data)
}

// after returns what was printed from a size on, the last of it if it is much.
func (c *screen) after(from int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	data := c.data[from:]
	return string(bytes.ReplaceAll(data[max(0, len(data)-8000):], []byte{0}, nil))
}

// wait waits until a text was printed from a size on, while something goes on.
func (c *screen) wait(ctx context.Context, from int, text string, goesOn func() (bool, error)) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for ended := false; ; {
		c.mu.Lock()
		found, changed := bytes.Contains(c.data[from:], []byte(text)), c.changed
		c.mu.Unlock()
		switch {
		case found:
			return nil
		case ended:
			return fmt.Errorf("it has ended and did not say %q", text)
		}
		select {
		case <-tick.C:
			on, err := goesOn()
			if err != nil {
				return err
			}
			ended = !on
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("it does not say %q: %w", text, ctx.Err())
		}
	}
}
