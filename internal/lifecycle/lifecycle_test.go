package lifecycle_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"kiln/internal/lifecycle"
	"kiln/lock"
	"kiln/lock/mem"
)

const id = "0123"

var (
	early = lifecycle.Mark{At: time.UnixMilli(1_700_000_000_123).UTC(), Note: "end of the shard"}
	late  = lifecycle.Mark{At: time.UnixMilli(1_800_000_000_000).UTC()}
)

func load(t *testing.T, s lock.Store) lifecycle.State {
	t.Helper()
	state, err := lifecycle.Load(t.Context(), s, id)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// TestLife takes a log through all marks, each made twice.
func TestLife(t *testing.T) {
	t.Parallel()
	s := mem.New()
	if st := load(t, s); st.Frozen != nil || st.Final != nil || st.Retired != nil {
		t.Fatalf("a new log has marks: %+v", st)
	}
	if _, err := lifecycle.Finalize(t.Context(), s, id, []byte("tree")); !errors.Is(err, lifecycle.ErrNotFrozen) {
		t.Errorf("Finalize of a log that may grow: %v", err)
	}
	for _, m := range []lifecycle.Mark{early, late} {
		if got, err := lifecycle.Freeze(t.Context(), s, id, m); err != nil || got != early {
			t.Fatalf("Freeze: %+v, %v", got, err)
		}
	}
	if _, err := lifecycle.Retire(t.Context(), s, id, late); !errors.Is(err, lifecycle.ErrNotFrozen) {
		t.Errorf("Retire before there is a final tree: %v", err)
	}
	for _, tree := range []string{"tree", "another"} {
		if got, err := lifecycle.Finalize(t.Context(), s, id, []byte(tree)); err != nil || string(got) != "tree" {
			t.Fatalf("Finalize: %q, %v", got, err)
		}
	}
	for _, m := range []lifecycle.Mark{late, early} {
		if got, err := lifecycle.Retire(t.Context(), s, id, m); err != nil || got != late {
			t.Fatalf("Retire: %+v, %v", got, err)
		}
	}
	st := load(t, s)
	if st.Frozen == nil || *st.Frozen != early || string(st.Final) != "tree" || st.Retired == nil || *st.Retired != late {
		t.Errorf("marks are %+v", st)
	}
	if other, err := lifecycle.Load(t.Context(), s, "4567"); err != nil || other.Frozen != nil {
		t.Errorf("another log is frozen too: %+v, %v", other, err)
	}
}

// TestRace lets many make the same mark: all learn of the same one.
func TestRace(t *testing.T) {
	t.Parallel()
	s := mem.New()
	got := make([]lifecycle.Mark, 20)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = lifecycle.Freeze(t.Context(), s, id, lifecycle.Mark{At: time.UnixMilli(int64(i))}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, m := range got {
		if m != got[0] || m != *load(t, s).Frozen {
			t.Errorf("marks %v and %v", m, got[0])
		}
	}
}

// failing answers with errors, after the effect if it had one.
type failing struct {
	lock.Store
	create, load error
}

func (f failing) Create(ctx context.Context, id string, body []byte) error {
	return errors.Join(f.Store.Create(ctx, id, body), f.create)
}

func (f failing) Load(ctx context.Context, id string) (lock.Held, error) {
	if f.load != nil {
		return lock.Held{}, f.load
	}
	return f.Store.Load(ctx, id)
}

// TestUnknown shows that a store that cannot be read is no log without marks,
// and that a lost answer is settled by reading.
func TestUnknown(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	s := mem.New()
	if got, err := lifecycle.Freeze(t.Context(), failing{Store: s, create: broken}, id, early); err != nil || got != early {
		t.Errorf("Freeze whose answer was lost: %+v, %v", got, err)
	}
	if _, err := lifecycle.Load(t.Context(), failing{Store: s, load: broken}, id); !errors.Is(err, broken) {
		t.Errorf("Load of a broken store: %v", err)
	}
	if _, err := lifecycle.Freeze(t.Context(), failing{Store: s, load: broken}, id, early); !errors.Is(err, broken) {
		t.Errorf("Freeze in a broken store: %v", err)
	}
	if err := s.Create(t.Context(), "89.frozen", []byte("{")); err != nil {
		t.Fatal(err)
	}
	if _, err := lifecycle.Load(t.Context(), s, "89"); err == nil {
		t.Error("a damaged mark is no error")
	}
}
