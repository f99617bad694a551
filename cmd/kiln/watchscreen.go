package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"kiln/internal/watch"
)

// Of the screen of kiln watch.
const (
	watchBeat   = time.Second // how often it is drawn
	watchEvents = 6           // the newest that are shown
	watchGrowth = time.Minute // over which growth is told
)

// watchScreen shows a watcher on a terminal. It is safe for concurrent use.
type watchScreen struct {
	out *os.File
	url string
	now func() time.Time

	mu     sync.Mutex // guards all below
	events []watch.Event
	what   string // of the progress
	done   int64
	total  int64
	sizes  []sizeAt
	drawn  int // lines on the screen
}

// sizeAt is a size that the log had.
type sizeAt struct {
	at   time.Time
	size int64
}

func newWatchScreen(out *os.File, url string, now func() time.Time) *watchScreen {
	return &watchScreen{out: out, url: url, now: now}
}

func (s *watchScreen) event(ev watch.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ev.Event == "grown" {
		return // the size shows it
	}
	s.events = append(s.events, ev)
	s.events = s.events[max(0, len(s.events)-watchEvents):]
}

func (s *watchScreen) progress(what string, done, total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.what, s.done, s.total = what, done, total
}

func (s *watchScreen) follow(w *watch.Watcher) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(watchBeat)
		defer ticker.Stop()
		for {
			s.draw(w.Status())
			select {
			case <-ticker.C:
			case <-end:
				s.draw(w.Status())
				return
			}
		}
	})
	return func() {
		close(end)
		wg.Wait()
	}
}

// draw writes the screen over the one before.
func (s *watchScreen) draw(st watch.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	width, _, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width < 20 {
		width = 80
	}
	lines := s.linesLocked(st)
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	for _, line := range lines {
		if r := []rune(line); len(r) > width-1 {
			line = string(r[:width-1])
		}
		b.WriteString("\r\x1b[K" + line + "\n")
	}
	b.WriteString("\x1b[J")
	s.drawn = len(lines)
	_, _ = s.out.WriteString(b.String()) // the terminal is gone: nobody looks
}

func (s *watchScreen) linesLocked(st watch.Status) []string {
	now := s.now()
	c := st.Checkpoint
	lines := []string{"log      " + s.url}
	if c.TimestampMillis == 0 {
		lines = append(lines, "size     not known yet")
	} else {
		at := time.UnixMilli(c.TimestampMillis)
		lines = append(lines,
			"origin   "+c.Origin,
			fmt.Sprintf("size     %d%s", c.Tree.N, s.growthLocked(now, c.Tree.N)),
			fmt.Sprintf("age      %v, of %s", now.Sub(at).Round(time.Second), at.UTC().Format(time.RFC3339)))
	}
	lines = append(lines, fmt.Sprintf("checked  %d entries anew; sweep %d of %d older tiles, %d times over all",
		st.Entries, st.Swept-st.Sweeps*st.Tiles, st.Tiles, st.Sweeps))
	if s.total > 0 && s.done < s.total {
		lines = append(lines, fmt.Sprintf("now      %s, %d of %d", s.what, s.done, s.total))
	}
	lines = append(lines, "state    "+stateOf(st, now), "")
	for _, ev := range s.events {
		lines = append(lines, sayEvent(ev))
	}
	return lines
}

// growthLocked says by how much the log has grown lately.
func (s *watchScreen) growthLocked(now time.Time, size int64) string {
	s.sizes = append(s.sizes, sizeAt{now, size})
	for len(s.sizes) > 1 && now.Sub(s.sizes[0].at) > watchGrowth {
		s.sizes = s.sizes[1:]
	}
	if grown := size - s.sizes[0].size; grown > 0 {
		return fmt.Sprintf(", %d more in %v", grown, now.Sub(s.sizes[0].at).Round(time.Second))
	}
	return ""
}

func stateOf(st watch.Status, now time.Time) string {
	switch {
	case st.Fault != "" && st.Where == "log":
		return "FAULT: " + st.Fault
	case st.Fault != "":
		return "ALARM, what stands before the log: " + st.Fault
	case st.Unknown != nil:
		return fmt.Sprintf("unknown since %v: %v", now.Sub(st.Since).Round(time.Second), st.Unknown)
	case st.StaleFor > 0:
		return fmt.Sprintf("ALARM, stale: %v over its age", st.StaleFor.Round(time.Second))
	case st.FineAt.IsZero():
		return "looking for the first time"
	}
	return fmt.Sprintf("well, looked at %v ago", now.Sub(st.FineAt).Round(time.Second))
}
