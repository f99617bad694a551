package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/batcher"
	"kiln/dedup"
	"kiln/entry"
	"kiln/frontend"
	"kiln/internal/catchup"
	"kiln/internal/chain"
	"kiln/internal/config"
	"kiln/internal/contain"
	"kiln/internal/logkey"
	"kiln/internal/watch"
	"kiln/reader"
	"kiln/sequencer"
	"kiln/storage"
	"kiln/tiles"
)

const (
	// submissionTimeout is how long a submission may take beside waiting for a
	// round; clients give up after 15 to 30 s.
	submissionTimeout = 10 * time.Second

	// readOnlyGrace is how long after its window ends a log still takes
	// submissions (SUB-39): what expires later is refused by the window.
	readOnlyGrace = 7 * 24 * time.Hour

	// dedupLabel names the secret of the long-term cache among those derived
	// from the log's key.
	dedupLabel = "dedup v1"
)

// runningLog is one log of the process with all its roles.
type runningLog struct {
	conf    config.Log
	key     *logkey.Key
	now     func() time.Time
	log     *slog.Logger
	reg     prometheus.Registerer
	metrics *logMetrics
	opts    Options
	seams   Seams

	readOnlyAfter time.Time
	activeSince   time.Time   // set by openReader
	retired       atomic.Bool // nothing is signed any more
	published     []byte      // log.v3.json in the storage; of openLife and its goroutine

	parts     *Parts
	bucket    storage.Bucket // parts.Bucket
	readable  storage.Bucket // the same objects, for monitors
	sequencer *sequencer.Sequencer
	latest    func() tlog.Tree // the newest published tree
	dedup     DedupCache       // nil: the log does without
	dedupErr  error            // why it could not be opened
	validator *chain.Validator
	issuers   *issuers
	life      atomic.Pointer[reader.Life]
	watcher   *watch.Watcher // nil: nobody watches
	frontend  http.Handler
	reader    http.Handler

	closers []func() error // of what was started, in that order
}

// openLog starts the roles of a log in order; nothing of a log that cannot be
// opened is left behind. readable is the storage as monitors reach it. ctx governs
// the opening only.
func openLog(ctx context.Context, parts *Parts, readable Bucket, v *chain.Validator, opts Options, seams Seams, reg prometheus.Registerer) (*runningLog, error) {
	conf := parts.Conf
	l := &runningLog{
		seams: seams, conf: conf, parts: parts, key: parts.Key, bucket: parts.Bucket, readable: readable, validator: v, now: opts.Now, opts: opts,
		log: opts.Logger.With("log", conf.Name),
		reg: prometheus.WrapRegistererWith(prometheus.Labels{"log": conf.Name}, reg),
	}
	l.readOnlyAfter = l.readOnlyTime()
	l.life.Store(new(reader.Life))
	for _, step := range []func(context.Context) error{
		l.openValidator, l.openCache, l.openWatch, l.openSequencer, l.openDedup, l.openBatchers, l.openReader, l.openLife,
	} {
		if err := contain.Run(func() error { return step(ctx) }); err != nil {
			if l.metrics != nil {
				l.metrics.up.Set(0)
			}
			return nil, errors.Join(fmt.Errorf("log %s: %w", conf.Name, err), l.close())
		}
	}
	return l, nil
}

// contained runs the function of a goroutine of the log. A panic in it stops the
// log for good, and nothing else: what is in its memory is not to be trusted.
func (l *runningLog) contained(what string, f func()) {
	if err := contain.Do(f); err != nil {
		l.panicked(fmt.Errorf("%s: %w", what, err))
	}
}

func (l *runningLog) panicked(err error) {
	l.sequencer.Halt(fmt.Errorf("a part of the log panicked; restart: %w", err))
}

// onClose remembers what to close after what was started later.
func (l *runningLog) onClose(f func() error) { l.closers = append(l.closers, f) }

// close stops the roles in reverse: the batchers answer whoever waits, then the
// sequencer ends its round, then files are closed.
func (l *runningLog) close() error {
	var errs []error
	for _, f := range slices.Backward(l.closers) {
		errs = append(errs, f())
	}
	l.closers = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close log %s: %w", l.conf.Name, err)
	}
	return nil
}

func (l *runningLog) openSequencer(ctx context.Context) (err error) {
	l.sequencer, err = sequencer.Open(ctx, sequencer.Config{
		Origin: l.conf.Origin, Key: l.key, Grease: l.conf.Grease,
		Bucket: l.bucket, Lock: l.parts.Lock, LockID: l.parts.LockID,
		Period: l.conf.Period, Names: l.conf.Names, StandBy: true,
		Now: l.now, Logger: l.log, Registerer: l.reg,
	})
	if err != nil {
		// Passing, unless it is fatal.
		return &passingError{fmt.Errorf("%w (storage %s, lock %s, %s)", err, l.conf.Storage, l.conf.Lock, keySource(l.conf))}
	}
	l.onClose(func() error {
		err := l.sequencer.Close()
		if l.sequencer.Err() != nil {
			return nil // it stopped for good, and said so then
		}
		return err
	})
	l.latest = func() tlog.Tree { return l.sequencer.Latest().Tree }
	l.metrics = newLogMetrics(l.reg, func() float64 { return l.age(l.now()).Seconds() })
	l.metrics.up.Set(1)
	return nil
}

// openCache opens the long-term cache before anything is signed: one that knows
// more than the lock says that the log was set back.
func (l *runningLog) openCache(ctx context.Context) error {
	secret, err := l.key.Derive(dedupLabel)
	if err != nil {
		return err
	}
	l.dedup, l.dedupErr = l.seams.openDedup(ctx, dedup.Config{Path: l.conf.Dedup, Secret: secret, Logger: l.log, Registerer: l.reg})
	if errors.Is(l.dedupErr, dedup.ErrInUse) {
		return fmt.Errorf("%w: is kiln dedup rebuild running? wait until it has ended", l.dedupErr)
	}
	if l.dedupErr != nil {
		return nil // see openDedup
	}
	l.onClose(l.dedup.Close)
	held, head, err := l.parts.Committed(ctx)
	switch {
	case err == nil:
		if err := catchup.CheckAhead(l.dedup, head.Tree.N); err != nil {
			return fmt.Errorf("%s: %w", l.conf.Dedup, err)
		}
	case held.Version == "": // nothing is known of the lock, and it may answer the sequencer
		return err
	}
	return nil // what is wrong with the checkpoint in it, the sequencer says
}

// openDedup catches the long-term cache up from the tiles. A cache that cannot
// be used costs duplicates, not the log; a tile that cannot be read is a fault
// of the log.
func (l *runningLog) openDedup(ctx context.Context) error {
	c := l.dedup
	if l.dedupErr != nil {
		l.dedup = nil
		return l.withoutDedup(ctx, l.dedupErr)
	}
	catchUp := &catchUp{bucket: l.bucket, cache: c, now: l.now, log: l.log, metrics: l.metrics}
	if err := catchUp.start(ctx, l.latest()); err != nil {
		l.dedup = nil
		if broken := new(catchup.CacheError); errors.As(err, &broken) {
			return l.withoutDedup(ctx, err)
		}
		return fmt.Errorf("read entries back from storage %s: %w", l.conf.Storage, err)
	}
	l.metrics.dedupUp.Set(1)

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.contained("keep the deduplication cache complete", func() { catchUp.run(ctx, l.latest) })
	}()
	l.onClose(func() error {
		cancel()
		<-done
		return nil
	})
	return nil
}

// withoutDedup lets the log run without a long-term cache, unless the cache
// failed because the start was called off.
func (l *runningLog) withoutDedup(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	l.metrics.catchUpFailures.Inc()
	l.log.Error("the log runs without a long-term deduplication cache, so that old entries may be logged a second time: "+
		"repair or remove the file and restart", "path", l.conf.Dedup, "err", err)
	return nil
}

// openBatchers starts the batchers, their ring, and the frontend before it.
func (l *runningLog) openBatchers(context.Context) error {
	l.issuers = newIssuers(l.bucket, l.metrics)
	l.issuers.panicked = l.panicked
	l.onClose(func() error {
		l.issuers.Close()
		return nil
	})
	conf := batcher.Config{
		Sequencer: l.seams.sequencer(l.sequencer), Signer: l.key, Confirm: l.confirm,
		RetryWindow: l.submissionTimeout(), Jitter: l.seams.Jitter, Panicked: l.panicked,
		Logger: l.log, Registerer: l.reg,
	}
	if l.dedup != nil {
		conf.Dedup = l.dedup
	}
	var members []*batcher.Batcher
	for range l.conf.Batchers {
		b, err := batcher.New(conf)
		if err != nil {
			return errors.Join(err, batcher.NewRing(members).Close())
		}
		members = append(members, b)
	}
	ring := batcher.NewRing(members)
	l.onClose(ring.Close)
	return l.openFrontend(l.seams.batcher(ring))
}

func (l *runningLog) openFrontend(ring frontend.Batcher) error {
	if l.watcher != nil {
		ring = sampled{ring, l.watcher}
	}
	f, err := frontend.New(frontend.Config{
		LogID: l.key.LogID(), Validator: l.validator, Batcher: ring, Issuers: l.issuers,
		ReadOnlyAfter: l.readOnlyAfter, ReadOnly: l.sequencer.Sealed, MaxInFlight: l.conf.MaxInFlight, Timeout: l.submissionTimeout(),
		Now: l.now, Logger: l.log, Registerer: l.reg,
	})
	if err != nil {
		return err
	}
	l.frontend = l.whileRunning(f)
	return nil
}

// submissionTimeout is how long a submission to this log may take: one that just
// misses a round waits for the next.
func (l *runningLog) submissionTimeout() time.Duration {
	return submissionTimeout + 2*l.conf.Period
}

// readOnlyTime is when the log stops taking submissions: before now if the
// operator says so.
func (l *runningLog) readOnlyTime() time.Time {
	end := l.conf.NotAfterLimit.Add(readOnlyGrace)
	if before := l.now().Add(-time.Second); l.conf.ReadOnly && before.Before(end) {
		return before
	}
	return end
}

// newValidator makes what says which submissions a log accepts, as yet without
// roots.
func newValidator(conf config.Log, opts Options) (*chain.Validator, error) {
	if !conf.NotAfterStart.Before(conf.NotAfterLimit) {
		return nil, fmt.Errorf("not_after_start %v is not before not_after_limit %v", conf.NotAfterStart, conf.NotAfterLimit)
	}
	return chain.New(chain.Config{
		NotAfterStart: conf.NotAfterStart, NotAfterLimit: conf.NotAfterLimit,
		RequireServerAuth: conf.RequireServerAuth, Now: opts.Now,
	})
}

// openValidator comes first, since what it finds wrong must be found before
// anything is signed.
func (l *runningLog) openValidator(context.Context) error {
	data, err := os.ReadFile(l.conf.RootsFile)
	if err != nil {
		return fmt.Errorf("read roots_file: %w", err)
	}
	if config.NoRoots(data) { // as kiln init leaves it: said so, not lost
		l.log.Warn("the log accepts nothing: there are no roots in its roots_file", "path", l.conf.RootsFile)
		return nil
	}
	roots, err := chain.ParseRoots(data)
	if err == nil {
		err = l.validator.SetRoots(roots)
	}
	if err != nil {
		return fmt.Errorf("roots_file %s: %w", l.conf.RootsFile, err)
	}
	return nil
}

func (l *runningLog) openReader(ctx context.Context) (err error) {
	if l.activeSince, err = activeSince(ctx, l.bucket, l.now()); err != nil {
		return fmt.Errorf("read %s: %w", reader.InfoPath, err)
	}
	r, err := reader.New(reader.Config{
		Bucket: l.readable, Names: l.conf.Names,
		Info:       l.info(),
		Life:       func() reader.Life { return *l.life.Load() },
		ClientRate: float64(l.conf.ReadRate),
		Now:        l.now, Logger: l.log, Registerer: l.reg,
	})
	if err != nil {
		return err
	}
	l.reader = l.untilRetired(r)
	return nil
}

// confirm says whether the log holds the entry at a placement: what a cache
// says is believed only after the tree said the same (SUB-33).
func (l *runningLog) confirm(ctx context.Context, p *entry.Pending, pl entry.Placement) (bool, error) {
	tree := l.latest()
	if pl.Check() != nil || pl.Index >= tree.N {
		return false, nil
	}
	hash, err := tiles.LeafHash(ctx, l.bucket, tree, pl.Index)
	if err != nil {
		return false, err
	}
	return hash == tlog.Hash(p.LeafHash(pl)), nil
}

// whileRunning refuses submissions once the log has stopped for good, rather
// than let each wait for its time-out or answer from a cache.
func (l *runningLog) whileRunning(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/ct/v1/add-") && l.sequencer.Err() != nil {
			w.Header().Set("Retry-After", "60")
			plainError(w, http.StatusServiceUnavailable, "the log has stopped and takes no submissions until its operator has repaired it")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// untilRetired answers for a retired log as for one that is not there: its
// objects are being deleted, or are gone.
func (l *runningLog) untilRetired(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.retired.Load() {
			notFound(w, "the log was retired")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// lockID names the log's cell in the lock store: by log ID (CKP-09), so that
// one key can never sign two histories through one store.
func lockID(key *logkey.Key) string {
	id := key.LogID()
	return hex.EncodeToString(id[:])
}

// lockPaths are the files that say that the log's data is in use. Their names
// begin with a dot, which no object of a bucket has (storage.ValidPath).
// What is on other machines has none: there the lock cell alone tells who writes.
func lockPaths(conf config.Log, key *logkey.Key) []string {
	var paths []string
	if _, _, onS3 := conf.StorageS3(); !onS3 {
		paths = append(paths, filepath.Join(conf.Storage, ".serve.lock"))
	}
	if onSQLite(conf) {
		paths = append(paths, filepath.Join(filepath.Dir(conf.Lock), ".serve-"+lockID(key)[:16]+".lock"))
	}
	return paths
}
