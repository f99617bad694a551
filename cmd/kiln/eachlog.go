package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

// logsNamed returns the logs of a configuration that a command line names, all
// if it names none.
func logsNamed(command string, cfg *config.Config, names []string) ([]config.Log, error) {
	if len(names) == 0 {
		return cfg.Logs, nil
	}
	var logs []config.Log
	var known []string
	for _, l := range cfg.Logs { // in the order of the file, each once
		known = append(known, l.Name)
		if slices.Contains(names, l.Name) {
			logs = append(logs, l)
		}
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, misuse(command, "there is no log %s in %s; it has %s", name, cfg.Path, strings.Join(known, ", "))
		}
	}
	return logs, nil
}

// eachLog opens the parts of each log in turn and calls do. A log that fails is
// told and does not keep others from their turn; one that was not made yet or
// is retired is passed over unless it was named. do is not called any more when ctx ends.
func eachLog(ctx context.Context, e *env, command, path string, names []string, do func(context.Context, *daemon.Parts) error) error {
	cfg, err := config.Load(path, e.now())
	if err != nil {
		return err
	}
	logs, err := logsNamed(command, cfg, names)
	if err != nil {
		return err
	}
	in := followInterrupts(ctx)
	defer in.close()
	opener := daemon.NewOpener(cfg, daemon.Options{Now: e.now})
	defer func() { _ = opener.Close() }() // what was written was confirmed
	failed := false
	for _, l := range logs {
		err := eachOf(in.ctx, opener, l, do)
		switch {
		case (errors.Is(err, daemon.ErrNotCreated) || errors.Is(err, daemon.ErrRetired)) && len(names) == 0:
			fmt.Fprintf(e.stderr, "note: log %s was passed over: it was not made yet, or is retired\n", l.Name)
			continue
		case err != nil && in.ctx.Err() != nil && ctx.Err() == nil:
			return errors.New("interrupted; run it again to go on")
		case err != nil:
			failed = true
			fmt.Fprintf(e.stderr, "kiln %s: %v\n", command, err)
		}
	}
	if failed {
		return errReported
	}
	return nil
}

func eachOf(ctx context.Context, opener *daemon.Opener, l config.Log, do func(context.Context, *daemon.Parts) error) error {
	parts, err := opener.Open(ctx, l)
	if err != nil {
		return err
	}
	state, err := parts.State(ctx)
	if err == nil && state.Retired != nil {
		err = daemon.ErrRetired
	}
	if err == nil {
		err = do(ctx, parts)
	}
	if err != nil {
		return fmt.Errorf("log %s: %w", l.Name, err)
	}
	return nil
}

// bytesOf writes a size for people.
func bytesOf(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return count(int(n), "byte")
	}
	size, unit := float64(n), -1
	for size >= 999.95 && unit < len(units)-1 {
		size, unit = size/1000, unit+1
	}
	return fmt.Sprintf("%.1f %cB", size, units[unit])
}
