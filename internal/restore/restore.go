// Package restore brings the logs of a configuration back on a machine that has
// nothing of them but the configuration, the key and a way to the storage and the
// lock (design: "The commit, step by step"; CKP-09, CKP-20, C3 "Restart").
//
// Invariants: nothing is written before every log of the run was looked at and
// none was refused; nothing is ever signed, and nothing ever written to storage
// or lock; a log whose lock is missing or behind what is published, or behind
// what the storage holds, is refused; every entry is hashed and proved against
// the tree of the lock's checkpoint, and its issuers are found, before the cache
// is told of it. A run that was cut off is continued where it ended; what it
// takes for verified then, an earlier run of restore has verified.
//
// The package never knows HTTP, rounds, or how the log is served afterwards.
package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"kiln/checkpoint"
	"kiln/internal/config"
	"kiln/internal/daemon"
)

// Options say what to restore. The zero value is all logs of the configuration.
type Options struct {
	// Names of the logs to restore; empty is all.
	Names []string
	// Serve says that the logs are to be served afterwards: then what only that
	// needs has to be there too.
	Serve bool
	// Progress, if set, is told how far a piece of work is, in entries.
	Progress func(what string, done, total int64)

	Logger *slog.Logger     // default: discard
	Now    func() time.Time // default time.Now
}

// State says how it stands with a log.
type State string

// The states.
const (
	NotMade  State = "not made" // nothing shows that there ever was such a log
	Retired  State = "retired"  // nothing is to be served any more
	Ready    State = "ready"    // lock and storage agree; Run can restore it
	Refused  State = "refused"  // Log.Problem says why, and what it means
	Unknown  State = "unknown"  // it could not be looked at; Log.Problem says why
	Restored State = "restored" // all was verified, and the cache is complete
	Failed   State = "failed"   // Run did not come to its end; Log.Problem says why
)

// Head is what a checkpoint says.
type Head struct {
	TreeSize int64     `json:"tree_size"`
	RootHash string    `json:"root_hash"` // base64
	Time     time.Time `json:"time"`      // of its signature, UTC
}

func headOf(c checkpoint.Checkpoint) *Head {
	return &Head{TreeSize: c.Tree.N, RootHash: c.Tree.Hash.String(), Time: time.UnixMilli(c.TimestampMillis).UTC()}
}

// String writes size and time for people.
func (h *Head) String() string {
	return fmt.Sprintf("%d entries at %s", h.TreeSize, h.Time.Format("2006-01-02T15:04:05.000Z"))
}

// Log is what was found of a log, and what came of it.
type Log struct {
	Name      string `json:"name"`
	State     State  `json:"state"`
	Problem   string `json:"problem,omitempty"`
	Published *Head  `json:"published,omitempty"` // what readers see
	Lock      *Head  `json:"lock,omitempty"`      // what is true
	// Bundle is the path of the staging bundle of a round that was committed and
	// is not wholly published; serving the log finishes it.
	Bundle string   `json:"bundle,omitempty"`
	Notes  []string `json:"notes,omitempty"`

	ResumedAt int64 `json:"resumed_at"` // entries below were verified by an earlier run
	Verified  int64 `json:"verified"`   // entries verified, those below ResumedAt included
	Issuers   int   `json:"issuers"`    // issuers that were read in this run

	parts *daemon.Parts
	head  checkpoint.Checkpoint // of the lock
	view  view                  // its objects, those of Bundle included
}

// Roots is what is to be done about a roots file.
type Roots struct {
	File string   `json:"file"`
	Logs []string `json:"logs"`
	// From is where a file that is missing is to come from, or came from: the
	// path of an object or of the last good file. It is empty if the file is
	// there, and if it is nowhere.
	From    string `json:"from,omitempty"`
	Missing bool   `json:"missing"` // nowhere to be had
}

// Plan is what is to be done for the logs of a configuration, and with Run what
// was done. It is for one goroutine.
type Plan struct {
	Logs  []*Log   `json:"logs"`
	Roots []*Roots `json:"roots"`
	// Notes are about the configuration as a whole.
	Notes []string `json:"notes,omitempty"`

	cfg    *config.Config
	opts   Options
	opener *daemon.Opener
}

// Look finds out what can be restored, and changes nothing; on S3 it tries what
// the server can do with objects that it takes away again. Faults of the
// configuration's files that keep it from looking are an error, all of them at
// once; what it found of the logs is in the plan. The caller calls Close.
func Look(ctx context.Context, cfg *config.Config, opts Options) (*Plan, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Progress == nil {
		opts.Progress = func(string, int64, int64) {}
	}
	p := &Plan{cfg: cfg, opts: opts}
	chosen, err := p.choose()
	if err != nil {
		return nil, err
	}
	if err := p.checkFiles(); err != nil {
		return nil, err
	}
	p.opener = daemon.NewOpener(cfg, p.daemonOptions())
	for _, conf := range chosen {
		l := p.look(ctx, conf)
		p.Logs = append(p.Logs, l)
		if ctx.Err() != nil {
			return nil, errors.Join(context.Cause(ctx), p.Close())
		}
	}
	if err := p.lookForRoots(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Plan) daemonOptions() daemon.Options {
	return daemon.Options{Logger: p.opts.Logger, Now: p.opts.Now}
}

// Close closes what Look opened.
func (p *Plan) Close() error {
	if p.opener == nil {
		return nil
	}
	return p.opener.Close()
}

// choose returns the logs of the run.
func (p *Plan) choose() ([]config.Log, error) {
	var chosen []config.Log
	for _, l := range p.cfg.Logs {
		if p.chosen(l.Name) {
			chosen = append(chosen, l)
		}
	}
	for _, name := range p.opts.Names {
		if !slices.ContainsFunc(chosen, func(l config.Log) bool { return l.Name == name }) {
			return nil, fmt.Errorf("there is no log %s in %s", name, p.cfg.Path)
		}
	}
	return chosen, nil
}

func (p *Plan) chosen(name string) bool {
	return len(p.opts.Names) == 0 || slices.Contains(p.opts.Names, name)
}

// Err says why the plan cannot be carried out, nil if it can.
func (p *Plan) Err() error {
	var errs []error
	ready := 0
	for _, l := range p.Logs {
		switch l.State {
		case Refused, Unknown, Failed:
			errs = append(errs, fmt.Errorf("log %s: %s", l.Name, l.Problem))
		case Ready, Restored:
			ready++
		}
	}
	if len(errs) == 0 && ready == 0 {
		errs = append(errs, fmt.Errorf("%s: none of its logs was ever made, or all were retired: there is nothing to restore", p.cfg.Path))
	}
	for _, r := range p.Roots {
		if r.Missing && p.opts.Serve {
			errs = append(errs, errors.New(r.problem()))
		}
	}
	return errors.Join(errs...)
}

// Run carries the plan out: it verifies every log that is Ready, completes its
// cache, and brings the roots files back. It does nothing if Err is not nil. The
// first log that fails ends it. It may be repeated, by a new plan.
func (p *Plan) Run(ctx context.Context) error {
	if err := p.Err(); err != nil {
		return err
	}
	if err := p.restoreRoots(ctx); err != nil {
		return err
	}
	for _, l := range p.Logs {
		if l.State != Ready {
			continue
		}
		if err := p.restore(ctx, l); err != nil {
			l.State, l.Problem = Failed, err.Error()
			return fmt.Errorf("log %s: %w", l.Name, err)
		}
		l.State = Restored
	}
	return nil
}
