package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"testing/synctest"
	"time"

	"kiln/internal/sim/auditor"
	"kiln/lock"
	lockmem "kiln/lock/mem"
	"kiln/storage"
	storagemem "kiln/storage/mem"
)

// options of one run of a world.
type options struct {
	verbose bool
	dir     string // for SQLite

	// broken is told of a world with a fault before its goroutines are ended, which
	// a fault may well keep from ending.
	broken func(*result)
}

// world is one log with all that it runs on. Its fields belong to the scheduler,
// which is the root goroutine of the bubble, and to others only as is said.
type world struct {
	base  *base
	seed  uint64
	plan  plan
	opts  options
	rand  *rand.Rand
	began time.Time // by the clock of the bubble
	start time.Time // the same moment, by the true clock of the world
	gate  *gate
	trace *trace
	audit *auditor.Auditor

	bucket       *storagemem.Bucket
	lock         *lockmem.Store
	volatile     bool              // of the effect at hand
	volatileNext bool              // of the next one
	visible      map[string][]byte // what bucket holds
	planted      map[string][]byte // what was meant where something else may be
	broken       map[string]bool   // and is
	memory       map[string]bool   // and was changed where the log itself could see it
	cell         *brokenCell
	cellBroken   bool
	stale        *rand.Rand        // of reads that are behind; nil if none are
	before       map[string][]byte // what stale reads see: each object as it was before its last change
	cellBefore   lock.Held         // and the cell of the log
	ghosts       []ghost

	nodes       []*node
	lives       int
	submissions []*submission
	full        time.Duration // the disk is, until then
	shaky       bool          // something is visible and not durable
	frozen      bool
	healing     bool
	healed      time.Duration // when the faults ended
	ahead       time.Duration // furthest that a clock went before the others
	clocks      bool          // a clock was set
	flips       bool          // a bit was changed, or an object torn
	ruins       bool          // a cache was
	step        int
	fault       error // the first violation

	strays sync.WaitGroup // all goroutines that the world started

	mu      sync.Mutex // guards what follows, and the offsets of clocks
	replies []reply
	cover   map[string]int
	said    []string
}

// ghost is a request that comes after its caller has gone on.
type ghost struct {
	at time.Duration
	c  *call
}

func newWorld(b *base, seed uint64, p plan, opts options) (*world, error) {
	w := &world{
		base: b, seed: seed, plan: p, opts: opts, rand: rand.New(rand.NewPCG(seed, 0x6b696c6e)),
		began: time.Now(), start: beginning, gate: &gate{counts: make(map[callName]int)}, trace: newTrace(),
		bucket: storagemem.New(), lock: lockmem.New(),
		visible: make(map[string][]byte), planted: make(map[string][]byte), broken: make(map[string]bool), memory: make(map[string]bool),
		before: make(map[string][]byte), cover: make(map[string]int),
	}
	if p.stale {
		w.stale = staleRand(seed)
	}
	var err error
	w.audit, err = auditor.New(auditor.Config{Origin: b.conf.Origin, SPKI: b.key.SPKI()})
	if err != nil {
		return nil, err
	}
	if err := w.load(b.snapshots[p.snapshot]); err != nil {
		return nil, err
	}
	w.bucket.SetFaults(w.faults)
	for i := range p.nodes {
		n := &node{w: w, id: i, rows: newRows(), start: time.Duration(i) * time.Duration(w.rand.IntN(3000)) * time.Millisecond}
		if p.sqlite {
			n.files = &files{dir: opts.dir, name: "node" + strconv.Itoa(i)}
		}
		w.nodes = append(w.nodes, n)
	}
	for i := range p.submissions {
		s := &submission{id: i, chain: oldChains + w.rand.IntN(chainCount-oldChains), at: time.Duration(w.rand.IntN(3000)) * time.Millisecond}
		if size := b.snapshots[p.snapshot].size; size > 0 && w.rand.IntN(6) == 0 {
			s.chain = w.rand.IntN(size)
		}
		w.submissions = append(w.submissions, s)
	}
	return w, nil
}

// faults are those of the bucket behind the gate.
func (w *world) faults(storagemem.Op, string) (f storagemem.Fault) {
	if w.volatile {
		f.Volatile, f.After = true, errCut
	}
	return f
}

// load begins with the log that a snapshot is.
func (w *world) load(s snapshot) error {
	ctx := context.Background()
	if err := w.lock.Create(ctx, w.base.lockID, s.cell); err != nil {
		return err
	}
	for _, path := range s.paths() {
		body := s.objects[path]
		var err error
		if path == checkpointPath {
			w.told(w.audit.Committed(s.cell))
			err = w.bucket.Update(ctx, storage.Object{Path: path}, func([]byte) ([]byte, error) { return body, nil })
		} else {
			err = w.bucket.Create(ctx, storage.Object{Path: path, Body: body})
		}
		if err != nil {
			return err
		}
		w.visible[path] = body
		w.told(w.audit.Changed(path, body))
	}
	return w.fault
}

// now is the time since the world began.
func (w *world) now() time.Duration { return time.Since(w.began) }

// trueTime is the right time of day.
func (w *world) trueTime() time.Time { return w.start.Add(w.now()) }

// note adds a line to the trace.
func (w *world) note(who, how, what, path string) {
	w.trace.add(line{w.step, w.now(), who, what, path, how})
}

// mark counts something that is to happen now and then.
func (w *world) mark(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cover[what]++
}

// told takes what the auditor says. The first fault is kept.
func (w *world) told(err error) {
	if err != nil && w.fault == nil {
		w.fault = err
		w.note("auditor", "fault", err.Error(), "")
	}
}

// known is the number of entries that are public.
func (w *world) known() int64 { return w.audit.Size() }

// lastMillis is a timestamp that could be one of an entry.
func (w *world) lastMillis() int64 { return w.trueTime().UnixMilli() }

// run takes steps until done says so or something is wrong.
func (w *world) run(done func() bool) error {
	for {
		synctest.Wait()
		w.look()
		if w.fault == nil {
			w.told(w.audit.Check())
		}
		if n := w.audit.Repeated(); n > 0 && w.fault == nil {
			// None of these logs has more entries than a sequencer remembers.
			w.told(fmt.Errorf("%d entries were logged a second time", n))
		}
		if w.fault != nil {
			return w.fault
		}
		if done() {
			return nil
		}
		w.step++
		w.act()
		time.Sleep(time.Duration(1 + w.rand.IntN(300_000)))
	}
}

// live is the whole history of a world.
func (w *world) live() error {
	err := w.run(func() bool { return w.step >= w.plan.steps })
	if err == nil {
		w.heal()
		limit := w.healed + 3*time.Minute + w.ahead
		steps := w.step + 20_000
		err = w.run(func() bool {
			if w.now() > limit || w.step > steps {
				w.told(w.stuck())
			}
			return w.whole()
		})
	}
	if err == nil {
		err = w.ending()
	}
	if err != nil && w.opts.broken != nil {
		w.opts.broken(w.report(err))
	}
	w.shutdown()
	return err
}

// whole reports whether all is as it should be when faults are over.
func (w *world) whole() bool {
	if !w.allServed() {
		return false
	}
	for _, n := range w.nodes {
		if !n.up() || n.life.stopped {
			return false
		}
	}
	return w.freshest() >= w.start.Add(w.healed).UnixMilli()
}

// allServed reports whether nobody waits for an SCT any more.
func (w *world) allServed() bool {
	for _, s := range w.submissions {
		if s.state != served && s.state != refused {
			return false
		}
	}
	return true
}

// freshest is the timestamp of the published checkpoint.
func (w *world) freshest() int64 {
	return noteTimestamp(w.visible[checkpointPath])
}

// stuck says what is missing.
func (w *world) stuck() error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "no progress: %v after the faults ended", w.now()-w.healed)
	for _, s := range w.submissions {
		if s.state == waiting || s.state == running {
			fmt.Fprintf(&b, "; submission %d has no SCT after %d tries", s.id, s.attempts)
		}
	}
	for _, n := range w.nodes {
		switch {
		case n.life == nil:
			fmt.Fprintf(&b, "; node %d is down", n.id)
		case !n.life.seen:
			fmt.Fprintf(&b, "; node %d is starting", n.id)
		case n.life.stopped:
			fmt.Fprintf(&b, "; node %d has stopped for good", n.id)
		}
	}
	if fresh := w.freshest(); fresh < w.start.Add(w.healed).UnixMilli() {
		fmt.Fprintf(&b, "; the newest checkpoint is of %d, the faults ended at %d", fresh, w.start.Add(w.healed).UnixMilli())
	}
	for _, c := range w.gate.open() {
		fmt.Fprintf(&b, "; %s waits in %s %s", c.life.name(), c.op, c.path)
	}
	return errors.New(b.String())
}

// ending is the last look at everything.
func (w *world) ending() error {
	if err := w.audit.Final(); err != nil {
		return err
	}
	if v := w.bucket.Violations(); len(v) > 0 {
		return fmt.Errorf("storage: %s", v[0])
	}
	return nil
}

// shutdown ends all nodes, so that the bubble can end.
func (w *world) shutdown() {
	for _, n := range w.nodes {
		if n.life != nil {
			n.kill()
		}
	}
	for _, s := range w.submissions {
		if s.cancel != nil {
			s.cancel()
		}
	}
	w.strays.Wait()
}

// filesDir makes the folder for the caches of a world.
func filesDir(b *base, seed uint64) string { return filepath.Join(b.dir, strconv.FormatUint(seed, 10)) }
