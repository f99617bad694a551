package reader

import (
	"net/netip"
	"sync"
	"time"
)

// clientOf returns what counts as one client: an IPv4 address, or the /64 of an
// IPv6 address, which is what one subscriber has. Addresses that cannot be read
// are one client together.
func clientOf(remoteAddr string) netip.Addr {
	addrPort, err := netip.ParseAddrPort(remoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	addr := addrPort.Addr().Unmap().WithZone("")
	if addr.Is4() {
		return addr
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return prefix.Addr()
}

// tokens is a token bucket.
type tokens struct {
	left float64
	at   time.Time // when left was right
}

// limiter has a token bucket for each client. It is safe for concurrent use.
//
// Clients are kept in two generations, each with at most half the bound. When
// the young one is full, or so old that whoever is only in the old one has a full
// bucket by now, the old one is dropped. A flood of addresses can thus make it
// forget, in the clients' favour, but never grow; a list in order of use would
// cost three times the memory for the same.
type limiter struct {
	rate  float64 // tokens per second
	burst float64
	half  int
	whole time.Duration // until an empty bucket is full

	mu    sync.Mutex
	young map[netip.Addr]*tokens // guarded by mu
	old   map[netip.Addr]*tokens // guarded by mu
	since time.Time              // guarded by mu; when young was begun
}

func newLimiter(rate float64, burst, maxClients int) *limiter {
	return &limiter{
		rate: rate, burst: float64(burst), half: max(1, maxClients/2),
		whole: time.Duration(min(float64(burst)/rate, 1e6) * float64(time.Second)),
		young: make(map[netip.Addr]*tokens),
	}
}

// take takes a token from a client's bucket, or says how long there will be
// none.
func (l *limiter) take(client netip.Addr, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucketLocked(client, now)
	if elapsed := now.Sub(b.at).Seconds(); elapsed > 0 {
		b.left = min(l.burst, b.left+elapsed*l.rate)
		b.at = now
	}
	if b.left < 1 {
		return time.Duration((1 - b.left) / l.rate * float64(time.Second)), false
	}
	b.left--
	return 0, true
}

// giveBack undoes a take.
func (l *limiter) giveBack(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.young[client]; b != nil {
		b.left = min(l.burst, b.left+1)
	}
}

func (l *limiter) bucketLocked(client netip.Addr, now time.Time) *tokens {
	b := l.young[client]
	if expired := now.Sub(l.since) > l.whole; expired || b == nil && len(l.young) >= l.half {
		l.old, l.young, l.since = l.young, make(map[netip.Addr]*tokens), now
		b = nil
	}
	if b != nil {
		return b
	}
	if b = l.old[client]; b == nil {
		b = &tokens{left: l.burst, at: now}
	}
	delete(l.old, client)
	l.young[client] = b
	return b
}
