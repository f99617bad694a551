package locktest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"kiln/lock"
)

const (
	racers = 20
	rounds = 30
)

// Race runs the part of the suite that is about writers at the same time,
// spread over any number of handles of one store.
func Race(t *testing.T, handles ...lock.Store) {
	t.Helper()
	raceCreate(t, handles)
	raceReplace(t, handles)
	raceCounter(t, handles)
}

// concurrently runs f for each racer at once, and returns their errors.
func concurrently(f func(i int) error) [racers]error {
	var errs [racers]error
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// wantOneWinner returns the racer without an error; all others have the sentinel.
func wantOneWinner(t *testing.T, what string, errs [racers]error, sentinel error) int {
	t.Helper()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Fatalf("%s: %d and %d both won", what, winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, sentinel):
			t.Fatalf("%s: %d lost by %q, want %q", what, i, err, sentinel)
		}
	}
	if winner < 0 {
		t.Fatalf("%s: nobody won", what)
	}
	return winner
}

func raceCreate(t *testing.T, handles []lock.Store) {
	t.Helper()
	for round := range 5 {
		id := fmt.Sprint("race to create ", round)
		errs := concurrently(func(i int) error {
			return handles[i%len(handles)].Create(t.Context(), id, []byte(fmt.Sprint("racer ", i)))
		})
		winner := wantOneWinner(t, id, errs, lock.ErrExists)
		for _, s := range handles {
			wantCell(t, s, id, fmt.Sprint("racer ", winner))
		}
	}
}

func raceReplace(t *testing.T, handles []lock.Store) {
	t.Helper()
	const id = "race to replace"
	held := create(t, handles[0], id, "start")
	for round := range rounds {
		var next [racers]lock.Held
		errs := concurrently(func(i int) (err error) {
			// Half of them write the same bytes: still only one may win.
			body := fmt.Sprint("round ", round, " racer ", i/2)
			next[i], err = handles[i%len(handles)].Replace(t.Context(), held, []byte(body))
			return err
		})
		winner := wantOneWinner(t, fmt.Sprint(id, ", round ", round), errs, lock.ErrConflict)
		for _, s := range handles {
			now := wantCell(t, s, id, fmt.Sprint("round ", round, " racer ", winner/2))
			if now.Version != next[winner].Version {
				t.Fatalf("round %d: the cell is at version %q, the winner's is %q", round, now.Version, next[winner].Version)
			}
		}
		held = next[winner]
	}
}

func raceCounter(t *testing.T, handles []lock.Store) {
	t.Helper()
	const id, each = "race to count", 5
	create(t, handles[0], id, "0")
	errs := concurrently(func(i int) error {
		for range each {
			if err := Increment(t.Context(), handles[i%len(handles)], id); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	for _, s := range handles {
		wantCell(t, s, id, strconv.Itoa(racers*each))
	}
}

// Increment adds one to the decimal number in a cell, trying again as long as
// others are faster.
func Increment(ctx context.Context, s lock.Store, id string) error {
	for {
		held, err := s.Load(ctx, id)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(held.Body))
		if err != nil {
			return err
		}
		_, err = s.Replace(ctx, held, []byte(strconv.Itoa(n+1)))
		if !errors.Is(err, lock.ErrConflict) {
			return err
		}
	}
}
