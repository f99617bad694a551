package syscalls_test

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// oldCalls are calls that newer architectures have no more.
func oldCalls() map[int]string {
	return map[int]string{
		unix.SYS_UNLINK: "unlink", unix.SYS_RENAME: "rename", unix.SYS_LINK: "link", unix.SYS_MKDIR: "mkdir",
	}
}
