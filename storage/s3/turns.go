package s3

import (
	"context"
	"sync"
)

// turns lets one writer at a time at an object. Each key has a turn of its own:
// a write that hangs holds up no other object. It holds as many keys as there
// are writers at work.
type turns struct {
	mu   sync.Mutex // guards keys and what they lead to
	keys map[string]*turn
}

type turn struct {
	place chan struct{} // holds one value while somebody writes
	users int           // who writes, and who waits for it
}

// take waits until no other writer is at an object, and returns what lets the
// next one at it.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	t.mu.Lock()
	one := t.keys[key]
	if one == nil {
		if t.keys == nil {
			t.keys = make(map[string]*turn)
		}
		one = &turn{place: make(chan struct{}, 1)}
		t.keys[key] = one
	}
	one.users++
	t.mu.Unlock()
	select {
	case one.place <- struct{}{}:
		return func() {
			<-one.place
			t.leave(key, one)
		}, nil
	case <-ctx.Done():
		t.leave(key, one)
		return nil, ctx.Err()
	}
}

// leave forgets a key that nobody uses any more.
func (t *turns) leave(key string, one *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if one.users--; one.users == 0 {
		delete(t.keys, key)
	}
}
