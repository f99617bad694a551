// Package sim runs whole logs in a simulated world: one seed is one world, in one
// process, in virtual time, with faults that the seed draws.
//
// What is real: everything that kiln serve runs for a log, wired by
// [kiln/internal/daemon.OpenLog]: frontend, issuers, ring and batchers,
// sequencer, recovery, catching up, confirmation, and in some worlds the SQLite
// cache. What is simulated: storage, lock and cache behind a gate, the calls
// between the roles, clocks, clients and an operator. Each call that leaves a
// node stops at the gate until the scheduler lets it go, and says how it ends: by
// then, later, twice, never, torn, with a bit changed, or with the node dead.
//
// Invariants: only the scheduler draws random numbers, and only when every
// goroutine of the world is blocked; what is pending is sorted before it draws.
// So a seed is one history, byte for byte, on any machine. After every step an
// auditor that knows no code of kiln looks at all that became visible. When the
// faults are over, everyone who wants an SCT gets one in bounded virtual time.
//
// What is not simulated: sockets and TLS, the file system below storage/dir, the
// protocols of S3 and etcd, and threads of one process that run at the very same
// moment; other tests are there for these.
//
// The package never knows how the log does what it promises. It is made of tests
// alone, for testing/synctest wants one.
package sim
