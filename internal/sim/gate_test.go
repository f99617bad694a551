package sim

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// Errors that the world makes.
var (
	errDead    = errors.New("the process is dead")
	errRefused = errors.New("simulated: refused, nothing was done")
	errCut     = errors.New("simulated: connection cut, who knows what was done")
	errFull    = errors.New("simulated: no space left on device")
)

// Kinds of calls that leave a role.
const (
	opCreate    = "create"
	opFetch     = "fetch" // the first half of an Update
	opUpdate    = "update"
	opGet       = "get"
	opDelete    = "delete"
	opList      = "list"
	opLockMake  = "lock-make"
	opLockLoad  = "lock-load"
	opLockSwap  = "lock-swap"
	opCacheGet  = "cache-get"
	opCachePut  = "cache-put"
	opAdd       = "add"       // frontend to batcher
	opSequence  = "sequence"  // batcher to sequencer
	opSequenced = "sequenced" // and back
)

// call is one call that waits at the gate. The scheduler owns it while the caller
// is blocked on done.
type call struct {
	life *life
	op   string
	path string
	nth  int

	// do has the effect, and sets what the caller gets. It is called by the
	// scheduler alone, once, or more often for a request that comes twice.
	do func()
	// flip changes one bit, chosen by at, of what is on its way: of the caller's
	// own bytes, or of a copy. nil: there is nothing to flip.
	flip func(at uint64, inPlace bool)
	// torn has half of the effect.
	torn func(at uint64)
	// keep makes what do needs independent of the caller, for a request that
	// comes after the caller has gone on.
	keep func()

	err      error         // what the caller gets if not nil
	verdict  kind          // for calls whose fault is played by the caller's side
	done     chan struct{} // closed when the answer is there
	finished bool          // of the scheduler: done is closed
	effected bool          // of the scheduler: only the answer is left
	held     time.Duration // of the scheduler: not before
	lost     bool          // of the scheduler: no answer will come

	gone bool // guarded by gate.mu: the caller waits no longer
}

// gate is where all calls of all nodes of a world wait.
type gate struct {
	mu      sync.Mutex
	pending []*call
	counts  map[callName]int
}

type callName struct {
	life     *life
	op, path string
}

// pass registers a call and waits for the end that the scheduler gives it. If ctx
// ends first the caller gives up, and the call may have its effect all the same.
func (g *gate) pass(ctx context.Context, c *call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.done = make(chan struct{})
	g.mu.Lock()
	if c.life.dead {
		g.mu.Unlock()
		return errDead
	}
	name := callName{c.life, c.op, c.path}
	c.nth = g.counts[name]
	g.counts[name]++
	g.pending = append(g.pending, c)
	g.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	select {
	case <-c.done:
		return c.err
	default:
	}
	g.mu.Lock()
	c.gone = true
	g.mu.Unlock()
	return ctx.Err()
}

// open returns the calls that wait, in canonical order. Only the scheduler calls
// it, when all else is blocked.
func (g *gate) open() []*call {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pending = slices.DeleteFunc(g.pending, func(c *call) bool {
		// Without a caller only a write matters. And whether a read was begun that
		// was called off in the same moment is a race in which nobody wins.
		return c.finished || c.gone && (c.effected || c.lost || !c.writes())
	})
	slices.SortFunc(g.pending, compareCalls)
	return g.pending
}

// writes reports whether a call changes what all machines share.
func (c *call) writes() bool {
	switch c.op {
	case opCreate, opUpdate, opDelete, opLockMake, opLockSwap:
		return true
	}
	return false
}

func compareCalls(a, b *call) int {
	switch {
	case a.life.number != b.life.number:
		return a.life.number - b.life.number
	case a.op != b.op:
		return strings.Compare(a.op, b.op)
	case a.path != b.path:
		return strings.Compare(a.path, b.path)
	}
	return a.nth - b.nth
}

// finish gives a caller its answer.
func (c *call) finish(err error) {
	if err != nil {
		c.err = err
	}
	c.finished = true
	close(c.done)
}

// kill ends a life at the gate: what waits gets an error, and nothing comes after.
func (g *gate) kill(l *life) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l.dead = true
	for _, c := range g.pending {
		if c.life == l && !c.finished {
			c.finish(errDead)
		}
	}
}

// patience is how long the client of a storage or lock waits for an answer that
// was lost, if its caller does. Those of S3 and etcd have such a bound too.
const patience = 20 * time.Second
