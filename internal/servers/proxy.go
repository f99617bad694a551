package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault is something that a [Proxy] does to requests. The zero value, with no
// other field set, cuts the connection of the first request, which the server
// never hears of.
type Fault struct {
	// Which requests: an HTTP method and a part of the path, empty for any.
	Method, Path string
	// Conditional takes only requests with If-Match or If-None-Match.
	Conditional bool
	Skip        int // how many of them go through first
	Times       int // how many then have the fault; 0 is one, below is all

	// AfterEffect carries the request out first, so that only its answer is lost.
	AfterEffect bool

	// What comes instead of an answer: an S3 error with that status and code, or,
	// without a status, an end of the connection.
	Status int
	Code   string
	// Truncate lets the answer through up to its middle, and then cuts it.
	Truncate bool
	// Hang gives no answer for as long as the client waits.
	Hang bool
	// Delay comes before all of that. With Through it is all there is.
	Delay   time.Duration
	Through bool

	held *Held // by Hold
}

// Held is a request that a [Proxy] keeps.
type Held struct {
	// Reached is closed when the request is here.
	Reached <-chan struct{}

	reached, released chan struct{}
	once              sync.Once
}

// Release lets the request go on. It may be called before it is here, and again.
func (h *Held) Release() { h.once.Do(func() { close(h.released) }) }

// Trip is one request that went through a [Proxy].
type Trip struct {
	Method, Path string // without the query
	Query        string
	Status       int // 0 if none was sent
	Begin, End   time.Time
}

// Proxy is an HTTP server before another one, which makes the network between
// them as bad as it is told. Requests are not changed, so that their signatures
// hold. Its methods are safe for concurrent use.
type Proxy struct {
	// Endpoint is its URL.
	Endpoint string

	target    string // without a slash at the end
	server    *http.Server
	transport *http.Transport
	served    chan struct{} // closed when the server has ended

	mu      sync.Mutex // guards all below
	latency time.Duration
	faults  []*Fault // Skip and Times count down
	trips   []Trip
}

// NewProxy starts a proxy on loopback before a server, given as a URL with
// scheme http. The caller calls Close.
func NewProxy(ctx context.Context, target string) (*Proxy, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	p := &Proxy{
		Endpoint: "http://" + l.Addr().String(), target: strings.TrimSuffix(target, "/"),
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100},
		served:    make(chan struct{}),
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go func() {
		defer close(p.served)
		_ = p.server.Serve(l) // ends by Close only
	}()
	return p, nil
}

// Close ends the proxy and all connections through it.
func (p *Proxy) Close() error {
	err := p.server.Close()
	<-p.served
	p.transport.CloseIdleConnections()
	return err
}

// SetLatency adds a time to every request from now on.
func (p *Proxy) SetLatency(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latency = d
}

// Inject adds a fault. Of several that fit a request the first has it.
func (p *Proxy) Inject(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.Times == 0 {
		f.Times = 1
	}
	p.faults = append(p.faults, &f)
}

// Hold keeps one request that fits a fault until it is released, and then lets it
// through, even if its client has gone: a network that delivers late. With
// AfterEffect it is the answer that is late. Other fields of the fault are not
// looked at. [Proxy.Close] releases no request: the caller does.
func (p *Proxy) Hold(f Fault) *Held {
	h := &Held{reached: make(chan struct{}), released: make(chan struct{})}
	h.Reached = h.reached
	p.Inject(Fault{
		Method: f.Method, Path: f.Path, Conditional: f.Conditional, Skip: f.Skip,
		AfterEffect: f.AfterEffect, Through: true, held: h,
	})
	return h
}

// Heal removes all faults that are left, and returns how many were.
func (p *Proxy) Heal() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.faults)
	p.faults = nil
	return n
}

// Trips returns the requests since the last call that have ended, in the order
// of their ends.
func (p *Proxy) Trips() []Trip {
	p.mu.Lock()
	defer p.mu.Unlock()
	trips := p.trips
	p.trips = nil
	return trips
}

// LongestChain returns the most requests that there are of which each began
// after the one before had ended: how often the latency was paid at least.
func LongestChain(trips []Trip) int {
	trips = slices.Clone(trips)
	slices.SortFunc(trips, func(a, b Trip) int { return a.End.Compare(b.End) })
	n := 0
	var end time.Time
	for _, t := range trips {
		if !t.Begin.Before(end) {
			n, end = n+1, t.End
		}
	}
	return n
}

// match returns the fault that a request has, nil for none, and the latency.
func (p *Proxy) match(r *http.Request) (*Fault, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, f := range p.faults {
		conditional := r.Header.Get("If-Match")+r.Header.Get("If-None-Match") != ""
		switch {
		case f.Method != "" && f.Method != r.Method, !strings.Contains(r.URL.Path, f.Path), f.Conditional && !conditional:
			continue
		case f.Skip > 0:
			f.Skip--
			continue
		case f.Times > 0:
			if f.Times--; f.Times == 0 {
				p.faults = slices.Delete(p.faults, i, i+1)
			}
		}
		return f, p.latency
	}
	return nil, p.latency
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	trip := Trip{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Begin: time.Now()}
	defer func() {
		trip.End = time.Now()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.trips = append(p.trips, trip)
	}()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	fault, latency := p.match(r)
	through := fault == nil || fault.Through
	if fault != nil {
		latency += fault.Delay
	}
	if !sleep(r.Context(), latency) {
		panic(http.ErrAbortHandler)
	}
	if fault != nil && !fault.AfterEffect {
		fault.held.wait()
	}
	var a *answer
	if through || fault.AfterEffect || fault.Truncate {
		if a, err = p.forward(r, body); err != nil {
			panic(http.ErrAbortHandler) // as the server did
		}
	}
	if fault != nil && fault.AfterEffect {
		fault.held.wait()
	}
	if fault != nil && !through && !fault.Truncate {
		a = nil
		switch {
		case fault.Hang:
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		case fault.Status == 0:
			panic(http.ErrAbortHandler)
		}
		a = errorAnswer(fault.Status, fault.Code)
	}
	trip.Status = a.status
	a.write(w, fault != nil && fault.Truncate)
}

// wait says that the request is here, and waits until it may go on. Nothing is
// held if h is nil.
func (h *Held) wait() {
	if h == nil {
		return
	}
	close(h.reached)
	<-h.released
}

// answer is a response, held whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func errorAnswer(status int, code string) *answer {
	return &answer{
		status: status, header: http.Header{"Content-Type": {"application/xml"}},
		body: []byte("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>" + code + "</Code><Message>injected by the proxy</Message></Error>"),
	}
}

// write sends an answer, or half of it.
func (a *answer) write(w http.ResponseWriter, half bool) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if !half {
		w.WriteHeader(a.status)
		_, _ = w.Write(a.body)
		return
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(a.body)))
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body[:len(a.body)/2])
	_ = http.NewResponseController(w).Flush() // what fails here is cut anyway
	panic(http.ErrAbortHandler)
}

// forward makes the request of the server. It goes on when the client has left,
// as it would on its way through a network.
func (p *Proxy) forward(r *http.Request, body []byte) (*answer, error) {
	ctx := context.WithoutCancel(r.Context())
	out, err := http.NewRequestWithContext(ctx, r.Method, p.target+r.URL.RequestURI(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Host = r.Host // it is signed
	out.Header = r.Header.Clone()
	for _, name := range []string{"Connection", "Expect", "Transfer-Encoding"} {
		out.Header.Del(name)
	}
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	resp, err := p.transport.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	a := &answer{status: resp.StatusCode, header: resp.Header}
	a.body, err = io.ReadAll(resp.Body)
	for _, name := range []string{"Connection", "Keep-Alive"} {
		a.header.Del(name)
	}
	return a, errors.Join(err, resp.Body.Close())
}

// sleep reports whether the time passed before the client left.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
