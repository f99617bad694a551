package sim

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	seedCount = flag.Int("sim.seeds", defaultSeeds, "how many worlds TestSim runs; from 2000 on it checks that they saw every fault")
	firstSeed = flag.Uint64("sim.seed", 1, "the seed of the first of them")
	replays   = flag.Int("sim.replays", defaultReplays, "how many worlds TestReplay runs twice")
	verbose   = flag.Bool("sim.v", false, "print the whole history of each world, and what its nodes say")
)

// result is what is left of a world.
type result struct {
	seed  uint64
	fault error
	hash  uint64
	steps int
	scts  int
	last  time.Duration
	heads int
	cover map[string]int
	lines []line
	text  string // the last lines of the trace, of a world with a fault
}

// runWorld runs the world of a seed, in a bubble.
func runWorld(t *testing.T, b *base, seed uint64, opts options) (r *result) {
	synctest.Test(t, func(*testing.T) {
		p := drawSeed(b, seed)
		if p.sqlite {
			opts.dir = filesDir(b, seed)
			if err := os.MkdirAll(opts.dir, 0o755); err != nil {
				panic(err)
			}
			defer os.RemoveAll(opts.dir)
		}
		w, err := newWorld(b, seed, p, opts)
		if err != nil {
			r = &result{seed: seed, fault: err}
			return
		}
		r = w.report(w.live())
	})
	return r
}

func (w *world) report(fault error) *result {
	r := &result{
		seed: w.seed, fault: fault, hash: w.trace.sum.Sum64(), steps: w.step, scts: w.audit.SCTs(),
		last: w.now(), heads: w.audit.Checkpoints(), cover: w.cover, lines: w.trace.lines,
	}
	switch {
	case w.opts.verbose:
		r.text = w.trace.last(1<<30) + strings.Join(w.said, "\n")
	case fault != nil:
		r.text = w.trace.last(60)
	}
	return r
}

// workers runs f for each seed on all cores, until it returns false.
func workers(t *testing.T, first uint64, count int, f func(t *testing.T, seed uint64) bool) {
	var next, stop atomic.Int64
	var wg sync.WaitGroup
	for i := range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			t.Run(fmt.Sprintf("worker %d", i), func(t *testing.T) {
				for stop.Load() == 0 {
					n := next.Add(1) - 1
					if n >= int64(count) {
						return
					}
					if !f(t, first+uint64(n)) {
						stop.Store(1)
					}
				}
			})
		})
	}
	wg.Wait()
}

// tally is the sum of many worlds.
type tally struct {
	mu    sync.Mutex
	seeds int
	steps int
	scts  int
	heads int
	last  time.Duration // the longest
	cover map[string]int
}

func (y *tally) add(r *result) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.seeds, y.steps, y.scts, y.heads, y.last = y.seeds+1, y.steps+r.steps, y.scts+r.scts, y.heads+r.heads, max(y.last, r.last)
	for what, n := range r.cover {
		y.cover[what] += n
	}
}

func (y *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seeds %d, steps %d, SCTs %d, checkpoints %d, longest world %v of virtual time\n", y.seeds, y.steps, y.scts, y.heads, y.last.Round(time.Second))
	for _, what := range slices.Sorted(maps.Keys(y.cover)) {
		fmt.Fprintf(&b, "  %-45s %d\n", what, y.cover[what])
	}
	return b.String()
}

// tell prints what is needed to look into a failing seed, at once.
func tell(r *result, after int) {
	fmt.Fprintf(os.Stderr, "FAIL seed=%d after %d seeds: step %d: %v\n%s\nreplay: make sim SEED=%d\n", r.seed, after, r.steps, r.fault, r.text, r.seed)
}

// TestSim runs many worlds, and stops at the first that breaks a promise.
func TestSim(t *testing.T) {
	b := theSame(t)
	sum := &tally{cover: make(map[string]int)}
	if testing.Short() {
		*seedCount = min(*seedCount, 200)
	}
	began, spoke := time.Now(), time.Now()
	workers(t, *firstSeed, *seedCount, func(t *testing.T, seed uint64) bool {
		said := false
		r := runWorld(t, b, seed, options{verbose: *verbose, broken: func(r *result) {
			said = true
			tell(r, sum.count()+1)
		}})
		sum.add(r)
		if *verbose {
			fmt.Println(r.text)
		}
		if r.fault != nil {
			if !said {
				tell(r, sum.count())
			}
			t.Errorf("FAIL seed=%d after %d seeds: %v", seed, sum.count(), r.fault)
			return false
		}
		sum.progress(began, &spoke)
		return true
	})
	t.Logf("%v\n%s", time.Since(began).Round(time.Millisecond), sum)
	if !t.Failed() && *seedCount >= 2000 {
		sum.checkCoverage(t)
	}
}

// count is how many worlds were added.
func (y *tally) count() int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.seeds
}

// progress says now and then, on a long run, how far it is.
func (y *tally) progress(began time.Time, said *time.Time) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if testing.Verbose() && time.Since(*said) > 10*time.Second {
		*said = time.Now()
		fmt.Fprintf(os.Stderr, "sim: %d of %d seeds in %v\n", y.seeds, *seedCount, time.Since(began).Round(time.Second))
	}
}

// checkCoverage makes sure that what is to be survived has happened, and that each
// way out of it was taken. A world that is kind proves nothing.
func (y *tally) checkCoverage(t *testing.T) {
	want := []string{
		"crash during recovery", "in flight at a crash", "object taken back", "checkpoint taken back", "mended", "update-conflict",
		"stopped: clock", "stopped: damage", "stopped: cache ahead", "fault: full disk", "fault: stale object", "fault: stale lock",
		"landed create", "landed update", "landed delete", "landed lock-swap", "unwanted create", "unwanted lock-swap",
		"cache file: truncate", "cache file: flip", "cache file: foreign", "cache file: future",
		"answer 200", "answer 410", "answer 503",
	}
	for _, name := range kindNames[1:] {
		want = append(want, "fault: "+name)
	}
	for _, name := range eventNames {
		want = append(want, "event: "+name)
	}
	for _, path := range paths {
		want = append(want, "path: "+path)
	}
	for _, what := range want {
		if y.cover[what] == 0 {
			t.Errorf("it never came to %q", what)
		}
	}
}

// Seeds that have shown a fault of kiln, by what it was. A seed keeps its meaning
// only as long as the worlds are drawn in the same way; the tests of the packages
// that were mended say the same in their own words.
var regressions = map[string]uint64{
	"a checkpoint that changed in memory while it was committed went on to be published": 102,
}

func TestRegressions(t *testing.T) {
	b := theSame(t)
	for name, seed := range regressions {
		t.Run(name, func(t *testing.T) {
			if r := runWorld(t, b, seed, options{}); r.fault != nil {
				tell(r, 1)
				t.Error(r.fault)
			}
		})
	}
}

// difference shows where two histories part.
func difference(a, b []line) string {
	i := 0
	for i < min(len(a), len(b)) && a[i] == b[i] {
		i++
	}
	var s strings.Builder
	for _, l := range a[max(0, i-30):i] {
		fmt.Fprintf(&s, "  %v\n", l)
	}
	for _, l := range a[i:min(len(a), i+4)] {
		fmt.Fprintf(&s, "- %v\n", l)
	}
	for _, l := range b[i:min(len(b), i+4)] {
		fmt.Fprintf(&s, "+ %v\n", l)
	}
	return s.String()
}

// TestReplay runs worlds twice: each must have the same history, or a seed would
// say nothing.
func TestReplay(t *testing.T) {
	b := theSame(t)
	workers(t, 1_000_000, *replays, func(t *testing.T, seed uint64) bool {
		first := runWorld(t, b, seed, options{})
		second := runWorld(t, b, seed, options{})
		if first.hash != second.hash {
			t.Errorf("seed %d has two histories:\n%s", seed, difference(first.lines, second.lines))
		}
		return true
	})
}
