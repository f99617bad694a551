package gc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/gc"
	"kiln/internal/logkey"
	lockmem "kiln/lock/mem"
	"kiln/sequencer"
	"kiln/storage"
	storagemem "kiln/storage/mem"
	"kiln/tiles"
)

const (
	testOrigin = "log.example/test"
	grace      = gc.MinGrace
)

// world is a log's storage and lock, in a synctest bubble. All clocks are that
// of the bubble.
type world struct {
	t      *testing.T
	key    *logkey.Key
	bucket *storagemem.Bucket
	lock   *lockmem.Store
	names  bool
	n      int // entries made so far

	record *record
	kept   map[string]string // contents that must never go or change
}

// record is what became public, for all goroutines.
type record struct {
	mu   sync.Mutex
	list []published
}

func (w *world) published() []published {
	w.record.mu.Lock()
	defer w.record.mu.Unlock()
	return slices.Clone(w.record.list)
}

// published is a checkpoint and when it took the place of the one before.
type published struct {
	at   time.Time
	tree checkpoint.Checkpoint
}

func newWorld(t *testing.T) *world {
	t.Helper()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, key: key, bucket: storagemem.New(), lock: lockmem.New(), record: new(record), kept: make(map[string]string)}
	if err := sequencer.Create(t.Context(), w.sequencerConfig()); err != nil {
		t.Fatal(err)
	}
	if err := w.bucket.Create(t.Context(), tiles.IssuerObject([]byte("an issuer"))); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) sequencerConfig() sequencer.Config {
	return sequencer.Config{
		Origin: testOrigin, Key: w.key, Bucket: watched{w.bucket, w}, Lock: w.lock, LockID: "log", Names: w.names,
	}
}

func (w *world) verifier() *checkpoint.Verifier {
	w.t.Helper()
	v, err := checkpoint.NewVerifier(testOrigin, w.key.SPKI())
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

func (w *world) gcConfig() gc.Config {
	return gc.Config{
		Bucket: w.bucket, Lister: w.bucket, Verifier: w.verifier(), Grace: grace,
		Lock: func(ctx context.Context) ([]byte, error) {
			held, err := w.lock.Load(ctx, "log")
			return held.Body, err
		},
	}
}

// crash leaves what a crash at this moment leaves.
func (w *world) crash() *world {
	c := *w
	c.bucket, c.lock = w.bucket.CrashClone(), w.lock.CrashClone()
	c.record = &record{list: w.published()}
	return &c
}

// watched is the bucket of the sequencer: it remembers when which checkpoint
// became the published one.
type watched struct {
	storage.Bucket
	w *world
}

func (b watched) Update(ctx context.Context, o storage.Object, next func([]byte) ([]byte, error)) error {
	err := b.Bucket.Update(ctx, o, next)
	b.w.note()
	return err
}

func (w *world) note() {
	h := w.bucket.History("checkpoint")
	c, err := w.verifier().Open(h[len(h)-1])
	if err != nil {
		w.t.Error(err)
		return
	}
	w.record.mu.Lock()
	defer w.record.mu.Unlock()
	if n := len(w.record.list); n == 0 || w.record.list[n-1].tree != c {
		w.record.list = append(w.record.list, published{time.Now(), c})
	}
}

func (w *world) open() *sequencer.Sequencer {
	w.t.Helper()
	s, err := sequencer.Open(w.t.Context(), w.sequencerConfig())
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) close(s *sequencer.Sequencer) {
	w.t.Helper()
	if err := s.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// batch makes n new entries.
func (w *world) batch(n int) []*entry.Pending {
	w.t.Helper()
	var batch []*entry.Pending
	for range n {
		w.n++
		seed := sha256.Sum256(fmt.Append(nil, "entry ", w.n))
		p, err := entry.NewX509(seed[:], [][32]byte{sha256.Sum256([]byte("an issuer"))}, false)
		if err != nil {
			w.t.Fatal(err)
		}
		batch = append(batch, p)
	}
	return batch
}

// grow puts entries into the log, so many a round.
func (w *world) grow(s *sequencer.Sequencer, sizes ...int) {
	w.t.Helper()
	for _, n := range sizes {
		if _, err := s.Sequence(w.t.Context(), w.batch(n)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func repeat(n, times int) []int { return slices.Repeat([]int{n}, times) }

// aged makes a log with 300 entries in as many rounds, that ran on for more than
// the grace, and returns it stopped.
func aged(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	s := w.open()
	w.grow(s, repeat(1, 300)...)
	time.Sleep(grace + time.Minute)
	w.close(s)
	return w
}

func (w *world) run() gc.Result {
	w.t.Helper()
	r, err := gc.Run(w.t.Context(), w.gcConfig())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// under returns the paths that begin with a prefix.
func (w *world) under(prefix string) []string {
	return slices.DeleteFunc(w.bucket.Paths(), func(p string) bool { return !strings.HasPrefix(p, prefix) })
}

// permanent says that an object may never go: all but partial tiles and bundles.
func permanent(path string) bool {
	return !strings.Contains(path, ".p/") && !strings.HasPrefix(path, "staging/")
}

// check fails unless every reader gets what it may want: all that is permanent,
// every entry, and the right edge of each checkpoint that was current within the
// grace before since, which is when a collection began.
func (w *world) check(since time.Time) {
	w.t.Helper()
	ctx := w.t.Context()
	for _, p := range w.bucket.Paths() {
		if permanent(p) && p != "checkpoint" {
			body, err := w.bucket.Get(ctx, p)
			if err != nil {
				w.t.Fatal(err)
			}
			if old, ok := w.kept[p]; ok && old != string(body) {
				w.t.Errorf("%s changed", p)
			}
			w.kept[p] = string(body)
		}
	}
	for p, old := range w.kept {
		if body, err := w.bucket.Get(ctx, p); err != nil || !bytes.Equal(body, []byte(old)) {
			w.t.Errorf("%s: %v", p, err)
		}
	}
	for _, v := range w.bucket.Violations() {
		w.t.Error(v)
	}
	w.checkEdges(since)
	raw, err := w.bucket.Get(ctx, "checkpoint")
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := w.verifier().Open(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	err = tiles.Entries(ctx, w.bucket, c.Tree, 0, c.Tree.N, func(tiles.Entry) error { return nil })
	if err != nil {
		w.t.Errorf("entries: %v", err)
	}
}

func (w *world) checkEdges(since time.Time) {
	w.t.Helper()
	checked := make(map[int64]bool)
	all := w.published()
	for i, p := range all {
		current := i == len(all)-1 || all[i+1].at.After(since.Add(-grace))
		if !current || checked[p.tree.Tree.N] {
			continue
		}
		checked[p.tree.Tree.N] = true
		if _, err := tiles.Load(w.t.Context(), w.bucket, p.tree.Tree, false); err != nil {
			w.t.Errorf("right edge of %d, current from %v on, cleaned at %v: %v", p.tree.Tree.N, p.at, since, err)
		}
		if n := p.tree.Tree.N; w.names && n%tiles.Width > 0 {
			path := strings.Replace(tiles.Path(edge(n)), "/data/", "/names/", 1)
			if _, err := w.bucket.Get(w.t.Context(), path); err != nil {
				w.t.Error(err)
			}
		}
	}
}
