// Kiln is a Certificate Transparency log of the Static CT API: this program
// makes logs, checks their configuration and serves them.
//
// Results go to standard output, everything else to standard error. The exit
// status is 0 for success, 1 when something failed, 2 when the command line was
// not understood.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"kiln/internal/config"
)

func main() {
	os.Exit(run(context.Background(), &env{stdout: os.Stdout, stderr: os.Stderr, now: time.Now}, os.Args[1:]))
}

// env is what a command sees of the world outside.
type env struct {
	stdout, stderr io.Writer
	now            func() time.Time
}

// printf writes a result. That standard output is gone is no reason to stop.
func (e *env) printf(format string, args ...any) { fmt.Fprintf(e.stdout, format, args...) }

// command is one subcommand. A name of two words is a command of a group.
type command struct {
	name     string
	args     string // after the name in the usage line
	summary  string // one line, for the list
	about    string // one paragraph
	examples []string
	// flags declares the command's flags, and returns what runs it with the
	// arguments that are no flags.
	flags func(*flag.FlagSet) func(ctx context.Context, e *env, args []string) error
}

func commands() []command {
	return []command{
		devCommand(),
		initCommand(),
		serveCommand(),
		checkCommand(),
		logsCommand(),
		rootsFetchCommand(),
		rootsDiffCommand(),
		rootsApplyCommand(),
		rootsListCommand(),
		fsckCommand(),
		watchCommand(),
		restoreCommand(),
		gcCommand(),
		dedupStatCommand(),
		dedupRebuildCommand(),
		keysNewCommand(),
		keysShowCommand(),
		keysCheckCommand(),
		shardsPlanCommand(),
		shardsCreateCommand(),
		shardsListCommand(),
		shardsFreezeCommand(),
		shardsRetireCommand(),
		versionCommand(),
		helpCommand(),
	}
}

// group is a set of commands whose names share their first word.
type group struct{ name, summary string }

func groups() []group {
	return []group{
		{"roots", "follow the root programmes"},
		{"dedup", "look after deduplication caches"},
		{"keys", "make, show and check the keys of logs"},
		{"shards", "look after the shards of a series, from their making to their end"},
	}
}

// run runs one command line and returns the exit status.
func run(ctx context.Context, e *env, args []string) int {
	if g, rest, ok := findGroup(args); ok {
		return runGroup(e, g, rest)
	}
	cmd, rest, err := find(args)
	if err == nil {
		err = runCommand(ctx, e, cmd, rest)
	}
	var usage *usageError
	var faults config.Faults
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(e.stderr, "kiln: %v\n%s\n", err, usage.hint)
		return 2
	case errors.As(err, &faults):
		fmt.Fprintf(e.stderr, "%v\nkiln %s: %s in %s\n", faults, cmd.name, count(len(faults), "fault"), faults[0].File)
	case err != errReported:
		fmt.Fprintf(e.stderr, "kiln %s: %v\n", cmd.name, err)
	}
	return 1
}

// errReported is a failure that was already told.
var errReported = errors.New("reported")
