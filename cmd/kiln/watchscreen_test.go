package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/internal/watch"
)

// The screen shows what differed whole, however narrow the terminal is, and never
// more lines than it has: it is drawn over itself.
func TestWatchScreen(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 10, 3, 12, 0, 0, 0, time.UTC)
	long := "tile/0/002.p/88: hash 7 (index 519) is not that of the entry in tile/data/002.p/88: got " +
		strings.Repeat("ab", 32) + ", want " + strings.Repeat("cd", 32)
	st := watch.Status{Checkpoint: checkpoint.Checkpoint{Origin: "ct.example.net/2026h2", Tree: tlog.Tree{N: 600}, TimestampMillis: now.UnixMilli()}, FineAt: now}
	faulty, unknown, stale, swept := st, st, st, st
	faulty.Fault, faulty.Where = long, "log"
	unknown.Unknown, unknown.Since = errors.New("no such host"), now.Add(-time.Minute)
	stale.StaleFor = time.Minute
	swept.Tiles, swept.Swept, swept.Sweeps = 3, 7, 2
	for name, c := range map[string]struct {
		st    watch.Status
		event string
		want  string // without white space
	}{
		"well":    {st, "", "state well, looked at 0s ago"},
		"first":   {watch.Status{}, "", "size not known yet checked 0 hashes of entries state looking for the first time"},
		"unknown": {unknown, "unknown", "state unknown since 1m0s: no such host"},
		"stale":   {stale, "", "state ALARM, stale: 1m0s over its age"},
		"fault":   {faulty, "", "state FAULT: " + long},
		"event":   {st, "cdn", "12:00:00 cdn: tile/0/002.p/88: " + long},
		"swept":   {swept, "", "all 3 older tiles 2 times"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, width := range []int{30, 79, 200} {
				s := newWatchScreen(nil, "https://ct.example.net/2026h2/", func() time.Time { return now })
				for range 2 * watchEvents {
					s.event(watch.Event{Time: now, Event: "unknown", Detail: "older"})
				}
				if c.event != "" {
					s.event(watch.Event{Time: now, Event: c.event, Path: "tile/0/002.p/88", Detail: long})
				}
				lines := s.linesLocked(c.st, width, 40)
				text := strings.Join(lines, "")
				if bare := strings.NewReplacer(" ", ""); !strings.Contains(bare.Replace(text), bare.Replace(c.want)) {
					t.Errorf("width %d: want %q in\n%s", width, c.want, strings.Join(lines, "\n"))
				}
				for _, line := range lines {
					if n := len([]rune(line)); n > width {
						t.Errorf("width %d: a line has %d: %q", width, n, line)
					}
				}
				for _, height := range []int{1, 5, 10} {
					if n := len(s.linesLocked(c.st, width, height)); n > height {
						t.Errorf("width %d: %d lines on a terminal of %d", width, n, height)
					}
				}
			}
		})
	}
}
