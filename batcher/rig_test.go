package batcher

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"kiln/entry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// x509 makes an entry; each call makes the same from the same number.
func x509(n int) *entry.Pending { return sized(n, 0, false) }

func lowPriority(n int) *entry.Pending { return sized(n, 0, true) }

func sized(n, bytes int, low bool) *entry.Pending {
	der := append(fmt.Appendf(nil, "certificate %d ", n), make([]byte, bytes)...)
	p, err := entry.NewX509(der, [][32]byte{{1}, {2}}, low)
	if err != nil {
		panic(err)
	}
	return p
}

// otherChain is the entry x509(n) by another chain: one key, two digests.
func otherChain(n int) *entry.Pending {
	p, err := entry.NewX509(x509(n).Certificate(), [][32]byte{{3}}, false)
	if err != nil {
		panic(err)
	}
	return p
}

type hook = func(ctx context.Context, call int, batch []*entry.Pending) ([]entry.Placement, error)

// fakeSequencer is a log in memory that takes a key once. A hook may stand in
// for the call, and call commit itself or not.
type fakeSequencer struct {
	hook hook

	mu     sync.Mutex
	calls  [][]*entry.Pending
	placed map[entry.Key]entry.Placement
}

func (s *fakeSequencer) Sequence(ctx context.Context, batch []*entry.Pending) ([]entry.Placement, error) {
	s.mu.Lock()
	call, hook := len(s.calls), s.hook
	s.calls = append(s.calls, batch)
	s.mu.Unlock()
	if hook != nil {
		return hook(ctx, call, batch)
	}
	return s.commit(batch), nil
}

func (s *fakeSequencer) commit(batch []*entry.Pending) []entry.Placement {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.placed == nil {
		s.placed = make(map[entry.Key]entry.Placement)
	}
	placements := make([]entry.Placement, len(batch))
	for i, p := range batch {
		pl, ok := s.placed[p.Key()]
		if !ok {
			pl = entry.Placement{Index: int64(len(s.placed)), TimestampMillis: time.Now().UnixMilli()}
			s.placed[p.Key()] = pl
		}
		placements[i] = pl
	}
	return placements
}

func (s *fakeSequencer) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.placed)
}

// setHook changes the hook of a sequencer in use.
func (s *fakeSequencer) setHook(hook hook) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// batches returns the batch of every call.
func (s *fakeSequencer) batches() [][]*entry.Pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

func (s *fakeSequencer) batchSizes() []int {
	var sizes []int
	for _, c := range s.batches() {
		sizes = append(sizes, len(c))
	}
	return sizes
}

// confirm is what the log itself says.
func (s *fakeSequencer) confirm(_ context.Context, p *entry.Pending, pl entry.Placement) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.placed[p.Key()]
	return ok && at == pl, nil
}

// fakeSigner is deterministic, as signers have to be.
type fakeSigner struct {
	hook func(message []byte) error

	mu    sync.Mutex
	count int
}

func (s *fakeSigner) Sign(message []byte) ([]byte, error) {
	s.mu.Lock()
	s.count++
	s.mu.Unlock()
	if s.hook != nil {
		if err := s.hook(message); err != nil {
			return nil, err
		}
	}
	return signatureOf(message), nil
}

func (s *fakeSigner) signed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

func signatureOf(message []byte) []byte {
	sum := sha256.Sum256(append([]byte("signed: "), message...))
	return sum[:]
}

// fakeDedup is a map. Hooks may stand in for the calls.
type fakeDedup struct {
	get func(context.Context, entry.Key) (entry.Placement, bool, error)
	put func(context.Context, []entry.Key) error

	mu   sync.Mutex
	rows map[entry.Key]entry.Placement
}

func (d *fakeDedup) Get(ctx context.Context, key entry.Key) (entry.Placement, bool, error) {
	if d.get != nil {
		return d.get(ctx, key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	pl, ok := d.rows[key]
	return pl, ok, nil
}

func (d *fakeDedup) Put(ctx context.Context, keys []entry.Key, placements []entry.Placement) error {
	if d.put != nil {
		if err := d.put(ctx, keys); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rows == nil {
		d.rows = make(map[entry.Key]entry.Placement)
	}
	for i, k := range keys {
		d.rows[k] = placements[i]
	}
	return nil
}

func (d *fakeDedup) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.rows)
}

// rig is a batcher with its fakes.
type rig struct {
	*Batcher
	seq    *fakeSequencer
	signer *fakeSigner
	dedup  *fakeDedup // nil: none
}

func newRig(t testing.TB, cfg Config, dedup *fakeDedup) *rig {
	t.Helper()
	r := &rig{seq: &fakeSequencer{}, signer: &fakeSigner{}, dedup: dedup}
	cfg.Sequencer, cfg.Signer = r.seq, r.signer
	if dedup != nil {
		cfg.Dedup = dedup
		if cfg.Confirm == nil {
			cfg.Confirm = r.seq.confirm
		}
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Batcher = b
	return r
}

func (r *rig) mustClose(t testing.TB) {
	t.Helper()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	for name, g := range map[string]prometheus.Metric{
		"waiters": r.metrics.waiters, "flights": r.metrics.flights, "pool entries": r.metrics.poolEntries,
		"pool bytes": r.metrics.poolBytes, "batches": r.metrics.batches, "write queue": r.metrics.writeQueue,
	} {
		if v := value(g); v != 0 {
			t.Errorf("after Close there are %v %s", v, name)
		}
	}
}

// result is what one Add returned, and when.
type result struct {
	sct  entry.SCT
	err  error
	took time.Duration
}

// add calls Add in a goroutine of its own.
func (r *rig) add(ctx context.Context, p *entry.Pending) <-chan result {
	c := make(chan result, 1)
	began := time.Now()
	go func() {
		sct, err := r.Add(ctx, p)
		c <- result{sct, err, time.Since(began)}
	}()
	return c
}

// mustAdd adds an entry and checks its SCT.
func (r *rig) mustAdd(t testing.TB, p *entry.Pending) entry.SCT {
	t.Helper()
	sct, err := r.Add(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	r.checkSCT(t, p, sct)
	return sct
}

// checkSCT fails unless the SCT is over this entry at the place it has.
func (r *rig) checkSCT(t testing.TB, p *entry.Pending, sct entry.SCT) {
	t.Helper()
	if held, _ := r.seq.confirm(t.Context(), p, sct.Placement); !held {
		t.Errorf("SCT names %v, where the entry is not", sct.Placement)
	}
	if want := signatureOf(p.AppendMerkleTreeLeaf(nil, sct.Placement)); string(sct.Signature) != string(want) {
		t.Errorf("SCT for %v does not verify", sct.Placement)
	}
}

// value returns the value of a counter or gauge.
func value(m prometheus.Metric) float64 {
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		panic(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

func (r *rig) misses(reason string) float64 {
	return value(r.metrics.misses.WithLabelValues(tierLong, reason))
}

// bubble runs a parallel test in fake time. Goroutines that outlive it fail it.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}
