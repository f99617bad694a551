package cell

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/lock"
	"kiln/lock/locktest"
)

// register keeps values in memory, and does to requests what networks do.
type register struct {
	// fault says what becomes of the n-th request of a kind; nil is nothing.
	fault func(write bool, n int) fault

	mu     sync.Mutex
	values map[string]Value
	places int // names given
	count  [2]int
	late   []func() // writes that have not arrived yet
}

type fault int

const (
	none   fault = iota
	before       // fails without an effect
	after        // fails with its effect
	late         // fails, and takes its effect when arrive is called
	twice        // arrives twice; the second answer counts
	hang         // no answer, ever, and no effect
	reject
)

var errCut = errors.New("connection cut")

func newRegister() *register { return &register{values: make(map[string]Value)} }

func (r *register) next(write bool) fault {
	i := 0
	if write {
		i = 1
	}
	r.mu.Lock()
	n := r.count[i]
	r.count[i]++
	r.mu.Unlock()
	if r.fault == nil {
		return none
	}
	return r.fault(write, n)
}

func (r *register) Read(ctx context.Context, id string) (Value, error) {
	switch r.next(false) {
	case before, after, late, twice:
		return Value{}, errCut
	case hang:
		<-ctx.Done()
		return Value{}, ctx.Err()
	case reject:
		return Value{}, ErrRejected
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.values[id]
	if !ok {
		return Value{}, lock.ErrNotFound
	}
	return v, nil
}

func (r *register) Write(ctx context.Context, id string, old Value, data []byte) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	data = bytes.Clone(data)
	switch r.next(true) {
	case before:
		return "", errCut
	case after:
		_, _ = r.apply(id, old, data)
		return "", errCut
	case late:
		r.mu.Lock()
		defer r.mu.Unlock()
		r.late = append(r.late, func() { _, _ = r.apply(id, old, data) })
		return "", errCut
	case twice:
		_, _ = r.apply(id, old, data)
	case hang:
		<-ctx.Done()
		return "", ctx.Err()
	case reject:
		return "", ErrRejected
	}
	return r.apply(id, old, data)
}

func (r *register) apply(id string, old Value, data []byte) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := r.values[id]; now.Place != old.Place || !bytes.Equal(now.Data, old.Data) {
		return "", ErrCondition
	}
	r.places++
	place := strconv.Itoa(r.places)
	r.values[id] = Value{data, place}
	return place, nil
}

// arrive lets late writes arrive.
func (r *register) arrive() {
	r.mu.Lock()
	writes := r.late
	r.late = nil
	r.mu.Unlock()
	for _, w := range writes {
		w()
	}
}

func TestSuite(t *testing.T) {
	t.Parallel()
	locktest.Test(t, func(*testing.T) lock.Store { return NewStore(newRegister(), "memory", time.Minute, nil) })
}

// TestLedger shows that the bookkeeping holds on a register that loses answers,
// delays and repeats requests.
func TestLedger(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string][]fault{
		"none": {none}, "before": {none, before}, "after": {none, after}, "late": {none, none, late},
		"twice": {none, twice}, "all": {none, after, late, before, twice, none, none, late, after},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegister()
			r.fault = func(write bool, n int) fault {
				if n%7 == 3 {
					r.arrive()
				}
				return faults[(n+n/31)%len(faults)]
			}
			s := NewStore(r, "memory", 20*time.Second, nil)
			locktest.Ledger(t, func(await func(int)) { await(100) }, s, s)
		})
	}
}

// step is one test of what a call makes of faults: those of the writes, then
// what is expected.
type step struct {
	name   string
	writes []fault
	rival  int   // versions that a rival writes after the first write of ours
	blind  bool  // no read is answered
	want   error // nil, a sentinel, or errUnknown
	landed bool  // our version is, or was, there
}

var errUnknown = errors.New("outcome unknown")

func steps() []step {
	return []step{
		{"nothing", nil, 0, false, nil, true},
		{"cut before", []fault{before, before}, 0, false, nil, true},
		{"cut before, and blind", []fault{before, before}, 0, true, nil, true},
		{"cut after", []fault{after}, 0, false, nil, true},
		{"cut after, and blind", []fault{after}, 0, true, context.DeadlineExceeded, true},
		{"cut after, again and again", []fault{after, after, after, before}, 0, false, nil, true},
		{"repeated underway", []fault{twice}, 0, false, nil, true},
		{"late, and nobody else", []fault{late}, 0, false, nil, true},
		{"late, and a rival", []fault{late}, 1, false, lock.ErrConflict, false},
		{"cut before, and a rival", []fault{before}, 1, false, lock.ErrConflict, false},
		{"cut before, and many rivals", []fault{before}, ancestors, false, lock.ErrConflict, false},
		{"cut before, and more rivals than are remembered", []fault{before}, ancestors + 1, false, errUnknown, false},
		{"cut after, and a rival on top", []fault{after}, 1, false, nil, true},
		{"cut after, and many rivals on top", []fault{after}, ancestors, false, nil, true},
		{"cut after, and more rivals than are remembered", []fault{after}, ancestors + 1, false, errUnknown, true},
		{"rejected", []fault{reject}, 0, false, ErrRejected, false},
		{"cut before, then rejected", []fault{before, reject}, 0, false, ErrRejected, false},
		{"no answer", []fault{hang, hang, hang, hang}, 0, false, context.DeadlineExceeded, false},
		{"no answer once", []fault{hang}, 0, false, nil, true},
		{"losers are not told", []fault{before, before, before, before, before, before, before, before}, 1, false, lock.ErrConflict, false},
	}
}

func TestReplaceOutcome(t *testing.T) {
	t.Parallel()
	for _, c := range steps() {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testReplaceOutcome(t, c) }) })
	}
}

func testReplaceOutcome(t *testing.T, c step) {
	r := newRegister()
	rival, s := NewStore(r, "memory", time.Second, nil), NewStore(r, "memory", time.Second, nil)
	if err := rival.Create(t.Context(), "cell", []byte("0")); err != nil {
		t.Fatal(err)
	}
	held := load(t, rival)
	var seen []string
	rest := append(c.writes, none)
	begun, rivals := false, c.rival
	r.fault = func(write bool, _ int) fault {
		if begun && rivals > 0 { // after our first write, before anything else of ours
			f := r.fault
			r.fault = nil
			for ; rivals > 0; rivals-- {
				h := load(t, rival)
				seen = append(seen, string(h.Body))
				if _, err := rival.Replace(t.Context(), h, []byte("rival")); err != nil {
					t.Error(err)
				}
			}
			r.fault = f
		}
		begun = true
		switch {
		case !write && c.blind:
			return before
		case !write || len(rest) == 0:
			return none
		}
		f := rest[0]
		rest = rest[1:]
		return f
	}
	next, err := s.Replace(t.Context(), held, []byte("ours"))
	r.fault = nil
	switch {
	case errors.Is(c.want, errUnknown):
		if err == nil || errors.Is(err, lock.ErrConflict) || !strings.Contains(err.Error(), errUnknown.Error()) {
			t.Errorf("error %v, want an unknown outcome", err)
		}
	case !errors.Is(err, c.want):
		t.Errorf("error %v, want %v", err, c.want)
	}
	r.arrive()
	now := load(t, rival)
	landed := string(now.Body) == "ours"
	for _, body := range seen {
		landed = landed || body == "ours"
	}
	if landed != c.landed {
		t.Errorf("our version was there: %v, want %v", landed, c.landed)
	}
	if err != nil {
		return
	}
	// What the call returned can be replaced, or is a conflict if a rival did.
	_, err = s.Replace(t.Context(), next, []byte("more"))
	if c.rival == 0 && err != nil || c.rival > 0 && !errors.Is(err, lock.ErrConflict) {
		t.Errorf("with %d rivals the next Replace said %v", c.rival, err)
	}
}

func load(t *testing.T, s lock.Store) lock.Held {
	t.Helper()
	h, err := s.Load(t.Context(), "cell")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestCreateOutcome(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault fault
		rival bool
		want  error
	}{
		{"cut before", before, false, nil},
		{"cut after", after, false, nil},
		{"late", late, false, nil},
		{"repeated underway", twice, false, nil},
		{"cut before, and a rival", before, true, lock.ErrExists},
		{"cut after, and a rival on top", after, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := newRegister()
				s := NewStore(r, "memory", time.Second, nil)
				begun := false
				r.fault = func(write bool, n int) fault {
					if !begun {
						begun = true
						return c.fault
					}
					if c.rival {
						r.fault = nil
						if err := s.Create(t.Context(), "cell", []byte("rival")); errors.Is(err, lock.ErrExists) {
							for range 3 * ancestors {
								if _, err := s.Replace(t.Context(), load(t, s), []byte("rival")); err != nil {
									t.Error(err)
								}
							}
						} else if err != nil {
							t.Error(err)
						}
					}
					return none
				}
				if err := s.Create(t.Context(), "cell", []byte("ours")); !errors.Is(err, c.want) {
					t.Errorf("Create: %v, want %v", err, c.want)
				}
				r.arrive()
				if got := string(load(t, s).Body); (got == "rival") != c.rival {
					t.Errorf("the cell is %q", got)
				}
			})
		})
	}
}

// TestMoved shows that a version that the engine shows under another name is not
// taken for replaced: neither lost nor won.
func TestMoved(t *testing.T) {
	t.Parallel()
	r := newRegister()
	s := NewStore(r, "memory", time.Minute, nil)
	if err := s.Create(t.Context(), "cell", []byte("0")); err != nil {
		t.Fatal(err)
	}
	held := load(t, s)
	v := r.values["cell"]
	r.values["cell"] = Value{v.Data, "elsewhere"}
	_, err := s.Replace(t.Context(), held, []byte("1"))
	if !errors.Is(err, ErrCondition) || errors.Is(err, lock.ErrConflict) {
		t.Errorf("error %v, want an unknown outcome", err)
	}
	if _, err := s.Replace(t.Context(), load(t, s), []byte("1")); err != nil {
		t.Error(err)
	}
}

// TestGone shows what is said about a cell that was taken away, or made anew.
func TestGone(t *testing.T) {
	t.Parallel()
	r := newRegister()
	s := NewStore(r, "memory", time.Minute, nil)
	if err := s.Create(t.Context(), "cell", []byte("0")); err != nil {
		t.Fatal(err)
	}
	held := load(t, s)
	delete(r.values, "cell")
	if _, err := s.Replace(t.Context(), held, []byte("1")); !errors.Is(err, lock.ErrNotFound) {
		t.Errorf("error %v, want %v", err, lock.ErrNotFound)
	}
	if err := s.Create(t.Context(), "cell", []byte("0")); err != nil {
		t.Fatal(err)
	}
	_, err := s.Replace(t.Context(), held, []byte("1"))
	if err == nil || errors.Is(err, lock.ErrConflict) || string(load(t, s).Body) != "0" {
		t.Errorf("error %v, want an unknown outcome", err)
	}
}
