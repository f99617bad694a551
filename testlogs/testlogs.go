// Package testlogs makes whole logs for tests and for a first try: a throw-away
// PKI ([CA]), the half-year windows around a date ([Shards]), a client that
// submits chains and checks the SCTs it gets ([Client]), a monitor that reads
// everything back and remembers what it saw ([Auditor]), and all of kiln in one
// process on a temporary folder ([Start]).
//
// Invariants: what Client and Auditor accept they have computed themselves, from
// the standard library, golang.org/x/mod and filippo.io/sunlight; they share no
// code with the packages they judge. An Auditor never forgets a checkpoint, an
// SCT or an object.
//
// The package never knows how an entry is stored, ordered or signed, and never
// imports package testing: cmd/kiln uses it too.
package testlogs

import (
	"fmt"
	"time"
)

// TB is what [Start] needs of a *testing.T, *testing.B or *testing.F.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
	Cleanup(func())
	TempDir() string
}

// Shard is one half-year window of NotAfter: Start <= NotAfter < Limit.
type Shard struct {
	Name         string // for example dev2026h2
	Start, Limit time.Time
}

// Shards returns the half-year around a date and the next, in UTC.
func Shards(now time.Time) []Shard {
	y, half := now.UTC().Year(), 0
	if now.UTC().Month() > time.June {
		half = 1
	}
	var shards []Shard
	for range 2 {
		shards = append(shards, Shard{
			Name:  fmt.Sprintf("dev%dh%d", y, half+1),
			Start: time.Date(y, time.Month(1+6*half), 1, 0, 0, 0, 0, time.UTC),
			Limit: time.Date(y, time.Month(7+6*half), 1, 0, 0, 0, 0, time.UTC),
		})
		y, half = y+half, 1-half
	}
	return shards
}
