package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"

	"kiln/internal/config"
	"kiln/internal/restore"
)

// restoreFlags are the flags of kiln restore.
type restoreFlags struct {
	config                *string
	dryRun, json, noServe bool
}

func restoreCommand() command {
	return command{
		name: "restore", args: "[-c FILE] [LOG...] [--dry-run] [--json] [--no-serve]",
		summary: "bring logs back on an empty machine, from storage, key and lock",
		about: "Needs the configuration, the key or secret, the credentials, and a way to the storage and the lock; all else is made again. " +
			"It compares the lock with what is published, proves the right edge, hashes every entry anew against the tree of the lock's checkpoint, " +
			"reads every issuer that an entry names, fills the deduplication cache on the way, brings back the roots file from its copy in the storage, " +
			"and then serves all logs of the configuration as kiln serve does. It signs nothing and writes nothing into storage or lock before that. " +
			"It refuses, and says what that would mean, if the lock is missing, behind what is published, or another log's; if a committed round cannot be " +
			"finished; and if an object is damaged or missing. An interrupted run goes on where it ended. The status is 1 if it refuses or fails.",
		examples: []string{
			"kiln restore -c kiln.yaml --dry-run",
			"kiln restore -c kiln.yaml",
			"kiln restore -c kiln.yaml --no-serve example2026h2",
		},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			f := &restoreFlags{config: configFlag(fs)}
			fs.BoolVar(&f.dryRun, "dry-run", false, "compare lock and storage, say what would be done, and do nothing")
			fs.BoolVar(&f.json, "json", false, "write the result as JSON, and do not serve")
			fs.BoolVar(&f.noServe, "no-serve", false, "do not serve afterwards")
			return func(ctx context.Context, e *env, args []string) error { return f.run(ctx, e, args) }
		},
	}
}

func (f *restoreFlags) run(ctx context.Context, e *env, names []string) error {
	cfg, err := config.Read(*f.config, e.now())
	if err != nil {
		return err
	}
	var known []string
	for _, l := range cfg.Logs {
		known = append(known, l.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return misuse("restore", "there is no log %s in %s; it has %s", name, cfg.Path, strings.Join(known, ", "))
		}
	}
	plan, err := f.restore(ctx, e, cfg, names)
	if plan != nil {
		if f.json {
			err = f.writeResult(e, plan, err)
		} else {
			f.print(e, plan)
		}
	}
	if err != nil || f.dryRun || f.json || f.noServe {
		return err
	}
	// The files that were missing are there now, and are read as at any start.
	if cfg, err = config.Load(*f.config, e.now()); err != nil {
		return err
	}
	return serve(ctx, e, cfg, printServed)
}

// restore does all but the serving. The plan is nil if nothing could be looked at.
func (f *restoreFlags) restore(ctx context.Context, e *env, cfg *config.Config, names []string) (plan *restore.Plan, err error) {
	in := followInterrupts(ctx)
	defer in.close()
	bars := &stages{e: e}
	defer bars.end()
	plan, err = restore.Look(in.ctx, cfg, restore.Options{
		Names: names, Serve: !f.json && !f.noServe, Now: e.now,
		Progress: bars.set, Logger: newLogger(e.stderr, config.Logging{Level: cfg.Logging.Level, Format: cfg.Logging.Format}),
	})
	if err != nil && in.asked() {
		return nil, errors.New("interrupted before anything was changed")
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plan.Close()) }()
	if f.dryRun {
		return plan, plan.Err()
	}
	return plan, plan.Run(in.ctx)
}

// writeResult writes the plan, and returns err as one that was told.
func (f *restoreFlags) writeResult(e *env, plan *restore.Plan, err error) error {
	result := struct {
		DryRun bool   `json:"dry_run"`
		OK     bool   `json:"ok"`
		Error  string `json:"error,omitempty"`
		*restore.Plan
	}{DryRun: f.dryRun, OK: err == nil, Plan: plan}
	if err != nil {
		result.Error = err.Error()
	}
	if jsonErr := writeJSON(e, result); jsonErr != nil {
		return jsonErr
	}
	if err != nil {
		return errReported
	}
	return nil
}

// print says what was found, and what was done or would be.
func (f *restoreFlags) print(e *env, plan *restore.Plan) {
	for _, l := range plan.Logs {
		switch l.State {
		case restore.NotMade:
			e.printf("%s: was never made, nothing to restore\n", l.Name)
			continue
		case restore.Retired:
			e.printf("%s: was retired, nothing to restore\n", l.Name)
			continue
		case restore.Restored:
			e.printf("%s: restored: %d entries verified against the lock (%d of them by an earlier run), %s read, cache complete\n",
				l.Name, l.Verified, l.ResumedAt, count(l.Issuers, "issuer"))
		case restore.Ready:
			e.printf("%s: lock and storage agree: the lock has %v\n", l.Name, l.Lock)
			if f.dryRun {
				e.printf("%s: would verify %d entries and their issuers, and fill the cache\n", l.Name, l.Lock.TreeSize)
			}
		default:
			e.printf("%s: %s\n", l.Name, l.State) // the reason is in the error
		}
		if l.Bundle != "" {
			e.printf("%s: a committed round is not wholly published yet: serving the log finishes it, from %s\n", l.Name, l.Bundle)
		}
		for _, n := range l.Notes {
			fmt.Fprintf(e.stderr, "note: log %s: %s\n", l.Name, n)
		}
	}
	nothing := plan.Err() != nil && !slices.ContainsFunc(plan.Logs, func(l *restore.Log) bool { return l.State == restore.Restored || l.State == restore.Failed })
	for _, r := range plan.Roots {
		switch {
		case r.Missing:
			fmt.Fprintf(e.stderr, "note: %s is not there, and there is no copy: put the accepted roots there before the logs are served\n", r.File)
		case r.From != "" && (f.dryRun || nothing):
			e.printf("%s: would be brought back from %s\n", r.File, r.From)
		case r.From != "":
			e.printf("%s: from %s\n", r.File, r.From)
		}
	}
	for _, n := range plan.Notes {
		fmt.Fprintf(e.stderr, "note: %s\n", n)
	}
	if nothing && !f.dryRun && len(plan.Logs) > 1 {
		fmt.Fprintln(e.stderr, "note: nothing was restored: repair what is named, or name the other logs to restore those")
	}
}
