package batcher

import (
	"sync"
	"time"
)

// logInterval is the least time between two log lines about one kind of fault.
const logInterval = time.Minute

// throttle lets one event an interval through and counts the others. The zero
// value is ready, and it is safe for concurrent use.
type throttle struct {
	mu    sync.Mutex
	last  time.Time
	count int64
}

// allow reports whether to speak now, and of how many events since the last time.
func (t *throttle) allow() (int64, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	now := time.Now()
	if !t.last.IsZero() && now.Sub(t.last) < logInterval {
		return 0, false
	}
	n := t.count
	t.last, t.count = now, 0
	return n, true
}
