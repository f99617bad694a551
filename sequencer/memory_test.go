package sequencer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"kiln/entry"
	"kiln/lock"
	lockmem "kiln/lock/mem"
)

// flippingLock changes a bit of the caller's own bytes, as faulty memory would,
// while they are being written.
type flippingLock struct{ *lockmem.Store }

func (l flippingLock) Replace(ctx context.Context, held lock.Held, body []byte) (lock.Held, error) {
	body[len(body)/2] ^= 1
	return l.Store.Replace(ctx, held, body)
}

// A checkpoint that changes in memory between its verification and the commit ends
// in the lock, and nowhere else; the one before it goes back into its place.
func TestCheckpointChangesWhileCommitted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.close(w.open())
		before, err := w.lock.Load(t.Context(), w.config().LockID)
		if err != nil {
			t.Fatal(err)
		}
		conf := w.config()
		conf.Lock = flippingLock{w.lock}
		if _, err := Open(t.Context(), conf); !isFatal(err) {
			t.Errorf("Open: %v, want a fatal error", err)
		}
		public, err := w.bucket.Get(t.Context(), checkpointPath)
		if err != nil || string(public) != string(before.Body) {
			t.Errorf("the published checkpoint is now %q, %v", public, err)
		}
		bad, err := w.lock.Load(t.Context(), conf.LockID)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.lock.Replace(t.Context(), bad, public); err != nil {
			t.Fatal(err)
		}
		s := w.open()
		if _, err := s.Sequence(t.Context(), batchOf("later", 0, 2)); err != nil && !errors.Is(err, entry.ErrUnavailable) {
			t.Error(err)
		}
		w.close(s)
		w.audit()
	})
}
