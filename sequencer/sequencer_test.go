package sequencer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/logkey"
	lockmem "kiln/lock/mem"
	storagemem "kiln/storage/mem"
	"kiln/tiles"
)

const testOrigin = "log.example/test"

// world is a log's storage, lock and clock.
type world struct {
	t      *testing.T
	key    *logkey.Key
	bucket *storagemem.Bucket
	lock   *lockmem.Store
	skew   time.Duration // added to the clock
}

// newWorld returns a world with an empty log. It belongs into a synctest bubble.
func newWorld(t *testing.T) *world {
	t.Helper()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, key: key, bucket: storagemem.New(), lock: lockmem.New()}
	if err := Create(t.Context(), w.config()); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) config() Config {
	return Config{
		Origin: testOrigin, Key: w.key, Bucket: w.bucket, Lock: w.lock, LockID: "log",
		Now: func() time.Time { return time.Now().Add(w.skew) },
	}
}

func (w *world) open() *Sequencer {
	w.t.Helper()
	s, err := Open(w.t.Context(), w.config())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// crash leaves what a crash at this moment leaves.
func (w *world) crash() *world {
	c := *w
	c.bucket, c.lock = w.bucket.CrashClone(), w.lock.CrashClone()
	return &c
}

func (w *world) close(s *Sequencer) {
	w.t.Helper()
	if err := s.Close(); err != nil {
		w.t.Fatalf("Close: %v", err)
	}
}

// audit reads the published log back and returns the placement of every key.
// Each key must be there once, and no object may ever have changed.
func (w *world) audit() map[entry.Key]entry.Placement {
	w.t.Helper()
	ctx := w.t.Context()
	raw, err := w.bucket.Get(ctx, "checkpoint")
	if err != nil {
		w.t.Fatal(err)
	}
	v, err := checkpoint.NewVerifier(testOrigin, w.key.SPKI())
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := v.Open(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	got := make(map[entry.Key]entry.Placement)
	err = tiles.Entries(ctx, w.bucket, c.Tree, 0, c.Tree.N, func(e tiles.Entry) error {
		if pl, ok := got[e.Key]; ok {
			w.t.Errorf("entry %x is at %d and at %d", e.Key, pl.Index, e.Index)
		}
		if e.TimestampMillis > c.TimestampMillis {
			w.t.Errorf("entry %d is younger than the checkpoint", e.Index)
		}
		got[e.Key] = e.Placement
		return nil
	})
	if err != nil {
		w.t.Errorf("audit: %v", err)
	}
	if v := w.bucket.Violations(); len(v) > 0 {
		w.t.Errorf("objects changed: %v", v)
	}
	w.auditHistory(v)
	return got
}

// auditHistory checks that all checkpoints ever published are consistent and
// in order.
func (w *world) auditHistory(v *checkpoint.Verifier) {
	w.t.Helper()
	var last checkpoint.Checkpoint
	for i, raw := range w.bucket.History("checkpoint") {
		c, err := v.Open(raw)
		if err != nil {
			w.t.Fatalf("checkpoint %d: %v", i, err)
		}
		if i > 0 {
			if !c.Newer(last) && c != last {
				w.t.Errorf("checkpoint %d (%+v) follows %+v", i, c, last)
			}
			if err := tiles.CheckConsistency(w.t.Context(), w.bucket, last.Tree, c.Tree); err != nil {
				w.t.Errorf("checkpoint %d: %v", i, err)
			}
		}
		last = c
	}
}

// expect checks that the published log has each entry at its placement.
func (w *world) expect(batch []*entry.Pending, placements []entry.Placement) {
	w.t.Helper()
	got := w.audit()
	for i, p := range batch {
		if got[p.Key()] != placements[i] {
			w.t.Errorf("entry %d: was promised %+v, is at %+v", i, placements[i], got[p.Key()])
		}
	}
}

// batchOf makes n entries; those of one label and number are the same.
func batchOf(label string, from, n int) []*entry.Pending {
	var batch []*entry.Pending
	for i := from; i < from+n; i++ {
		seed := sha256.Sum256(fmt.Appendf(nil, "%s %d", label, i))
		chain := [][32]byte{seed, {1}}
		var p *entry.Pending
		var err error
		if i%2 == 0 {
			p, err = entry.NewX509(binary.BigEndian.AppendUint64(seed[:], uint64(i)), chain, false)
		} else {
			p, err = entry.NewPrecert(seed[:], seed, append([]byte("pre"), seed[:]...), chain, false)
		}
		if err != nil {
			panic(err)
		}
		batch = append(batch, p)
	}
	return batch
}

func TestSequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		next := int64(0)
		for _, n := range []int{1, 5, 250, 1, 256, 600} {
			batch := batchOf("a", int(next), n)
			placements, err := s.Sequence(t.Context(), batch)
			if err != nil {
				t.Fatal(err)
			}
			for i, pl := range placements {
				if pl.Index != next+int64(i) {
					t.Fatalf("entry %d got index %d, want %d", i, pl.Index, next+int64(i))
				}
				if ms := time.Now().UnixMilli() - pl.TimestampMillis; ms < 0 || ms > 1000 {
					t.Errorf("timestamp is %d ms ago", ms)
				}
			}
			next += int64(n)
			if got := s.Latest().Tree.N; got != next {
				t.Errorf("published size is %d when the answer comes, want %d", got, next)
			}
			w.expect(batch, placements)
		}
		w.close(s)
		for _, p := range w.bucket.Paths() {
			if strings.HasPrefix(p, "staging/") && !strings.HasPrefix(p, fmt.Sprintf("staging/%d-", next)) {
				t.Errorf("bundle %s was not dropped", p)
			}
		}
		if _, err := s.Sequence(t.Context(), batchOf("b", 0, 1)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Sequence after Close: %v", err)
		}
	})
}

func TestIdleRoundsWriteNoTile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		if _, err := s.Sequence(t.Context(), batchOf("a", 0, 3)); err != nil {
			t.Fatal(err)
		}
		before, first := len(w.bucket.Paths()), s.Latest()
		for range 12 {
			old := s.Latest()
			time.Sleep(5 * time.Second)
			synctest.Wait()
			if now := s.Latest(); !now.Newer(old) || now.Tree != first.Tree {
				t.Fatalf("after 5 s idle the checkpoint went from %+v to %+v", old, now)
			}
		}
		if after := len(w.bucket.Paths()); after > before {
			t.Errorf("idle rounds took the bucket from %d to %d objects", before, after)
		}
		w.close(s)
	})
}

// Rounds start at once when there is work and a period has passed, and not
// before.
func TestPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		time.Sleep(time.Second)
		start := time.Now()
		if _, err := s.Sequence(t.Context(), batchOf("a", 0, 1)); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("first batch after a pause took %v of the bubble's time, want 0", d)
		}
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if _, err := s.Sequence(t.Context(), batchOf("b", 10*i, 10)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(start); d != defaultPeriod {
			t.Errorf("ten batches in the next round were done after %v, want %v", d, defaultPeriod)
		}
		w.audit()
		w.close(s)
	})
}

func TestRepeatedEntriesKeepTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		first := batchOf("a", 0, 10)
		want, err := s.Sequence(t.Context(), first)
		if err != nil {
			t.Fatal(err)
		}
		check := func(what string, s *Sequencer) {
			t.Helper()
			// Old and new entries mixed, one of them twice.
			mixed := append(batchOf(what, 0, 2), first[3], first[7])
			mixed = append(mixed, mixed[1])
			got, err := s.Sequence(t.Context(), mixed)
			if err != nil {
				t.Fatal(err)
			}
			if got[2] != want[3] || got[3] != want[7] || got[4] != got[1] {
				t.Errorf("%s: got %+v", what, got)
			}
			w.expect(mixed, got)
		}
		check("same process", s)
		w.close(s)
		s = w.open()
		check("after a restart", s)
		w.close(s)
	})
}

// Two batches with the same entries in one round, as two batchers of a ring
// that was just resized could send them.
func TestSameEntriesInOneRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		results := make([][]entry.Placement, 4)
		var wg sync.WaitGroup
		for i := range results {
			wg.Go(func() {
				var err error
				if results[i], err = s.Sequence(t.Context(), batchOf("a", 0, 20)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, r := range results {
			w.expect(batchOf("a", 0, 20), r)
		}
		if n := s.Latest().Tree.N; n != 20 {
			t.Errorf("tree has %d entries, want 20", n)
		}
		w.close(s)
	})
}

func TestCloseSequencesWhatIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		var placements []entry.Placement
		var wg sync.WaitGroup
		wg.Go(func() {
			var err error
			if placements, err = s.Sequence(t.Context(), batchOf("a", 0, 5)); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait() // it waits for its period
		w.close(s)
		wg.Wait()
		w.expect(batchOf("a", 0, 5), placements)
	})
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		hold := make(chan struct{})
		w.bucket.SetFaults(func(op storagemem.Op, path string) storagemem.Fault {
			return storagemem.Fault{Delay: hold}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var over, sent int
		var mu sync.Mutex
		for i := range 4*maxQueueEntries/8192 + 2 {
			wg.Go(func() {
				_, err := s.Sequence(ctx, batchOf("a", 8192*i, 8192))
				mu.Lock()
				defer mu.Unlock()
				var o *entry.OverloadedError
				if errors.As(err, &o) {
					over++
				}
				sent++
			})
			synctest.Wait()
		}
		cancel()
		wg.Wait()
		if over == 0 {
			t.Errorf("none of %d batches was refused while storage hung", sent)
		}
		s.mu.Lock()
		if s.queueEntries > maxQueueEntries {
			t.Errorf("queue holds %d entries", s.queueEntries)
		}
		s.mu.Unlock()
		close(hold)
		w.bucket.SetFaults(nil)
		w.close(s)
		w.audit()
	})
}
