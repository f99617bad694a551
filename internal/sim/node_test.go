package sim

import (
	"context"
	"hash/fnv"
	"log/slog"
	"strconv"
	"time"

	"kiln/batcher"
	"kiln/frontend"
	"kiln/internal/daemon"
)

// node is one machine that serves the log, life after life.
type node struct {
	w      *world
	id     int
	offset time.Duration // of its clock; guarded by w.mu
	paused bool          // the process is stopped, and its calls wait
	rows   *rows         // its cache, if that is in memory
	files  *files        // its cache, if that is SQLite

	life  *life         // nil: down
	start time.Duration // when a supervisor starts it again
	burst int           // lives that are to end soon
}

// life is one run of the process of a node.
type life struct {
	node   *node
	number int // over all nodes
	ctx    context.Context
	cancel context.CancelFunc
	dead   bool // guarded by gate.mu
	doomed bool // it is to die at some call soon
	ending bool // it was asked to stop

	// What OpenLog said. Written before opened is closed.
	opened chan struct{}
	log    *daemon.Log
	err    error

	seen    bool // the scheduler knows that it was opened
	stopped bool // the scheduler knows that it stopped for good
	ended   chan struct{}
}

func (l *life) name() string { return "n" + strconv.Itoa(l.node.id) + "." + strconv.Itoa(l.number) }

// clock is the clock of the node.
func (n *node) clock() time.Time {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.w.trueTime().Add(n.offset)
}

// jitter spreads retries by the time of day alone, so that it is the same in each
// run of a seed, whatever goroutine asks first.
func (l *life) jitter(limit time.Duration) time.Duration {
	h := fnv.New64a()
	var b [8]byte
	for i, v := 0, uint64(l.node.w.now()); i < 8; i, v = i+1, v>>8 {
		b[i] = byte(v)
	}
	h.Write(b[:])
	h.Write([]byte{byte(l.number)})
	return time.Duration(h.Sum64() % uint64(limit))
}

// boot starts the process of a node.
func (n *node) boot() {
	w := n.w
	w.lives++
	l := &life{node: n, number: w.lives, opened: make(chan struct{}), ended: make(chan struct{})}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	n.life = l
	if n.burst > 0 {
		n.burst--
		l.doomed = true
	}
	parts := &daemon.Parts{
		Conf: w.base.conf, Key: w.base.key, LockID: w.base.lockID,
		Bucket: gatedBucket{w, l}, Lock: gatedLock{w, l},
	}
	parts.Conf.Batchers = w.plan.batchers
	parts.Conf.Period = w.plan.period
	parts.Conf.Names = w.plan.names
	opts := daemon.Options{Now: n.clock, Logger: slog.New(&ear{w: w, l: l})}
	seams := daemon.Seams{
		OpenDedup: l.openCache, Jitter: l.jitter,
		Batcher:   func(b frontend.Batcher) frontend.Batcher { return gatedBatcher{b, w, l} },
		Sequencer: func(s batcher.Sequencer) batcher.Sequencer { return gatedSequencer{s, w, l} },
	}
	w.strays.Go(func() {
		defer close(l.opened)
		l.log, l.err = daemon.OpenLog(l.ctx, parts, opts, seams)
	})
}

// kill ends the life of a process at once: what it does from now on is not seen.
func (n *node) kill() {
	l, w := n.life, n.w
	n.life, n.paused = nil, false
	w.gate.kill(l)
	l.cancel()
	if !l.ending {
		w.strays.Go(func() { // its goroutines have to end too
			<-l.opened
			if l.log != nil {
				_ = l.log.Close()
			}
		})
	}
	w.orphan(l)
}

// stop asks a process to end.
func (n *node) stop() {
	l := n.life
	l.ending = true
	n.w.strays.Go(func() {
		_ = l.log.Close()
		close(l.ended)
	})
}

// up reports whether the node takes submissions.
func (n *node) up() bool { return n.life != nil && n.life.seen && !n.life.ending }

// ear hears what a life logs at WARN and above, and counts it.
type ear struct {
	slog.Handler
	w *world
	l *life
}

func (e *ear) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (e *ear) Handle(_ context.Context, r slog.Record) error {
	e.w.mu.Lock()
	defer e.w.mu.Unlock()
	if heard, ok := paths[r.Message]; ok {
		e.w.cover["path: "+heard]++
	}
	if e.w.opts.verbose {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		e.w.said = append(e.w.said, e.l.name()+" "+text)
	}
	return nil
}

func (e *ear) WithAttrs([]slog.Attr) slog.Handler { return e }
func (e *ear) WithGroup(string) slog.Handler      { return e }

// paths are the ways out of a fault that a log takes, by what it then says.
var paths = map[string]string{
	"finishing a round that was committed but not published":                         "publish a committed round",
	"commit outcome was unknown, read from the lock":                                 "settle an unknown commit",
	"standing by while another sequencer writes to the log":                          "stand by",
	"round failed, state dropped":                                                    "drop the state",
	"log stopped for good":                                                           "stop for good",
	"long-term cache names places that hold other entries; its answers are not used": "see through a lying cache",
	"entries changed in memory after admission: faulty hardware?":                    "find a damaged entry",
	"dedup cache is bad, moved aside and begun anew; it refills from the log":        "begin a bad cache anew",
	"SCT was not signed":                                                             "refuse to sign a damaged entry",
	"staging bundle was not removed":                                                 "leave a bundle behind",
	"batch was not placed within the retry window":                                   "give up a batch",
	"issuer was not stored":                                                          "refuse without issuers",
	"long-term cache was not written":                                                "go on without a cache write",
}
