package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"kiln/internal/lifecycle"
	"kiln/tiles"
)

// happen has one event happen, if one of those drawn can.
func (w *world) happen() bool {
	if len(w.plan.events) == 0 {
		return false
	}
	e := w.plan.events[w.rand.IntN(len(w.plan.events))]
	// Most are rare, or nothing would be left of the log.
	rare := map[event]int{
		eLeave: 2, eCrash: 12, eBurst: 20, eStop: 20, ePause: 8, eClock: 10, eFull: 10, eRot: 15, eMachine: 20,
		eFreeze: 30, eForget: 6, eScramble: 6, eAhead: 20, eFile: 6, eDuplicate: 3,
	}
	if w.rand.IntN(rare[e]) > 0 || !w.cause(e) {
		return false
	}
	w.mark("event: " + eventNames[e])
	return true
}

func (w *world) cause(e event) bool {
	n := w.nodes[w.rand.IntN(len(w.nodes))]
	switch e {
	case eLeave:
		return w.leave()
	case eCrash:
		return w.crash(n)
	case eBurst:
		n.burst = 1 + w.rand.IntN(3)
		return w.crash(n)
	case eStop:
		return w.end(n)
	case ePause:
		return w.pause(n)
	case eClock:
		w.set(n)
	case eFull:
		w.full = w.now() + w.delay()
		w.note("world", "is full", "disk", "")
	case eRot:
		return w.rot()
	case eMachine:
		return w.outage()
	case eFreeze:
		return w.freeze()
	case eForget, eScramble, eAhead, eFile:
		return w.spoil(n, e)
	case eDuplicate:
		return w.repeat()
	}
	return true
}

// leave has a client go away that waits for its answer.
func (w *world) leave() bool {
	for _, s := range w.submissions {
		if s.state == running && w.rand.IntN(3) == 0 {
			w.note(s.life.name(), "loses", "submission "+strconv.Itoa(s.id), "")
			s.cancel()
			w.postpone(s)
			return true
		}
	}
	return false
}

// repeat has a client ask again for an SCT that it, or someone else, has.
func (w *world) repeat() bool {
	for _, s := range w.submissions {
		if s.state == served && w.rand.IntN(3) == 0 && len(w.submissions) < 2*w.plan.submissions+2 {
			w.submissions = append(w.submissions, &submission{id: len(w.submissions), chain: s.chain, at: w.now()})
			w.note("world", "repeats", "submission "+strconv.Itoa(s.id), "")
			return true
		}
	}
	return false
}

// crash kills the process of a node. Requests that are on their way to a service
// on another machine may still get there.
func (w *world) crash(n *node) bool {
	if n.life == nil {
		return false
	}
	for _, c := range w.gate.open() {
		if c.life == n.life && !c.finished && !c.effected && c.writes() && w.plan.remote && w.rand.IntN(3) == 0 {
			c.haunt(w)
			w.mark("in flight at a crash")
		}
	}
	if !n.life.seen {
		w.mark("crash during recovery")
	}
	w.mark("crash")
	w.note(n.life.name(), "crashes", "", "")
	n.kill()
	n.start = w.now() + w.millis(pick(w.rand, 10, 2000))
	if n.files != nil {
		n.files.next()
	}
	return true
}

// end asks a process to stop in order.
func (w *world) end(n *node) bool {
	if !n.up() {
		return false
	}
	w.note(n.life.name(), "is to end", "", "")
	n.stop()
	return true
}

// pause stops the process of a node, or lets a stopped one go on.
func (w *world) pause(n *node) bool {
	if n.life == nil {
		return false
	}
	n.paused = !n.paused
	how := "goes on"
	if n.paused {
		how = "is paused"
	}
	w.note(n.life.name(), how, "", "")
	return true
}

// set sets the clock of a node.
func (w *world) set(n *node) {
	by := pick(w.rand, 5, 50, 500, 5000, 40_000) * (w.rand.IntN(201) - 100) / 100
	w.clocks = true
	w.mu.Lock()
	n.offset += time.Duration(by) * time.Millisecond
	n.offset = min(n.offset, time.Minute)
	w.ahead = max(w.ahead, n.offset)
	offset := n.offset
	w.mu.Unlock()
	w.note("world", "sets", "clock of node "+strconv.Itoa(n.id), offset.String())
}

// rot changes a bit of what is stored.
func (w *world) rot() bool {
	paths := slices.Sorted(maps.Keys(w.visible))
	paths = slices.DeleteFunc(paths, func(p string) bool {
		return w.broken[p] || p == checkpointPath || !strings.HasPrefix(p, "tile/") && !strings.HasPrefix(p, "staging/")
	})
	if len(paths) == 0 {
		return false
	}
	path := paths[w.rand.IntN(len(paths))]
	at := w.rand.Uint64()
	w.planted[path] = slices.Clone(w.visible[path])
	w.spoilObject(path, func(b []byte) []byte { flipBit(b, at); return b })
	w.note("world", "rots", "object", path)
	return true
}

func (w *world) spoilObject(path string, f func([]byte) []byte) {
	w.flips, w.memory[path] = true, false
	w.audit.Corrupted(path)
	if err := w.bucket.Corrupt(path, f); err != nil {
		panic(err)
	}
	w.broken[path] = true
	w.visible[path], _ = w.bucket.Get(context.Background(), path)
}

// outage kills all processes of the one machine, and takes back what was not
// durable.
func (w *world) outage() bool {
	for _, n := range w.nodes {
		w.crash(n)
	}
	w.bucket = w.bucket.CrashClone()
	w.bucket.SetFaults(w.faults)
	left := make(map[string]bool)
	for _, path := range w.bucket.Paths() {
		left[path] = true
		body, _ := w.bucket.Get(context.Background(), path)
		if path == checkpointPath && !bytes.Equal(body, w.visible[path]) {
			w.mark("checkpoint taken back")
			w.visible[path] = body // what readers have seen stays so
		}
	}
	for _, path := range slices.Sorted(maps.Keys(w.visible)) {
		if left[path] {
			continue
		}
		delete(w.visible, path)
		w.mark("object taken back")
		w.note("world", "takes back", "object", path)
		if w.mayGo(path) {
			w.audit.Corrupted(path)
			w.broken[path] = true
		} else {
			w.told(w.audit.Changed(path, nil))
		}
	}
	w.note("world", "fails", "machine", "")
	return true
}

// mayGo reports whether an object that no call has said to be durable may be
// taken back: nobody holds an SCT that depends on it.
func (w *world) mayGo(path string) bool {
	if strings.HasPrefix(path, "issuer/") {
		for _, s := range w.submissions {
			for _, der := range w.base.chains[s.chain].Certificates {
				fp := sha256.Sum256(der)
				if s.answer != nil && path == "issuer/"+hex.EncodeToString(fp[:]) {
					return false
				}
			}
		}
		return true
	}
	return strings.HasPrefix(path, "tile/") && !w.covers(path)
}

// covers reports whether the published tree has a tile.
func (w *world) covers(path string) bool {
	t, err := tiles.ParsePath(path)
	if err != nil {
		return false
	}
	level := max(t.L, 0)
	return (t.N*tiles.Width+int64(t.W))<<(8*level) <= w.audit.Size()
}

// freeze makes the mark of a frozen log, as kiln shards freeze does.
func (w *world) freeze() bool {
	if w.frozen {
		return false
	}
	w.frozen = true
	mark := lifecycle.Mark{At: w.trueTime().UTC().Truncate(time.Millisecond)}
	if _, err := lifecycle.Freeze(context.Background(), w.lock, w.base.lockID, mark); err != nil {
		panic(err)
	}
	w.note("operator", "freezes", "log", "")
	return true
}

// spoil damages the cache of a node.
func (w *world) spoil(n *node, e event) bool {
	if n.files != nil {
		if e != eFile || n.life != nil {
			return false
		}
		how := pick(w.rand, "truncate", "flip", "foreign", "future")
		w.ruins = w.ruins || how == "future"
		n.files.ruin(how, w.rand.Uint64(), w.base)
		w.mark("cache file: " + how)
		w.note("world", how, "cache", "node "+strconv.Itoa(n.id))
		return true
	}
	switch e {
	case eForget:
		n.rows.forget(w.rand.Uint64())
	case eScramble:
		n.rows.scramble()
	case eAhead:
		if n.life != nil {
			return false
		}
		w.ruins = true
		n.rows.mu.Lock()
		n.rows.mark += 5000
		n.rows.mu.Unlock()
	default:
		return false
	}
	w.note("world", eventNames[e], "cache", "node "+strconv.Itoa(n.id))
	return true
}

// mend is the operator, who puts back what was damaged.
func (w *world) mend() {
	for _, path := range slices.Sorted(maps.Keys(w.broken)) {
		if w.visible[path] == nil {
			continue // taken back, not damaged
		}
		right := w.planted[path]
		if err := w.bucket.Corrupt(path, func([]byte) []byte { return right }); err != nil {
			panic(err)
		}
		w.visible[path] = right
		delete(w.broken, path)
		w.told(w.audit.Repaired(path, right))
		w.note("operator", "mends", "object", path)
		w.mark("mended")
	}
	w.mendLock()
}

// heal ends all faults.
func (w *world) heal() {
	w.healing, w.healed, w.full = true, w.now(), 0
	w.note("world", "heals", "", "")
	w.mend()
	for _, n := range w.nodes {
		n.paused, n.burst = false, 0
		if n.life != nil {
			n.life.doomed = false
		}
		w.mu.Lock()
		n.offset = 0
		w.mu.Unlock()
		n.start = min(n.start, w.now()+time.Second)
	}
	for i := range w.ghosts { // the last of them come soon
		w.ghosts[i].at = min(w.ghosts[i].at, w.now()+w.millis(5000))
	}
}

// noteTimestamp reads the timestamp of a signed checkpoint: the first eight bytes
// of a signature after its key hash.
func noteTimestamp(body []byte) int64 {
	_, signatures, _ := bytes.Cut(body, []byte("\n\n"))
	fields := bytes.Fields(signatures)
	if len(fields) < 3 {
		return 0
	}
	raw, err := base64.StdEncoding.DecodeString(string(fields[2]))
	if err != nil || len(raw) < 12 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(raw[4:]))
}
