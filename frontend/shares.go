package frontend

import (
	"net/netip"
	"sync"
)

// shares hands out a bounded number of something, in all and to each client. A
// client may hold what it has for as long as it likes to be slow: half is the
// most that one gets, so that others always find some.
type shares struct {
	most, perClient int64

	mu       sync.Mutex
	total    int64            // guarded by mu
	byClient map[string]int64 // guarded by mu; only clients that have some
}

func newShares(most int64) *shares {
	return &shares{most: most, perClient: max(1, most/2), byClient: make(map[string]int64)}
}

// take takes n for a client, and reports whether there was as much. A client that
// has nothing gets more than half if nobody else has anything.
func (s *shares) take(client string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fitsLocked(client, n) {
		return false
	}
	s.total += n
	s.byClient[client] += n
	return true
}

// fits reports whether take would succeed.
func (s *shares) fits(client string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fitsLocked(client, n)
}

func (s *shares) fitsLocked(client string, n int64) bool {
	return s.total == 0 || s.total+n <= s.most && s.byClient[client]+n <= s.perClient
}

// give gives n back.
func (s *shares) give(client string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total -= n
	if s.byClient[client] -= n; s.byClient[client] == 0 {
		delete(s.byClient, client)
	}
}

// clientOf names the client of a remote address: an IPv4 address, or the /64 of
// an IPv6 address, all of which one client can have.
func clientOf(remote string) string {
	addr, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	ip := addr.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
