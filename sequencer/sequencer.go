// Package sequencer is the single writer of a log: one round at a time it gives
// entries their index and timestamp, builds, verifies, stages, signs, commits
// and publishes the grown tree, and only then answers.
//
// Invariants (design: "The commit, step by step"): nothing is signed that was
// not proved from the bytes about to be stored; a checkpoint is published only
// after it was committed to the lock and all its tiles are readable; an unknown
// outcome is settled by reading the lock, never assumed; after any failure the
// state in memory is dropped and proved anew from storage; an entry that is
// retried gets the place it has. Two sequencers on one log are safe: one
// commits, the other finds out and lets go of its state.
//
// The package never knows HTTP, SCTs, deduplication caches or how many batchers
// there are.
package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/logkey"
	"kiln/lock"
	"kiln/storage"
)

// Bounds of one sequencer.
const (
	maxRoundEntries = 32 << 10
	maxRoundBytes   = 128 << 20
	maxQueueEntries = 2 * maxRoundEntries
	maxQueueBytes   = 2 * maxRoundBytes

	// idleInterval is how often a log without submissions signs a fresh
	// checkpoint. It must stay well under 5 s, beyond which readers and health
	// checks take the log for dead.
	idleInterval = 3 * time.Second

	// closeGrace is how long Close lets a hanging round go on.
	closeGrace = 30 * time.Second

	defaultPeriod = 100 * time.Millisecond
)

// Config is what a sequencer is made of. Origin, Key, Bucket, Lock and LockID
// are required.
type Config struct {
	Origin string      // submission prefix without scheme and trailing slash
	Key    *logkey.Key // signs checkpoints
	Grease bool        // add unverifiable signature lines (CKP-17)

	// Bucket is looked through for tiles that the lock does not know of if it is
	// a storage.Lister, which it should be.
	Bucket storage.Bucket
	Lock   lock.Store
	LockID string // the log's cell in Lock

	// StandBy lets Open succeed when another sequencer keeps signing before this
	// one, as it does under load. Without it that is an error.
	StandBy bool

	Period time.Duration // shortest time between the starts of two rounds; default 100 ms
	Names  bool          // also write names tiles

	Now        func() time.Time      // the log's clock; default time.Now
	Logger     *slog.Logger          // default: discard
	Registerer prometheus.Registerer // default: metrics are kept but not exported
}

func (c Config) withDefaults() (Config, error) {
	if c.Origin == "" || c.Key == nil || c.Bucket == nil || c.Lock == nil || c.LockID == "" {
		return c, errors.New("sequencer config: Origin, Key, Bucket, Lock and LockID are required")
	}
	if c.Period == 0 {
		c.Period = defaultPeriod
	}
	if c.Period < 0 {
		return c, fmt.Errorf("sequencer config: period %v is negative", c.Period)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("origin", c.Origin)
	return c, nil
}

// Sequencer runs the rounds of one log. Its methods are safe for concurrent use.
type Sequencer struct {
	cfg     Config
	signer  *checkpoint.Signer
	metrics *metrics
	bucket  storage.Bucket // cfg.Bucket, with time limits
	lock    lock.Store     // cfg.Lock, with time limits

	staged []string // bundles that may be left over; of the loop, or of Open before
	blind  bool     // the last look back saw nothing; as staged

	// collect says that the last round was large; of the loop. What it leaves is
	// several times its bundle, and the next round would be free to make as much
	// again beside it before the collector looks.
	collect bool

	// dropping holds a token while bundles are being removed, looking while what
	// is published is being read back.
	dropping, looking chan struct{}

	latest atomic.Pointer[checkpoint.Checkpoint] // newest published
	signed atomic.Int64                          // newest timestamp that this process signed, in ms

	// ctx ends the operations of rounds; only Close cancels it, late.
	ctx    context.Context
	cancel context.CancelFunc

	// signing holds a token from before a signature until its swap of the lock
	// has an outcome.
	signing chan struct{}
	halted  chan struct{} // closed by Halt
	halting sync.Once

	wake     chan struct{} // capacity 1: work has come
	closing  chan struct{} // closed by Close
	finished chan struct{} // closed when the loop has returned
	closed   sync.Once

	mu           sync.Mutex // guards what follows
	queue        []*request
	queueEntries int
	queueBytes   int
	stopped      bool          // no more requests are taken
	sealed       bool          // no more entries are taken
	inHand       []*request    // taken out of the queue last
	fatal        error         // why the log stopped for good
	done         chan struct{} // closed when fatal was set
}

// request is one call of Sequence.
type request struct {
	entries []*entry.Pending
	bytes   int
	fresh   bool        // wants a checkpoint signed after it, whatever is to be done
	answer  chan answer // capacity 1
}

type answer struct {
	placements []entry.Placement
	err        error
}

// Open reads the log's state, proves it, finishes what a crash left unfinished,
// signs a fresh checkpoint and starts the rounds. It refuses, signing nothing,
// if lock, checkpoint, tiles, key and clock do not fit together; the error says
// which and what to do. ctx governs the opening only.
func Open(ctx context.Context, cfg Config) (*Sequencer, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	signer, err := checkpoint.NewSigner(cfg.Origin, cfg.Key, cfg.Grease)
	if err != nil {
		return nil, err
	}
	s := &Sequencer{
		cfg: cfg, signer: signer, metrics: newMetrics(),
		bucket: timedBucket{cfg.Bucket}, lock: timedLock{cfg.Lock},
		wake: make(chan struct{}, 1), closing: make(chan struct{}),
		finished: make(chan struct{}), done: make(chan struct{}),
		dropping: make(chan struct{}, 1), looking: make(chan struct{}, 1),
		signing: make(chan struct{}, 1), halted: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	state, err := s.open(ctx)
	if err != nil {
		s.end()
		return nil, err
	}
	go s.run(state)
	return s, nil
}

// open returns no state and no error if the log is sound and another sequencer
// writes it.
func (s *Sequencer) open(ctx context.Context) (*loaded, error) {
	state, err := s.load(ctx)
	for try := 1; s.cfg.StandBy && errors.Is(err, errSuperseded) && try < loadTries; try++ {
		state, err = s.load(ctx) // between two rounds of the other
	}
	if err != nil {
		return nil, fmt.Errorf("open log %s: %w", s.cfg.Origin, err)
	}
	err = state.round(ctx, nil)
	if s.cfg.StandBy && errors.Is(err, errSuperseded) {
		state, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open log %s: sign a fresh checkpoint: %w", s.cfg.Origin, err)
	}
	return state, s.metrics.register(s.cfg.Registerer)
}

// Sequence puts a batch into the log and returns the placement of each entry, in
// order, once its tiles and a checkpoint that covers it are readable: all or
// none. An entry that the log took recently, from this or another batch, gets
// the placement it has.
//
// Errors: *entry.OverloadedError (nothing was taken), entry.ErrReadOnly,
// entry.ErrDamaged, and entry.ErrUnavailable or ctx's error, after which the
// batch may or may not be in the log and can be tried again.
func (s *Sequencer) Sequence(ctx context.Context, batch []*entry.Pending) ([]entry.Placement, error) {
	if len(batch) == 0 {
		return nil, nil
	}
	r := &request{entries: batch}
	for _, p := range batch {
		r.bytes += p.Size()
	}
	return s.do(ctx, r)
}

// do queues a request and waits for its answer.
func (s *Sequencer) do(ctx context.Context, r *request) ([]entry.Placement, error) {
	r.answer = make(chan answer, 1)
	if err := s.enqueue(r); err != nil {
		return nil, err
	}
	select {
	case a := <-r.answer:
		return a.placements, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("sequence batch of %d: %w", len(r.entries), ctx.Err())
	}
}

func (s *Sequencer) enqueue(r *request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
		return fmt.Errorf("sequence batch of %d: %w", len(r.entries), entry.ErrUnavailable)
	case s.sealed && len(r.entries) > 0:
		return fmt.Errorf("sequence batch of %d: %w", len(r.entries), entry.ErrReadOnly)
	}
	if len(s.queue) > 0 && (s.queueEntries+len(r.entries) > maxQueueEntries || s.queueBytes+r.bytes > maxQueueBytes) {
		return &entry.OverloadedError{What: "the queue of the next round", RetryAfter: max(s.cfg.Period, time.Second)}
	}
	s.queue = append(s.queue, r)
	s.queueEntries += len(r.entries)
	s.queueBytes += r.bytes
	s.metrics.queued.Set(float64(s.queueEntries))
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return nil
}

// take removes the requests of the next round from the queue.
func (s *Sequencer) take() []*request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n, entries, bytes int
	for _, r := range s.queue {
		if n > 0 && (entries+len(r.entries) > maxRoundEntries || bytes+r.bytes > maxRoundBytes) {
			break
		}
		n, entries, bytes = n+1, entries+len(r.entries), bytes+r.bytes
	}
	taken := slices.Clone(s.queue[:n])
	clear(s.queue[:n]) // the array lives on, the entries need not
	s.queue = s.queue[n:]
	s.queueEntries -= entries
	s.queueBytes -= bytes
	s.metrics.queued.Set(float64(s.queueEntries))
	s.inHand = taken
	return taken
}

func (s *Sequencer) hasWork() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queue) > 0
}

// Latest returns the newest checkpoint that this sequencer published.
func (s *Sequencer) Latest() checkpoint.Checkpoint { return *s.latest.Load() }

// Done is closed when the log has stopped for good; Err then says why.
func (s *Sequencer) Done() <-chan struct{} { return s.done }

// Err returns why the log stopped for good, or nil.
func (s *Sequencer) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fatal
}

// Close sequences what is queued, then stops. It returns the reason if the log
// had stopped for good before.
func (s *Sequencer) Close() error {
	s.closed.Do(func() { close(s.closing) })
	grace := time.AfterFunc(closeGrace, s.cancel)
	<-s.finished
	s.end()
	grace.Stop()
	s.metrics.unregister(s.cfg.Registerer)
	return s.Err()
}

// end waits for what goes on beside the rounds, and ends the sequencer's context.
func (s *Sequencer) end() {
	for _, beside := range []chan struct{}{s.dropping, s.looking} {
		beside <- struct{}{}
		<-beside
	}
	s.cancel()
}

// stop refuses all requests from now on and releases those that wait. It reports
// whether fatal is the first reason to stop for good.
func (s *Sequencer) stop(fatal error) (first bool) {
	s.mu.Lock()
	s.stopped = true
	rest := s.queue
	s.queue, s.queueEntries, s.queueBytes = nil, 0, 0
	if fatal != nil && s.fatal == nil {
		first = true
		s.fatal = fatal
		close(s.done)
	}
	s.mu.Unlock()
	refuse(rest, entry.ErrUnavailable)
	return first
}

func refuse(requests []*request, err error) {
	for _, r := range requests {
		r.answer <- answer{err: err}
	}
}
