// Package syscalls_test makes the system calls of a running kiln serve fail, one
// exact call at a time: with an error before or after the effect, with a write cut
// short, with a kill, with a power cut that loses whatever was not synced, and
// with a sync whose error is told once and whose data is gone.
//
// Invariants: kiln is the program that is shipped, not changed for the test; a
// fault that was asked for and met by no call fails the test; every log is judged
// by testlogs' auditor. The package never knows what kiln has in memory.
//
// A supervisor takes the calls by Linux's seccomp user notification. It is not
// strace, whose inject=…:when=N counts each thread by itself: the calls of a Go
// program move from thread to thread, so that N would name another call each time.
package syscalls_test
