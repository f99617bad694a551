package daemon

import (
	"cmp"
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// limiter is a net.Listener that bounds the connections it has handed out: in
// total, and per client so that one client cannot take all of them.
//
// A connection is busy while a handler runs on it, and waiting otherwise: idle
// between requests, or with a request head that has not come in full. At a
// bound, the connection that has waited longest makes room for the new one
// (the client's own at its share; of the client that holds most at the total),
// and only when none waits is the new one turned away. So any number of idle
// or trickling connections cannot shut anybody out, and a request that is
// being worked on is never cut. One whose answer has been on its way for longer
// than a while counts as waiting, for a client that takes nothing.
//
// HTTP/2 runs many requests on one connection, so requests have the same bounds
// as connections have. At a bound, a connection with such an answer makes room,
// and if there is none the request is refused.
//
// A client is an IPv4 address or an IPv6 /64.
type limiter struct {
	net.Listener
	total, share int
	logs         int // that are served, see [share]
	metrics      *metrics

	mu      sync.Mutex
	n       int // connections handed out and not closed
	clients map[netip.Addr]*client

	// A connection may end before its requests: these count no more, since they
	// end soon or are bounded where they wait.
	running  map[*request]struct{}
	active   int                // of those running on open connections
	requests map[netip.Addr]int // of these, by client
	looked   time.Time          // when slow answers were last looked for
}

const (
	// sendPatience is how long an answer may be on its way before its connection
	// makes room for others, crowdPatience the same for a client that has more
	// than crowd requests running.
	sendPatience  = 5 * time.Second
	crowdPatience = 250 * time.Millisecond
	crowd         = 8

	// lookInterval keeps looking for slow answers cheap under a flood.
	lookInterval = 10 * time.Millisecond
)

// request is one run of a handler; guarded by limiter.mu.
type request struct {
	conn  *conn
	since time.Time // when its answer began to be sent; zero before
}

// client is what one address holds; guarded by limiter.mu.
type client struct {
	n       int
	waiting list.List // of *conn, longest first
}

// newLimiter bounds ln to total connections and share per client; both must be
// at least 1. logs is how many logs are served on them.
func newLimiter(ln net.Listener, total, share, logs int, m *metrics) *limiter {
	return &limiter{
		Listener: ln, total: total, share: share, logs: logs, metrics: m,
		clients: make(map[netip.Addr]*client), running: make(map[*request]struct{}), requests: make(map[netip.Addr]int),
	}
}

// Accept returns the next connection that fits.
func (l *limiter) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &conn{Conn: raw, limiter: l, key: clientKey(raw.RemoteAddr())}
		victim, ok := l.admit(c)
		if victim != nil {
			l.metrics.connectionsClosed.WithLabelValues("waiting").Inc()
			_ = victim.Close()
		}
		if ok {
			return c, nil
		}
		l.metrics.connectionsClosed.WithLabelValues("refused").Inc()
		_ = raw.Close()
	}
}

// admit counts c in, if need be in the place of the victim it returns, which
// the caller closes.
func (l *limiter) admit(c *conn) (victim *conn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	holder := l.clients[c.key]
	switch {
	case holder != nil && holder.n >= l.share:
		if victim = holder.longestWaiting(); victim == nil {
			victim = l.slowestLocked(c.key)
		}
		if victim == nil {
			return nil, false
		}
	case l.n >= l.total:
		if victim = l.longestWaitingLocked(); victim == nil {
			victim = l.slowestLocked(netip.Addr{})
		}
		if victim == nil {
			return nil, false
		}
	}
	if victim != nil {
		l.removeLocked(victim)
	}
	if holder = l.clients[c.key]; holder == nil { // the victim may have been its last
		holder = new(client)
		l.clients[c.key] = holder
	}
	holder.n++
	l.n++
	c.place = holder.waiting.PushBack(c)
	l.metrics.connections.Set(float64(l.n))
	return victim, true
}

// longestWaitingLocked picks from the client that holds most connections among
// those that have one waiting. It looks at every client, but only runs when the
// listener is full.
func (l *limiter) longestWaitingLocked() *conn {
	var most *client
	for _, h := range l.clients {
		if h.waiting.Len() > 0 && (most == nil || h.n > most.n) {
			most = h
		}
	}
	if most == nil {
		return nil
	}
	return most.longestWaiting()
}

func (h *client) longestWaiting() *conn {
	if e := h.waiting.Front(); e != nil {
		return e.Value.(*conn)
	}
	return nil
}

// removeLocked counts a connection out; only the first call for it counts.
func (l *limiter) removeLocked(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	l.countLocked(c.key, -c.busy)
	holder := l.clients[c.key]
	if c.place != nil {
		holder.waiting.Remove(c.place)
		c.place = nil
	}
	if holder.n--; holder.n == 0 {
		delete(l.clients, c.key)
	}
	l.n--
	l.metrics.connections.Set(float64(l.n))
}

// closeUnread closes the connections that have not sent a byte, for which
// http.Server.Shutdown would wait five seconds.
func (l *limiter) closeUnread() {
	l.mu.Lock()
	var unread []*conn
	for _, h := range l.clients {
		for e := h.waiting.Front(); e != nil; e = e.Next() {
			if c := e.Value.(*conn); !c.read {
				unread = append(unread, c)
			}
		}
	}
	l.mu.Unlock()
	for _, c := range unread {
		_ = c.Close()
	}
}

// conn is a connection that the limiter counts.
type conn struct {
	net.Conn
	limiter *limiter
	key     netip.Addr

	// Guarded by limiter.mu.
	busy  int           // handlers running: at most 1 on HTTP/1.1
	place *list.Element // in client.waiting; nil while busy or gone
	gone  bool          // not counted any more
	read  bool          // has sent a byte
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.limiter.mu.Lock()
		c.read = true
		c.limiter.mu.Unlock()
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.limiter.mu.Lock()
	c.limiter.removeLocked(c)
	c.limiter.mu.Unlock()
	return c.Conn.Close()
}

// slowestLocked returns the connection whose answer has been on its way for
// longest, of this client or, if none is given, of the one with most requests
// among those that have one. It is nil if none has been for too long.
func (l *limiter) slowestLocked(of netip.Addr) *conn {
	now := time.Now()
	if now.Sub(l.looked) < lookInterval {
		return nil
	}
	l.looked = now
	var slowest *request
	for r := range l.running {
		patience := sendPatience
		if l.requests[r.conn.key] > crowd {
			patience = crowdPatience
		}
		if r.since.IsZero() || now.Sub(r.since) < patience || r.conn.gone || of.IsValid() && r.conn.key != of {
			continue
		}
		if slowest == nil || cmp.Or(cmp.Compare(l.requests[slowest.conn.key], l.requests[r.conn.key]), r.since.Compare(slowest.since)) < 0 {
			slowest = r
		}
	}
	if slowest == nil {
		return nil
	}
	return slowest.conn
}

// begin and end enclose the run of a handler; begin returns nil if it may not
// run. The last eighth of the places is for submissions: reads that are stuck
// by the thousand must not keep them out.
func (c *conn) begin(submission bool) *request {
	l := c.limiter
	most := l.total
	if !submission {
		most -= l.total / 8
	}
	l.mu.Lock()
	var victim *conn
	full := true
	switch {
	case l.requests[c.key] >= l.share:
		victim = l.slowestLocked(c.key)
	case l.active >= most:
		victim = l.slowestLocked(netip.Addr{})
	default:
		full = false
	}
	if full && victim == nil {
		l.mu.Unlock()
		return nil
	}
	r := &request{conn: c}
	l.running[r] = struct{}{}
	if !c.gone {
		l.countLocked(c.key, 1)
	}
	c.busy++
	if c.place != nil {
		l.clients[c.key].waiting.Remove(c.place)
		c.place = nil
	}
	l.mu.Unlock()
	if victim != nil { // its requests end with it
		l.metrics.connectionsClosed.WithLabelValues("slow").Inc()
		_ = victim.Close()
	}
	return r
}

func (r *request) end() {
	c := r.conn
	l := c.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, r)
	if !c.gone {
		l.countLocked(c.key, -1)
	}
	if c.busy--; c.busy == 0 && !c.gone {
		c.place = l.clients[c.key].waiting.PushBack(c)
	}
}

// countLocked adds n active requests of a client.
func (l *limiter) countLocked(key netip.Addr, n int) {
	l.active += n
	if l.requests[key] += n; l.requests[key] == 0 {
		delete(l.requests, key)
	}
}

// sending notes when the answer begins to be sent.
func (r *request) sending() {
	r.conn.limiter.mu.Lock()
	defer r.conn.limiter.mu.Unlock()
	if r.since.IsZero() {
		r.since = time.Now()
	}
}

// sender is a http.ResponseWriter that notes when it is used first.
type sender struct {
	http.ResponseWriter
	request *request
	begun   bool
}

// WriteHeader implements http.ResponseWriter.
func (s *sender) WriteHeader(code int) {
	s.begin()
	s.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (s *sender) Write(b []byte) (int, error) {
	s.begin()
	return s.ResponseWriter.Write(b)
}

func (s *sender) begin() {
	if !s.begun {
		s.begun = true
		s.request.sending()
	}
}

// Unwrap is for http.ResponseController.
func (s *sender) Unwrap() http.ResponseWriter { return s.ResponseWriter }

type connKey struct{}

// connContext is the http.Server.ConnContext that lets [countBusy] find the
// connection.
func connContext(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if c, ok := nc.(*conn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// countBusy counts requests, and marks the connection of one as busy while next
// runs. A request over a bound gets no more than a head for an answer, since
// with HTTP/2 even a short body can be kept from being sent.
func countBusy(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dropBody(r)
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			running := c.begin(isSubmission(r))
			if running == nil {
				c.limiter.metrics.requestsRefused.Inc()
				w.Header().Set("Retry-After", "1")
				w.Header().Set("Content-Length", "0")
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			defer running.end()
			w = &sender{ResponseWriter: w, request: running}
		}
		next.ServeHTTP(w, r)
		if r.ProtoMajor >= 2 {
			// Else the server would wait for the client after this, uncounted.
			_ = http.NewResponseController(w).Flush()
		}
	})
}

// dropBody lets go of a body that no handler reads: with HTTP/2 the server takes
// it in beside the handler, and would keep it until the answer is out.
func dropBody(r *http.Request) {
	if r.ProtoMajor >= 2 && !isSubmission(r) {
		_ = r.Body.Close()
	}
}

func isSubmission(r *http.Request) bool {
	return r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/"+submissionBelow+"add-")
}

// clientKey is the address of a client as the limiter counts it. What is no IP
// address (a Unix socket) counts as one client.
func clientKey(addr net.Addr) netip.Addr {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if ip.Is6() {
		p, err := ip.Prefix(64)
		if err == nil {
			ip = p.Addr()
		}
	}
	return ip
}
