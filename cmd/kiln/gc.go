package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"kiln/internal/daemon"
	"kiln/internal/gc"
	"kiln/storage"
)

// gcFlags are the flags of kiln gc.
type gcFlags struct {
	config            string
	grace             time.Duration
	parallel          int
	yes, dryRun, json bool
	list              bool
}

// gcReport is what kiln gc --json says of a log.
type gcReport struct {
	Log    string `json:"log"`
	DryRun bool   `json:"dry_run"`
	gc.Result
	Error string `json:"error,omitempty"`
}

func gcCommand() command {
	return command{
		name: "gc", args: "[-c FILE] [--yes] [LOG...]",
		summary: "delete partial tiles and bundles that nobody needs any more",
		about: "Finds the partial tiles whose full tile has stood for the grace period, and staging bundles that crashes left, of the " +
			"logs named or of all. It only says what it would delete, unless --yes is given. Before a partial tile goes, the full one " +
			"is read, proved against the tree and found to hold all of it; tiles that a checkpoint of the grace period needs stay, and so " +
			"does everything else. It may run beside kiln serve, be interrupted, and be repeated. It stops at the first fault of a " +
			"log, with status 1. With --json it writes an array of objects with log, dry_run, tree_size, safe_size (the size that " +
			"the tree is known to have had a grace period ago), and partial_tiles, bundles and waiting with objects and bytes.",
		examples: []string{"kiln gc -c kiln.yaml", "kiln gc -c kiln.yaml --yes", "kiln gc -c kiln.yaml --grace 24h --yes example2026h2"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			f := &gcFlags{}
			path := configFlag(fs)
			fs.DurationVar(&f.grace, "grace", gc.DefaultGrace, fmt.Sprintf("how `long` a full tile stands before its partial tiles go; at least %v", gc.MinGrace))
			fs.IntVar(&f.parallel, "parallel", gc.DefaultParallel, "make this `number` of calls to the storage at a time")
			fs.BoolVar(&f.yes, "yes", false, "delete")
			fs.BoolVar(&f.dryRun, "dry-run", false, "only say what would be deleted, as without --yes")
			fs.BoolVar(&f.list, "list", false, "write the path of each object too, on standard error with --json")
			fs.BoolVar(&f.json, "json", false, "write the report as JSON")
			return func(ctx context.Context, e *env, args []string) error {
				f.config = *path
				return f.run(ctx, e, args)
			}
		},
	}
}

func (f *gcFlags) run(ctx context.Context, e *env, names []string) error {
	switch {
	case f.yes && f.dryRun:
		return misuse("gc", "--yes and --dry-run exclude each other")
	case f.grace < gc.MinGrace:
		return misuse("gc", "--grace: %v is too short; want at least %v, since readers that hold an older checkpoint need its tiles", f.grace, gc.MinGrace)
	case f.parallel < 1 || f.parallel > 1024:
		return misuse("gc", "--parallel: %d is not from 1 to 1024", f.parallel)
	}
	reports := []gcReport{}
	err := eachLog(ctx, e, "gc", f.config, names, func(ctx context.Context, p *daemon.Parts) error {
		r, err := f.clean(ctx, e, p)
		report := gcReport{Log: p.Conf.Name, DryRun: !f.yes, Result: r}
		if err != nil {
			report.Error = err.Error()
		}
		reports = append(reports, report)
		if !f.json {
			f.print(e, report)
		}
		return err
	})
	if f.json {
		if err := writeJSON(e, reports); err != nil {
			return err
		}
	}
	return err
}

func (f *gcFlags) clean(ctx context.Context, e *env, p *daemon.Parts) (gc.Result, error) {
	cfg, err := p.GC()
	if err != nil {
		return gc.Result{}, err
	}
	what := "looking at tiles of "
	if f.yes {
		what = "cleaning "
	}
	bar := e.progress(what + p.Conf.Name)
	defer bar.end()
	cfg.Grace, cfg.Parallel, cfg.Now = f.grace, f.parallel, e.now
	cfg.Progress = func(listed int64) { bar.set(listed, 0) }
	if f.list {
		out := e.stdout
		if f.json {
			out = e.stderr
		}
		cfg.Each = func(i storage.Info) { fmt.Fprintf(out, "%s %s\n", p.Conf.Name, i.Path) }
	}
	if f.yes {
		return gc.Run(ctx, cfg)
	}
	return gc.Plan(ctx, cfg)
}

func (f *gcFlags) print(e *env, r gcReport) {
	did := "would delete"
	if f.yes {
		did = "deleted"
	}
	e.printf("%s: %s %s (%s) and %s (%s); %s (%s) have to stay for now\n", r.Log, did,
		count(int(r.Partials.Objects), "partial tile"), bytesOf(r.Partials.Bytes),
		count(int(r.Bundles.Objects), "bundle"), bytesOf(r.Bundles.Bytes),
		count(int(r.Waiting.Objects), "more object"), bytesOf(r.Waiting.Bytes))
	if r.BundlesLeft != "" && r.Error == "" {
		fmt.Fprintf(e.stderr, "note: log %s: bundles were left alone: %s\n", r.Log, r.BundlesLeft)
	}
	if !f.yes && r.Error == "" && r.Partials.Objects+r.Bundles.Objects > 0 {
		fmt.Fprintf(e.stderr, "nothing was deleted; --yes does it\n")
	}
}
