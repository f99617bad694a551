package main

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// screen is a terminal that a test looks at while it is drawn on.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// drawn returns what was drawn since the last call.
func (s *screen) drawn() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.text.Reset()
	return s.text.String()
}

// TestProgress follows work of ten units a second.
func TestProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var terminal screen
		p := newProgress(&terminal, "checking tiles")
		for i := range int64(30) {
			p.set(i, 100)
			if i < 9 {
				if early := terminal.drawn(); early != "" {
					t.Fatalf("after %d00 ms the terminal has %q", i, early)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		drawn := terminal.drawn()
		for _, want := range []string{"checking tiles", "/100"} {
			if !strings.Contains(drawn, want) {
				t.Errorf("the terminal lacks %q: %q", want, drawn)
			}
		}
		rates := regexp.MustCompile(`([0-9]+) it/s`).FindAllStringSubmatch(drawn, -1)
		if len(rates) == 0 {
			t.Errorf("no rate: %q", drawn)
		}
		for _, r := range rates {
			if n, err := strconv.Atoi(r[1]); err != nil || n > 20 {
				t.Errorf("a rate of %s a second, want about 10", r[1])
			}
		}

		time.Sleep(5 * time.Second) // work is stuck: the time that it takes goes on being shown
		synctest.Wait()
		if stuck := terminal.drawn(); !strings.Contains(stuck, "[7s") {
			t.Errorf("while nothing goes on the terminal has %q", stuck)
		}
		p.end()
		p.end()
		if last := terminal.drawn(); !strings.HasSuffix(last, "\r\033[K") {
			t.Errorf("at the end the terminal has %q", last)
		}
		p.set(100, 100)
		if late := terminal.drawn(); late != "" {
			t.Errorf("after the end it draws %q", late)
		}
	})
}

// TestProgressOfShortWork draws nothing.
func TestProgressOfShortWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var terminal screen
		p := newProgress(&terminal, "checking tiles")
		p.set(1, 2)
		time.Sleep(900 * time.Millisecond)
		p.end()
		time.Sleep(5 * time.Second)
		if drawn := terminal.drawn(); drawn != "" {
			t.Errorf("the terminal has %q", drawn)
		}
	})
	new(progress).set(1, 2) // where there is no terminal
	new(progress).end()
}
