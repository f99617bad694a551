package main

import (
	"context"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/shards"
)

// shardFlags are what all commands on shards take.
type shardFlags struct {
	config *string
	json   *bool
}

func declareShards(fs *flag.FlagSet) shardFlags {
	return shardFlags{configFlag(fs), fs.Bool("json", false, "write the result as JSON")}
}

// load reads the configuration, and makes what goes with it.
func (f shardFlags) load(e *env) (*config.Config, daemon.Options, error) {
	cfg, err := config.Load(*f.config, e.now())
	if err != nil {
		return nil, daemon.Options{}, err
	}
	return cfg, daemon.Options{Now: e.now, Version: version()}, nil
}

// endingFlags are what commands take that cannot be undone.
type endingFlags struct {
	shardFlags
	dry, yes *bool
	note     *string
	patience *time.Duration
}

func declareEnding(fs *flag.FlagSet, patience time.Duration, waitFor string) endingFlags {
	return endingFlags{
		shardFlags: declareShards(fs),
		dry:        fs.Bool("dry-run", false, "only say what would be done, as without --yes"),
		yes:        fs.Bool("yes", false, "do it: it cannot be undone"),
		note:       fs.String("note", "", "a `text` that is kept with the decision"),
		patience:   fs.Duration("wait", patience, "how long to wait for "+waitFor+", a `duration`"),
	}
}

// open opens the parts of the one log that a command names.
func (f endingFlags) open(ctx context.Context, e *env, command string, args []string) (*daemon.Parts, daemon.Options, error) {
	switch {
	case len(args) != 1:
		return nil, daemon.Options{}, misuse(command, "kiln %s takes the name of one shard", command)
	case *f.dry && *f.yes:
		return nil, daemon.Options{}, misuse(command, "--dry-run and --yes do not go together")
	}
	cfg, opts, err := f.load(e)
	if err != nil {
		return nil, opts, err
	}
	conf, err := shards.Find(cfg, args[0])
	if err != nil {
		return nil, opts, err
	}
	p, err := daemon.OpenParts(ctx, cfg, conf, opts)
	return p, opts, err
}

func shardsPlanCommand() command {
	return command{
		name: "shards plan", args: "[-c FILE] [--json]",
		summary: "show which shards each series has and lacks, and what create would make",
		about: "Shows each shard of each series with its window of NotAfter, its state, and whether kiln shards create --all would make it. " +
			"Root programmes want windows without gaps from now to three years ahead: where no shard takes submissions in that time is shown as a gap, " +
			"with what closes it. It changes nothing, and may run beside kiln serve. With --json it is an array of series.",
		examples: []string{"kiln shards plan -c kiln.yaml"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			f := declareShards(fs)
			return func(ctx context.Context, e *env, args []string) error {
				if err := noArguments("shards plan", args); err != nil {
					return err
				}
				cfg, list, err := f.list(ctx, e)
				if err != nil {
					return err
				}
				if len(cfg.Series) == 0 {
					return fmt.Errorf("%s has no series: kiln help config shows how one is written", cfg.Path)
				}
				return printPlans(e, shards.MakePlan(cfg, list, e.now()), *f.json)
			}
		},
	}
}

// list looks at all logs.
func (f shardFlags) list(ctx context.Context, e *env) (*config.Config, []shards.Shard, error) {
	cfg, opts, err := f.load(e)
	if err != nil {
		return nil, nil, err
	}
	bar := e.progress("looking at shards")
	defer bar.end()
	list, err := shards.List(ctx, cfg, opts, bar.set)
	return cfg, list, err
}

func shardsListCommand() command {
	return command{
		name: "shards list", args: "[-c FILE] [--json]",
		summary: "show the state of each log",
		about: "Shows each log of the configuration, shard of a series or not: its window, state, tree size, the age of its checkpoint, log ID, URL and storage. " +
			"States are planned (not made yet), active, read-only (by its window or by read_only), freezing (frozen, but its last round is not ended), " +
			"frozen, retired and broken (standard error says why). It changes nothing, and may run beside kiln serve. The status is 1 if a log is broken.",
		examples: []string{"kiln shards list -c kiln.yaml", "kiln shards list -c kiln.yaml --json"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			f := declareShards(fs)
			return func(ctx context.Context, e *env, args []string) error {
				if err := noArguments("shards list", args); err != nil {
					return err
				}
				_, list, err := f.list(ctx, e)
				if err != nil {
					return err
				}
				return printShards(e, list, *f.json)
			}
		},
	}
}

func shardsCreateCommand() command {
	return command{
		name: "shards create", args: "[-c FILE] SHARD... | --all [--dry-run] [--out DIR] [--json]",
		summary: "make shards, and print their inclusion requests",
		about: "Makes of each shard what is missing: its private key (or derives it), the lock cell, a checkpoint of size 0 and log.v3.json; and prints the JSON object with which " +
			"Chrome wants a log to be applied for. A shard is named as example2026h1, or as 2026h1 if there is one series; --all is each that is planned and whose window is not over. " +
			"A key that is weak, that others can read or that another log has is refused. What is there already stays as it is, so it can be repeated at any time, " +
			"also after a crash. With --json it is an array of objects with name, done, key_source, storage, lock and inclusion_request.",
		examples: []string{"kiln shards create -c kiln.yaml --all --dry-run", "kiln shards create -c kiln.yaml 2026h1 --out requests"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			c := createFlags{
				shardFlags: declareShards(fs),
				all:        fs.Bool("all", false, "make every shard that is missing"),
				dry:        fs.Bool("dry-run", false, "only say what would be made"),
				out:        fs.String("out", "", "a `folder` to write each inclusion request to, as SHARD.json"),
			}
			return c.run
		},
	}
}

type createFlags struct {
	shardFlags
	all, dry *bool
	out      *string
}

func (f createFlags) run(ctx context.Context, e *env, args []string) error {
	if *f.all == (len(args) > 0) {
		return misuse("shards create", "kiln shards create takes the names of shards, or --all")
	}
	cfg, opts, err := f.load(e)
	if err != nil {
		return err
	}
	logs, broken, err := f.named(ctx, e, cfg, opts, args)
	if err != nil {
		return err
	}
	bar := e.progress("making shards")
	defer bar.end()
	var made []shards.Creation
	for i, conf := range logs {
		c, err := shards.Create(ctx, cfg, conf, opts, *f.dry)
		if err == nil {
			err = f.write(c)
		}
		if err != nil { // those before it are made, and stay
			bar.end()
			return errors.Join(printCreated(e, cfg, made, len(logs), *f.dry, *f.json), err)
		}
		made = append(made, c)
		bar.set(int64(i+1), int64(len(logs)))
	}
	bar.end()
	if err := printCreated(e, cfg, made, len(logs), *f.dry, *f.json); err != nil {
		return err
	}
	return broken
}

// named returns the logs that the command line means. broken is an error if
// others are, of which it cannot be told whether they are missing.
func (f createFlags) named(ctx context.Context, e *env, cfg *config.Config, opts daemon.Options, args []string) (logs []config.Log, broken, err error) {
	for _, name := range args {
		conf, err := shards.Find(cfg, name)
		if err != nil {
			return nil, nil, err
		}
		if !slices.ContainsFunc(logs, func(l config.Log) bool { return l.Name == conf.Name }) {
			logs = append(logs, conf)
		}
	}
	if !*f.all {
		return logs, nil, nil
	}
	list, err := shards.List(ctx, cfg, opts, nil)
	for _, s := range list {
		if s.Conf.FromSeries && shards.Wanted(s, e.now()) {
			logs = append(logs, s.Conf)
		}
	}
	return logs, tellBroken(e, list), err
}

// write puts the request of a shard into the folder that was asked for.
func (f createFlags) write(c shards.Creation) error {
	if *f.out == "" || *f.dry || c.Request == nil {
		return nil
	}
	data, err := c.Request.JSON()
	if err == nil {
		err = makeFolder(*f.out)
	}
	if err == nil {
		err = writeFile(filepath.Join(*f.out, c.Conf.Name+".json"), data)
	}
	if err != nil {
		return fmt.Errorf("write the inclusion request of %s: %w", c.Conf.Name, err)
	}
	return nil
}

func shardsFreezeCommand() command {
	const name = "shards freeze"
	return command{
		name: name, args: "[-c FILE] SHARD [--yes] [--note TEXT] [--wait DURATION] [--json]",
		summary: "stop a shard from growing, for good",
		about: "Ends the growth of a log for good: it answers submissions with 410, what was taken is sequenced, and the final tree head is published in log.v3.json and printed here, " +
			"as programmes want it. The log goes on being served and signed. This cannot be undone, so without --yes it only shows what would happen. A kiln serve that has the log finds the " +
			"decision within 5 s and ends the last round, and this command waits for that; it never needs to be stopped. Repeating it prints the same.",
		examples: []string{"kiln shards freeze -c kiln.yaml 2026h1", "kiln shards freeze -c kiln.yaml 2026h1 --yes --note \"end of its window\""},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			f := declareEnding(fs, time.Minute, "the process that serves the log")
			return func(ctx context.Context, e *env, args []string) (err error) {
				p, opts, err := f.open(ctx, e, name, args)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, p.Close()) }()
				return f.freeze(ctx, e, p, opts)
			}
		},
	}
}

func (f endingFlags) freeze(ctx context.Context, e *env, p *daemon.Parts, opts daemon.Options) error {
	final, err := shards.LoadFinal(ctx, p)
	if err != nil {
		return err
	}
	if !*f.yes && final == nil {
		return printFreezePlan(ctx, e, p, opts, *f.json)
	}
	if *f.yes {
		if final == nil {
			fmt.Fprintf(e.stderr, "kiln: freezing %s; if it is being served, that process ends its last round within some seconds\n", p.Conf.Name)
		}
		bar := e.progress("waiting for the last round")
		defer bar.end()
		frozen, err := shards.Freeze(ctx, p, shards.FreezeConfig{Note: *f.note, Patience: *f.patience, Waiting: bar.set}, opts)
		if err != nil {
			return err
		}
		bar.end()
		final = &frozen
	}
	return printFinal(e, p, final, *f.json)
}

func shardsRetireCommand() command {
	const name = "shards retire"
	return command{
		name: name, args: "[-c FILE] SHARD [--keep TIME] [--mark-only] [--yes] [--note TEXT] [--wait DURATION] [--json]",
		summary: "show what may be deleted of a shard that has ended, and delete it",
		about: "Shows what lies in the storage of a log, by kind, and from when on it may be deleted: only of a frozen log with a final tree, whose window is over, and 90 days later (--keep): until then " +
			"clients with old lists and monitors that catch up may still read it. With --yes the log is marked as retired, nobody signs for it any more, and its objects are deleted, " +
			"the checkpoint first, log.v3.json last; what was cut short goes on when repeated. Only what a log is made of goes, as its own storage lists it: the key, the lock cells, the " +
			"deduplication cache and whatever else lies there stay. The status is 1 if --yes is given too early.",
		examples: []string{"kiln shards retire -c kiln.yaml 2024h1", "kiln shards retire -c kiln.yaml 2024h1 --keep 180d --yes"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			f := declareEnding(fs, 2*time.Minute, "those that still sign for the log")
			keep := keepTime(shards.DefaultKeep)
			markOnly := fs.Bool("mark-only", false, "delete nothing, only see to it that nobody signs any more: for a lifecycle rule of the bucket that deletes")
			fs.Var(&keep, "keep", "how long after the end of its window the log is kept, a `time` such as 90d or 36h")
			return func(ctx context.Context, e *env, args []string) (err error) {
				p, opts, err := f.open(ctx, e, name, args)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, p.Close()) }()
				return f.retire(ctx, e, p, shards.RetireConfig{
					Keep: time.Duration(keep), Note: *f.note, Patience: *f.patience, MarkOnly: *markOnly,
				}, opts)
			}
		},
	}
}

func (f endingFlags) retire(ctx context.Context, e *env, p *daemon.Parts, c shards.RetireConfig, opts daemon.Options) error {
	listing := e.progress("listing objects")
	defer listing.end()
	c.Listed = listing.set
	if !*f.yes {
		r, err := shards.Inspect(ctx, p, c, opts)
		listing.end()
		if err != nil {
			return err
		}
		return printRetirement(e, p, r, nil, *f.json)
	}
	bar := e.progress("deleting objects")
	defer bar.end()
	c.Step = bar.set
	c.Waiting = func() {
		listing.end()
		fmt.Fprintf(e.stderr, "kiln: %s is retired; waiting until nobody signs for it any more\n", p.Conf.Name)
	}
	r, gone, err := shards.Retire(ctx, p, c, opts)
	bar.end()
	if r == nil || err != nil {
		return err
	}
	return printRetirement(e, p, r, &gone, *f.json)
}

// keepTime is a duration that may be given in days.
type keepTime time.Duration

func (k *keepTime) String() string { return days(time.Duration(*k)) }

// Set implements [flag.Value].
func (k *keepTime) Set(s string) error {
	const most = 100 * 366 // days
	d, err := time.ParseDuration(s)
	if n, ok := strings.CutSuffix(s, "d"); ok {
		var count uint64
		count, err = strconv.ParseUint(n, 10, 16)
		d = time.Duration(count) * 24 * time.Hour
	}
	if err != nil || d < 0 || d > most*24*time.Hour {
		return errors.New("want a number of days such as 90d, or a duration such as 36h")
	}
	*k = keepTime(d)
	return nil
}

// days writes a duration in days if it is a number of them.
func days(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

func logIDText(id []byte) string { return base64.StdEncoding.EncodeToString(id) }
