// Package frontend speaks the submission API of RFC 6962 as the Static CT API
// restricts it: add-chain, add-pre-chain and get-roots (SUB-01 to SUB-41).
//
// Invariants: an entry goes to the batcher only after its chain was verified
// and every certificate of it is stored durably (SUB-35, SUB-37); nothing that
// a client sends is read without a bound in bytes, in time and in number; an
// error tells the client what it can act on and nothing about the inside; the
// frontend keeps nothing that it could not lose.
//
// The package never knows trees, locks, rounds or private keys.
package frontend

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/entry"
	"kiln/internal/chain"
)

// Defaults of [Config].
const (
	DefaultMaxBody     = 512 << 10
	DefaultMaxInFlight = 1024
	DefaultTimeout     = 30 * time.Second
	DefaultBodyTimeout = 10 * time.Second
)

const (
	// smallBody is what every submission that is read or worked on may take of
	// memory. Chains in use have 4 to 12 KiB, with post-quantum keys 30.
	smallBody = 32 << 10

	// maxLarge bounds the bytes of all larger bodies that are read or worked on.
	// On its way into the log a byte of them is held some six times over.
	maxLarge = 16 << 20
)

// maxChain bounds the certificates that are decoded from a body. It is no rule
// of the log, which the Validator has, but keeps memory in proportion.
const maxChain = 100

// Batcher turns entries into SCTs. It is safe for concurrent use.
type Batcher interface {
	// Lookup returns the SCT of a submission that was seen before with the same
	// bytes. It is best effort and may always say no.
	Lookup(ctx context.Context, key entry.Key, digest entry.Digest) (entry.SCT, bool)

	// Add returns the SCT of an entry once it can be read in the log. Its errors
	// are those of package entry, or say that something is broken.
	Add(ctx context.Context, p *entry.Pending) (entry.SCT, error)
}

// Issuers keeps the certificates of chains. It is safe for concurrent use.
type Issuers interface {
	// PutIssuer stores a certificate under its fingerprint. It is durable and
	// can be read when nil is returned. It is called for every certificate of
	// every new entry, so it must be quick about one that was stored before.
	PutIssuer(ctx context.Context, der []byte) error
}

// Config is what a Frontend is made of. LogID, Validator, Batcher and Issuers
// are required; the zero value of everything else is safe.
type Config struct {
	LogID     [32]byte         // SHA-256 of the log's public key (SUB-08)
	Validator *chain.Validator // says what is accepted
	Batcher   Batcher
	Issuers   Issuers

	// ReadOnlyAfter is when the log stops taking submissions for good, usually
	// some days after the end of its NotAfter window; zero is never (SUB-39).
	ReadOnlyAfter time.Time
	// ReadOnly, if not nil, is asked on every submission and closes the log
	// while it returns true. It must be fast and safe for concurrent use.
	ReadOnly func() bool

	// MaxBody bounds a request body in bytes; 0 is DefaultMaxBody (SUB-06).
	MaxBody int64
	// MaxInFlight bounds submissions that are being worked on; twice as many
	// can be being read. Half of either is the most that one client gets. Beyond,
	// they get a 503 at once. 0 is DefaultMaxInFlight (SUB-38).
	//
	// Bodies over 32 KiB also share 16 MiB in all, of which one client gets half,
	// from the moment that they are read until they are answered. Smaller ones
	// never wait for them.
	MaxInFlight int
	// Timeout bounds the time from the end of a body to its answer; 0 is
	// DefaultTimeout. The entry may still be logged after it: a client that
	// tries again gets the SCT of the same entry (SUB-41).
	Timeout time.Duration
	// BodyTimeout bounds the time for a body to arrive; 0 is DefaultBodyTimeout.
	// The server that runs the handler bounds the time for the header.
	BodyTimeout time.Duration

	Now        func() time.Time      // clock behind ReadOnlyAfter; nil is time.Now
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers no metrics
}

// Frontend is the submission API of one log as a handler. It expects paths
// without the log's prefix, such as "/ct/v1/add-chain". It is safe for
// concurrent use and has nothing to close.
type Frontend struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	id      string  // base64 of the log ID
	reading *shares // bodies that are being read
	working *shares // submissions in flight
	large   *shares // bytes of bodies over smallBody, until they are answered

	bodies sync.Pool // of *bytes.Buffer, empty
	roots  atomic.Pointer[rootsPage]
}

var _ http.Handler = (*Frontend)(nil)

// New makes a Frontend. It fails if a required part is missing or a bound is
// negative.
func New(cfg Config) (*Frontend, error) {
	switch {
	case cfg.Validator == nil:
		return nil, errors.New("make frontend: no Validator")
	case cfg.Batcher == nil:
		return nil, errors.New("make frontend: no Batcher")
	case cfg.Issuers == nil:
		return nil, errors.New("make frontend: no Issuers")
	case cfg.MaxBody < 0 || cfg.MaxInFlight < 0 || cfg.Timeout < 0 || cfg.BodyTimeout < 0:
		return nil, errors.New("make frontend: a bound is negative")
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = DefaultMaxBody
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = DefaultMaxInFlight
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.BodyTimeout == 0 {
		cfg.BodyTimeout = DefaultBodyTimeout
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Frontend{
		cfg:     cfg,
		log:     cfg.Logger,
		metrics: newMetrics(cfg.Registerer),
		id:      base64.StdEncoding.EncodeToString(cfg.LogID[:]),
		reading: newShares(2 * int64(cfg.MaxInFlight)),
		working: newShares(int64(cfg.MaxInFlight)),
		large:   newShares(maxLarge),
	}, nil
}

// The endpoints, as they are named in paths and metrics.
const (
	addChain    = "add-chain"
	addPreChain = "add-pre-chain"
	getRoots    = "get-roots"
	unknown     = "unknown"
)

// endpointOf returns the endpoint of a request. A path that is written in any
// other way, such as with percent encodings, is unknown: that is what a RawPath
// tells.
func endpointOf(r *http.Request) string {
	if r.URL.RawPath != "" {
		return unknown
	}
	switch r.URL.Path {
	case "/ct/v1/add-chain":
		return addChain
	case "/ct/v1/add-pre-chain":
		return addPreChain
	case "/ct/v1/get-roots":
		return getRoots
	default:
		return unknown
	}
}

// ServeHTTP implements http.Handler.
func (f *Frontend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	endpoint := endpointOf(r)
	a := f.answerSafely(w, r, endpoint)
	code := a.label()
	elapsed := time.Since(start)
	f.metrics.observe(endpoint, code, elapsed)
	f.log.DebugContext(r.Context(), "submission request", "endpoint", endpoint, "code", code, "elapsed", elapsed, "err", a.err)
	a.write(w, r)
}

// answerSafely is answer, with a panic turned into a 500. One bad request must
// not take the others of its connection or the process with it.
func (f *Frontend) answerSafely(w http.ResponseWriter, r *http.Request, endpoint string) (a answer) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			a = text(http.StatusInternalServerError, sentenceInternal)
			a.err = f.panicked(r.Context(), p)
		}
	}()
	return f.answer(w, r, endpoint)
}

// errPanic is a bug that was caught and told to the operator.
var errPanic = errors.New("panic")

// panicked tells the operator of a panic and makes an error of it.
func (f *Frontend) panicked(ctx context.Context, p any) error {
	f.metrics.panics.Inc()
	err := fmt.Errorf("%w: %v", errPanic, p)
	f.log.ErrorContext(ctx, "submission handler panicked", "err", fmt.Errorf("%w\n%s", err, debug.Stack()))
	return err
}

// answer makes the answer to a request and writes nothing.
func (f *Frontend) answer(w http.ResponseWriter, r *http.Request, endpoint string) answer {
	switch endpoint {
	case addChain, addPreChain:
		switch r.Method {
		case http.MethodPost:
		case http.MethodOptions:
			return preflight("POST, OPTIONS")
		default:
			return wrongMethod(r.Method, endpoint, "POST, OPTIONS")
		}
		typ := entry.X509
		if endpoint == addPreChain {
			typ = entry.Precert
		}
		sct, unread, err := f.add(w, r, typ)
		if err != nil {
			a := f.failure(r, endpoint, err)
			a.unread = unread
			return a
		}
		return f.sctAnswer(r, endpoint, sct)
	case getRoots:
		switch {
		case r.Method == http.MethodGet || r.Method == http.MethodHead:
			return f.getRoots(r)
		case r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "":
			return preflight("GET, HEAD")
		default:
			return wrongMethod(r.Method, endpoint, "GET, HEAD")
		}
	default:
		return text(http.StatusNotFound, "no such endpoint: this log has ct/v1/add-chain, ct/v1/add-pre-chain and ct/v1/get-roots")
	}
}

// readOnly reports whether the log takes no more submissions.
func (f *Frontend) readOnly() bool {
	if f.cfg.ReadOnly != nil && f.cfg.ReadOnly() {
		return true
	}
	return !f.cfg.ReadOnlyAfter.IsZero() && f.cfg.Now().After(f.cfg.ReadOnlyAfter)
}
