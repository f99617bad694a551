package sequencer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln/internal/contain"
	"kiln/storage"
	"kiln/tiles"
)

// lookPatience is how long a round waits for its look back once the bundle is
// staged, which takes longer almost always.
const lookPatience = time.Second

// Results of a look back, in metrics.
const (
	lookSame    = "same"
	lookChanged = "changed"
	lookUnknown = "unknown"
)

// errChanged says that readers do not see what this process wrote. What that
// means, and whether the log can go on, a new load finds out.
var errChanged = errors.New("what is published is not what this process wrote")

// sums are the digests of the tiles on the right edge, as they are stored.
type sums map[string][sha256.Size]byte

// after returns the sums of the edge at a size that a round with these objects
// led to. A tile whose bytes were not seen has none.
func (s sums) after(size int64, objects []storage.Object) sums {
	written := make(map[string][]byte, len(objects))
	for _, o := range objects {
		written[o.Path] = o.Body
	}
	next := make(sums)
	for _, path := range tiles.EdgePaths(size) {
		if body, ok := written[path]; ok {
			next[path] = sha256.Sum256(body)
		} else if sum, ok := s[path]; ok {
			next[path] = sum
		}
	}
	return next
}

// summing is a bucket that keeps the sums of what is read from it by one
// goroutine.
type summing struct {
	storage.Bucket
	sums sums
}

func (b summing) Get(ctx context.Context, path string) ([]byte, error) {
	body, err := b.Bucket.Get(ctx, path)
	if err == nil {
		b.sums[path] = sha256.Sum256(body)
	}
	return body, err
}

// lookBack begins to read the published checkpoint and the right edge, and
// returns what tells, before anything is signed, whether they are what this
// process left there: a storage that was set back, or a bit that flipped in it,
// must not be built on. It goes on beside the staging of the round, so that it
// costs requests, but no time.
//
// That something cannot be read says nothing of it: the round goes on, and its
// own writes will tell.
func (l *loaded) lookBack(ctx context.Context) (wait func() error) {
	s := l.s
	select {
	case s.looking <- struct{}{}:
	default: // the last one hangs
		return func() error { return s.looked(nil, errors.New("the look before has not ended")) }
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	var changed, unknown error
	done := make(chan struct{})
	was := *l // who hangs here may go on when the round is over
	go func() {
		defer func() { <-s.looking }()
		defer close(done)
		changed, unknown = was.look(ctx)
	}()
	return func() error {
		defer cancel()
		timer := time.NewTimer(lookPatience)
		defer timer.Stop()
		select {
		case <-done:
			return s.looked(changed, unknown)
		case <-timer.C:
			return s.looked(nil, fmt.Errorf("nothing was read within %v", lookPatience))
		}
	}
}

// looked counts and says what came of a look back, and returns what it found
// changed.
func (s *Sequencer) looked(changed, unknown error) error {
	result := lookSame
	switch {
	case changed != nil:
		result = lookChanged
	case unknown != nil:
		result = lookUnknown
		if !s.blind {
			s.cfg.Logger.Warn("cannot read back what is published; the log goes on", "err", unknown)
		}
	}
	s.blind = result == lookUnknown
	s.metrics.looks.WithLabelValues(result).Inc()
	return changed
}

// look reads what lookBack begins, all at once. Both errors may be nil, and the
// first counts.
func (l *loaded) look(ctx context.Context) (changed, unknown error) {
	var mu sync.Mutex
	var g errgroup.Group
	check := func(path string, differs func(body []byte) error) {
		g.Go(func() error {
			err := contain.Run(func() error {
				body, err := l.s.bucket.Get(ctx, path)
				if errors.Is(err, storage.ErrNotFound) {
					return fmt.Errorf("%w: %s is gone", errChanged, path)
				}
				if err != nil {
					return err
				}
				return differs(body)
			})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, errChanged) || errors.Is(err, errSuperseded) || isFatal(err):
				changed = errors.Join(changed, err)
			case err != nil:
				unknown = errors.Join(unknown, err)
			}
			return nil
		})
	}
	check(checkpointPath, l.checkPublic)
	for path, sum := range l.sums {
		check(path, func(body []byte) error {
			if sha256.Sum256(body) != sum {
				return fmt.Errorf("%w: %s has other bytes", errChanged, path)
			}
			return nil
		})
	}
	_ = g.Wait() // none fails
	return changed, unknown
}

// checkPublic compares a published checkpoint with the one that was committed and
// published last.
func (l *loaded) checkPublic(raw []byte) error {
	if bytes.Equal(raw, l.held.Body) {
		return nil
	}
	c, err := l.s.signer.Verifier().Open(raw)
	if err == nil && c.Newer(l.head) {
		return errSuperseded
	}
	return fmt.Errorf("%w: %s is another one", errChanged, checkpointPath)
}
