package sim

import (
	"math/rand/v2"
	"slices"
	"time"
)

// kind is how a call ends.
type kind int

const (
	kOK          kind = iota
	kRefuse           // an error, and no effect
	kFailAfter        // an effect, and an error all the same
	kVolatile         // as kFailAfter, and a crash of the machine takes the effect back
	kLate             // an effect now, the answer later
	kHold             // nothing for a while
	kLost             // the request is lost: no effect and no answer
	kLostAnswer       // the answer is lost
	kGhost            // an error now, the effect later
	kTwice            // the effect, and later once more
	kTorn             // an error, and half of an object
	kFlip             // a bit of the caller's own bytes changes
	kFlipWire         // a bit changes on the way there
	kFlipRead         // a bit changes on the way back
	kCrashBefore      // the process dies, and there is no effect
	kCrashAfter       // the process dies after the effect
	kLieOther         // a cache names any place
	kLieIndex         // or one nearby
	kLieTime          // or the right one at another time
	kLieLost          // or has lost a row
	kinds
)

var kindNames = [kinds]string{
	"ok", "refuse", "fail-after", "volatile", "late", "hold", "lost", "lost-answer", "ghost", "twice", "torn",
	"flip", "flip-wire", "flip-read", "crash-before", "crash-after", "lie-other", "lie-index", "lie-time", "lie-lost",
}

// ops says which calls a kind is for.
var ops = [kinds][]string{
	kRefuse:      {opCreate, opFetch, opUpdate, opGet, opDelete, opList, opLockMake, opLockLoad, opLockSwap, opCacheGet, opCachePut, opSequence},
	kFailAfter:   {opCreate, opUpdate, opDelete, opLockMake, opLockSwap, opCachePut, opSequenced},
	kVolatile:    {opCreate, opUpdate},
	kLate:        {opCreate, opFetch, opUpdate, opGet, opDelete, opList, opLockMake, opLockLoad, opLockSwap},
	kHold:        {opCreate, opFetch, opUpdate, opGet, opDelete, opList, opLockMake, opLockLoad, opLockSwap, opCacheGet, opCachePut, opAdd, opSequence, opSequenced},
	kLost:        {opCreate, opFetch, opUpdate, opGet, opDelete, opList, opLockMake, opLockLoad, opLockSwap, opCacheGet, opCachePut, opSequence},
	kLostAnswer:  {opCreate, opUpdate, opDelete, opLockMake, opLockSwap, opSequenced},
	kGhost:       {opCreate, opUpdate, opDelete, opLockMake, opLockSwap, opSequence},
	kTwice:       {opCreate, opUpdate, opDelete, opLockMake, opLockSwap, opSequence},
	kTorn:        {opCreate},
	kFlip:        {opCreate, opLockSwap, opAdd, opSequence, opSequenced},
	kFlipWire:    {opCreate},
	kFlipRead:    {opGet, opLockLoad},
	kCrashBefore: {opCreate, opFetch, opUpdate, opGet, opDelete, opList, opLockMake, opLockLoad, opLockSwap, opCacheGet, opCachePut, opAdd, opSequence, opSequenced},
	kCrashAfter:  {opCreate, opUpdate, opDelete, opLockMake, opLockSwap, opCachePut},
	kLieOther:    {opCacheGet},
	kLieIndex:    {opCacheGet},
	kLieTime:     {opCacheGet},
	kLieLost:     {opCacheGet, opCachePut},
}

// onlyRemote are kinds that a disk of one's own does not know, onlyLocal those
// that only it knows.
var (
	onlyRemote = []kind{kLostAnswer, kGhost, kTwice}
	onlyLocal  = []kind{kVolatile}
)

// event is what happens to a world beside its calls.
type event int

const (
	eLeave     event = iota // a client goes away
	eCrash                  // a process is killed
	eBurst                  // and the next one or two also
	eStop                   // a process ends in order
	ePause                  // a process is stopped, and goes on much later
	eClock                  // a clock is set
	eFull                   // the disk is full for a while
	eRot                    // a bit of a stored object changes
	eMachine                // all processes die, and what was not durable is lost
	eFreeze                 // the log is frozen
	eForget                 // a cache loses rows
	eScramble               // a cache mixes rows up
	eAhead                  // a cache is one of a log further on
	eFile                   // the file of a cache is damaged
	eDuplicate              // somebody submits again what was logged before
	events
)

var eventNames = [events]string{
	"leave", "crash", "burst", "stop", "pause", "clock", "full", "rot", "machine", "freeze", "forget", "scramble", "ahead", "file", "duplicate",
}

// plan is what a seed draws before anything happens. Seeds differ in kind: each
// has some faults and not others, many or few.
type plan struct {
	nodes, batchers int
	period          time.Duration
	names           bool
	remote          bool // storage and lock are services that several machines reach
	stale           bool // whose reads may be behind, which no backend's may
	sqlite          bool // the caches are SQLite
	snapshot        int  // of base.snapshots
	submissions     int
	steps           int     // with faults
	rate            float64 // of calls that go wrong
	eager           float64 // of steps that let a call go if one waits
	nap             time.Duration
	kinds           []kind  // of calls that go wrong
	weights         []int   // of kinds
	events          []event // that may happen
	eventRate       float64
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// drawSeed returns the plan of a seed.
func drawSeed(b *base, seed uint64) plan {
	p := drawPlan(rand.New(rand.NewPCG(seed, 0x706c616e)), b)
	p.stale = p.remote && staleRand(seed).IntN(4) == 0
	return p
}

func drawPlan(r *rand.Rand, b *base) plan {
	p := plan{
		nodes: pick(r, 1, 1, 2, 2, 2, 3), batchers: pick(r, 1, 1, 2, 3),
		period: time.Duration(pick(r, 10, 50, 100, 100, 300)) * time.Millisecond,
		names:  r.IntN(8) == 0, remote: r.IntN(2) == 0, sqlite: r.IntN(33) == 0,
		submissions: 4 + r.IntN(14), steps: 60 + r.IntN(240),
		rate:      pick(r, 0, 0.02, 0.05, 0.1, 0.2),
		eager:     pick(r, 0.6, 0.8, 0.9, 0.97),
		nap:       pick(r, 20*time.Millisecond, 200*time.Millisecond, 2*time.Second),
		eventRate: pick(r, 0.2, 0.5, 0.8),
	}
	if r.IntN(4) == 0 {
		p.snapshot = r.IntN(len(b.snapshots))
	}
	if !p.remote {
		p.nodes = min(p.nodes, 2)
	}
	some := pick(r, 0.15, 0.4, 0.8) // of the faults there are
	for k := kRefuse; k < kinds; k++ {
		if slices.Contains(onlyRemote, k) && !p.remote || slices.Contains(onlyLocal, k) && p.remote {
			continue
		}
		// What needs an operator stands in the way of all else.
		if k == kTorn || k == kFlipWire || k == kFlipRead || k == kFlip {
			if r.Float64() < some/2 {
				p.kinds, p.weights = append(p.kinds, k), append(p.weights, 1+r.IntN(6))
			}
			continue
		}
		if r.Float64() < some {
			p.kinds, p.weights = append(p.kinds, k), append(p.weights, 1+r.IntN(8))
		}
	}
	for e := range events {
		chance := some
		switch e {
		case eMachine:
			if p.remote {
				continue
			}
		case eFreeze:
			chance = 0.05
		case eRot, eAhead:
			chance = some / 4
		case eFile:
			if !p.sqlite {
				continue
			}
			chance = 0.7
		}
		if r.Float64() < chance {
			p.events = append(p.events, e)
		}
	}
	return p
}

// drawKind returns how a call is to go wrong, kOK if none of the seed's kinds is
// for it.
func (p *plan) drawKind(r *rand.Rand, op string) kind {
	total := 0
	for i, k := range p.kinds {
		if slices.Contains(ops[k], op) {
			total += p.weights[i]
		}
	}
	if total == 0 {
		return kOK
	}
	n := r.IntN(total)
	for i, k := range p.kinds {
		if !slices.Contains(ops[k], op) {
			continue
		}
		if n -= p.weights[i]; n < 0 {
			return k
		}
	}
	return kOK
}
