package syscalls_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notif is struct seccomp_notif, and response struct seccomp_notif_resp.
type notif struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type response struct {
	id    uint64
	val   int64
	err   int32
	flags uint32
}

// sysCall is one call on a file below the log's folder, not yet made.
type sysCall struct {
	name string
	path string // absolute; of a rename or link the new one
	from string // of a rename or link the old one
	off  int64  // of a write; of ftruncate the new size
	size int64  // of a write
	note notif
}

// verdict is what becomes of a call.
type verdict struct {
	effect effect
	errno  unix.Errno
}

type effect int

const (
	pass      effect = iota
	fail             // the call is not made and returns an error; of a sync, what was to be synced is lost
	failAfter        // the call is made and returns an error
	shorten          // half of the bytes are written, as the result says
	kill             // the process is killed instead of the call
	killAfter        // the call is made, then the process is killed
)

// supervisor stands between a process and the file system.
type supervisor struct {
	listener int
	pid      int
	pidfd    int
	root     string // the log's folder
	done     chan struct{}

	mu    sync.Mutex
	judge func(*sysCall) verdict // guarded by mu; nil passes all
	disk  *disk                  // guarded by mu until done
	dead  bool                   // guarded by mu: what comes now comes too late
	err   error                  // of the supervisor itself; guarded by mu
}

func supervise(listener, pid int, root string) (*supervisor, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd: %w", err)
	}
	d, err := readDisk(root)
	if err != nil {
		return nil, err
	}
	s := &supervisor{listener: listener, pid: pid, pidfd: pidfd, root: root, done: make(chan struct{}), disk: d}
	go s.run()
	return s, nil
}

func (s *supervisor) run() {
	defer close(s.done)
	defer unix.Close(s.pidfd)
	defer unix.Close(s.listener)
	for {
		fds := []unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && err != unix.EINTR {
			s.fault(fmt.Errorf("poll: %w", err))
			return
		}
		switch {
		case fds[0].Revents&unix.POLLIN != 0:
			s.one()
		case fds[0].Revents != 0:
			return // the process is gone
		}
	}
}

func (s *supervisor) fault(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

// one takes a call and answers it.
func (s *supervisor) one() {
	var n notif
	if errno := ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)); errno != 0 {
		return // whoever made it is dead
	}
	c, err := s.decode(n)
	r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if err == nil && c != nil {
		s.mu.Lock()
		r, err = s.decide(c)
		s.mu.Unlock()
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		s.fault(fmt.Errorf("%s: %w", calls()[int(n.nr)], err))
	}
	ioctl(s.listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // it fails if the caller is dead
}

func ioctl(fd int, request uintptr, arg unsafe.Pointer) unix.Errno {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		if errno != unix.EINTR {
			return errno
		}
	}
}

// decide judges a call, does what the verdict says and keeps the disk up with it.
func (s *supervisor) decide(c *sysCall) (response, error) {
	r := response{id: c.note.id}
	var v verdict
	if s.judge != nil && !s.dead {
		v = s.judge(c)
	}
	if s.dead {
		v = verdict{}
	} else if v.effect != kill {
		if v.effect == shorten {
			c.size = max(1, c.size/2)
		}
		if err := s.disk.apply(c, v.effect == fail); err != nil {
			return r, err
		}
	}
	switch {
	case v.effect == pass && !c.changesFolder():
		r.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
		return r, nil
	case v.effect == fail:
		r.err = -int32(v.errno)
		return r, nil
	case v.effect == kill:
		return r, s.kill()
	}
	val, err := s.perform(c)
	var errno unix.Errno
	switch {
	case errors.As(err, &errno) && v.effect != killAfter:
		r.err = -int32(errno) // its own
		return r, nil
	case err != nil && !errors.As(err, &errno):
		return r, err
	}
	switch v.effect {
	case killAfter:
		return r, s.kill()
	case failAfter:
		r.err = -int32(v.errno)
	default:
		r.val = val
	}
	return r, nil
}

// changesFolder reports whether a call is one that the supervisor always makes
// itself: when it is answered, what the disk is told of a folder is true.
func (c *sysCall) changesFolder() bool {
	switch c.name {
	case "mkdirat", "mkdir", "unlinkat", "unlink", "renameat", "renameat2", "rename", "linkat", "link":
		return true
	}
	return false
}

func (s *supervisor) kill() error {
	s.dead = true
	return unix.Kill(s.pid, unix.SIGKILL)
}

// decode returns nil for what is not about the log's folder.
func (s *supervisor) decode(n notif) (*sysCall, error) {
	c := &sysCall{name: calls()[int(n.nr)], note: n}
	var err error
	switch int(n.nr) {
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_FTRUNCATE, unix.SYS_FSYNC, unix.SYS_FDATASYNC:
		return s.decodeFile(c)
	case unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT:
		if c.from, err = s.at(n, n.args[0], n.args[1]); err == nil {
			c.path, err = s.at(n, n.args[2], n.args[3])
		}
	case unix.SYS_OPENAT, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT:
		c.path, err = s.at(n, n.args[0], n.args[1])
	default: // an old call
		cwd := unix.AT_FDCWD
		c.path, err = s.at(n, uint64(cwd), n.args[0])
		if c.name == "rename" || c.name == "link" {
			c.from = c.path
			c.path, err = s.at(n, uint64(cwd), n.args[1])
		}
	}
	if err != nil || !s.ours(c.path) {
		return nil, err
	}
	return c, nil
}

func (s *supervisor) decodeFile(c *sysCall) (*sysCall, error) {
	n := c.note
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(n.args[0])))
	if err != nil || !s.ours(path) {
		return nil, nil // no such descriptor, which the call itself will say
	}
	c.path = path
	switch c.name {
	case "write":
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", n.pid, int32(n.args[0])))
		if err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(string(info), "pos: %d", &c.off); err != nil {
			return nil, fmt.Errorf("fdinfo %q: %w", info, err)
		}
		c.size = int64(n.args[2])
	case "pwrite64":
		c.off, c.size = int64(n.args[3]), int64(n.args[2])
	case "ftruncate":
		c.off = int64(n.args[1])
	}
	return c, nil
}

func (s *supervisor) ours(path string) bool { return strings.HasPrefix(path+"/", s.root+"/") }

// at is the absolute path of a name in a folder of the process.
func (s *supervisor) at(n notif, fd, address uint64) (string, error) {
	name, err := s.text(n, address)
	if err != nil || filepath.IsAbs(name) {
		return filepath.Clean(name), err
	}
	link := fmt.Sprintf("/proc/%d/cwd", n.pid)
	if int32(fd) != unix.AT_FDCWD {
		link = fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(fd))
	}
	folder, err := os.Readlink(link)
	return filepath.Join(folder, name), err
}

// text reads a C string of the process.
func (s *supervisor) text(n notif, address uint64) (string, error) {
	var b []byte
	for len(b) < unix.PathMax {
		// Up to the end of a page: the next one may not be there.
		part, err := s.memory(n, address+uint64(len(b)), 256-int((address+uint64(len(b)))%256))
		if err != nil {
			return "", err
		}
		b = append(b, part...)
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(b[:i]), nil
		}
	}
	return "", unix.ENAMETOOLONG
}

func (s *supervisor) memory(n notif, address uint64, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	b := make([]byte, size)
	got, err := unix.ProcessVMReadv(int(n.pid), []unix.Iovec{{Base: &b[0], Len: uint64(size)}},
		[]unix.RemoteIovec{{Base: uintptr(address), Len: size}}, 0)
	if err != nil {
		return nil, fmt.Errorf("read memory of the process: %w", err)
	}
	if got != size {
		return nil, fmt.Errorf("read memory of the process: %d of %d bytes", got, size)
	}
	return b, nil
}

// perform makes a call in the place of the process, with c.size bytes of a write.
func (s *supervisor) perform(c *sysCall) (int64, error) {
	n := c.note
	switch c.name {
	case "write", "pwrite64", "ftruncate", "fsync", "fdatasync":
		fd, err := unix.PidfdGetfd(s.pidfd, int(int32(n.args[0])), 0)
		if err != nil {
			return 0, fmt.Errorf("pidfd_getfd: %w", err)
		}
		defer unix.Close(fd)
		return s.performFile(c, fd)
	case "renameat", "rename":
		return 0, unix.Rename(c.from, c.path)
	case "renameat2":
		return 0, unix.Renameat2(unix.AT_FDCWD, c.from, unix.AT_FDCWD, c.path, uint(n.args[4]))
	case "linkat", "link":
		return 0, unix.Link(c.from, c.path)
	case "unlinkat":
		return 0, unix.Unlinkat(unix.AT_FDCWD, c.path, int(n.args[2]))
	case "unlink":
		return 0, unix.Unlink(c.path)
	case "mkdirat":
		return 0, unix.Mkdir(c.path, uint32(n.args[2]))
	case "mkdir":
		return 0, unix.Mkdir(c.path, uint32(n.args[1]))
	case "openat": // of the effect only the file, since the call will not succeed
		fd, err := unix.Open(c.path, int(n.args[2])|unix.O_CLOEXEC, uint32(n.args[3]))
		if err != nil {
			return 0, err
		}
		return 0, unix.Close(fd)
	}
	return 0, fmt.Errorf("call %s cannot be made for another", c.name)
}

func (s *supervisor) performFile(c *sysCall, fd int) (int64, error) {
	switch c.name {
	case "ftruncate":
		return 0, unix.Ftruncate(fd, c.off)
	case "fsync", "fdatasync":
		return 0, unix.Fsync(fd)
	}
	data, err := s.memory(c.note, c.note.args[1], int(c.size))
	if err != nil {
		return 0, err
	}
	if c.name == "write" {
		n, err := unix.Write(fd, data)
		return int64(n), err
	}
	n, err := unix.Pwrite(fd, data, c.off)
	return int64(n), err
}
