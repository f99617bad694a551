package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/roots"
)

// rootsArgs is the command line of the commands of kiln roots.
type rootsArgs struct {
	config               string
	file, extra, refused string
	reports              []string
	json, dryRun         bool
	cached, acceptShrunk bool
}

// rootsAction is what a command of kiln roots does with one roots file.
type rootsAction func(ctx context.Context, m *roots.Manager, a *rootsArgs, r *rootsResult) error

const rootsSources = " The roots file, the reports and the files of extra and refused roots are those of the configuration; " +
	"flags take their place, and with --file there need be no configuration."

func rootsFetchCommand() command {
	return command{
		name: "roots fetch", args: "[-c FILE] [--report URL]... [--dry-run] [--json]",
		summary: "read the reports of the root programmes, and keep them",
		about: "Reads the reports of accepted roots that CCADB publishes, checks that each is whole, and keeps it in the folder " +
			"ROOTS_FILE.reports, where kiln roots diff and apply find it with --cached. Nothing is accepted by that. " +
			"CCADB has " + roots.IncludedReport + " (in at least one of the stores of Apple, Chrome, Microsoft and Mozilla) and " +
			roots.InclusionReport + " (applicants)." + rootsSources,
		examples: []string{"kiln roots fetch -c kiln.yaml", "kiln roots fetch --file roots.pem --report " + roots.IncludedReport},
		flags: rootsFlags("roots fetch", "keep nothing", func(ctx context.Context, m *roots.Manager, a *rootsArgs, r *rootsResult) error {
			state, err := m.Load(ctx)
			if err != nil {
				return err
			}
			fetched := m.Fetch(ctx, state)
			r.listed(fetched)
			if a.dryRun {
				return nil
			}
			r.Kept, err = m.KeepReports(fetched)
			return err
		}),
	}
}

func rootsDiffCommand() command {
	return command{
		name: "roots diff", args: "[-c FILE] [--report URL]... [--cached] [--json]",
		summary: "show what kiln roots apply would change",
		about: "Reads the reports, the extra and the refused roots, and shows which roots would be accepted from now on (add), which are " +
			"listed no more by any source and stay nevertheless (gone), which would be taken out because the operator refuses them (remove), " +
			"and which are listed but not accepted for that (refused). It changes nothing. The status is 1 if a report cannot be followed." + rootsSources,
		examples: []string{"kiln roots diff -c kiln.yaml", "kiln roots diff -c kiln.yaml --cached --json"},
		flags: rootsFlags("roots diff", "", func(ctx context.Context, m *roots.Manager, _ *rootsArgs, r *rootsResult) error {
			_, err := rootsPlan(ctx, m, r)
			return err
		}),
	}
}

func rootsApplyCommand() command {
	return command{
		name: "roots apply", args: "[-c FILE] [--report URL]... [--cached] [--dry-run] [--json]",
		summary: "accept the roots that are new in the reports",
		about: "Does what kiln roots diff shows: adds to the roots file what the reports and the file of extra roots list, and takes out " +
			"what the file of refused roots names, and nothing else. What the file held before is kept as ROOTS_FILE.last-good, and what it holds " +
			"now is copied into the storage of each log. If the roots file is lost it is made again from that copy. A report that cannot be followed " +
			"is left out and makes the status 1. A running kiln serve takes the roots up at SIGHUP, and does all this by itself at each refresh." + rootsSources,
		examples: []string{"kiln roots apply -c kiln.yaml", "kiln roots apply -c kiln.yaml --cached --dry-run"},
		flags: rootsFlags("roots apply", "show what would be done, as kiln roots diff", func(ctx context.Context, m *roots.Manager, a *rootsArgs, r *rootsResult) error {
			p, err := rootsPlan(ctx, m, r)
			if err != nil || a.dryRun {
				return err
			}
			err = m.Apply(ctx, p)
			r.Applied = err == nil || errors.Is(err, roots.ErrCopy)
			return err
		}),
	}
}

func rootsListCommand() command {
	return command{
		name: "roots list", args: "[-c FILE] [--file FILE] [--json]",
		summary:  "list the accepted roots and where they come from",
		about:    "Lists what the roots files accept: fingerprint, NotAfter, sources and subject. The source of a root that no report lists any more is in brackets.",
		examples: []string{"kiln roots list -c kiln.yaml", "kiln roots list --file roots.pem --json"},
		flags: rootsFlags("roots list", "", func(ctx context.Context, m *roots.Manager, _ *rootsArgs, r *rootsResult) error {
			state, err := m.Load(ctx)
			if err != nil {
				return err
			}
			r.From, r.Accepted = state.From, state.Set.Len()
			r.Roots = rootItems(state.Set.All())
			return nil
		}),
	}
}

// rootsFlags declares the flags of a command of kiln roots. dryRun is what
// --dry-run does, if the command has it.
func rootsFlags(name, dryRun string, do rootsAction) func(*flag.FlagSet) func(context.Context, *env, []string) error {
	return func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
		a := &rootsArgs{}
		path := configFlag(fs)
		fs.StringVar(&a.file, "file", "", "the roots `file`, instead of those of the configuration")
		fs.BoolVar(&a.json, "json", false, "write JSON")
		if name != "roots list" {
			fs.Func("report", "`URL` or file of a report; may be repeated", func(s string) error {
				a.reports = append(a.reports, s)
				return roots.CheckSource(s)
			})
			fs.StringVar(&a.extra, "extra", "", "PEM `file` of further roots to accept")
			fs.StringVar(&a.refused, "refused", "", "`file` of roots never to accept: SHA-256 fingerprints, one a line, or PEM")
			fs.BoolVar(&a.acceptShrunk, "accept-shrunk", false, "follow a report that lists less than half of what it did")
		}
		if name == "roots diff" || name == "roots apply" {
			fs.BoolVar(&a.cached, "cached", false, "take the reports as kiln roots fetch has kept them")
		}
		if dryRun != "" {
			fs.BoolVar(&a.dryRun, "dry-run", false, dryRun)
		}
		return func(ctx context.Context, e *env, args []string) error {
			if err := noArguments(name, args); err != nil {
				return err
			}
			if a.config = *path; a.file != "" && !isSet(fs, "c") && !isSet(fs, "config") {
				a.config = ""
			}
			return runRoots(ctx, e, name, a, do)
		}
	}
}

// runRoots does something with each roots file, and prints what came of it.
func runRoots(ctx context.Context, e *env, name string, a *rootsArgs, do rootsAction) error {
	managed, opener, err := rootsConfigs(a, e)
	if err != nil {
		return err
	}
	if opener != nil {
		defer opener.Close() // all that was written is durable
	}
	first := managed[0] // all follow the same
	if name != "roots list" && len(first.Reports) == 0 && (name == "roots fetch" || first.ExtraFile == "" && first.RefusedFile == "") {
		return misuse(name, "there is nothing to follow: give --report, or put reports into the section roots of the configuration")
	}
	bar := e.progress("reading reports")
	defer bar.end()
	var came atomic.Int64
	var results []*rootsResult
	failed := false
	for _, cfg := range managed {
		cfg.Progress = func(n int) { bar.set(came.Add(int64(n)), 0) }
		r := &rootsResult{File: cfg.File, DryRun: a.dryRun}
		results = append(results, r)
		m, err := roots.NewManager(cfg)
		if err == nil {
			err = do(ctx, m, a, r)
		}
		if err != nil {
			r.Error = err.Error()
		}
		failed = failed || r.failed()
	}
	bar.end()
	if a.json {
		err = writeJSON(e, results)
	} else {
		err = printRoots(e, name, results)
	}
	if err == nil && failed {
		err = errReported
	}
	return err
}

// rootsConfigs returns one configuration for each roots file, and the opener of
// the buckets in them, nil if there are none.
func rootsConfigs(a *rootsArgs, e *env) (all []roots.Config, opener *daemon.Opener, err error) {
	base := roots.Config{
		Reports: a.reports, ExtraFile: a.extra, RefusedFile: a.refused,
		Cached: a.cached, AcceptShrunk: a.acceptShrunk, Now: e.now,
	}
	if a.config == "" {
		base.File = a.file
		return []roots.Config{base}, nil, nil
	}
	// Without the files it names: the roots file may be the one to be made again.
	cfg, err := config.Read(a.config, e.now())
	if err != nil {
		return nil, nil, err
	}
	if len(base.Reports) == 0 {
		base.Reports = cfg.Roots.Reports
	}
	if base.ExtraFile == "" {
		base.ExtraFile = cfg.Roots.ExtraFile
	}
	if base.RefusedFile == "" {
		base.RefusedFile = cfg.Roots.RefusedFile
	}
	files, err := rootsFiles(cfg, a.file)
	if err != nil {
		return nil, nil, err
	}
	opener = daemon.NewOpener(cfg, daemon.Options{Now: e.now})
	for _, file := range files {
		base.File, base.Buckets = file, nil
		for _, l := range cfg.Logs {
			if l.RootsFile == file {
				base.Buckets = append(base.Buckets, &lazyBucket{opener: opener, log: l})
			}
		}
		all = append(all, base)
	}
	return all, opener, nil
}

// rootsFiles returns the roots files of the logs, each once, or the one that was
// asked for.
func rootsFiles(cfg *config.Config, only string) (files []string, err error) {
	if only != "" {
		only, err = filepath.Abs(only) // as the configuration has it
		return []string{only}, err
	}
	for _, l := range cfg.Logs {
		if !slices.Contains(files, l.RootsFile) {
			files = append(files, l.RootsFile)
		}
	}
	return files, nil
}

// rootsPlan makes the plan for one roots file, and writes it into the result.
func rootsPlan(ctx context.Context, m *roots.Manager, r *rootsResult) (*roots.Plan, error) {
	state, err := m.Load(ctx)
	if err != nil {
		return nil, err
	}
	r.From = state.From
	fetched := m.Fetch(ctx, state)
	r.listed(fetched)
	p, err := m.Plan(state, fetched)
	if err != nil {
		return nil, err
	}
	r.Accepted, r.Changed = p.Set.Len(), p.Changed()
	r.Add, r.Gone, r.Remove, r.Refused = rootItems(p.Add), rootItems(p.Gone), rootItems(p.Remove), rootItems(p.Refused)
	return p, nil
}

// sourcesOf writes where a root comes from.
func sourcesOf(r rootItem) string {
	all := slices.Clone(r.Sources)
	for _, s := range r.Formerly {
		all = append(all, fmt.Sprintf("[%s]", s))
	}
	return strings.Join(all, " ")
}
