package daemon

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"kiln/storage"
	"kiln/tiles"
)

// slowBucket counts Creates and holds each until told how it ends.
type slowBucket struct {
	storage.Bucket // nil: nothing else is called
	mu             sync.Mutex
	created        map[string]int
	end            chan error
}

func (b *slowBucket) Create(ctx context.Context, o storage.Object) error {
	b.mu.Lock()
	b.created[o.Path]++
	b.mu.Unlock()
	select {
	case err := <-b.end:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *slowBucket) count(der []byte) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.created[tiles.IssuerObject(der).Path]
}

func newSlowIssuers() (*issuers, *slowBucket) {
	b := &slowBucket{created: make(map[string]int), end: make(chan error)}
	return newIssuers(b, newLogMetrics(nil, func() float64 { return 0 })), b
}

func TestIssuersShareAWrite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := newSlowIssuers()
		der := []byte("a certificate")
		errs := make(chan error, 10)
		for range cap(errs) {
			go func() { errs <- s.PutIssuer(t.Context(), der) }()
		}
		synctest.Wait()
		if len(errs) > 0 {
			t.Fatal("a put returned before the write")
		}
		b.end <- nil
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if err := s.PutIssuer(t.Context(), der); err != nil {
			t.Errorf("put of a known issuer: %v", err)
		}
		if got := b.count(der); got != 1 {
			t.Errorf("%d writes, want 1", got)
		}
		s.Close()
	})
}

func TestIssuersForgetFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := newSlowIssuers()
		der, disk := []byte("a certificate"), errors.New("disk full")
		for _, want := range []error{disk, nil} {
			errs := make(chan error)
			go func() { errs <- s.PutIssuer(t.Context(), der) }()
			b.end <- want
			if err := <-errs; !errors.Is(err, want) {
				t.Errorf("put: %v, want %v", err, want)
			}
		}
		if got := b.count(der); got != 2 {
			t.Errorf("%d writes, want 2", got)
		}
	})
}

// A client that goes away must not fail the others that wait for its write.
func TestIssuersOutliveTheirFirstClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := newSlowIssuers()
		der := []byte("a certificate")
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error), make(chan error)
		go func() { first <- s.PutIssuer(ctx, der) }()
		synctest.Wait()
		go func() { second <- s.PutIssuer(t.Context(), der) }()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("put of the client that left: %v", err)
		}
		b.end <- nil
		if err := <-second; err != nil {
			t.Errorf("put of the client that stayed: %v", err)
		}
	})
}

func TestIssuersCloseWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, b := newSlowIssuers()
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() { gone <- s.PutIssuer(ctx, []byte("a certificate")) }()
		synctest.Wait()
		cancel()
		<-gone
		closed := make(chan struct{})
		go func() {
			s.Close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close returned while a write was going on")
		default:
		}
		b.end <- nil
		<-closed
		if err := s.PutIssuer(t.Context(), []byte("another")); err == nil {
			t.Error("put after Close succeeded")
		}
	})
}

func TestKnownIssuersAreBounded(t *testing.T) {
	t.Parallel()
	s, b := newSlowIssuers()
	close(b.end) // every write succeeds at once
	for i := range maxKnownIssuers + 10 {
		if err := s.PutIssuer(t.Context(), []byte{byte(i), byte(i >> 8), byte(i >> 16)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.known) != maxKnownIssuers {
		t.Errorf("%d fingerprints remembered, want %d", len(s.known), maxKnownIssuers)
	}
}
