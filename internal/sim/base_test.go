package sim

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"kiln/dedup"
	"kiln/entry"
	"kiln/internal/config"
	"kiln/internal/logkey"
	lockmem "kiln/lock/mem"
	"kiln/sequencer"
	storagemem "kiln/storage/mem"
	"kiln/testlogs"
)

const (
	chainCount = 420
	oldChains  = 300 // the first, which are in the snapshots
)

// base is what all worlds of a process share, made from fixed randomness: keys,
// chains, and logs that have some entries already.
type base struct {
	dir       string
	conf      config.Log
	key       *logkey.Key
	lockID    string
	chains    []testlogs.Chain
	bodies    [][]byte // requests
	snapshots []snapshot
	foreign   []byte // a SQLite cache of another log
	future    []byte // and one of this log's, when it has more entries
}

// snapshot is a log at rest.
type snapshot struct {
	size    int // entries are chains[:size], in some order
	objects map[string][]byte
	cell    []byte
}

// The beginning of each world by its true clock. Snapshots are older.
var (
	beginning = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	before    = beginning.AddDate(0, -1, 0)
)

var (
	baseOnce sync.Once
	theBase  *base
)

// theSame returns the base, which the first caller makes.
func theSame(t *testing.T) *base {
	t.Helper()
	baseOnce.Do(func() {
		dir, err := os.MkdirTemp("", "kiln-sim-")
		if err != nil {
			t.Fatal(err)
		}
		b := &base{dir: dir}
		t.Run("base", func(t *testing.T) {
			cryptotest.SetGlobalRandom(t, 1)
			b.make(t)
		})
		if !t.Failed() {
			theBase = b
		}
	})
	if theBase == nil {
		t.Fatal("no base")
	}
	return theBase
}

func TestMain(m *testing.M) {
	code := m.Run()
	if theBase != nil {
		_ = os.RemoveAll(theBase.dir)
	}
	os.Exit(code)
}

func (b *base) make(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, err := testlogs.NewCA(testlogs.CAOptions{Now: before.AddDate(-1, 0, 0)})
	check(err)
	b.key, err = logkey.Generate()
	check(err)
	id := b.key.LogID()
	b.lockID = hex.EncodeToString(id[:])
	b.conf = config.NewLog("sim2026h1", "https://ct.example/sim2026h1/", b.dir, before.AddDate(-1, 0, 0), before.AddDate(1, 0, 0))
	b.conf.Grease = false
	// They are in messages, which are in traces, which are the same anywhere.
	b.conf.Storage, b.conf.Lock, b.conf.KeyFile, b.conf.Dedup = "storage", "lock", "key", "cache"
	check(os.WriteFile(b.conf.RootsFile, ca.RootPEM(), 0o644))
	for i := range chainCount {
		opts := testlogs.LeafOptions{NotBefore: before.Add(-time.Hour), DNS: []string{fmt.Sprintf("%d.example", i)}}
		issue := []func(testlogs.LeafOptions) (testlogs.Chain, error){ca.Leaf, ca.Precert, ca.Precert, ca.PrecertBySigner}[i%4]
		chain, err := issue(opts)
		check(err)
		chain.OmitRoot = i%3 == 0
		body, err := json.Marshal(map[string][][]byte{"chain": chain.Submitted()})
		check(err)
		b.chains, b.bodies = append(b.chains, chain), append(b.bodies, body)
	}
	b.makeCaches(t)
	synctest.Test(t, b.makeSnapshots)
}

// makeCaches makes the files that the cache of a node is replaced by.
func (b *base) makeCaches(t *testing.T) {
	secret, err := b.key.Derive("dedup v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		to     *[]byte
		secret []byte
		rows   int64
	}{{&b.foreign, make([]byte, dedup.SecretSize), 5}, {&b.future, secret, 5000}} {
		path := filepath.Join(t.TempDir(), "cache.db")
		cache, err := dedup.Open(t.Context(), dedup.Config{Path: path, Secret: c.secret})
		if err != nil {
			t.Fatal(err)
		}
		var keys []entry.Key
		var places []entry.Placement
		for i := range c.rows {
			keys = append(keys, entry.Key{byte(i), byte(i >> 8), 7})
			places = append(places, entry.Placement{Index: i, TimestampMillis: before.UnixMilli()})
		}
		if err := cache.Put(t.Context(), keys, places); err != nil {
			t.Fatal(err)
		}
		if err := cache.Close(); err != nil {
			t.Fatal(err)
		}
		if *c.to, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
}

// makeSnapshots lets a log grow in a world without faults, and keeps it at sizes
// where its tiles are about to fill up, or have.
func (b *base) makeSnapshots(t *testing.T) {
	bucket, cells := storagemem.New(), lockmem.New()
	err := sequencer.Create(t.Context(), sequencer.Config{
		Origin: b.conf.Origin, Key: b.key, Bucket: bucket, Lock: cells, LockID: b.lockID,
		Now: func() time.Time { return before },
	})
	if err != nil {
		t.Fatal(err)
	}
	b.keep(t, 0, bucket, cells)
	w, err := newWorld(b, 0, plan{nodes: 1, batchers: 1, period: 10 * time.Millisecond, remote: true}, options{})
	if err != nil {
		t.Fatal(err)
	}
	w.start = before.Add(time.Hour)
	w.healing = true
	for _, size := range []int{3, 100, 200, 250, 254, 255, 256, 257, oldChains} {
		for i := len(w.submissions); i < size; i++ {
			w.submissions = append(w.submissions, &submission{id: i, chain: i})
		}
		if fault := w.run(w.allServed); fault != nil {
			tell(w.report(fault), 0)
			w.shutdown()
			t.Fatalf("make snapshots: %v", fault)
		}
		b.keep(t, size, w.bucket, w.lock)
	}
	w.shutdown()
}

func (b *base) keep(t *testing.T, size int, bucket *storagemem.Bucket, cells *lockmem.Store) {
	s := snapshot{size: size, objects: make(map[string][]byte)}
	for _, path := range bucket.Paths() {
		body, err := bucket.Get(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		s.objects[path] = body
	}
	held, err := cells.Load(context.Background(), b.lockID)
	if err != nil {
		t.Fatal(err)
	}
	s.cell = held.Body
	b.snapshots = append(b.snapshots, s)
}

// paths returns the objects of a snapshot as they are told to an auditor: the
// checkpoint last.
func (s snapshot) paths() []string {
	all := slices.Sorted(maps.Keys(s.objects))
	i := slices.Index(all, checkpointPath)
	return append(slices.Delete(all, i, i+1), checkpointPath)
}

const checkpointPath = "checkpoint"
