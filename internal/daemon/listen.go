package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// Time-outs and limits of the public listener. What a slow or hostile client
// can hold is one of the connections that [limiter] counts, for so long.
const (
	readHeaderTimeout = 5 * time.Second  // for the request line and all headers
	readTimeout       = 15 * time.Second // for a whole request; the largest body takes 1 s at 4 Mbit/s
	writeTimeout      = 60 * time.Second // for handling and the whole response
	idleTimeout       = 120 * time.Second
	maxHeaderBytes    = 16 << 10 // beyond, with some slack of net/http: 431

	// maxStreams bounds the requests at a time on one HTTP/2 connection. Each has
	// some 20 KiB before a handler can refuse it, so that the 100 of RFC 9113 are
	// too many for some thousand connections. Clients open more connections.
	maxStreams = 32

	// What an HTTP/2 connection and a request on it may send ahead of being read.
	connectionWindow = 256 << 10
	streamWindow     = 64 << 10

	// unreadGrace is what a drain gives a connection that has not sent a byte.
	unreadGrace = 250 * time.Millisecond
)

// public is the listener for submission and monitoring.
type public struct {
	server  *http.Server
	limiter *limiter
	secure  bool

	stopped chan struct{} // closed when Serve has returned
	err     error         // why, unless shutdown made it; set before stopped is closed
}

// publicConfig has one field for each thing the listener is made of.
type publicConfig struct {
	address        string
	tls            *tls.Config // nil: plain HTTP
	maxConnections int
	logs           int // that share them
	handler        http.Handler
	log            *slog.Logger
	metrics        *metrics
}

// listenPublic binds the address and serves until shutdown or close. Nothing is
// accepted before it is called.
func listenPublic(ctx context.Context, c publicConfig) (*public, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.address)
	if err != nil {
		return nil, fmt.Errorf("listen: %w: another process may have the address, change listen in the configuration", err)
	}
	return servePublic(ln, c), nil
}

// servePublic serves on ln.
func servePublic(ln net.Listener, c publicConfig) *public {
	total := max(min(c.maxConnections, fileBudget(c.log, c.maxConnections)), 2)
	p := &public{
		server:  newServer(countBusy(recovered(c.handler, c.log, c.metrics)), c.log),
		limiter: newLimiter(ln, total, total/2, c.logs, c.metrics),
		secure:  c.tls != nil,
		stopped: make(chan struct{}),
	}
	p.server.TLSConfig = c.tls
	go p.serve()
	return p
}

func (p *public) serve() {
	defer close(p.stopped)
	var err error
	if p.secure {
		err = p.server.ServeTLS(p.limiter, "", "")
	} else {
		err = p.server.Serve(p.limiter)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		p.err = fmt.Errorf("public listener: %w", err)
	}
}

func newServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerConnection: connectionWindow,
			MaxReceiveBufferPerStream:     streamWindow,
		},
		DisableGeneralOptionsHandler: true,
		ConnContext:                  connContext,
		// What clients do wrong is theirs: it is seen at DEBUG.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// shutdown stops accepting and waits until the requests at hand are answered,
// or until ctx ends and cuts them.
func (p *public) shutdown(ctx context.Context) error {
	grace := time.AfterFunc(unreadGrace, p.limiter.closeUnread)
	defer grace.Stop()
	err := p.server.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("drain public listener: %w", errors.Join(err, p.server.Close()))
	}
	<-p.stopped
	return errors.Join(err, p.err)
}

// recovered turns a panic of a handler into a 500 and an ERROR line with the
// stack; net/http would write it at the level of clients' faults.
func recovered(next http.Handler, log *slog.Logger, m *metrics) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v != http.ErrAbortHandler { //nolint:errorlint // the sentinel is compared as net/http does
				m.panics.Inc()
				log.Error("request handler panicked, which is a bug: report it", "endpoint", r.URL.Path,
					"err", fmt.Sprintf("%v\n%s", v, bytes.TrimSpace(debug.Stack())))
			}
			// The response may have begun: only a cut connection tells the
			// client for certain that it is not whole.
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}

// fileBudget is how many of the process's file descriptors connections may use:
// three of four, so that storage and databases keep working under a flood.
func fileBudget(log *slog.Logger, want int) int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return want
	}
	budget := int(min(limit.Cur, 1<<30) / 4 * 3)
	if budget < want {
		log.Warn(fmt.Sprintf("max_connections is %d but the limit of open files is %d: serving at most %d connections", want, limit.Cur, budget))
	}
	return budget
}
