package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// adminWriteTimeout leaves room for a profile of a few minutes.
const adminWriteTimeout = 10 * time.Minute

// admin is the listener for operators: metrics, health, profiles. It is up
// before the logs load and down after they are closed.
type admin struct {
	server  *http.Server
	address net.Addr
	served  chan error
}

// listenAdmin serves on address. ready returns one reason for each thing that
// is not as it should be, and the report in any case.
func listenAdmin(ctx context.Context, address string, reg *prometheus.Registry, ready func() (ok bool, report []string), log *slog.Logger) (*admin, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for admin: %w: another process may have the address, change admin in the configuration", err)
	}
	server := newServer(adminHandler(reg, ready), log)
	server.WriteTimeout = adminWriteTimeout
	server.ConnContext = nil
	a := &admin{server: server, address: ln.Addr(), served: make(chan error, 1)}
	go func() { a.served <- server.Serve(ln) }()
	return a, nil
}

func adminHandler(reg *prometheus.Registry, ready func() (bool, []string)) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, http.StatusOK, []string{"ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		ok, report := ready()
		status := http.StatusOK
		if !ok {
			status = http.StatusServiceUnavailable
		}
		writeHealth(w, status, report)
	})
	// Importing pprof also registers it with http.DefaultServeMux, which
	// nothing here serves.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func writeHealth(w http.ResponseWriter, status int, lines []string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

// shutdown waits for requests at hand until ctx ends, then cuts them.
func (a *admin) shutdown(ctx context.Context) error {
	err := a.server.Shutdown(ctx)
	if err != nil {
		err = fmt.Errorf("close admin listener: %w", errors.Join(err, a.server.Close()))
	}
	if served := <-a.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
