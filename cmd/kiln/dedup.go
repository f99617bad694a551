package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"text/tabwriter"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

// dedupStat is what kiln dedup stat --json says of a log.
type dedupStat struct {
	Log      string       `json:"log"`
	Path     string       `json:"path"`
	Exists   bool         `json:"exists"`
	Rows     int64        `json:"rows"`
	Covered  int64        `json:"covered"`
	TreeSize int64        `json:"tree_size"`
	Bytes    int64        `json:"bytes"`
	Problem  string       `json:"problem,omitempty"`
	Aside    []asideFiles `json:"bad_files"`
}

type asideFiles struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

func dedupStatCommand() command {
	return command{
		name: "dedup stat", args: "[-c FILE] [LOG...]",
		summary: "say what the long-term deduplication caches hold",
		about: "Prints of each log, or of those named, how many entries its cache holds, up to which index it holds all, beside the size " +
			"of the tree, the bytes of the file, and damaged files that were moved aside. It changes nothing and may run beside " +
			"kiln serve. Rows are counted one by one, which takes a while on a large cache. The status is 1 if a file cannot serve as " +
			"the cache of its log. With --json it writes an array of objects with log, path, exists, rows, covered, tree_size, bytes, " +
			"problem and bad_files.",
		examples: []string{"kiln dedup stat -c kiln.yaml", "kiln dedup stat -c kiln.yaml --json example2026h2"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			asJSON := fs.Bool("json", false, "write the report as JSON")
			return func(ctx context.Context, e *env, args []string) error { return statDedup(ctx, e, *path, *asJSON, args) }
		},
	}
}

func statDedup(ctx context.Context, e *env, path string, asJSON bool, names []string) error {
	stats, bad := []dedupStat{}, false
	err := eachLog(ctx, e, "dedup stat", path, names, func(ctx context.Context, p *daemon.Parts) error {
		bar := e.progress("counting rows of " + p.Conf.Name)
		defer bar.end()
		got, err := p.StatDedup(ctx, bar.set)
		if err != nil {
			return err
		}
		s := dedupStat{
			Log: p.Conf.Name, Path: p.Conf.Dedup, Exists: got.Exists, Rows: got.Rows, Covered: got.Covered,
			TreeSize: got.TreeSize, Bytes: got.Bytes, Aside: []asideFiles{},
		}
		if got.Problem != nil {
			bad, s.Problem = true, got.Problem.Error()
		}
		for _, a := range got.Aside {
			s.Aside = append(s.Aside, asideFiles(a))
		}
		stats = append(stats, s)
		return nil
	})
	if asJSON {
		if err := writeJSON(e, stats); err != nil {
			return err
		}
	} else if err := printStats(e, stats); err != nil {
		return err
	}
	if err == nil && bad {
		err = errReported
	}
	return err
}

func printStats(e *env, stats []dedupStat) error {
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	if len(stats) > 0 {
		fmt.Fprintln(tw, "LOG\tROWS\tCOVERED\tTREE SIZE\tFILE\tPATH")
	}
	for _, s := range stats {
		size := bytesOf(s.Bytes)
		if !s.Exists {
			size = "none"
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%s\t%s\n", s.Log, s.Rows, s.Covered, s.TreeSize, size, s.Path)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, s := range stats {
		if s.Problem != "" {
			fmt.Fprintf(e.stderr, "log %s: the next start moves the file aside and begins anew: %s\n", s.Log, s.Problem)
		}
		for _, a := range s.Aside {
			fmt.Fprintf(e.stderr, "note: log %s: a damaged file was moved aside: %s (%s); it may be removed\n", s.Log, a.Path, bytesOf(a.Bytes))
		}
	}
	return nil
}

// dedupRebuilt is what kiln dedup rebuild --json says of a log.
type dedupRebuilt struct {
	Log      string `json:"log"`
	Path     string `json:"path"`
	DryRun   bool   `json:"dry_run"`
	From     int64  `json:"from"`
	Covered  int64  `json:"covered"`
	TreeSize int64  `json:"tree_size"`
	Error    string `json:"error,omitempty"`
}

// rebuildFlags are the flags of kiln dedup rebuild.
type rebuildFlags struct {
	config                  string
	fromStart, dryRun, json bool
}

func dedupRebuildCommand() command {
	return command{
		name: "dedup rebuild", args: "[-c FILE] [--from-start] [LOG...]",
		summary: "fill the long-term deduplication caches from the tiles",
		about: "Reads the entries that the cache of each log, or of those named, lacks from the tiles, proves them against the published " +
			"tree and puts them into the cache, as kiln serve does when it starts: with this command a long run can be done before. " +
			"It goes on where the cache ends, and so where a run was cut off; --from-start empties the cache first. The log must " +
			"not be served by this machine meanwhile. With --json it writes an array of objects with log, path, dry_run, from, covered " +
			"and tree_size.",
		examples: []string{"kiln dedup rebuild -c kiln.yaml --dry-run", "kiln dedup rebuild -c kiln.yaml", "kiln dedup rebuild -c kiln.yaml --from-start example2026h2"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			f := &rebuildFlags{}
			path := configFlag(fs)
			fs.BoolVar(&f.fromStart, "from-start", false, "empty the cache first")
			fs.BoolVar(&f.dryRun, "dry-run", false, "say what would be read, and change nothing")
			fs.BoolVar(&f.json, "json", false, "write the report as JSON")
			return func(ctx context.Context, e *env, args []string) error {
				f.config = *path
				return f.run(ctx, e, args)
			}
		},
	}
}

func (f *rebuildFlags) run(ctx context.Context, e *env, names []string) error {
	reports := []dedupRebuilt{}
	err := eachLog(ctx, e, "dedup rebuild", f.config, names, func(ctx context.Context, p *daemon.Parts) error {
		r, err := f.rebuild(ctx, e, p)
		report := dedupRebuilt{Log: p.Conf.Name, Path: p.Conf.Dedup, DryRun: f.dryRun, From: r.From, Covered: r.Covered, TreeSize: r.TreeSize}
		switch {
		case err != nil:
			report.Error = err.Error()
		case f.json:
		case f.dryRun:
			e.printf("%s: would read the entries from %d to %d\n", report.Log, r.From, r.TreeSize)
		default:
			e.printf("%s: read the entries from %d to %d; the cache has all below %d\n", report.Log, r.From, r.TreeSize, r.Covered)
		}
		reports = append(reports, report)
		return err
	})
	if f.json {
		if err := writeJSON(e, reports); err != nil {
			return err
		}
	}
	return err
}

func (f *rebuildFlags) rebuild(ctx context.Context, e *env, p *daemon.Parts) (daemon.Rebuilt, error) {
	bar := e.progress("filling the cache of " + p.Conf.Name)
	defer bar.end()
	if !f.dryRun {
		log := newLogger(e.stderr, config.Logging{Level: slog.LevelWarn, Format: "text"})
		return p.RebuildDedup(ctx, daemon.Options{Now: e.now, Logger: log}, f.fromStart, bar.set)
	}
	return p.PlanDedup(ctx, f.fromStart)
}
