// Package batcher takes pending entries to the sequencer and back: it joins
// submissions of one entry, answers what was logged before, pools the rest,
// hands closed pools on as batches, and signs the SCT of each placed entry.
//
// Invariants: an SCT is signed only over a placement that the sequencer gave, or
// that the long-term cache remembered and the log confirmed. At most one flight
// exists for a key, and from the moment a flight is registered until its SCT is
// in the short-term cache no other entry of that key goes out; so any number of
// parallel submissions is one entry. A batch never holds a key twice. A batch is
// retried as it is, so that the sequencer can tell the retry. An entry that was
// refused leaves no trace. Every queue is bounded, and a full one refuses at
// once. A long-term cache that fails, hangs or lies is a miss. No lock is held
// across I/O, hashing or signing.
//
// The package never knows X.509 rules, tiles, or where the sequencer runs.
package batcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/entry"
	"kiln/internal/contain"
)

// Sequencer puts batches into the log. It is called concurrently, up to
// Config.BatchesInFlight times, and must not modify the batch.
type Sequencer interface {
	// Sequence blocks until the whole batch is in the log and readable, and
	// returns the placements in order: all or none. A batch that was given
	// before, whatever became of it then, gets the placements it has. It
	// returns entry.ErrReadOnly if the log takes no entries any more, and
	// entry.ErrDamaged if an entry is not what was admitted and nothing was
	// logged; after any other error the same batch is given again.
	Sequence(ctx context.Context, batch []*entry.Pending) ([]entry.Placement, error)
}

// Signer signs SCTs. It must be deterministic, so that one entry has one SCT,
// verify what it signs, and be safe for concurrent use.
type Signer interface {
	// Sign returns the TLS DigitallySigned structure over message (SUB-11).
	Sign(message []byte) ([]byte, error)
}

// Dedup is a long-term cache. It is called concurrently. Any error is a miss.
type Dedup interface {
	// Get returns the placement of a key and whether there is one.
	Get(ctx context.Context, key entry.Key) (entry.Placement, bool, error)

	// Put remembers placements. It must not keep the slices.
	Put(ctx context.Context, keys []entry.Key, placements []entry.Placement) error
}

// Config says what a batcher works with. Sequencer and Signer are required. Every
// bound has a default, which its zero value means; a negative value is an error.
type Config struct {
	Sequencer Sequencer
	Signer    Signer
	Dedup     Dedup // nil: short-term cache only

	// Confirm reports whether the log holds this entry at this placement, by
	// reading the log and not a cache. Required with Dedup, whose answers are
	// used only if it returns true and no error.
	Confirm func(ctx context.Context, p *entry.Pending, pl entry.Placement) (bool, error)

	PoolEntries     int           // a pool of so many entries is closed; 2048
	PoolBytes       int           // a pool of so many bytes (entry.Pending.Size) is closed; 8 MiB
	PoolAge         time.Duration // a pool is closed when its first entry is so old; 10 ms
	BatchesInFlight int           // batches at the sequencer at one time; 8
	Waiters         int           // submissions that wait at one time; 16384
	CacheEntries    int           // SCTs in the short-term cache, each some 300 bytes; 32768
	Lookups         int           // long-term lookups at one time; 16
	DedupTimeout    time.Duration // for one long-term lookup, confirmation and waiting included; 500 ms
	DedupQueue      int           // placements that wait to be written to the long-term cache; 65536
	RetryWindow     time.Duration // for which a batch is retried, and an entry waits for a free batch; 10 s

	// Jitter returns a duration in [0, limit), to spread retries; random if nil.
	Jitter func(limit time.Duration) time.Duration

	// Panicked is told of a panic in a goroutine of the batcher, which then answers
	// all that waits entry.ErrUnavailable. nil: it is only logged.
	Panicked func(err error)

	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: none; batchers of one log may share it, gauges then add up
}

func (c *Config) setDefaults() error {
	var errs []error
	count := func(name string, v *int, def int) {
		if *v < 0 {
			errs = append(errs, fmt.Errorf("%s is %d, want 0 (for %d) or more", name, *v, def))
		} else if *v == 0 {
			*v = def
		}
	}
	duration := func(name string, v *time.Duration, def time.Duration) {
		if *v < 0 {
			errs = append(errs, fmt.Errorf("%s is %v, want 0 (for %v) or more", name, *v, def))
		} else if *v == 0 {
			*v = def
		}
	}
	count("PoolEntries", &c.PoolEntries, 2048)
	count("PoolBytes", &c.PoolBytes, 8<<20)
	duration("PoolAge", &c.PoolAge, 10*time.Millisecond)
	count("BatchesInFlight", &c.BatchesInFlight, 8)
	count("Waiters", &c.Waiters, 16384)
	count("CacheEntries", &c.CacheEntries, 32768)
	count("Lookups", &c.Lookups, 16)
	duration("DedupTimeout", &c.DedupTimeout, 500*time.Millisecond)
	count("DedupQueue", &c.DedupQueue, 65536)
	duration("RetryWindow", &c.RetryWindow, 10*time.Second)
	if c.Sequencer == nil || c.Signer == nil {
		errs = append(errs, errors.New("a Sequencer and a Signer are required"))
	}
	if c.Dedup != nil && c.Confirm == nil {
		errs = append(errs, errors.New("a Dedup needs a Confirm, since a cache alone is not trusted"))
	}
	if c.Jitter == nil {
		c.Jitter = rand.N[time.Duration]
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return errors.Join(errs...)
}

// Batcher takes the entries of one range of keys. It is safe for concurrent use.
type Batcher struct {
	cfg     Config
	metrics *metrics
	cache   *cache
	lookups chan lookup     // to the lookup workers; unbuffered, so a send is a slot
	writes  *writeQueue     // to the writer of the long-term cache
	helpers chan struct{}   // a token for each goroutine that helps to sign
	poked   chan struct{}   // wakes the pacer after a pool was opened
	quit    chan struct{}   // closed when no flight is left: ends pacer, workers, writer
	ctx     context.Context // ends when Close waits no longer: fails all that is left
	cancel  context.CancelFunc

	batchers   sync.WaitGroup // goroutines that carry a batch
	background sync.WaitGroup // pacer, lookup workers, writer

	closeOnce sync.Once
	closeErr  error

	lied, writeFailed throttle

	mu      sync.Mutex // guards what follows; held for map and slice work only
	closing bool
	drained chan struct{} // closed when closing and no flight is left
	flights map[entry.Key]*flight
	waiters int  // calls of Add that wait
	batches int  // batches in flight
	pool    pool // the open one
}

// New starts a batcher. It must be closed.
func New(cfg Config) (*Batcher, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, fmt.Errorf("make batcher: %w", err)
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("make batcher: %w", err)
	}
	b := &Batcher{
		cfg: cfg, metrics: m, cache: newCache(cfg.CacheEntries),
		lookups: make(chan lookup),
		writes:  newWriteQueue(cfg.DedupQueue),
		helpers: make(chan struct{}, max(0, runtime.GOMAXPROCS(0)-1)),
		poked:   make(chan struct{}, 1),
		quit:    make(chan struct{}),
		drained: make(chan struct{}),
		flights: make(map[entry.Key]*flight),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.background.Go(func() { b.contained("pace pools", b.pace) })
	if cfg.Dedup != nil {
		b.background.Go(func() { b.contained("write to the long-term cache", b.write) })
		for range cfg.Lookups {
			b.background.Go(func() { b.contained("look up", b.lookUp) })
		}
	}
	return b, nil
}

// Lookup returns the SCT of an entry from memory, if this very submission, by
// its digest, was answered before. It never blocks on I/O and may always say no.
// The caller must not modify the signature.
func (b *Batcher) Lookup(_ context.Context, key entry.Key, digest entry.Digest) (entry.SCT, bool) {
	sct, ok := b.cache.lookup(key, digest)
	if ok {
		b.metrics.hits.WithLabelValues(tierLookup).Inc()
	}
	return sct, ok
}

// closeGrace is how long Close waits for calls into Sequencer and Dedup to heed
// the end of their context.
const closeGrace = time.Second

// Close stops taking entries (Add then returns entry.ErrUnavailable), sends the
// pool off, and waits until every Add has its answer and the long-term cache is
// written. After Config.RetryWindow it waits no longer: what is not placed by
// then is answered entry.ErrUnavailable (or *entry.OverloadedError, if no batch
// was free for as long). Its error says that a call into the Sequencer or the
// Dedup did not return even so, or that writes were dropped.
func (b *Batcher) Close() error {
	b.closeOnce.Do(func() { b.closeErr = b.shutdown() })
	return b.closeErr
}

func (b *Batcher) shutdown() error {
	late := make(chan struct{})
	for _, timer := range []*time.Timer{
		time.AfterFunc(b.cfg.RetryWindow, b.abandon),
		time.AfterFunc(b.cfg.RetryWindow+closeGrace, func() { close(late) }),
	} {
		defer timer.Stop()
	}
	defer b.cancel()
	b.mu.Lock()
	b.closing = true
	b.dispatchLocked()
	b.checkDrainedLocked()
	b.mu.Unlock()

	<-b.drained // at the latest when abandon has run
	var errs []error
	if !wait(&b.batchers, late) {
		errs = append(errs, errors.New("a call of the sequencer does not return"))
	}
	close(b.quit)
	if !wait(&b.background, late) {
		errs = append(errs, errors.New("a call of the long-term cache does not return"))
	}
	if n := b.writes.len(); n > 0 {
		b.metrics.writeDrops.WithLabelValues(dropClosed).Add(float64(n))
		b.metrics.writeQueue.Sub(float64(n))
		errs = append(errs, fmt.Errorf("%d placements were not written to the long-term cache", n))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close batcher: %w", err)
	}
	return nil
}

// contained runs the function of a goroutine. After a panic nothing is answered
// any more that was on its way: what the log makes of it is not ours to say.
func (b *Batcher) contained(what string, f func()) {
	if err := contain.Do(f); err != nil {
		b.panicked(fmt.Errorf("%s: %w", what, err))
	}
}

func (b *Batcher) panicked(err error) {
	b.cfg.Logger.Error("batcher panicked", "err", err)
	if b.cfg.Panicked != nil {
		b.cfg.Panicked(err)
	}
	b.abandon()
}

// abandon fails what is left when Close has waited for the whole window.
func (b *Batcher) abandon() {
	b.cancel() // batches and lookups answer their flights themselves
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.takePoolLocked() {
		b.settleLocked(f, entry.SCT{}, entry.ErrUnavailable)
	}
}

// wait waits for the group, but not until it is late, and reports whether all
// have ended. Only if not is its own goroutine left, with those it waits for.
func wait(group *sync.WaitGroup, late <-chan struct{}) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		group.Wait()
	}()
	select {
	case <-done:
		return true
	case <-late:
		return false
	}
}
