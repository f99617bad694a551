package syscalls_test

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// oldCalls are calls that this architecture does not have.
func oldCalls() map[int]string { return nil }
