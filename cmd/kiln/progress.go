package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progressDelay is how long work goes on before its progress is shown.
const progressDelay = time.Second

// progress shows how far a long piece of work is, on a terminal only, and from
// its second second on. Its methods are safe for concurrent use.
type progress struct {
	mu   sync.Mutex // guards all below
	e    *env
	what string
	bar  *progressbar.ProgressBar // nil until it is shown
	from time.Time
	tty  bool
	done bool
}

// progress begins to follow a piece of work; the caller calls end. what is a
// few words, as "checking tiles".
func (e *env) progress(what string) *progress {
	f, ok := e.stderr.(*os.File)
	return &progress{e: e, what: what, from: time.Now(), tty: ok && term.IsTerminal(int(f.Fd()))}
}

// set says that done of total units are finished; a total below 1 is unknown.
func (p *progress) set(done, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tty || p.done || time.Since(p.from) < progressDelay {
		return
	}
	if total < 1 {
		total = -1
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.e.stderr),
			progressbar.OptionSetDescription(p.what),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionSetPredictTime(true),
			progressbar.OptionFullWidth(),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionClearOnFinish(),
		)
	}
	if p.bar.GetMax64() != total {
		p.bar.ChangeMax64(total)
	}
	_ = p.bar.Set64(done) // the terminal is gone: nobody looks
}

// end takes the bar off the terminal.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	p.done = true
	if p.bar != nil {
		_ = p.bar.Clear()
		fmt.Fprint(p.e.stderr, "\r")
	}
}
