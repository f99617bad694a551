package syscalls_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// launchEnv makes the test binary a launcher: it puts the filter on itself, sends
// the supervisor's end over descriptor 3, and becomes the program in its
// arguments.
const launchEnv = "KILN_SYSCALLS_LAUNCH"

// calls are the system calls that a supervisor sees. Of openat it is those with
// O_CREAT.
func calls() map[int]string {
	m := map[int]string{
		unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64", unix.SYS_FTRUNCATE: "ftruncate",
		unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_OPENAT: "openat",
		unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2", unix.SYS_LINKAT: "linkat",
		unix.SYS_UNLINKAT: "unlinkat", unix.SYS_MKDIRAT: "mkdirat",
	}
	for nr, name := range oldCalls() {
		m[nr] = name
	}
	return m
}

// program is the BPF program of the filter. The words that it loads are those of
// struct seccomp_data on a little-endian machine.
func program() []unix.SockFilter {
	const atNr, atArch, atFlags = 0, 4, 16 + 2*8 // the third argument of openat
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	var numbers []int
	for nr := range calls() {
		if nr != unix.SYS_OPENAT {
			numbers = append(numbers, nr)
		}
	}
	slices.Sort(numbers)
	n := uint8(len(numbers))
	list := []unix.SockFilter{
		load(atArch),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jf: n + 4}, // to allow
		load(atNr),
	}
	for i, nr := range numbers {
		list = append(list, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(nr), Jt: n - uint8(i) + 3}) // to notify
	}
	return append(list,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_OPENAT, Jf: 2},
		load(atFlags),
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: unix.O_CREAT, Jt: 1},
		unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET, K: unix.SECCOMP_RET_USER_NOTIF},
	)
}

// launch does not return unless it fails.
func launch(args []string) error {
	runtime.LockOSThread() // the filter is this thread's, and exec keeps it
	list := program()
	prog := unix.SockFprog{Len: uint16(len(list)), Filter: &list[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	// A call that waits for the supervisor is ended by death only, and not begun
	// again because the Go runtime sent its thread a signal.
	const waitKillable = 0x20 // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, of Linux 5.19
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|waitKillable, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp filter with user notification (Linux 5.19 or newer, and no container that forbids it): %w", errno)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(fd)), nil, 0); err != nil {
		return fmt.Errorf("send the supervisor its end: %w", err)
	}
	unix.CloseOnExec(3)
	return syscall.Exec(args[0], args, os.Environ())
}

// start runs a command under a supervisor, which is given each of its calls.
func start(cmd *exec.Cmd) (listener int, err error) {
	self, err := os.Executable()
	if err != nil {
		return -1, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "launcher")
	defer theirs.Close()
	cmd.Args = append([]string{self, cmd.Path}, cmd.Args[1:]...)
	cmd.Path = self
	cmd.Env = append(os.Environ(), launchEnv+"=1")
	cmd.ExtraFiles = []*os.File{theirs}
	if err := cmd.Start(); err != nil {
		return -1, errors.Join(err, unix.Close(pair[0]))
	}
	theirs.Close()
	ours := os.NewFile(uintptr(pair[0]), "supervisor")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return -1, err
	}
	defer conn.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return -1, fmt.Errorf("the launcher could not filter its system calls: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("the launcher sent no descriptor, and said so on its standard error (%v)", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}
