package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"kiln/storage"
)

const racers = 20

// Race runs the part of the suite that is about writers at the same time,
// spread over any number of handles of one bucket.
func Race(t *testing.T, handles ...storage.Bucket) {
	t.Helper()
	for round := range 10 {
		raceDifferent(t, fmt.Sprintf("race/different/%d", round), handles)
		raceSame(t, fmt.Sprintf("race/same/%d", round), handles)
	}
	raceUpdate(t, "race/counter", handles)
	raceReaders(t, "race/whole", handles)
}

// concurrently runs f for 0 to n-1 at once, and fails the test on any error.
func concurrently(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-start
			errs[i] = f(i)
		})
	}
	close(start)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func raceDifferent(t *testing.T, path string, handles []storage.Bucket) {
	t.Helper()
	var won [racers]bool
	concurrently(t, racers, func(i int) error {
		err := handles[i%len(handles)].Create(t.Context(), object(path, fmt.Sprint("body of ", i)))
		won[i] = err == nil
		if errors.Is(err, storage.ErrDifferent) {
			return nil
		}
		return err
	})
	winner := -1
	for i, w := range won {
		switch {
		case w && winner >= 0:
			t.Fatalf("%s: %d and %d both created it with different bodies", path, winner, i)
		case w:
			winner = i
		}
	}
	if winner < 0 {
		t.Fatalf("%s: nobody created it", path)
	}
	for _, b := range handles {
		wantBody(t, b, path, fmt.Sprint("body of ", winner))
	}
}

func raceSame(t *testing.T, path string, handles []storage.Bucket) {
	t.Helper()
	concurrently(t, racers, func(i int) error {
		return handles[i%len(handles)].Create(t.Context(), object(path, "the same"))
	})
	wantBody(t, handles[0], path, "the same")
}

func raceUpdate(t *testing.T, path string, handles []storage.Bucket) {
	t.Helper()
	const each = 5
	concurrently(t, racers, func(i int) error {
		for range each {
			if err := Increment(t.Context(), handles[i%len(handles)], path); err != nil {
				return err
			}
		}
		return nil
	})
	for _, b := range handles {
		wantBody(t, b, path, strconv.Itoa(racers*each))
	}
}

// Increment adds one to the decimal number in an object by Update.
func Increment(ctx context.Context, b storage.Bucket, path string) error {
	return b.Update(ctx, storage.Object{Path: path}, func(current []byte) ([]byte, error) {
		n := 0
		if current != nil {
			var err error
			if n, err = strconv.Atoi(string(current)); err != nil {
				return nil, err
			}
		}
		return strconv.AppendInt(nil, int64(n+1), 10), nil
	})
}

// raceReaders reads an object while it is created and replaced: whatever a
// reader gets is one whole body.
func raceReaders(t *testing.T, path string, handles []storage.Bucket) {
	t.Helper()
	whole := func(c byte) []byte {
		b := make([]byte, 100_000+int(c))
		for i := range b {
			b[i] = c
		}
		return b
	}
	const writes = 20
	done := make(chan struct{})
	concurrently(t, 5, func(i int) error {
		b := handles[i%len(handles)]
		if i == 0 {
			defer close(done)
			if err := b.Create(t.Context(), storage.Object{Path: path, Body: whole(1)}); err != nil {
				return err
			}
			for n := range writes {
				next := func([]byte) ([]byte, error) { return whole(byte(n + 2)), nil }
				if err := b.Update(t.Context(), storage.Object{Path: path}, next); err != nil {
					return err
				}
			}
			return nil
		}
		for {
			got, err := b.Get(t.Context(), path)
			switch {
			case errors.Is(err, storage.ErrNotFound):
			case err != nil:
				return err
			case len(got) == 0 || string(got) != string(whole(got[0])):
				return fmt.Errorf("%s: a reader saw %d bytes that nobody wrote", path, len(got))
			}
			select {
			case <-done:
				return nil
			default:
			}
		}
	})
}
