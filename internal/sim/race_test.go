//go:build race

package sim

// With the race detector a world costs five times as much, and one scheduler
// leaves it little to find: some worlds run with it, and all without.
const (
	defaultSeeds   = 400
	defaultReplays = 40
)
