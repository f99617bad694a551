package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/term"

	"kiln/internal/fsck"
	"kiln/internal/watch"
)

// watchFlags are the flags of kiln watch.
type watchFlags struct {
	publicKey, origin, state, contact, from string
	interval, maxAge                        time.Duration
	once, json                              bool
}

func watchCommand() command {
	return command{
		name: "watch", args: "URL [flags]",
		summary: "follow a static-ct log, ours or a stranger's, and say when it is at fault",
		about: "Follows a log at its monitoring URL as monitors do, until Ctrl-C: every few seconds the checkpoint and the right edge, each new " +
			"entry hashed anew with its issuers, and in a slow sweep all older tiles. It ends with status 1 when a fault is proven, and says what " +
			"differed: two trees that the log has signed, or an object that is not what a signed tree demands. What cannot be read is said, and is no " +
			"fault; nor is a checkpoint that is stale, which is an alarm. Key and origin are taken from the log's log.v3.json unless they are given. " +
			"On a terminal it shows how the log does, else it writes a line for each thing that happens. With --state it holds against the log what it " +
			"saw before. With --once it looks once, at what is new since then, and ends with status 0 if all was well, 1 if not or if it could not tell.",
		examples: []string{
			"kiln watch https://ct.example.net/2026h2/ --public-key log.pub --state watch.json",
			"kiln watch https://ct.example.net/2026h2/ --from all --json",
			"kiln watch https://ct.example.net/2026h2/ --once --state watch.json",
		},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			var f watchFlags
			fs.StringVar(&f.publicKey, "public-key", "", "the log's public key: a `file` with PEM, DER or base64 of it")
			fs.StringVar(&f.origin, "origin", "", "the `name` in the log's checkpoints: its submission URL without scheme and last slash")
			fs.StringVar(&f.state, "state", "", "a `file` that remembers what was seen")
			fs.StringVar(&f.from, "from", "now", "where to begin without a state: now, all, or an `index`; what is below, the checkpoint vouches for and the sweep checks")
			fs.DurationVar(&f.interval, "interval", watch.DefaultInterval, "`time` between two looks, 1s or more")
			fs.DurationVar(&f.maxAge, "max-age", 0, "age beyond which a checkpoint is stale; a `time`, or what the log declares")
			fs.BoolVar(&f.once, "once", false, "look once")
			fs.StringVar(&f.contact, "contact", "", "e-mail or web `address` that is told to the log's operator in the User-Agent")
			fs.BoolVar(&f.json, "json", false, "write a line of JSON for each thing that happens")
			return func(ctx context.Context, e *env, args []string) error { return f.run(ctx, e, args) }
		},
	}
}

// begin reads --from.
func (f *watchFlags) begin() (int64, error) {
	switch f.from {
	case "now":
		return fsck.FromNow, nil
	case "all":
		return 0, nil
	}
	n, err := strconv.ParseInt(f.from, 10, 64)
	if err != nil || n < 0 {
		return 0, misuse("watch", "--from: %q is neither now, all nor an index", f.from)
	}
	return n, nil
}

func (f *watchFlags) run(ctx context.Context, e *env, args []string) error {
	from, err := f.begin()
	switch {
	case err != nil:
		return err
	case len(args) != 1:
		return misuse("watch", "want the monitoring URL of one log, got %d arguments", len(args))
	case f.interval < time.Second || f.maxAge < 0:
		return misuse("watch", "--interval wants 1s or more, and --max-age a time above 0")
	}
	if u, err := url.Parse(args[0]); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" {
		return misuse("watch", "%q is not the http or https URL of a log", args[0])
	}
	spki, err := readPublicKey(f.publicKey)
	if err != nil {
		return err
	}
	in := followInterrupts(ctx)
	defer in.close()
	out := f.output(e, args[0])
	w, err := watch.New(watch.Config{
		URL: args[0], Agent: agentOf("watch", f.contact), Origin: f.origin, SPKI: spki, State: f.state, From: from,
		Interval: f.interval, MaxAge: f.maxAge, Patient: true, Now: e.now,
		Logger: slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Progress: out.progress, Events: out.event, Quiet: true,
	})
	if err != nil {
		return err
	}
	defer w.Close()
	stop := out.follow(w)
	err = f.follow(in.ctx, w)
	stop()
	if err != nil && f.json && errors.Is(err, errFault) {
		return errReported // its line was written
	}
	return err
}

var errFault = errors.New("fault")

// follow looks until there is a fault, or the user has seen enough.
func (f *watchFlags) follow(ctx context.Context, w *watch.Watcher) error {
	for {
		wait := w.Poll(ctx)
		s := w.Status()
		switch {
		case ctx.Err() != nil && f.once:
			return errors.New("interrupted")
		case ctx.Err() != nil:
			return nil
		case s.Fault != "" && (s.Where == "log" || f.once):
			return fmt.Errorf("%w: %s", errFault, s.Fault)
		case f.once && s.Unknown == nil:
			return nil
		case f.once && !watch.MayLag(s.Unknown):
			return s.Unknown
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// watchOutput is how what happens is told.
type watchOutput interface {
	event(watch.Event)
	progress(what string, done, total int64)
	// follow begins to show a watcher until stop is called.
	follow(*watch.Watcher) (stop func())
}

func (f *watchFlags) output(e *env, url string) watchOutput {
	if out, ok := e.stdout.(*os.File); ok && !f.json && !f.once && term.IsTerminal(int(out.Fd())) {
		return newWatchScreen(out, url, e.now)
	}
	return &watchLines{e: e, json: f.json, once: f.once}
}

// watchLines writes a line for each event.
type watchLines struct {
	e          *env
	json, once bool
	stages     stages
}

func (l *watchLines) follow(w *watch.Watcher) func() {
	return func() {
		l.stages.end()
		if s := w.Status(); l.once && !l.json && s.Fault == "" && s.Unknown == nil {
			origin := s.Checkpoint.Origin
			l.e.printf("%s: size %d, root %x, of %s\n%d entries checked, no faults\n", origin, s.Checkpoint.Tree.N, s.Checkpoint.Tree.Hash[:],
				time.UnixMilli(s.Checkpoint.TimestampMillis).UTC().Format(time.RFC3339Nano), s.Entries)
		}
	}
}

func (l *watchLines) progress(what string, done, total int64) {
	l.stages.e = l.e
	l.stages.set(what, done, total)
}

func (l *watchLines) event(ev watch.Event) {
	l.stages.end()
	if l.json {
		line, err := json.Marshal(ev)
		if err == nil {
			l.e.printf("%s\n", line)
		}
		return
	}
	if !l.once {
		l.e.printf("%s\n", sayEvent(ev))
	}
}

// sayEvent writes an event as a line.
func sayEvent(ev watch.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s: ", ev.Time.Format(time.RFC3339), ev.Event)
	switch ev.Event {
	case "begun":
		fmt.Fprintf(&b, "size %d, root %s, of %s", ev.TreeSize, ev.RootHash, ev.Timestamp.Format(time.RFC3339))
	case "grown":
		fmt.Fprintf(&b, "size %d, %d more", ev.TreeSize, ev.TreeSize-ev.OldTreeSize)
	case "fresh":
		b.WriteString("the checkpoint is of " + ev.Timestamp.Format(time.RFC3339))
	case "fine":
		fmt.Fprintf(&b, "size %d, all is well", ev.TreeSize)
	case "unknown":
		b.WriteString(ev.Detail)
	default:
		b.WriteString(ev.Path + ": " + ev.Detail)
	}
	return b.String()
}
