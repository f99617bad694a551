package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/dedup"
	"kiln/internal/catchup"
	"kiln/internal/chain"
	"kiln/internal/config"
	"kiln/internal/contain"
	"kiln/internal/s3client"
	"kiln/sequencer"
	"kiln/storage"
	"kiln/tiles"
)

// Waits between two tries to open the logs that could not be opened for a reason
// that may pass.
const (
	reopenFirst = time.Second
	reopenMax   = 30 * time.Second

	// openPatience is how long a start waits for the other logs once one is open.
	openPatience = 30 * time.Second
)

// errPatience is why the opening of a log was called off.
var errPatience = errors.New("it takes long to open, and the others are served meanwhile")

// patient has ctx, which is for opening several logs at once, end by errPatience
// some time after the first call of begin. A log that hangs, or has much to catch
// up with, must not keep the others from being served.
func patient(ctx context.Context, wait time.Duration) (limited context.Context, begin, stop func()) {
	limited, cancel := context.WithCancelCause(ctx)
	var once sync.Once
	var timer *time.Timer
	begin = func() { once.Do(func() { timer = time.AfterFunc(wait, func() { cancel(errPatience) }) }) }
	stop = func() {
		once.Do(func() {}) // so that timer is set or stays nil
		if timer != nil {
			timer.Stop()
		}
		cancel(nil)
	}
	return limited, begin, stop
}

// impatient marks an error that comes of a context that ended by errPatience.
func impatient(ctx context.Context, err error) error {
	if err == nil || !errors.Is(context.Cause(ctx), errPatience) || !errors.Is(err, context.Canceled) {
		return err
	}
	return &passingError{fmt.Errorf("%w: %w", errPatience, err)}
}

// slot is the place of one configured log in the process: the running log, or the
// reason why there is none.
type slot struct {
	conf      config.Log
	validator *chain.Validator // made before the log, since roots are for several

	// Of the one goroutine that opens: one of Start's, then that of reopen.
	parts *Parts // nil until they could be opened
	locks lockFiles
	reg   *registrations // of the last try

	log atomic.Pointer[runningLog] // nil until it was opened

	mu  sync.Mutex // guards err
	err error      // why it was not opened
}

// broken returns why the log is not open, or nil.
func (s *slot) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *slot) setBroken(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// site is where the log is served, once it is open. Until then it is 503: a reader
// must not take it for a log that is not there, nor a client for one that refuses
// it. Its submissions and its monitors have one share of the connections; refused
// is called for each request beyond it.
func (s *slot) site(refused func()) site {
	held := newShare(refused)
	pass := func(of func(*runningLog) http.Handler) http.Handler {
		return held.bounded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if l := s.log.Load(); l != nil {
				of(l).ServeHTTP(w, r)
				return
			}
			wait, why := "10", "the log could not be opened as yet; it is tried again"
			if !mayPass(s.conf, s.broken()) {
				wait, why = "300", "the log could not be opened and is not served until its operator has repaired it"
			}
			w.Header().Set("Retry-After", wait)
			plainError(w, http.StatusServiceUnavailable, why)
		}))
	}
	return site{
		name: s.conf.Name, submissionURL: s.conf.SubmissionURL, monitoringURL: s.conf.MonitoringURL,
		submission: pass(func(l *runningLog) http.Handler { return l.frontend }),
		monitoring: pass(func(l *runningLog) http.Handler { return l.reader }),
	}
}

// logs returns the logs that were opened, in the order of the configuration.
func (d *Daemon) logs() []*runningLog {
	var list []*runningLog
	for _, s := range d.slots {
		if l := s.log.Load(); l != nil {
			list = append(list, l)
		}
	}
	return list
}

// openData opens the parts of one log, if that was not done before, and takes its
// locks.
func (d *Daemon) openData(ctx context.Context, s *slot) error {
	if s.parts == nil {
		p, err := d.backends.parts(ctx, s.conf)
		if err != nil {
			return err
		}
		state, err := p.State(ctx)
		if err != nil {
			return err
		}
		if s.conf.FromSeries && state.Retired != nil {
			return ErrRetired
		}
		s.parts = p
	}
	return s.locks.acquire(lockPaths(s.conf, s.parts.Key)...)
}

// openSlot starts a log whose parts are there. What it leaves behind when it
// fails are metrics, which say so.
func (d *Daemon) openSlot(ctx context.Context, s *slot) error {
	readable, err := d.backends.readBucket(ctx, s.conf, s.parts.Bucket)
	if err != nil {
		return err
	}
	if s.reg != nil {
		s.reg.unregister()
	}
	s.reg = &registrations{Registerer: d.reg}
	l, err := openLog(ctx, s.parts, readable, s.validator, d.opts, Seams{}, s.reg)
	if err != nil {
		return err
	}
	s.setBroken(nil)
	s.log.Store(l)
	return nil
}

// leaveOut lets the other logs go on without one that cannot be opened, red and
// loud. Its data is not held, so that commands can look after it. The error comes
// back if it is that of the whole start, which was called off.
func (d *Daemon) leaveOut(ctx context.Context, s *slot, err error) error {
	s.locks.release()
	if ctx.Err() != nil {
		return err
	}
	first := s.broken() == nil
	s.setBroken(err)
	d.metrics.broken.WithLabelValues(s.conf.Name).Set(1)
	switch {
	case !mayPass(s.conf, err):
		d.log.Error("log is not served, and the others are: repair what the error names, then restart", "log", s.conf.Name, "err", err)
	case first:
		d.log.Error("log is not served as yet, and the others are: it is tried again", "log", s.conf.Name, "err", err)
	}
	return nil
}

// reopen tries a log again as long as its reason may pass, until it is open or the
// daemon stops. Each log has a goroutine of its own, so that one that hangs keeps
// no other waiting.
func (d *Daemon) reopen(ctx context.Context, s *slot) {
	for wait := reopenFirst; mayPass(s.conf, s.broken()); wait = min(2*wait, reopenMax) {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		d.tryAgain(ctx, s)
	}
}

func (d *Daemon) tryAgain(ctx context.Context, s *slot) {
	err := contain.Run(func() error {
		if err := d.openData(ctx, s); err != nil {
			return fmt.Errorf("log %s: %w", s.conf.Name, err)
		}
		return d.openSlot(ctx, s)
	})
	if err != nil {
		if err := d.leaveOut(ctx, s, err); err == nil && !mayPass(s.conf, s.broken()) {
			d.lost(s.broken())
		}
		return
	}
	d.metrics.broken.WithLabelValues(s.conf.Name).Set(0)
	d.roots[s.conf.RootsFile].AddBucket(s.parts.Bucket)
	d.log.Info("log is served now", "log", s.conf.Name)
	d.serveLog(s.log.Load())
}

// lastingError is one that does not pass by itself.
type lastingError struct{ err error }

func (e *lastingError) Error() string { return e.err.Error() }
func (e *lastingError) Unwrap() error { return e.err }

// lasting marks an error as one that does not pass by itself; nil stays nil.
func lasting(err error) error {
	if err == nil {
		return nil
	}
	return &lastingError{err}
}

// mayPass reports whether a log that could not be opened may be had later, without
// anybody at work on it. What says that something of it is wrong, lost or set back
// never is: a log that opens by itself while its operator brings back one file
// after the other could open on half of them. What is not known counts so too,
// unless a service elsewhere is in play.
func mayPass(conf config.Log, err error) bool {
	var marked *lastingError
	var passing *passingError
	var corrupt *tiles.CorruptError
	for _, last := range []error{ErrNotCreated, ErrRetired, catchup.ErrAhead, storage.ErrNotFound} {
		if errors.Is(err, last) {
			return false
		}
	}
	if err == nil || errors.As(err, &marked) || errors.As(err, &corrupt) || sequencer.IsFatal(err) {
		return false
	}
	if errors.Is(err, ErrInUse) || errors.Is(err, dedup.ErrInUse) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &passing) {
		return true
	}
	var network net.Error
	_, _, onS3 := conf.StorageS3()
	elsewhere := onS3 || !onSQLite(conf)
	return errors.As(err, &network) || elsewhere && s3client.ClassOf(err) != s3client.Refused
}

// passingError is one that may pass.
type passingError struct{ err error }

func (e *passingError) Error() string { return e.err.Error() }
func (e *passingError) Unwrap() error { return e.err }

// registrations are the metrics of one try to open a log, so that the next can
// have them anew.
type registrations struct {
	prometheus.Registerer
	mu   sync.Mutex
	list []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (r *registrations) Register(c prometheus.Collector) error {
	err := r.Registerer.Register(c)
	if err == nil {
		r.mu.Lock()
		r.list = append(r.list, c)
		r.mu.Unlock()
	}
	return err
}

// MustRegister implements prometheus.Registerer.
func (r *registrations) MustRegister(list ...prometheus.Collector) {
	for _, c := range list {
		if err := r.Register(c); err != nil {
			panic(err) // as the interface has it
		}
	}
}

func (r *registrations) unregister() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.list {
		r.Unregister(c)
	}
	r.list = nil
}
