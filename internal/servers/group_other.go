//go:build !linux

package servers

import "syscall"

// ownGroup keeps a Ctrl-C on the terminal from reaching the server before its
// parent has stopped what uses it.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
