package daemon

import (
	"net/http"
	"net/netip"
)

// share bounds the requests that one log has in handlers while connections are
// short, so that a log that hangs, or is flooded, does not take all connections
// of a process that serves several.
//
// As long as half of the connections has no request, nobody is refused: a log may
// use what the others leave. Beyond, that other half is for the logs in equal parts,
// and a log that has its part is answered 503 at once. The same holds within what
// one client may have, since the client may be a proxy before all logs. A log that
// is alone may have all.
type share struct {
	refused func() // counts

	// Guarded by limiter.mu.
	n       int // requests of the log in handlers
	clients map[netip.Addr]int
}

func newShare(refused func()) *share {
	return &share{refused: refused, clients: make(map[netip.Addr]int)}
}

// enter counts a request of the log in, unless the log has its part already and
// connections are short. Each success is followed by one leave.
func (s *share) enter(c *conn) bool {
	l := c.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.logs > 1 && (short(l.active, l.total) && s.n >= l.part(l.total) || short(l.requests[c.key], l.share) && s.clients[c.key] >= l.part(l.share)) {
		return false
	}
	s.n++
	s.clients[c.key]++
	return true
}

func (s *share) leave(c *conn) {
	l := c.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	s.n--
	if s.clients[c.key]--; s.clients[c.key] == 0 {
		delete(s.clients, c.key)
	}
}

// short reports whether requests run on more than half of some connections; over
// HTTP/2 each counts as one.
func short(busy, of int) bool { return busy > of-of/2 }

// part is what each log has of the other half of some connections.
func (l *limiter) part(of int) int { return max(1, of/2/l.logs) }

// bounded lets the requests of a log at next within its share.
func (s *share) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*conn); ok {
			if !s.enter(c) {
				s.refused()
				w.Header().Set("Retry-After", "1")
				plainError(w, http.StatusServiceUnavailable, "too many requests of this log wait for an answer, and connections are short; try again")
				return
			}
			defer s.leave(c)
		}
		next.ServeHTTP(w, r)
	})
}
