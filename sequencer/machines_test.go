package sequencer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
	"kiln/lock"
	lockmem "kiln/lock/mem"
	"kiln/storage"
	storagemem "kiln/storage/mem"
)

// growOnce has other sequence two large batches when a checkpoint is next read,
// after it was read.
func (w *world) growOnce(t *testing.T, other *Sequencer) {
	var once sync.Once
	w.bucket.SetFaults(func(op storagemem.Op, path string) (f storagemem.Fault) {
		if op == storagemem.OpGet && path == checkpointPath {
			once.Do(func() {
				done := make(chan struct{})
				f.DelayAfter = done
				go func() {
					defer close(done)
					for range 2 {
						submit(t, other, batchOf(fmt.Sprint(time.Now()), 0, 300))
					}
				}()
			})
		}
		return f
	})
}

// Two rounds of another sequencer between reading what is public and the lock do
// not fit together with what was read, and are no reason to stop for good.
func TestLoadBehindTwoRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.open()
		time.Sleep(time.Second)
		submit(t, other, batchOf("start", 0, 3))
		w.growOnce(t, other)
		s, err := Open(t.Context(), w.config())
		w.bucket.SetFaults(nil)
		if isFatal(err) {
			t.Errorf("Open: %v", err)
		}
		if err == nil {
			w.close(s)
		}
		w.close(other)
		w.audit()
	})
}

// A log that moves whenever it is looked at is not opened, but that is not fatal.
func TestLoadWhileItAlwaysMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("start", 0, 3))
		w.close(s)
		if err := w.bucket.Delete(t.Context(), "tile/0/000.p/3"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		conf := w.config()
		conf.Lock = movingLock{w.lock}
		_, err := Open(t.Context(), conf)
		if err == nil || isFatal(err) {
			t.Errorf("Open of a log that moves: %v", err)
		}
		if _, err := Open(t.Context(), w.config()); !isFatal(err) {
			t.Errorf("Open of the same log, standing still: %v", err)
		}
	})
}

// movingLock makes a new version of the cell at each look.
type movingLock struct{ *lockmem.Store }

func (l movingLock) Load(ctx context.Context, id string) (lock.Held, error) {
	held, err := l.Store.Load(ctx, id)
	if err != nil {
		return held, err
	}
	return l.Store.Replace(ctx, held, held.Body)
}

// A machine whose clock is ahead signs once. The other one waits until its own
// clock has passed that time, and then goes on.
func TestOtherClockAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		behind := w.open()
		time.Sleep(time.Second)
		ahead := *w
		ahead.skew = 10 * time.Second
		s := ahead.open()
		time.Sleep(100 * time.Millisecond)
		signed := s.Latest().TimestampMillis
		ahead.close(s)
		time.Sleep(time.Minute)
		if err := behind.Err(); err != nil {
			t.Errorf("stopped for good: %v", err)
		}
		if now := behind.Latest().TimestampMillis; now <= signed {
			t.Errorf("a minute later the newest checkpoint is of %d, the other machine's was of %d", now, signed)
		}
		submit(t, behind, batchOf("later", 0, 3))
		w.close(behind)
		w.audit()
	})
}

// A log that was frozen on a machine with a fast clock goes on being signed.
func TestSealWithFastClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		server := w.open()
		submit(t, server, batchOf("first", 0, 2))
		time.Sleep(time.Second)
		ahead := *w
		ahead.skew = 10 * time.Second
		other := ahead.open()
		if _, err := other.Seal(t.Context(), ahead.mark()); err != nil {
			t.Fatal(err)
		}
		ahead.close(other)
		time.Sleep(10 * time.Minute)
		if err := server.Err(); err != nil {
			t.Errorf("stopped for good: %v", err)
		}
		if age := time.Now().UnixMilli() - server.Latest().TimestampMillis; age > 10_000 {
			t.Errorf("the newest checkpoint is %d ms old", age)
		}
		w.close(server)
	})
}

// A log whose lock and checkpoint were lost together shows by its tiles that it
// was there.
func TestCreateOverTiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("first", 0, 300))
		w.close(s)
		if err := w.bucket.Delete(t.Context(), checkpointPath); err != nil {
			t.Fatal(err)
		}
		w.lock = lockmem.New()
		if err := Create(t.Context(), w.config()); err == nil {
			t.Error("a log was made anew over its tiles, with the same key")
		}
		if _, err := w.lock.Load(t.Context(), "log"); err == nil {
			t.Error("it has a lock cell now")
		}
	})
}

// Lock and checkpoint were set back together, but tiles of the larger tree are
// still there.
func TestSetBackUnderTiles(t *testing.T) {
	for _, sizes := range [][2]int{{3, 3}, {3, 253}, {256, 1}, {255, 600}} {
		t.Run(fmt.Sprint(sizes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { setBack(t, sizes[0], sizes[1]) })
		})
	}
}

func setBack(t *testing.T, first, second int) {
	w := newWorld(t)
	s := w.open()
	submit(t, s, batchOf("first", 0, first))
	w.close(s)
	old := w.crash()
	s = w.open()
	submit(t, s, batchOf("second", 0, second))
	w.close(s)
	err := w.bucket.List(t.Context(), "tile/", func(i storage.Info) error {
		body, err := w.bucket.Get(t.Context(), i.Path)
		if err != nil {
			return err
		}
		return old.bucket.Create(t.Context(), storage.Object{Path: i.Path, Body: body})
	})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute)
	s, err = Open(t.Context(), old.config())
	if !isFatal(err) {
		t.Errorf("Open: %v", err)
	}
	if err == nil {
		_ = s.Close()
	}
}

// What was retired or lost while a sequencer slept does not come back as a
// checkpoint without tiles.
func TestNoCheckpointWithoutStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.open()
		submit(t, s, batchOf("first", 0, 3))
		if err := w.bucket.Delete(t.Context(), checkpointPath); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * idleInterval)
		if s.Err() == nil {
			t.Error("it goes on")
		}
		_ = s.Close()
		if _, err := w.bucket.Get(t.Context(), checkpointPath); err == nil {
			t.Error("the checkpoint is back")
		}
	})
}

// racingLock has another sequencer commit just before the first swap through it.
type racingLock struct {
	*lockmem.Store
	before func()
	once   *sync.Once
}

func (l racingLock) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	l.once.Do(l.before)
	return l.Store.Replace(ctx, held, body)
}

// A sequencer that loses its first swap to another one has proved the log. It
// stands by, if that is wanted, and takes over when the other is gone.
func TestOpenBesideAnother(t *testing.T) {
	for _, standBy := range []bool{false, true} {
		t.Run(fmt.Sprintf("StandBy=%v", standBy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				other := w.open()
				time.Sleep(time.Second)
				conf := w.config()
				conf.StandBy = standBy
				conf.Lock = racingLock{w.lock, func() { submit(t, other, batchOf("other", 0, 3)) }, new(sync.Once)}
				s, err := Open(t.Context(), conf)
				if !standBy {
					if !errors.Is(err, errSuperseded) {
						t.Errorf("Open: %v", err)
					}
					w.close(other)
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				batch := batchOf("mine", 0, 3)
				for range 5 { // the other one writes, if seldom
					if _, err := s.Sequence(t.Context(), batch); !errors.Is(err, entry.ErrUnavailable) {
						t.Errorf("Sequence while another one writes: %v", err)
					}
					time.Sleep(5 * time.Second)
				}
				w.close(other)
				time.Sleep(6 * idleInterval)
				w.expect(batch, submit(t, s, batch))
				w.close(s)
				if n := len(w.audit()); n != 6 {
					t.Errorf("the log has %d entries, want 6", n)
				}
			})
		})
	}
}
