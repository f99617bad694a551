package frontend

import (
	"net/netip"
	"sync"
)

// reading counts the bodies that are being read, in all and for each client. A
// client that sends slowly holds a place for as long as it takes: half of the
// places are the most that one gets, so that others always find some.
type reading struct {
	most, perClient int

	mu       sync.Mutex
	total    int            // guarded by mu
	byClient map[string]int // guarded by mu; only clients that have some
}

func newReading(most int) *reading {
	return &reading{most: most, perClient: max(1, most/2), byClient: make(map[string]int)}
}

// begin takes a place for a client, and reports whether there was one.
func (c *reading) begin(client string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.total >= c.most || c.byClient[client] >= c.perClient {
		return false
	}
	c.total++
	c.byClient[client]++
	return true
}

// end gives a place back.
func (c *reading) end(client string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.byClient[client]--; c.byClient[client] == 0 {
		delete(c.byClient, client)
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
