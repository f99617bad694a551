// Package watch follows one log by its public URL as a monitor would, through DNS
// and whatever stands before the log, and says when what it sees cannot be: new
// entries are hashed anew, the right edge is read again at every poll, the newest
// full tiles are compared every 25 s, older ones and their issuers are read in a
// slow sweep, and SCTs that the log answered are looked for in the public tree
// (MON-02 to MON-19, CKP-07 to CKP-10).
//
// Invariants: a fault is proven only by bytes that were read twice, past caches
// the second time; what cannot be read is unknown and never a fault; a fault of
// what stands before the log is told from one of the log by the log's own storage,
// where there is one; what was proved is in the state file before anybody acts on
// it, so that a restart knows it. A watcher holds nothing up: who gives it an SCT
// never waits for the network.
//
// The package never knows how a log is written, nor what becomes of one that is
// at fault.
package watch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/fsck"
)

// How a log is watched.
const (
	DefaultInterval = 5 * time.Second // between two polls

	// wholeEvery is how many polls make one that reads all of the right edge and
	// its issuers again and, of an own log, its storage too. The others ask whether
	// the right edge has changed, and take the server's word if it says no.
	wholeEvery = 4
	// patience is at how many polls in a row something has to be absent, where that
	// may be a cache that lags behind.
	patience = 3
	// slowest is how far apart polls get when nothing can be read.
	slowest = 3

	// The sweep over older tiles: one in sweepStep, or faster if all would take
	// longer than sweepAll, but never more than sweepMost in a poll.
	sweepStep = 30 * time.Second
	sweepAll  = 30 * 24 * time.Hour
	sweepMost = 20

	saveEvery = 10 * time.Second // of the state file, while nothing is wrong

	readTimeout   = 10 * time.Second
	tellAgain     = time.Hour
	unknownTooFar = 30 * time.Minute
	maxFuture     = time.Minute // by which a checkpoint's clock may be ahead of this one
)

// Config is what a watcher is made of. URL is required, and of an own log Origin,
// SPKI, State, Secret and Storage.
type Config struct {
	URL    string // the monitoring prefix
	Agent  string // User-Agent
	Origin string // as checkpoints have it; by log.v3.json if empty
	SPKI   []byte // the log's key, DER; by log.v3.json if empty
	State  string // file that outlives a restart; empty for none
	Secret []byte // seals the state file and draws the sample; may be nil
	From   int64  // where to begin without a state: an index, or fsck.FromNow

	// Storage is where the log itself keeps its objects, for a second look; nil for
	// a stranger's log.
	Storage fsck.Source
	// Near says that reading Storage costs next to nothing, as a local folder: then
	// the newest full tiles are compared there too.
	Near bool
	// Halt, if not nil, is called once when a fault is proven that is the log's
	// own, after it was written to the state file.
	Halt func(error)
	// Paused, if not nil, is asked before each poll, which is left out while it
	// returns true.
	Paused func() bool

	Interval time.Duration // between polls; default DefaultInterval
	MaxAge   time.Duration // beyond which a checkpoint is stale; default: the log's merge delay
	Timeout  time.Duration // for an answer, and for each piece of it; default 10 s
	Patient  bool          // keep asking a server that is busy, as a first reading wants
	Parallel int           // objects read at a time; default 4

	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// Progress is as that of fsck.Options.
	Progress func(what string, done, total int64)
	// Events, if not nil, is called by the goroutine that polls.
	Events func(Event)
	// Quiet keeps from Logger what Events is told.
	Quiet bool
}

func (c Config) withDefaults() Config {
	if c.Interval <= 0 {
		c.Interval = DefaultInterval
	}
	if c.Timeout <= 0 {
		c.Timeout = readTimeout
	}
	if c.Parallel < 1 {
		c.Parallel = 4
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Halt == nil {
		c.Halt = func(error) {}
	}
	if c.Paused == nil {
		c.Paused = func() bool { return false }
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	return c
}

// Watcher watches one log. Health, Status and Offer are safe for concurrent use;
// all else is for the one goroutine that polls.
type Watcher struct {
	cfg        Config
	log        *slog.Logger
	secret     []byte
	web, fresh *web
	follower   *fsck.Follower
	sample     *sample
	recent     *recent
	metrics    *metrics

	polls    int64
	pending  []Receipt // to be looked for
	oldNext  int       // which of the sample is looked for next
	swept    int64     // the next older tile
	sweptAt  time.Time
	absent   int      // polls in a row at which something was not there
	open     *finding // what was found in the CDN and not yet seen to be right
	note     *faultNote
	saved    time.Time
	savedAt  int64 // receipts that had been kept then
	savedN   int64 // size that was verified then
	saveFail bool
	begun    bool // the first pass has ended well

	mu     sync.Mutex // guards status
	status Status

	teller teller
}

// Status is what a watcher knows.
type Status struct {
	Checkpoint checkpoint.Checkpoint // the newest that was verified
	FineAt     time.Time             // when all that a poll looks at was well; zero if never
	StaleFor   time.Duration         // beyond the age limit; 0 if it is not stale
	Unknown    error                 // why the last poll could not tell; nil if it could
	Since      time.Time             // when the first of such polls in a row began
	Fault      string                // what is wrong; empty if nothing is known to be
	Where      string                // of Fault: log, cdn or unsettled
	Receipts   int64                 // SCTs looked for
	Swept      int64                 // older tiles looked at
	Sweeps     int64                 // times that all of them were
	Tiles      int64                 // older tiles there are
	Entries    int64                 // hashed anew
}

// ErrState says that the state file could not be read.
var ErrState = errors.New("the watcher's state file cannot be read")

// New makes a watcher with the state that an earlier one left. A state file that
// is damaged or of another log is moved aside with a warning. Nothing is asked of
// the log yet.
func New(cfg Config) (*Watcher, error) {
	cfg = cfg.withDefaults()
	site, err := newWeb(cfg.URL, cfg.Agent, cfg.Parallel)
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	w := &Watcher{
		cfg: cfg, log: cfg.Logger.With("endpoint", site.String()), secret: sealingKey(cfg.Secret),
		web: site, fresh: site.freshly(), sample: newSample(cfg.Secret), recent: newRecent(),
	}
	w.teller = teller{w: w, log: w.log}
	if cfg.Quiet {
		w.teller.log = slog.New(slog.DiscardHandler)
	}
	if err := w.restore(); err != nil {
		return nil, err
	}
	began := cfg.Now()
	w.saved, w.sweptAt = began, began
	w.metrics = newMetrics(cfg.Registerer, func() float64 { return w.age() }, func() float64 {
		if at := w.Status().FineAt; !at.IsZero() {
			return cfg.Now().Sub(at).Seconds()
		}
		return cfg.Now().Sub(began).Seconds()
	})
	return w, nil
}

// age is that of the newest verified checkpoint in seconds, 0 before there is one.
func (w *Watcher) age() float64 {
	if t := w.Status().Checkpoint.TimestampMillis; t > 0 {
		return w.cfg.Now().Sub(time.UnixMilli(t)).Seconds()
	}
	return 0
}

func (w *Watcher) options() fsck.Options {
	return fsck.Options{
		SPKI: w.cfg.SPKI, Origin: w.cfg.Origin, Hasty: !w.cfg.Patient, Parallel: w.cfg.Parallel,
		Timeout: w.cfg.Timeout, Stall: time.Minute, Progress: w.cfg.Progress, Now: w.cfg.Now,
	}
}

// restore takes up the state file.
func (w *Watcher) restore() error {
	var s *state
	if w.cfg.State != "" {
		read, aside, bad, err := readState(w.cfg.State, w.secret)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrState, w.cfg.State, err)
		}
		if s = read; bad != nil && s == nil {
			w.log.Warn("the watcher's state file was moved aside, and it begins anew: what the log said before is not held against it", "path", aside, "err", bad)
		}
	}
	if s != nil {
		f, err := fsck.NewFollower(w.web, w.options(), w.cfg.From, s.Memory)
		if err == nil {
			w.follower, w.note, w.swept = f, s.Fault, s.Swept
			w.sample.restore(s.Recent, s.Old)
			return nil
		}
		aside, moved := setAside(w.cfg.State)
		if moved != nil {
			return fmt.Errorf("%w: %s: %w", ErrState, w.cfg.State, errors.Join(err, moved))
		}
		w.log.Warn("the watcher's state file was moved aside, and it begins anew: what the log said before is not held against it", "path", aside, "err", err)
	}
	f, err := fsck.NewFollower(w.web, w.options(), w.cfg.From, nil)
	w.follower = f
	return err
}

// save writes the state file.
func (w *Watcher) save() error {
	if w.cfg.State == "" {
		return nil
	}
	memory, err := w.follower.Memory()
	if err != nil {
		return err
	}
	if _, ok, _ := w.follower.Seen(); !ok {
		memory = nil
	}
	s := state{Swept: w.swept, Fault: w.note, Memory: memory}
	s.Origin, s.Key = w.follower.Identity()
	s.Recent, s.Old = w.sample.all()
	if err := writeState(w.cfg.State, s, w.secret); err != nil {
		return fmt.Errorf("write the watcher's state %s: %w", w.cfg.State, err)
	}
	w.saved, w.savedAt, w.savedN = w.cfg.Now(), w.sample.kept(), w.follower.Head().Tree.N
	return nil
}

// saveIfDue writes what has changed, now and then.
func (w *Watcher) saveIfDue(now bool) {
	changed := w.savedAt != w.sample.kept() || w.savedN != w.follower.Head().Tree.N
	if !now && (!changed || w.cfg.Now().Sub(w.saved) < saveEvery) {
		return
	}
	err := w.save()
	if err != nil && !w.saveFail {
		w.log.Warn("the watcher cannot keep its state, so that a restart will not know what it has seen", "path", w.cfg.State, "err", err)
	}
	w.saveFail = err != nil
}

// Offer gives the watcher an SCT that the log answered. It never blocks.
func (w *Watcher) Offer(p *entry.Pending, sct entry.SCT) { w.sample.offer(p, sct) }

// Status returns what is known now.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

func (w *Watcher) update(f func(*Status)) Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.status)
	return w.status
}

// Health returns what is wrong with the log as its readers see it, or nil. That
// nothing can be read is no reason.
func (w *Watcher) Health() error {
	if s := w.Status(); s.Fault != "" {
		return fmt.Errorf("the watcher of %s found a fault in %s: %s", w.web, describe[where(s.Where)], s.Fault)
	}
	return nil
}

// describe says in words where a fault is.
var describe = map[where]string{
	inLog:       "the log itself",
	inCDN:       "what stands before the log",
	inUnsettled: "the log or what stands before it",
}

// Run polls until ctx ends, then writes the state. It begins at a random moment,
// so that the watchers of many logs are spread.
func (w *Watcher) Run(ctx context.Context) {
	defer w.Close()
	wait := rand.N(w.cfg.Interval)
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if w.cfg.Paused() {
			wait = w.cfg.Interval
			continue
		}
		wait = w.Poll(ctx)
	}
}

// Close writes the state and lets go of connections. It is called by Run.
func (w *Watcher) Close() {
	w.saveIfDue(w.begun || w.savedAt != w.sample.kept())
	w.web.close()
}
