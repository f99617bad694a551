package batcher

import (
	"sync"

	"kiln/entry"
)

// cache is the short-term cache: the newest SCTs, a fixed number of them, in
// memory. The oldest makes room, used or not: an SCT that is asked for again
// after it left comes back from the long-term cache as new, and a read moves
// nothing. Only logged entries come in, so that nobody can flush it by asking.
type cache struct {
	size int

	mu    sync.Mutex
	index map[entry.Key]int // into slots
	slots []cached          // grows to size, then next goes round
	next  int
}

// cached is an SCT and the last submission that was answered with it.
type cached struct {
	key    entry.Key
	digest entry.Digest
	sct    entry.SCT
}

func newCache(size int) *cache {
	return &cache{size: size, index: make(map[entry.Key]int)}
}

// lookup returns the SCT of a key if the submission is the one remembered.
func (c *cache) lookup(key entry.Key, digest entry.Digest) (entry.SCT, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.index[key]
	if !ok || c.slots[i].digest != digest {
		return entry.SCT{}, false
	}
	return c.slots[i].sct, true
}

// adopt returns the SCT of a key for any submission of it, and remembers this
// one, which has passed all checks, say with another chain.
func (c *cache) adopt(key entry.Key, digest entry.Digest) (entry.SCT, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.index[key]
	if !ok {
		return entry.SCT{}, false
	}
	c.slots[i].digest = digest
	return c.slots[i].sct, true
}

// put remembers SCTs.
func (c *cache) put(entries []cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		if i, ok := c.index[e.key]; ok {
			c.slots[i] = e
			continue
		}
		if len(c.slots) < c.size {
			c.index[e.key] = len(c.slots)
			c.slots = append(c.slots, e)
			continue
		}
		delete(c.index, c.slots[c.next].key)
		c.index[e.key] = c.next
		c.slots[c.next] = e
		c.next = (c.next + 1) % c.size
	}
}
