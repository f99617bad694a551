package dedup

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"kiln/entry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// secret is a test secret, not a real one.
func secret(name string) []byte {
	sum := sha256.Sum256([]byte("test secret " + name))
	return sum[:]
}

func key(i int64) entry.Key {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(i))
	return sha256.Sum256(b[:])
}

func place(i int64) entry.Placement {
	return entry.Placement{Index: i, TimestampMillis: 1_700_000_000_000 + i/10}
}

func mustOpen(t testing.TB, path string) *Cache {
	t.Helper()
	c, err := Open(t.Context(), Config{Path: path, Secret: secret("a")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mustClose(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// put puts the entries with the given indices.
func put(t testing.TB, c *Cache, indices ...int64) {
	t.Helper()
	var keys []entry.Key
	var placements []entry.Placement
	for _, i := range indices {
		keys, placements = append(keys, key(i)), append(placements, place(i))
	}
	if err := c.Put(t.Context(), keys, placements); err != nil {
		t.Fatal(err)
	}
}

func upTo(n int64) []int64 {
	s := make([]int64, n)
	for i := range s {
		s[i] = int64(i)
	}
	return s
}

func wantHit(t testing.TB, c *Cache, k entry.Key, want entry.Placement) {
	t.Helper()
	got, ok, err := c.Get(t.Context(), k)
	if err != nil || !ok || got != want {
		t.Errorf("Get = %v, %v, %v, want %v", got, ok, err, want)
	}
}

func wantMiss(t testing.TB, c *Cache, k entry.Key) {
	t.Helper()
	got, ok, err := c.Get(t.Context(), k)
	if err != nil || ok || got != (entry.Placement{}) {
		t.Errorf("Get = %v, %v, %v, want a miss", got, ok, err)
	}
}

// value returns the value of a counter or gauge.
func value(m prometheus.Metric) float64 {
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		panic(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

func wantCovered(t testing.TB, c *Cache, want int64) {
	t.Helper()
	if got := c.Covered(); got != want {
		t.Errorf("Covered = %d, want %d", got, want)
	}
}

// raw changes the file behind the cache's back.
func raw(t testing.TB, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func TestKeepsRowsAndMark(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "dir", "with ?%#.db")
	c := mustOpen(t, path)
	wantCovered(t, c, 0)
	wantMiss(t, c, key(0))
	put(t, c, upTo(1234)...)
	for range 2 {
		wantCovered(t, c, 1234)
		for i := range int64(1234) {
			wantHit(t, c, key(i), place(i))
		}
		wantMiss(t, c, key(1234))
		mustClose(t, c)
		c = mustOpen(t, path)
	}
}

func TestEdgesOfPlacements(t *testing.T) {
	t.Parallel()
	c := mustOpen(t, filepath.Join(t.TempDir(), "c.db"))
	for i, pl := range []entry.Placement{{}, {Index: entry.MaxIndex, TimestampMillis: 1<<63 - 1}} {
		k := key(int64(i))
		if err := c.Put(t.Context(), []entry.Key{k}, []entry.Placement{pl}); err != nil {
			t.Fatal(err)
		}
		wantHit(t, c, k, pl)
	}
	for _, pl := range []entry.Placement{{Index: -1}, {Index: entry.MaxIndex + 1}, {TimestampMillis: -1}} {
		if err := c.Put(t.Context(), []entry.Key{key(7), key(8)}, []entry.Placement{place(7), pl}); err == nil {
			t.Errorf("Put took %v", pl)
		}
		wantMiss(t, c, key(7))
	}
	if err := c.Put(t.Context(), []entry.Key{key(7)}, nil); err == nil {
		t.Error("Put took a key without placement")
	}
	if err := c.Put(t.Context(), nil, nil); err != nil {
		t.Errorf("Put of nothing: %v", err)
	}
}

func TestFirstEntryWins(t *testing.T) {
	t.Parallel()
	at := func(i int64) entry.Placement { return entry.Placement{Index: i, TimestampMillis: 1000 + i} }
	for name, puts := range map[string][][]int64{
		"lower first":             {{5}, {9}},
		"higher first":            {{9}, {5}},
		"one batch, lower first":  {{5, 9, 7}},
		"one batch, higher first": {{9, 5, 7}},
		"the same again":          {{5}, {5}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := mustOpen(t, filepath.Join(t.TempDir(), "c.db"))
			for _, indices := range puts {
				var keys []entry.Key
				var placements []entry.Placement
				for _, i := range indices {
					keys, placements = append(keys, key(0)), append(placements, at(i))
				}
				if err := c.Put(t.Context(), keys, placements); err != nil {
					t.Fatal(err)
				}
			}
			wantHit(t, c, key(0), at(5))
		})
	}
}

// TestMACBindsRow: whatever is changed in a row, or about which key has it, the
// row is a miss and an alarm, until it is put again.
func TestMACBindsRow(t *testing.T) {
	t.Parallel()
	one, two, none := key(1), key(2), key(99)
	for name, statements := range map[string][]string{
		"rows swapped between keys": {
			fmt.Sprintf(`CREATE TEMP TABLE old AS SELECT * FROM placements WHERE key IN (x'%x', x'%x')`, one, two),
			fmt.Sprintf(`UPDATE placements SET (leaf_index, timestamp, mac) = (SELECT leaf_index, timestamp, mac FROM old WHERE key = x'%x') WHERE key = x'%x'`, two, one),
		},
		"another index":      {fmt.Sprintf(`UPDATE placements SET leaf_index = leaf_index + 1 WHERE key = x'%x'`, one)},
		"another timestamp":  {fmt.Sprintf(`UPDATE placements SET timestamp = timestamp - 1 WHERE key = x'%x'`, one)},
		"fields swapped":     {fmt.Sprintf(`UPDATE placements SET timestamp = leaf_index, leaf_index = timestamp WHERE key = x'%x'`, one)},
		"another mac":        {fmt.Sprintf(`UPDATE placements SET mac = zeroblob(16) WHERE key = x'%x'`, one)},
		"short mac":          {fmt.Sprintf(`UPDATE placements SET mac = substr(mac, 1, 15) WHERE key = x'%x'`, one)},
		"empty mac":          {fmt.Sprintf(`UPDATE placements SET mac = x'' WHERE key = x'%x'`, one)},
		"mac and more":       {fmt.Sprintf(`UPDATE placements SET mac = CAST(mac || x'00' AS BLOB) WHERE key = x'%x'`, one)},
		"the secret's check": {fmt.Sprintf(`UPDATE placements SET mac = (SELECT value FROM meta WHERE name = 'check') WHERE key = x'%x'`, one)},
		"the key renamed":    {fmt.Sprintf(`UPDATE placements SET key = x'%x' WHERE key = x'%x'`, none, one)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "c.db")
			c := mustOpen(t, path)
			put(t, c, 0, 1, 2)
			db := c.store.Load().writer // one connection, so that the TEMP table is seen
			for _, s := range statements {
				if _, err := db.Exec(s); err != nil {
					t.Fatal(err)
				}
			}
			victim := one
			if name == "the key renamed" {
				victim = none
			}
			wantMiss(t, c, victim)
			if got := value(c.metrics.badRows); got != 1 {
				t.Errorf("bad rows counted: %v, want 1", got)
			}
			wantHit(t, c, two, place(2))
			if err := c.Put(t.Context(), []entry.Key{victim}, []entry.Placement{place(500)}); err != nil {
				t.Fatal(err)
			}
			wantHit(t, c, victim, place(500))
		})
	}
}

func TestContexts(t *testing.T) {
	t.Parallel()
	c := mustOpen(t, filepath.Join(t.TempDir(), "c.db"))
	put(t, c, 0)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok, err := c.Get(ended, key(0)); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("Get under an ended context = %v, %v", ok, err)
	}
	if err := c.Put(ended, []entry.Key{key(1)}, []entry.Placement{place(1)}); !errors.Is(err, context.Canceled) {
		t.Errorf("Put under an ended context: %v", err)
	}
	if err := c.Reset(ended); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("Reset under an ended context: %v", err)
	}
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}

	// One who waits for the writer leaves when the context ends.
	<-c.write
	waiting, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Put(waiting, []entry.Key{key(1)}, []entry.Placement{place(1)}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Put while another writes: %v", err)
	}
	c.unlock()
	wantMiss(t, c, key(1))
	wantCovered(t, c, 0)
	put(t, c, 0, 1)
	wantCovered(t, c, 2)
}

func TestClosed(t *testing.T) {
	t.Parallel()
	c := mustOpen(t, filepath.Join(t.TempDir(), "c.db"))
	mustClose(t, c)
	mustClose(t, c)
	if _, ok, err := c.Get(t.Context(), key(0)); ok || err == nil {
		t.Errorf("Get after Close = %v, %v", ok, err)
	}
	if err := c.Put(t.Context(), []entry.Key{key(0)}, []entry.Placement{place(0)}); err == nil {
		t.Error("Put after Close succeeded")
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.db")
	c := mustOpen(t, path)
	put(t, c, upTo(200)...)
	put(t, c, 300)
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wantCovered(t, c, 0)
		wantMiss(t, c, key(5))
		mustClose(t, c)
		c = mustOpen(t, path)
	}
	put(t, c, 0)
	wantCovered(t, c, 1)
}

// TestConcurrent has readers and writers at once: what is read is right, and in
// the end all is held.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	const writers, readers, each = 4, 4, 600
	c := mustOpen(t, filepath.Join(t.TempDir(), "c.db"))
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each / 20 {
				var keys []entry.Key
				var placements []entry.Placement
				for j := range 20 {
					n := int64((i*20+j)*writers + w)
					keys, placements = append(keys, key(n)), append(placements, place(n))
				}
				if err := c.Put(t.Context(), keys, placements); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for r := range readers {
		wg.Go(func() {
			for i := range int64(each) {
				n := (i*7 + int64(r)) % (writers * each)
				covered := c.Covered()
				pl, ok, err := c.Get(t.Context(), key(n))
				if err != nil || (ok && pl != place(n)) || (!ok && n < covered) {
					t.Errorf("Get of entry %d with %d covered = %v, %v, %v", n, covered, pl, ok, err)
				}
			}
		})
	}
	wg.Wait()
	wantCovered(t, c, writers*each)
}

func TestSecretLength(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "c.db"), Secret: make([]byte, n)}); err == nil {
			t.Errorf("Open took a secret of %d bytes", n)
		}
	}
}
