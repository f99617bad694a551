package daemon_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"kiln/dedup"
	"kiln/entry"
	"kiln/internal/catchup"
	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/testlogs"
)

// TestRebuildDedup empties the cache of a log, fills it, is cut off, and goes on.
func TestRebuildDedup(t *testing.T) {
	t.Parallel()
	log := testlogs.Start(t, testlogs.Options{})
	ctx := t.Context()
	var chain testlogs.Chain
	for range 5 {
		var err error
		if chain, err = log.CA.Precert(testlogs.LeafOptions{DNS: []string{"www.example.org"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Client().Submit(ctx, chain); err != nil {
			t.Fatal(err)
		}
	}
	first, err := log.Client().Submit(ctx, chain)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(log.ConfigPath, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	parts, err := daemon.OpenParts(ctx, cfg, cfg.Logs[0], daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer parts.Close()
	if _, err := parts.RebuildDedup(ctx, daemon.Options{}, false, nil); !errors.Is(err, dedup.ErrInUse) || !strings.Contains(err.Error(), "stop kiln serve") {
		t.Errorf("beside the log that is served: %v", err)
	}
	log.Stop()
	log.ForgetDedup()

	cut, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := parts.RebuildDedup(cut, daemon.Options{}, false, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
	for _, c := range []struct {
		fromStart bool
		from      int64
	}{{false, 0}, {false, 5}, {true, 0}} {
		done := int64(0)
		r, err := parts.RebuildDedup(ctx, daemon.Options{}, c.fromStart, func(n, total int64) { done = n })
		if want := (daemon.Rebuilt{From: c.from, Covered: 5, TreeSize: 5}); err != nil || r != want {
			t.Errorf("rebuilt %+v, %v; want %+v", r, err, want)
		}
		if c.from == 0 && done != 5 {
			t.Errorf("progress ended at %d", done)
		}
		s, err := parts.StatDedup(ctx, func(int64, int64) {})
		if err != nil || s.Rows != 5 || s.Covered != 5 || s.TreeSize != 5 {
			t.Errorf("stat %+v, %v", s, err)
		}
	}

	// A log does not start without its cache while that is being rebuilt.
	c, err := parts.OpenDedup(ctx, daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.TryStart(); !errors.Is(err, dedup.ErrInUse) || !strings.Contains(err.Error(), "kiln dedup rebuild") {
		t.Errorf("start: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	log.Start()
	testAhead(t, log, parts)
	again, err := log.Client().Submit(ctx, chain)
	if err != nil || again.TimestampMillis != first.TimestampMillis {
		t.Errorf("a resubmission after the rebuild: %+v, %v; the first was %+v", again, err, first)
	}
}

// testAhead has a cache that knows of an entry that the lock does not: it is
// evidence, and kept.
func testAhead(t *testing.T, log *testlogs.Log, parts *daemon.Parts) {
	t.Helper()
	log.Stop()
	defer log.Start()
	c, err := parts.OpenDedup(t.Context(), daemon.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.ForgetDedup()
	if err := c.Put(t.Context(), []entry.Key{{1}}, []entry.Placement{{Index: 5, TimestampMillis: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, fromStart := range []bool{false, true} {
		if _, err := parts.PlanDedup(t.Context(), fromStart); !errors.Is(err, catchup.ErrAhead) {
			t.Errorf("plan: %v", err)
		}
		if _, err := parts.RebuildDedup(t.Context(), daemon.Options{}, fromStart, nil); !errors.Is(err, catchup.ErrAhead) {
			t.Errorf("rebuild: %v", err)
		}
		if s, err := parts.StatDedup(t.Context(), nil); err != nil || s.Covered != 6 {
			t.Errorf("stat: %+v, %v", s, err)
		}
	}
}
