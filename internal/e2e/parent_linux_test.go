package e2e_test

import "syscall"

// diesWithParent has a process that is started end when the tests do, however
// they end.
func diesWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
