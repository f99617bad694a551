package locktest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"kiln/lock"
)

// ledger is what the writers of Ledger were told about the lines that they tried
// to append.
type ledger struct {
	t  *testing.T
	id string

	mu      sync.Mutex // guards all below
	more    *sync.Cond // on mu; an append was acknowledged
	written []string   // lines whose append was acknowledged
	refused []string   // lines whose append was a conflict
	unknown []string   // lines whose append ended by another error
	seen    []string   // bodies that a Load returned or that were acknowledged
}

// Ledger lets 20 writers append lines to one cell, spread over any number of
// handles of one store, while during makes the store misbehave. Calls may fail,
// and what they said must be the truth: a line is in the cell once if its append
// was acknowledged, not at all if it was a conflict, and at most once if its
// outcome was unknown; and of all that was ever seen each is the beginning of
// what follows. It returns the number of unknown outcomes.
//
// during runs on the goroutine of the test; await in it waits until that many
// more appends were acknowledged. When during has returned, the store must work.
func Ledger(t *testing.T, during func(await func(appends int)), handles ...lock.Store) int {
	t.Helper()
	l := &ledger{t: t, id: "ledger of " + t.Name()}
	l.more = sync.NewCond(&l.mu)
	create(t, handles[0], l.id, "")
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	defer writers.Wait()
	defer cancel() // if during ends the test
	for i := range racers {
		writers.Go(func() { l.write(ctx, handles[i%len(handles)], fmt.Sprint("w", i), done) })
	}
	during(l.await)
	close(done)
	writers.Wait()
	return l.audit(handles)
}

func (l *ledger) await(appends int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for until := len(l.written) + appends; len(l.written) < until; {
		l.more.Wait()
	}
}

// write appends lines until done is closed, and then one more.
func (l *ledger) write(ctx context.Context, s lock.Store, name string, done <-chan struct{}) {
	for i := 0; ctx.Err() == nil; i++ {
		last := false
		select {
		case <-done:
			last = true
		default:
		}
		held, err := s.Load(ctx, l.id)
		if err != nil {
			continue // reading again harms nothing
		}
		line := fmt.Sprintf("%s.%d\n", name, i)
		next, err := s.Replace(ctx, held, append(held.Body, line...))
		l.note(held, next, line, err)
		if last && err == nil {
			return
		}
	}
}

// note keeps what a call said.
func (l *ledger) note(held, next lock.Held, line string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, string(held.Body))
	switch {
	case err == nil:
		l.written = append(l.written, line)
		l.seen = append(l.seen, string(next.Body))
		l.more.Broadcast()
	case errors.Is(err, lock.ErrConflict):
		l.refused = append(l.refused, line)
	case errors.Is(err, lock.ErrNotFound), errors.Is(err, lock.ErrExists):
		l.t.Errorf("append of %q to a cell that is there: %v", line, err)
	default:
		l.unknown = append(l.unknown, line)
	}
}

// audit holds what the cell has against what the writers were told.
func (l *ledger) audit(handles []lock.Store) int {
	t := l.t
	t.Helper()
	// Behind one more version no write of before can land any more.
	for {
		held, err := handles[0].Load(t.Context(), l.id)
		if err == nil {
			_, err = handles[0].Replace(t.Context(), held, held.Body)
		}
		if err == nil {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	var final string
	for i, s := range handles {
		held, err := s.Load(t.Context(), l.id)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && final != string(held.Body) {
			t.Errorf("two handles see two ledgers:\n%s\n%s", final, held.Body)
		}
		final = string(held.Body)
	}
	count := make(map[string]int)
	for line := range strings.Lines(final) {
		count[line]++
	}
	for _, c := range []struct {
		what     string
		lines    []string
		min, max int
	}{{"acknowledged", l.written, 1, 1}, {"a conflict", l.refused, 0, 0}, {"unknown", l.unknown, 0, 1}} {
		for _, line := range c.lines {
			if n := count[line]; n < c.min || n > c.max {
				t.Errorf("%q, whose append was %s, is there %d times", line, c.what, n)
			}
			delete(count, line)
		}
	}
	for line, n := range count {
		t.Errorf("%q is there %d times, and nobody wrote it", line, n)
	}
	for _, body := range l.seen {
		if !strings.HasPrefix(final, body) {
			t.Errorf("a ledger was seen that the last one does not continue:\n%s\n%s", body, final)
		}
	}
	t.Logf("%d appends acknowledged, %d conflicts, %d unknown", len(l.written), len(l.refused), len(l.unknown))
	return len(l.unknown)
}
