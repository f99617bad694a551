// Package servers starts the servers that kiln is tried with, beside it and on
// this machine alone: versitygw, an S3 server over a directory, and etcd.
//
// Invariants: a server listens on loopback only, is answering when its start
// returns, and is gone, reaped, when its Stop or Kill returns; only processes
// that the package started are ever signalled, and they end with their parent.
//
// The package never knows logs, and is for tests and first looks: data of a log
// that matters belongs on servers that somebody runs.
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// startTimeout is how long a server may take until it answers.
const startTimeout = 30 * time.Second

// Server is a server process that can be stopped, killed and started again at
// the same address and with the same data. Its methods are safe for concurrent
// use.
type Server struct {
	name    string
	args    []string
	env     []string
	binary  string
	healthy func(context.Context) error

	mu      sync.Mutex // guards all below
	process *process   // nil while it is not running
}

// process is one run of a server.
type process struct {
	cmd    *exec.Cmd
	output *tail
	exited chan struct{} // closed when the process is reaped; err is set before
	err    error
}

// Start starts the server and waits until it answers. It is an error if it runs
// already.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		return fmt.Errorf("start %s: it runs already", s.name)
	}
	p := &process{cmd: exec.Command(s.binary, s.args...), output: new(tail), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), s.env...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.SysProcAttr = ownGroup()
	if err := p.run(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	if err := s.wait(ctx, p); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", s.name, err), p.end(syscall.SIGKILL))
	}
	s.process = p
	return nil
}

// run starts the process and reaps it. The thread that started it is kept until
// it ends: on Linux the process is to die with its parent, and for the kernel
// that is the thread.
func (p *process) run() error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.exited)
		}
	}()
	return <-started
}

// wait polls until the server answers.
func (s *Server) wait(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		select {
		case <-p.exited:
			return fmt.Errorf("it ended at once: %w: %s", p.err, p.output)
		case <-ctx.Done():
			return fmt.Errorf("%w; last answer: %w; it says: %s", ctx.Err(), last, p.output)
		case <-ticker.C:
		}
		if last = s.healthy(ctx); last == nil {
			return nil
		}
	}
}

// Stop ends the server as an operator would, and waits for it. A server that is
// not running is fine.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends the server as a crash would, and waits for it.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	p := s.process
	s.process = nil
	if err := p.end(signal); err != nil {
		return fmt.Errorf("end %s: %w", s.name, err)
	}
	return nil
}

// Pause stops the server's process where it is, so that connections hang;
// Resume lets it go on. A server that is not running is an error.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume undoes Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return fmt.Errorf("signal %s: it is not running", s.name)
	}
	if err := s.process.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("signal %s: %w", s.name, err)
	}
	return nil
}

// Exited returns a channel that is closed when the running server ends by
// itself or is ended; nil if it is not running.
func (s *Server) Exited() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return nil
	}
	return s.process.exited
}

// Output returns the last lines that the running server wrote.
func (s *Server) Output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return ""
	}
	return s.process.output.String()
}

// end signals the process, and after a while kills it.
func (p *process) end(signal syscall.Signal) error {
	select {
	case <-p.exited:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err // a paused process sees SIGTERM only once it goes on
	}
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-p.exited:
		return nil
	case <-timer.C:
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.exited
	return nil
}

// tail keeps the end of what is written to it. It is safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	data []byte // at most twice tailSize
}

const tailSize = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, b[max(0, len(b)-tailSize):]...)
	if extra := len(t.data) - tailSize; extra > 0 {
		t.data = append(t.data[:0], t.data[extra:]...)
	}
	return len(b), nil
}

// String returns the end of what was written.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.data))
}

// The ports that servers get. The kernel hands out others to clients and to
// whoever asks for any, by default, so that a port is still free when a server
// that was killed comes back.
const minPort, maxPort = 15000, 32000

// FreeAddress returns a loopback address that nobody listens on right now, and
// that the kernel gives nobody who asks for any port.
func FreeAddress(ctx context.Context) (string, error) {
	var last error
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", minPort+rand.IntN(maxPort-minPort))
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			err = l.Close()
		}
		if err == nil {
			return address, nil
		}
		last = err
	}
	return "", fmt.Errorf("find a free port: %w", last)
}
