package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"kiln/internal/contain"
	"kiln/storage"
	"kiln/tiles"
)

const (
	maxKnownIssuers = 16384            // fingerprints remembered as durable: 32 bytes each
	issuerTimeout   = 30 * time.Second // bounds one write that nobody may be waiting for any more
)

// issuers stores chain certificates in a bucket, each once (SUB-37). Puts of
// one certificate at the same time share a single write.
type issuers struct {
	bucket  storage.Bucket
	metrics *logMetrics
	// panicked, if not nil, is told of a panic of the bucket.
	panicked func(error)

	writes sync.WaitGroup // writes in progress, for Close

	mu      sync.Mutex
	closed  bool
	known   map[[32]byte]struct{} // durable for certain; at most maxKnownIssuers
	writing map[[32]byte]*issuerWrite
}

type issuerWrite struct {
	done chan struct{} // closed when err is set
	err  error
}

func newIssuers(b storage.Bucket, m *logMetrics) *issuers {
	return &issuers{bucket: b, metrics: m, known: make(map[[32]byte]struct{}), writing: make(map[[32]byte]*issuerWrite)}
}

// PutIssuer implements frontend.Issuers: the certificate is durable and
// readable when it returns nil.
//
// The write is not bound to ctx, since others may wait for the same one: a
// caller that gives up leaves it to end by itself.
func (s *issuers) PutIssuer(ctx context.Context, der []byte) error {
	fp := sha256.Sum256(der)
	s.mu.Lock()
	if _, ok := s.known[fp]; ok {
		s.mu.Unlock()
		return nil
	}
	w := s.writing[fp]
	if w == nil {
		if s.closed {
			s.mu.Unlock()
			return fmt.Errorf("store issuer %x: closed", fp)
		}
		w = &issuerWrite{done: make(chan struct{})}
		s.writing[fp] = w
		s.writes.Add(1)
		go s.write(context.WithoutCancel(ctx), fp, der, w)
	}
	s.mu.Unlock()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return fmt.Errorf("store issuer %x: %w", fp, ctx.Err())
	}
}

func (s *issuers) write(ctx context.Context, fp [32]byte, der []byte, w *issuerWrite) {
	defer s.writes.Done()
	ctx, cancel := context.WithTimeout(ctx, issuerTimeout)
	defer cancel()
	err := contain.Run(func() error { return s.bucket.Create(ctx, tiles.IssuerObject(der)) })
	if contain.Is(err) && s.panicked != nil {
		s.panicked(fmt.Errorf("store issuer %x: %w", fp, err))
	}
	if err != nil {
		w.err = fmt.Errorf("store issuer %x: %w", fp, err)
	} else {
		s.metrics.issuersStored.Inc()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.writing, fp)
	if w.err == nil {
		for old := range s.known {
			if len(s.known) < maxKnownIssuers {
				break
			}
			delete(s.known, old) // any: a forgotten one costs one more write
		}
		s.known[fp] = struct{}{}
	}
	close(w.done)
}

// Close refuses further writes and waits for those in progress.
func (s *issuers) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.writes.Wait()
}
