//go:build !linux

package e2e_test

import "syscall"

// diesWithParent can do nothing here.
func diesWithParent() *syscall.SysProcAttr { return nil }
