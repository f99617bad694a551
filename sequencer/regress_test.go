package sequencer

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/entry"
	"kiln/lock"
	"kiln/storage"
	storagemem "kiln/storage/mem"
	"kiln/tiles"
)

// signed is what a log has signed so far, as lock and readers know it.
type signed struct{ lock, public string }

func (w *world) signed() signed {
	w.t.Helper()
	w.bucket.SetFaults(nil)
	held := must(w.lock.Load(w.t.Context(), "log"))
	raw, err := w.bucket.Get(w.t.Context(), "checkpoint")
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		w.t.Fatal(err)
	}
	return signed{held.Version + string(held.Body), string(raw)}
}

// nothing checks that nothing was signed since.
func (s signed) nothing(t *testing.T, w *world) {
	t.Helper()
	if now := w.signed(); now.lock != s.lock {
		t.Errorf("the lock changed: something was signed\n%s\n%s", s.lock, now.lock)
	} else if now.public != s.public {
		t.Errorf("the checkpoint changed\n%s\n%s", s.public, now.public)
	}
}

// stops waits until a log has stopped for good.
func stops(t *testing.T, s *Sequencer) {
	t.Helper()
	select {
	case <-s.Done():
	case <-time.After(10 * time.Minute):
		t.Fatal("it did not stop")
	}
}

// edgeHash returns the first hash of a level of an edge in memory, for a bit to be
// flipped in it.
func edgeHash(t *testing.T, e *tiles.Edge, level int) []byte {
	t.Helper()
	hashes := reflect.ValueOf(e).Elem().FieldByName("hashes").Index(level)
	return (*tlog.Hash)(hashes.Index(0).Addr().UnsafePointer())[:]
}

// edgeField returns the first bytes of a slice in an edge.
func edgeField(t *testing.T, e *tiles.Edge, name string) []byte {
	t.Helper()
	return (*[32]byte)(reflect.ValueOf(e).Elem().FieldByName(name).Index(0).Addr().UnsafePointer())[:]
}

// TestRegressFlipInMemory flips a bit in the right edge that the sequencer holds:
// the next round signs nothing, and the state is proved anew from storage.
func TestRegressFlipInMemory(t *testing.T) {
	flips := map[string]func(*testing.T, *tiles.Edge) []byte{
		"hash of level 0":      func(t *testing.T, e *tiles.Edge) []byte { return edgeHash(t, e, 0) },
		"hash of level 1":      func(t *testing.T, e *tiles.Edge) []byte { return edgeHash(t, e, 1) },
		"leaf in the data":     func(t *testing.T, e *tiles.Edge) []byte { return edgeField(t, e, "data")[8:] },
		"digest of an entry":   func(t *testing.T, e *tiles.Edge) []byte { return edgeField(t, e, "digests") },
		"timestamp of a leaf":  func(t *testing.T, e *tiles.Edge) []byte { return edgeField(t, e, "data")[7:] },
		"last bit of a hash":   func(t *testing.T, e *tiles.Edge) []byte { return edgeHash(t, e, 0)[31:] },
		"last bit of a digest": func(t *testing.T, e *tiles.Edge) []byte { return edgeField(t, e, "digests")[31:] },
	}
	for name, flip := range flips {
		for _, idle := range []bool{false, true} {
			if idle && !strings.Contains(name, "hash") {
				continue // an idle round signs the hashes alone
			}
			t.Run(fmt.Sprintf("%s/idle=%t", name, idle), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					s := w.open()
					placements := submit(t, s, batchOf("a", 0, 300))
					w.close(s)
					time.Sleep(time.Second)
					state := must(s.load(t.Context()))
					flip(t, state.edge)[0] ^= 1
					before := w.signed()
					var requests []*request
					if !idle {
						requests = []*request{{entries: batchOf("b", 0, 3), answer: make(chan answer, 1)}}
					}
					if err := state.round(t.Context(), requests); err == nil {
						t.Error("the round was signed")
					}
					before.nothing(t, w)
					// What is stored is sound, so that the log goes on from there.
					s = w.open()
					more := submit(t, s, batchOf("b", 0, 3))
					w.close(s)
					w.expect(append(batchOf("a", 0, 300), batchOf("b", 0, 3)...), append(placements, more...))
				})
			})
		}
	}
}

// TestRegressFlipWhileRunning damages a stored tile of the right edge, or the
// checkpoint, under a running log: nothing is signed from then on, neither with
// entries nor without, and the reason names the object.
func TestRegressFlipWhileRunning(t *testing.T) {
	objects := []string{"tile/0/001.p/44", "tile/1/000.p/1", "tile/data/001.p/44", "checkpoint"}
	faults := map[string]func(b []byte) []byte{
		"first bit":  func(b []byte) []byte { b[0] ^= 1; return b },
		"middle bit": func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"last bit":   func(b []byte) []byte { b[len(b)-1] ^= 0x80; return b },
		"cut short":  func(b []byte) []byte { return b[:len(b)-1] },
		"removed":    nil,
	}
	for _, path := range objects {
		for name, fault := range faults {
			for _, idle := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/idle=%t", path, name, idle), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testFlipWhileRunning(t, path, fault, idle) })
				})
			}
		}
	}
}

func testFlipWhileRunning(t *testing.T, path string, fault func([]byte) []byte, idle bool) {
	w := newWorld(t)
	s := w.open()
	submit(t, s, batchOf("a", 0, 300))
	time.Sleep(time.Second)
	synctest.Wait()
	if fault != nil {
		if err := w.bucket.Corrupt(path, fault); err != nil {
			t.Fatal(err)
		}
	} else if err := w.bucket.Delete(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	before := w.signed()
	if !idle {
		if _, err := s.Sequence(t.Context(), batchOf("b", 0, 3)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Sequence: %v", err)
		}
	}
	began := time.Now()
	stops(t, s)
	if d := time.Since(began); d > 2*idleInterval {
		t.Errorf("it stopped after %v", d)
	}
	if err := s.Err(); !strings.Contains(err.Error(), path) {
		t.Errorf("the reason does not name %s: %v", path, err)
	}
	before.nothing(t, w)
	if err := s.Close(); err == nil {
		t.Error("Close says nothing of it")
	}
}

// A storage that cannot be read, but can be written, stops nothing: that is not
// known to be a fault.
func TestRegressUnreadableIsNotWrong(t *testing.T) {
	for name, fault := range map[string]storagemem.Fault{
		"fails": {Before: errInjected},
		"hangs": {Delay: make(chan struct{})},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fault := fault
				if fault.Delay != nil {
					fault.Delay = make(chan struct{}) // of this bubble
				}
				w := newWorld(t)
				s := w.open()
				placements := submit(t, s, batchOf("a", 0, 300))
				w.bucket.SetFaults(func(op storagemem.Op, _ string) (f storagemem.Fault) {
					if op == storagemem.OpGet {
						return fault
					}
					return f
				})
				all := batchOf("a", 0, 300)
				for i := range 5 {
					old := s.Latest()
					time.Sleep(2 * idleInterval)
					synctest.Wait()
					if now := s.Latest(); !now.Newer(old) {
						t.Error("no fresh checkpoint")
					}
					batch := batchOf("b", i, 1)
					all, placements = append(all, batch...), append(placements, submit(t, s, batch)...)
				}
				if err := s.Err(); err != nil {
					t.Errorf("it stopped: %v", err)
				}
				w.bucket.SetFaults(nil)
				w.expect(all, placements)
				w.close(s)
			})
		})
	}
}

// swapped is a storage and a lock that can be put in the place of others while a
// log runs on them.
type swapped struct {
	bucket atomic.Pointer[storagemem.Bucket]
	lock   atomic.Pointer[lock.Store]
}

type swappedBucket struct{ *swapped }

func (b swappedBucket) Create(ctx context.Context, o storage.Object) error {
	return b.bucket.Load().Create(ctx, o)
}

func (b swappedBucket) Update(ctx context.Context, o storage.Object, next func([]byte) ([]byte, error)) error {
	return b.bucket.Load().Update(ctx, o, next)
}

func (b swappedBucket) Get(ctx context.Context, path string) ([]byte, error) {
	return b.bucket.Load().Get(ctx, path)
}

func (b swappedBucket) Delete(ctx context.Context, path string) error {
	return b.bucket.Load().Delete(ctx, path)
}

func (b swappedBucket) List(ctx context.Context, prefix string, each func(storage.Info) error) error {
	return b.bucket.Load().List(ctx, prefix, each)
}

type swappedLock struct{ *swapped }

func (l swappedLock) Create(ctx context.Context, id string, body []byte) error {
	return (*l.lock.Load()).Create(ctx, id, body)
}

func (l swappedLock) Load(ctx context.Context, id string) (lock.Held, error) {
	return (*l.lock.Load()).Load(ctx, id)
}

func (l swappedLock) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	return (*l.lock.Load()).Replace(ctx, held, body)
}

// TestRegressSetBackWhileRunning rolls storage, lock, or both back under a running
// log, by one round, by many, or by an idle time: it signs nothing on what it
// finds, whether work comes or not, and stops for good where entries were lost.
func TestRegressSetBackWhileRunning(t *testing.T) {
	for what, back := range map[string][2]bool{"bucket": {true, false}, "lock": {false, true}, "both": {true, true}} {
		for _, rounds := range []int{1, 2, 40} {
			for _, idle := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d rounds/idle=%t", what, rounds, idle), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { testSetBack(t, back[0], back[1], rounds, idle) })
				})
			}
		}
	}
}

func testSetBack(t *testing.T, bucketBack, lockBack bool, rounds int, idle bool) {
	w := newWorld(t)
	swap := new(swapped)
	set := func(now *world) {
		swap.bucket.Store(now.bucket)
		var store lock.Store = now.lock
		swap.lock.Store(&store)
	}
	set(w)
	conf := w.config()
	conf.Bucket, conf.Lock = swappedBucket{swap}, swappedLock{swap}
	s := must(Open(t.Context(), conf))
	submit(t, s, batchOf("old", 0, 300))
	time.Sleep(time.Second)
	synctest.Wait()
	old := w.crash()
	for i := range rounds {
		submit(t, s, batchOf("new", i, 1))
		time.Sleep(time.Second)
	}
	synctest.Wait()
	mixed := w.crash()
	if bucketBack {
		mixed.bucket = old.bucket
	}
	if lockBack {
		mixed.lock = old.lock
	}
	before := mixed.signed()
	set(mixed)
	if !idle {
		if _, err := s.Sequence(t.Context(), batchOf("later", 0, 3)); !errors.Is(err, entry.ErrUnavailable) {
			t.Errorf("Sequence: %v", err)
		}
	}
	time.Sleep(time.Minute)
	synctest.Wait()
	if s.Err() == nil {
		t.Error("it did not stop")
	}
	before.nothing(t, mixed)
	// Nor does it after a restart.
	if again, err := Open(t.Context(), mixed.config()); err == nil && !(bucketBack && lockBack) {
		mixed.close(again)
		t.Error("it starts again")
	} else if err == nil {
		mixed.close(again) // nothing is left that knows better: the deduplication cache does
	}
	_ = s.Close()
}

// INC-08: two writes of tiles fail, then the reload fails as well, and tiles are
// missing. The log must not go on from what it has in memory: nothing is signed
// until it was proved from storage, and if a tile stays away, never.
func TestRegressTwoFailuresThenReloadFails(t *testing.T) {
	for _, lost := range []string{"", "staging/", "tile/data/000"} {
		t.Run("lost "+lost, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testReloadFails(t, lost) })
		})
	}
}

func testReloadFails(t *testing.T, lost string) {
	w := newWorld(t)
	s := w.open()
	all := batchOf("a", 0, 300)
	placements := submit(t, s, all)
	// All writes of tiles fail after the commit; then nothing can be read.
	var reading atomic.Bool
	w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
		if op == storagemem.OpCreate && strings.HasPrefix(path, "tile/") || op == storagemem.OpGet && !reading.Load() {
			f.Before = errInjected
		}
		return f
	})
	batch := batchOf("b", 0, 300)
	if _, err := s.Sequence(t.Context(), batch); !errors.Is(err, entry.ErrUnavailable) {
		t.Fatalf("Sequence: %v", err)
	}
	held := must(w.lock.Load(t.Context(), "log"))
	for range 20 {
		time.Sleep(time.Second)
		if _, err := s.Sequence(t.Context(), batchOf("c", 0, 3)); !errors.Is(err, entry.ErrUnavailable) {
			t.Fatalf("Sequence while nothing can be read: %v", err)
		}
	}
	if now := must(w.lock.Load(t.Context(), "log")); now.Version != held.Version {
		t.Error("something was signed over a state that was not proved")
	}
	for _, path := range w.bucket.Paths() {
		if lost != "" && strings.HasPrefix(path, lost) {
			if err := w.bucket.Delete(t.Context(), path); err != nil {
				t.Fatal(err)
			}
		}
	}
	reading.Store(true)
	if lost != "" {
		if lost != "staging/" {
			w.bucket.SetFaults(nil) // the bundle can be published now, and that is not enough
		}
		stops(t, s)
		if now := must(w.lock.Load(t.Context(), "log")); now.Version != held.Version {
			t.Error("something was signed without the tiles")
		}
		_ = s.Close()
		return
	}
	w.bucket.SetFaults(nil)
	all, placements = append(all, batch...), append(placements, submit(t, s, batch)...)
	w.expect(all, placements)
	w.close(s)
}
