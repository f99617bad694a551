package main

import (
	"fmt"
	"os"
	"slices"
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
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width < 30 || height < 2 {
		width, height = 80, 24
	}
	lines := s.linesLocked(st, width-1, height-1)
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	for _, line := range lines {
		b.WriteString("\r\x1b[K" + line + "\n")
	}
	b.WriteString("\x1b[J")
	s.drawn = len(lines)
	_, _ = s.out.WriteString(b.String()) // the terminal is gone: nobody looks
}

// indent is where the second and later lines of one thing begin.
const indent = "         "

// wrapped breaks a line where it does not fit: what differed has to be seen whole.
func wrapped(line string, width int) (lines []string) {
	r := []rune(line)
	for len(r) > width {
		at := width
		for i := width; i > max(width/2, len(indent)); i-- {
			if r[i] == ' ' {
				at = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(r[:at]), " "))
		r = append([]rune(indent), []rune(strings.TrimLeft(string(r[at:]), " "))...)
	}
	return append(lines, string(r))
}

// linesLocked is what is shown, with as many of the newest events as fit.
func (s *watchScreen) linesLocked(st watch.Status, width, height int) []string {
	var head, events []string
	for _, line := range s.headLocked(st) {
		head = append(head, wrapped(line, width)...)
	}
	for _, ev := range slices.Backward(s.events) {
		more := wrapped(onScreen(ev), width)
		if len(events) > 0 && len(head)+len(events)+len(more) > height {
			break
		}
		events = append(more, events...)
	}
	lines := append(head, events...)
	return lines[:min(len(lines), max(height, 1))]
}

// onScreen is an event without its day and what the head shows.
func onScreen(ev watch.Event) string {
	at := ev.Time.Format(time.TimeOnly)
	if ev.Event == "begun" {
		return fmt.Sprintf("%s begun: size %d, root %.16s…", at, ev.TreeSize, ev.RootHash)
	}
	_, text, _ := strings.Cut(sayEvent(ev), " ")
	return at + " " + text
}

// headLocked says how the log does now.
func (s *watchScreen) headLocked(st watch.Status) []string {
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
	lines = append(lines, fmt.Sprintf("checked  %d hashes of entries%s", st.Entries, sweepOf(st)))
	if s.total > 0 && s.done < s.total {
		lines = append(lines, fmt.Sprintf("now      %s, %d of %d", s.what, s.done, s.total))
	}
	return append(lines, "state    "+stateOf(st, now), "")
}

// sweepOf says how far the sweep over older tiles is.
func sweepOf(st watch.Status) string {
	switch {
	case st.Tiles == 0:
		return ""
	case st.Sweeps == 0:
		return fmt.Sprintf(", %d of %d older tiles", min(st.Swept, st.Tiles), st.Tiles)
	}
	return fmt.Sprintf(", all %d older tiles %d times", st.Tiles, st.Sweeps)
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
