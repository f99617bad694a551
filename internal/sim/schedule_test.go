package sim

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// look takes note of what has happened since the last step.
func (w *world) look() {
	w.hear()
	for _, n := range w.nodes {
		l := n.life
		if l == nil {
			continue
		}
		select {
		case <-l.opened:
		default:
			continue
		}
		switch {
		case !l.seen && l.err != nil:
			w.refusedToStart(l)
		case !l.seen:
			l.seen = true
			w.note(l.name(), "is up", "", "")
			w.mark("started")
		case !l.stopped && l.log.Err() != nil:
			l.stopped = true
			w.note(l.name(), "stops", l.log.Err().Error(), "")
			w.excuse(l.log.Err(), true)
		}
		if l.ending {
			select {
			case <-l.ended:
				w.note(l.name(), "has ended", "", "")
				n.life = nil
				w.gate.kill(l)
				w.orphan(l)
				n.start = w.now() + w.millis(2000)
			default:
			}
		}
	}
}

func (w *world) millis(n int) time.Duration { return time.Duration(w.rand.IntN(n)) * time.Millisecond }

// refusedToStart is for a process that ended at its start.
func (w *world) refusedToStart(l *life) {
	w.note(l.name(), "fails", l.err.Error(), "")
	w.mark("failed start")
	w.excuse(l.err, false)
	n := l.node
	if strings.Contains(l.err.Error(), "deduplication cache knows entries") && w.healing {
		w.note("operator", "removes", "cache", "node "+strconv.Itoa(n.id))
		n.rows = newRows()
		if n.files != nil {
			n.files.remove()
		}
	}
	n.kill()
	n.start = w.now() + 200*time.Millisecond + w.millis(2000)
}

// excuse is for an error with which a log stops for good, or does not start: it
// must be one that passes by itself, which nothing is for good, or a fault must
// have been there that justifies it.
func (w *world) excuse(err error, forGood bool) {
	text := err.Error()
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(s string) bool { return strings.Contains(text, s) })
	}
	passes := has(errDead.Error(), errRefused.Error(), errCut.Error(), errFull.Error(), "context deadline exceeded", "context canceled",
		"another sequencer has written", "log is unavailable")
	switch {
	case passes && !forGood:
		return
	case has("clock stands at", "clock that is ahead"):
		w.mark("stopped: clock")
		if w.clocks {
			return
		}
	case has("deduplication cache knows entries"):
		w.mark("stopped: cache ahead")
		if w.ruins {
			return
		}
	case has("bring", "compare", "corrupt", "was not signed by this log", "forked", "set back", "is not one of this log", "different content"):
		w.mark("stopped: damage")
		if w.flips {
			return
		}
	case w.flips || w.clocks || w.ruins:
		w.mark("stopped: other")
		return
	}
	w.told(&unexcused{err})
}

type unexcused struct{ err error }

func (e *unexcused) Error() string {
	return "the log stopped, and no fault justifies it: " + e.err.Error()
}

// act is one step.
func (w *world) act() {
	if w.land() || w.supervise() {
		return
	}
	calls := w.ready()
	if w.healing {
		w.actHealed(calls)
		return
	}
	if w.shaky && w.rand.IntN(8) == 0 {
		// Now or never: soon it will have been made durable.
		if w.shaky = false; slices.Contains(w.plan.events, eMachine) {
			w.mark("event: machine")
			w.outage()
			return
		}
	}
	switch {
	case len(calls) > 0 && w.rand.Float64() < w.plan.eager:
		w.release(calls[w.rand.IntN(len(calls))])
	case w.rand.Float64() < w.plan.eventRate && w.happen():
	case w.rand.IntN(3) > 0 && w.submit():
	default:
		w.sleep()
	}
}

// actHealed is a step when the faults are over.
func (w *world) actHealed(calls []*call) {
	switch {
	case len(calls) > 0:
		w.release(calls[w.rand.IntN(len(calls))])
	case w.submit():
	default:
		time.Sleep(time.Millisecond * time.Duration(5+w.rand.IntN(100)))
	}
}

// sleep lets time pass: mostly little, at times much.
func (w *world) sleep() {
	d := w.plan.nap
	for d > 100*time.Microsecond && w.rand.IntN(2) == 0 {
		d /= 4
	}
	time.Sleep(time.Duration(1 + w.rand.Int64N(int64(d))))
}

// ready returns the calls that may go on now, in canonical order.
func (w *world) ready() []*call {
	var calls []*call
	now := w.now()
	for _, c := range w.gate.open() {
		if c.finished || c.held > now || c.life.node.paused && c.life == c.life.node.life {
			continue
		}
		calls = append(calls, c)
	}
	return calls
}

// land has one request that was delayed reach the other side.
func (w *world) land() bool {
	for i, g := range w.ghosts {
		if g.at > w.now() {
			continue
		}
		w.ghosts = slices.Delete(w.ghosts, i, i+1)
		w.note(g.c.life.name(), "lands", g.c.op, g.c.path)
		w.mark("landed " + g.c.op)
		g.c.do()
		return true
	}
	return false
}

// supervise starts a process that is to be started.
func (w *world) supervise() bool {
	for _, n := range w.nodes {
		if n.life == nil && n.start <= w.now() {
			n.boot()
			w.note(n.life.name(), "starts", "", "")
			return true
		}
		if l := n.life; l != nil && l.stopped && !l.ending && (w.healing || w.rand.IntN(40) == 0) {
			w.mend()
			w.note(l.name(), "restarts", "", "")
			n.kill()
			n.start = w.now() + 500*time.Millisecond + w.millis(1000)
			return true
		}
	}
	return false
}

// submit has a client send what it wants to be logged.
func (w *world) submit() bool {
	var up []*node
	for _, n := range w.nodes {
		if n.up() && !(w.healing && n.life.stopped) {
			up = append(up, n)
		}
	}
	if len(up) == 0 {
		return false
	}
	for _, s := range w.submissions {
		if s.state != waiting || s.at > w.now() {
			continue
		}
		n := up[w.rand.IntN(len(up))]
		if w.healing { // a client that was refused asks another
			n = up[s.attempts%len(up)]
		}
		w.send(s, n)
		w.note(s.life.name(), "is asked", "submission "+strconv.Itoa(s.id), strconv.Itoa(s.attempts))
		return true
	}
	return false
}

// release lets a call go on, and says how.
func (w *world) release(c *call) {
	if c.lost {
		w.note(c.life.name(), "times out", c.op, c.path)
		c.finish(errCut)
		return
	}
	if c.effected {
		w.note(c.life.name(), "answer", c.op, c.path)
		c.finish(nil)
		return
	}
	if c.gone {
		// Its caller waits no longer, which does not stop the request.
		c.finished = true
		if w.rand.IntN(2) == 0 {
			w.note(c.life.name(), "dropped", c.op, c.path)
			return
		}
		w.note(c.life.name(), "unwanted", c.op, c.path)
		w.mark("unwanted " + c.op)
		c.do()
		return
	}
	k := w.verdict(c)
	w.note(c.life.name(), kindNames[k], c.op, c.path)
	if k != kOK {
		w.mark("fault: " + kindNames[k])
	}
	w.play(c, k)
}

// verdict draws how a call ends.
func (w *world) verdict(c *call) kind {
	switch {
	case w.healing:
		return kOK
	case c.life.doomed && w.rand.IntN(12) == 0:
		return kCrashBefore
	case w.rand.Float64() >= w.plan.rate:
		return kOK
	}
	k := w.plan.drawKind(w.rand, c.op)
	switch k {
	case kTorn, kFlip, kFlipWire:
		if c.op == opCreate && w.visible[c.path] != nil || c.op == opLockSwap && w.cellBroken || k != kTorn && c.flip == nil {
			return kOK
		}
	case kFlipRead:
		if w.visible[c.path] == nil && c.op == opGet {
			return kOK
		}
	}
	return k
}

// play ends a call as the verdict says.
func (w *world) play(c *call, k kind) {
	c.verdict = k
	full := !w.healing && w.now() < w.full && (c.op == opCreate || c.op == opUpdate)
	switch {
	case full && k == kOK:
		w.mark("fault: full disk")
		c.finish(errFull)
		return
	}
	switch k {
	case kOK, kLieOther, kLieIndex, kLieTime, kLieLost:
		c.do()
		c.finish(nil)
	case kRefuse:
		c.finish(errRefused)
	case kFailAfter:
		c.do()
		if c.op == opCachePut {
			c.finish(nil) // its own side plays it
		} else {
			c.finish(errCut)
		}
	case kVolatile:
		w.volatileNext = true
		c.do()
		w.volatileNext, w.shaky = false, true
		c.finish(errCut)
	case kLate:
		c.do()
		c.effected, c.held = true, w.now()+w.delay()
	case kHold:
		c.held = w.now() + w.delay()
	case kLost:
		c.lost, c.held = true, w.now()+patience
	case kLostAnswer:
		c.do()
		c.lost, c.held = true, w.now()+patience
	case kGhost:
		if c.op == opSequence {
			c.finish(nil)
			return
		}
		c.haunt(w)
		c.finish(errCut)
	case kTwice:
		if c.op == opSequence {
			c.finish(nil)
			return
		}
		c.haunt(w)
		c.do()
		c.finish(nil)
	case kTorn:
		w.flips = true
		c.torn(w.rand.Uint64())
		c.finish(errCut)
	case kFlip, kFlipWire:
		w.flips = true
		c.flip(w.rand.Uint64(), k == kFlip && !strings.HasPrefix(c.path, "issuer/"))
		c.do()
		c.finish(nil)
	case kFlipRead:
		w.flips = true
		c.flip(w.rand.Uint64(), false)
		c.finish(nil)
	case kCrashBefore:
		w.crash(c.life.node)
	case kCrashAfter:
		c.do()
		w.crash(c.life.node)
	}
}

// haunt makes a request of the call that comes later.
func (c *call) haunt(w *world) {
	if c.keep != nil {
		c.keep()
	}
	again := *c
	w.ghosts = append(w.ghosts, ghost{w.now() + w.delay(), &again})
}

// delay is how long something takes that takes too long.
func (w *world) delay() time.Duration {
	return time.Duration(1 + w.rand.Int64N(int64(pick(w.rand, 5*time.Millisecond, 200*time.Millisecond, 3*time.Second, 15*time.Second))))
}
