package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"kiln/dedup"
	"kiln/entry"
	"kiln/internal/daemon"
	lockmem "kiln/lock/mem"
	storagemem "kiln/storage/mem"
	"kiln/testlogs"
)

// trapCache is a deduplication cache that panics once it is told to.
type trapCache struct {
	covered atomic.Int64
	get     atomic.Bool
	put     atomic.Bool
	look    atomic.Bool // Covered
}

func (c *trapCache) Get(context.Context, entry.Key) (entry.Placement, bool, error) {
	if c.get.Load() {
		panic("a bug in Get")
	}
	return entry.Placement{}, false, nil
}

func (c *trapCache) Put(_ context.Context, keys []entry.Key, _ []entry.Placement) error {
	if c.put.Load() {
		panic("a bug in Put")
	}
	c.covered.Add(int64(len(keys)))
	return nil
}

func (c *trapCache) Covered() int64 {
	if c.look.Load() {
		panic("a bug in Covered")
	}
	return c.covered.Load()
}

func (c *trapCache) Close() error { return nil }

// trapped is the parts of a log, which panic when they are told to.
type trapped struct {
	cache  *trapCache
	bucket *storagemem.Bucket
	lock   *lockmem.Store
}

func (w *trapped) trap(op storagemem.Op, prefix string) {
	w.bucket.SetFaults(func(o storagemem.Op, path string) (f storagemem.Fault) {
		if o == op && strings.HasPrefix(path, prefix) {
			panic("a bug of the storage")
		}
		return f
	})
}

func (w *trapped) trapLock(op lockmem.Op) {
	w.lock.SetFaults(func(o lockmem.Op, _ string) (f lockmem.Fault) {
		if o == op {
			panic("a bug of the lock")
		}
		return f
	})
}

// TestPanicStopsOneLog has each part of a log panic in each goroutine that calls
// it. The process lives, this log stops for good and says why, and it goes on being
// read; the log beside it, of the same process, takes submissions.
func TestPanicStopsOneLog(t *testing.T) {
	t.Parallel()
	traps := map[string]func(w *trapped){
		"storage in a round":          func(w *trapped) { w.trap(storagemem.OpCreate, "staging/") },
		"storage beside a round":      func(w *trapped) { w.trap(storagemem.OpGet, "tile/") },
		"storage after a round":       func(w *trapped) { w.trap(storagemem.OpDelete, "staging/") },
		"storage of the issuers":      func(w *trapped) { w.trap(storagemem.OpCreate, "issuer/") },
		"lock in a round":             func(w *trapped) { w.trapLock(lockmem.OpReplace) },
		"lock beside the log":         func(w *trapped) { w.trapLock(lockmem.OpLoad) },
		"look-up of the cache":        func(w *trapped) { w.cache.get.Store(true) },
		"write of the cache":          func(w *trapped) { w.cache.put.Store(true) },
		"repair of the cache at rest": func(w *trapped) { w.cache.look.Store(true) },
	}
	other, ca := memParts(t)
	good, err := daemon.OpenLog(t.Context(), other, daemon.Options{}, daemon.Seams{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := good.Close(); err != nil {
			t.Error(err)
		}
	})
	for name, trap := range traps {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parts, own := memParts(t)
			w := &trapped{new(trapCache), parts.Bucket.(*storagemem.Bucket), parts.Lock.(*lockmem.Store)}
			l, err := daemon.OpenLog(t.Context(), parts, daemon.Options{}, daemon.Seams{
				OpenDedup: func(context.Context, dedup.Config) (daemon.DedupCache, error) { return w.cache, nil },
			})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if strings.Contains(name, "issuers") {
					break // which are stored once
				}
				if code, text := addTo(t, l, own); code != http.StatusOK {
					t.Fatalf("before: %d %s", code, text)
				}
			}
			trap(w)
			if code, text := addTo(t, l, own); code == http.StatusOK && !strings.Contains(name, "after") && !strings.Contains(name, "cache") &&
				!strings.Contains(name, "beside") {
				t.Errorf("a submission was answered: %d %s", code, text)
			}
			within(t, "stop", l.Done())
			if err := l.Err(); !strings.Contains(err.Error(), "panic") || !strings.Contains(err.Error(), "panic_test.go") {
				t.Errorf("the reason does not tell of the panic, with its stack: %v", err)
			}
			w.bucket.SetFaults(nil)
			w.lock.SetFaults(nil)
			held, err := w.lock.Load(t.Context(), parts.LockID)
			if err != nil {
				t.Fatal(err)
			}
			if code, text := addTo(t, l, own); code != http.StatusServiceUnavailable || !strings.Contains(text, "has stopped") {
				t.Errorf("a submission afterwards: %d %s", code, text)
			}
			page := httptest.NewRecorder()
			l.Monitoring().ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/checkpoint", nil))
			if page.Code != http.StatusOK {
				t.Errorf("checkpoint: %d %s", page.Code, page.Body)
			}
			if code, text := addTo(t, good, ca); code != http.StatusOK {
				t.Errorf("the other log: %d %s", code, text)
			}
			w.cache.look.Store(false)
			if err := l.Close(); err != nil {
				t.Logf("close: %v", err)
			}
			if now, err := w.lock.Load(t.Context(), parts.LockID); err != nil || now.Version != held.Version {
				t.Errorf("something was signed after it: %v", err)
			}
		})
	}
}

// addTo submits a new chain.
func addTo(t *testing.T, l *daemon.Log, ca *testlogs.CA) (int, string) {
	t.Helper()
	chain, err := ca.Leaf(testlogs.LeafOptions{})
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(map[string][][]byte{"chain": chain.Submitted()})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	l.Submission().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/ct/v1/add-chain", bytes.NewReader(body)))
	return w.Code, w.Body.String()
}
