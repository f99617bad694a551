// Package reader serves a log's objects to monitors: the monitoring API of the
// Static CT API v1.1.0 (MON-01 to MON-27), with log.v3.json and a home page.
//
// Invariants: only canonical paths of public objects lead to storage, so that
// bundles and whatever else a bucket holds cannot be read; a checkpoint is never
// followed by an older one, nor served before its signature was verified; only
// 200s of immutable objects may be cached for long; an object goes out whole or
// as an error.
//
// The package never knows the write path.
package reader

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/storage"
	"kiln/tiles"
)

// Defaults of [Config].
const (
	DefaultMaxClients  = 1 << 16
	DefaultMaxInFlight = 256
	DefaultMaxBytes    = 128 << 20
)

// storageTimeout bounds one read from the bucket.
const storageTimeout = 20 * time.Second

// Config is what a Reader is made of. Bucket and Info are required; the zero
// value of everything else is safe.
type Config struct {
	Bucket storage.Bucket
	Info   Info
	// Life, if not nil, is asked for what was decided of the log since. It must
	// be fast and safe for concurrent use.
	Life func() Life

	// Names serves names tiles, which are 404 otherwise (MON-24).
	Names bool

	// ClientRate limits the tiles and issuers that one client gets per second;
	// 0 is no limit. A client is an IPv4 address or an IPv6 /64. The limit must
	// leave room to catch up: several times the log's growth in entries per
	// second, divided by 256, for each kind of tile (MON-27). Behind a proxy,
	// which looks like one client, it must be 0.
	ClientRate float64
	// ClientBurst is the number of requests that a client may save up; 0 is ten
	// seconds' worth, at least 50.
	ClientBurst int
	// MaxClients bounds the clients that are remembered for ClientRate; 0 is
	// DefaultMaxClients. One that is forgotten has its whole burst again.
	MaxClients int

	// MaxInFlight bounds the tiles and issuers that are being read from storage
	// and decoded at a time, beyond which there is a 503; 0 is
	// DefaultMaxInFlight. Slow networks do not count.
	MaxInFlight int
	// MaxBytes bounds the memory of tiles and issuers that are read, decoded or
	// being sent: one half is for objects of up to 1 MiB, one for larger ones, and
	// half of either is the most that one client gets. Beyond, there is a 503, and
	// answers that have been on their way for more than a second are cut off. 0 is
	// DefaultMaxBytes. One object may always be read, even if it is larger. The
	// bucket has to announce sizes (storage.Announce).
	MaxBytes int64

	Now        func() time.Time      // clock behind limits, ages and the log's status; nil is time.Now
	Logger     *slog.Logger          // nil discards
	Registerer prometheus.Registerer // nil registers no metrics
}

// Reader is the monitoring API of one log as a handler. It expects paths without
// the log's prefix, such as "/checkpoint"; "/" is the home page. It is safe for
// concurrent use and has nothing to close.
type Reader struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	newest  newest
	home    *homePage
	limit   *limiter      // nil without a limit
	slots   chan struct{} // holds one value for each object being read
	memory  *memory       // of objects being read or sent

	checkpoints shared // its reads end soon after the last request for one
}

var _ http.Handler = (*Reader)(nil)

// New makes a Reader. It fails if a required part is missing, if a number is
// negative, or if Info contradicts itself.
func New(cfg Config) (*Reader, error) {
	switch {
	case cfg.Bucket == nil:
		return nil, errors.New("make reader: no Bucket")
	case !(cfg.ClientRate >= 0) || cfg.ClientBurst < 0 || cfg.MaxClients < 0 || cfg.MaxInFlight < 0 || cfg.MaxBytes < 0:
		return nil, errors.New("make reader: a limit is negative")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxClients == 0 {
		cfg.MaxClients = DefaultMaxClients
	}
	if cfg.MaxInFlight == 0 {
		cfg.MaxInFlight = DefaultMaxInFlight
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = DefaultMaxBytes
	}
	if cfg.ClientBurst == 0 {
		cfg.ClientBurst = int(min(max(50, 10*cfg.ClientRate), 1<<30))
	}
	info, err := cfg.Info.complete(cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("make reader: %w", err)
	}
	cfg.Info = info
	verifier, err := checkpoint.NewVerifier(info.Origin, info.SPKI)
	if err != nil {
		return nil, fmt.Errorf("make reader: %w", err)
	}
	home, err := newHomePage()
	if err != nil {
		return nil, fmt.Errorf("make reader: %w", err)
	}
	r := &Reader{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer),
		newest: newest{verifier: verifier}, home: home,
		slots: make(chan struct{}, cfg.MaxInFlight),
	}
	r.memory = newMemory(cfg.MaxBytes, r.metrics)
	r.checkpoints.read = r.lookForCheckpoint
	if cfg.ClientRate > 0 {
		r.limit = newLimiter(cfg.ClientRate, cfg.ClientBurst, cfg.MaxClients)
	}
	return r, nil
}

// Names of the endpoints in metrics.
const (
	epCheckpoint = "checkpoint"
	epHashes     = "tile"
	epData       = "data"
	epNames      = "names"
	epIssuer     = "issuer"
	epInfo       = InfoPath
	epHome       = "home"
	epUnknown    = "unknown"
)

// target is what a path names.
type target struct {
	endpoint string
	path     string    // of the object in the bucket, for tiles and issuers
	tile     tlog.Tile // for tiles
}

// route says what a request's path names. Everything that is not written in the
// one canonical way names nothing (MON-20): a RawPath tells of percent
// encodings that were not needed.
func (rd *Reader) route(r *http.Request) target {
	nothing := target{endpoint: epUnknown}
	path, ok := strings.CutPrefix(r.URL.Path, "/")
	if !ok || r.URL.RawPath != "" {
		return nothing
	}
	switch path {
	case "":
		return target{endpoint: epHome}
	case "checkpoint":
		return target{endpoint: epCheckpoint}
	case InfoPath:
		return target{endpoint: epInfo}
	}
	if name, ok := strings.CutPrefix(path, "issuer/"); ok {
		print, err := hex.DecodeString(name)
		if err != nil || len(print) != 32 || path != tiles.IssuerPath([32]byte(print)) {
			return nothing
		}
		return target{endpoint: epIssuer, path: path}
	}
	tile, err := tiles.ParsePath(path)
	switch {
	case err != nil:
		return nothing
	case tile.L == tiles.LevelNames && !rd.cfg.Names:
		return nothing
	case tile.L == tiles.LevelNames:
		return target{epNames, path, tile}
	case tile.L == tiles.LevelData:
		return target{epData, path, tile}
	default:
		return target{epHashes, path, tile}
	}
}

// ServeHTTP implements http.Handler.
func (rd *Reader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	to := rd.route(r)
	held := rd.memory.hold(clientOf(r.RemoteAddr))
	defer held.release()
	a := rd.answerSafely(r, to, held)
	a.conditional(r)
	code := a.label()
	elapsed := time.Since(start)
	held.send(w)
	sent := a.write(w, r)
	rd.metrics.observe(to.endpoint, code, elapsed, sent)
	rd.log.DebugContext(r.Context(), "monitoring request", "endpoint", to.endpoint, "code", code, "elapsed", elapsed, "err", a.err)
}

// answerSafely is answer, with a panic turned into a 500.
func (rd *Reader) answerSafely(r *http.Request, to target, held *hold) (a answer) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			rd.metrics.panics.Inc()
			a = text(http.StatusInternalServerError, sentenceInternal)
			a.err = fmt.Errorf("panic: %v", p)
			rd.log.ErrorContext(r.Context(), "monitoring handler panicked", "endpoint", to.endpoint,
				"err", fmt.Errorf("%w\n%s", a.err, debug.Stack()))
		}
	}()
	return rd.answer(r, to, held)
}

// answer makes the answer to a request and writes nothing.
func (rd *Reader) answer(r *http.Request, to target, held *hold) answer {
	if to.endpoint == epUnknown {
		return text(http.StatusNotFound, "nothing is served at this path")
	}
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
	case r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "":
		// Scripts in browsers ask before they send a condition (MON-22).
		return preflight()
	default:
		return wrongMethod(r.Method)
	}
	ctx, cancel := context.WithTimeout(r.Context(), storageTimeout)
	defer cancel()
	switch to.endpoint {
	case epHome:
		return rd.homePage(ctx)
	case epInfo:
		return rd.infoPage(ctx)
	case epCheckpoint:
		return rd.checkpointPage(ctx)
	default:
		return rd.object(ctx, r, to, held)
	}
}
