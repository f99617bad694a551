package s3

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
)

// TestTurnsPerKey holds the turns of many objects at a time: none waits for
// another's, whoever comes second at an object does, and nothing is kept.
func TestTurnsPerKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all turns
		gone, cancel := context.WithCancel(t.Context())
		var dones []func()
		for i := range 1000 { // of fewer places than keys, two would share one
			done, err := all.take(t.Context(), fmt.Sprint(i))
			if err != nil {
				t.Fatal(err)
			}
			dones = append(dones, done)
		}

		var wg sync.WaitGroup
		next := false
		wg.Go(func() {
			done, err := all.take(t.Context(), "7")
			if err != nil {
				t.Error(err)
				return
			}
			next = true
			done()
		})
		wg.Go(func() {
			if _, err := all.take(gone, "8"); !errors.Is(err, context.Canceled) {
				t.Errorf("a turn that is held, after the call was canceled: %v", err)
			}
		})
		synctest.Wait()
		if next {
			t.Error("two writers were at one object")
		}
		cancel()
		for _, done := range dones {
			done()
		}
		wg.Wait()
		if !next {
			t.Error("who waited had no turn")
		}
		if len(all.keys) != 0 {
			t.Errorf("%d keys are kept after all have left", len(all.keys))
		}
	})
}
