package reader

import (
	"cmp"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// largeObject is more bytes than an object of a log of certificates in use
	// has: a full data tile has some 400 KiB.
	largeObject = 1 << 20

	// sendPatience is how long an answer may be on its way before it is cut off
	// when there is no memory for others.
	sendPatience = time.Second

	sweepInterval = 100 * time.Millisecond
)

// errMemory says that answers hold as much memory as they may.
var errMemory = errors.New("no memory for another answer")

// memory bounds the bytes of all answers, from before they are read until they
// are sent. Whoever takes an answer slowly holds its bytes; where others get
// none because of that, answers that have been on their way for longest are cut
// off, those of the client that holds most first. It is safe for concurrent use.
//
// Objects of the usual sizes have one half, and large ones the other, so that
// they never wait for each other.
type memory struct {
	metrics *metrics

	mu           sync.Mutex
	usual, large budget             // guarded by mu
	sending      map[*hold]struct{} // guarded by mu
	swept        time.Time          // guarded by mu; when answers were last cut off
}

// budget is a number of bytes, of which one client gets half. One answer may
// always be there, however large.
type budget struct {
	most, total int64
	byClient    map[netip.Addr]int64
}

func (b *budget) fits(client netip.Addr, n int64) bool {
	return b.total == 0 || b.total+n <= b.most && b.byClient[client]+n <= b.most/2
}

// add adds n, which may be negative.
func (b *budget) add(client netip.Addr, n int64) {
	b.total += n
	if b.byClient[client] += n; b.byClient[client] == 0 {
		delete(b.byClient, client)
	}
}

func newMemory(most int64, m *metrics) *memory {
	half := func() budget { return budget{most: most / 2, byClient: make(map[netip.Addr]int64)} }
	return &memory{metrics: m, usual: half(), large: half(), sending: make(map[*hold]struct{})}
}

// budgetOf returns where n bytes belong.
func (m *memory) budgetOf(n int64) *budget {
	if n > largeObject {
		return &m.large
	}
	return &m.usual
}

// hold is what one answer holds.
type hold struct {
	memory *memory
	client netip.Addr

	bytes int64     // guarded by memory.mu
	since time.Time // when sending began; guarded by memory.mu

	mu  sync.Mutex
	cut func() // ends the sending; nil before and after; guarded by mu
}

func (m *memory) hold(client netip.Addr) *hold { return &hold{memory: m, client: client} }

// resize makes what h holds n bytes, or returns errMemory and changes nothing.
func (h *hold) resize(n int64) error {
	m := h.memory
	m.mu.Lock()
	before, to := m.budgetOf(h.bytes), m.budgetOf(n)
	before.add(h.client, -h.bytes)
	ok := n <= h.bytes || to.fits(h.client, n)
	var slow []*hold
	if ok {
		h.bytes = n
		before = to
	} else {
		slow = m.slowLocked(to, n)
	}
	before.add(h.client, h.bytes)
	m.metrics.held.Set(float64(m.usual.total + m.large.total))
	m.mu.Unlock()
	for _, victim := range slow {
		victim.cutOff()
	}
	if !ok {
		return errMemory
	}
	return nil
}

// slowLocked returns answers from a budget that have been on their way for too
// long, for as many bytes as are wanted.
func (m *memory) slowLocked(b *budget, wanted int64) []*hold {
	now := time.Now()
	if now.Sub(m.swept) < sweepInterval {
		return nil
	}
	m.swept = now
	var slow []*hold
	for h := range m.sending {
		if m.budgetOf(h.bytes) == b && now.Sub(h.since) > sendPatience {
			slow = append(slow, h)
		}
	}
	slices.SortFunc(slow, func(x, y *hold) int {
		return cmp.Or(cmp.Compare(b.byClient[y.client], b.byClient[x.client]), x.since.Compare(y.since))
	})
	for i, h := range slow {
		if wanted -= h.bytes; wanted <= 0 {
			return slow[:i+1]
		}
	}
	return slow
}

// send marks the answer as being on its way to the client.
func (h *hold) send(w http.ResponseWriter) {
	h.mu.Lock()
	h.cut = func() { _ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) }
	h.mu.Unlock()
	m := h.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	h.since = time.Now()
	m.sending[h] = struct{}{}
}

// cutOff ends the sending. The connection is of no more use then.
func (h *hold) cutOff() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cut == nil {
		return
	}
	h.memory.metrics.cut.Inc()
	h.cut()
	h.cut = nil
}

// release gives back all that h holds.
func (h *hold) release() {
	h.mu.Lock()
	h.cut = nil // the writer may not be used any more
	h.mu.Unlock()
	m := h.memory
	m.mu.Lock()
	delete(m.sending, h)
	m.mu.Unlock()
	_ = h.resize(0) // to less is always possible
}
