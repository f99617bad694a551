package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const (
	// progressDelay is how long work goes on before its progress is shown.
	progressDelay = time.Second
	// progressBeat is how often it is drawn anew, whether it went on or not.
	progressBeat = 250 * time.Millisecond
)

// progress shows how far a long piece of work is, on a terminal only, and from
// its second second on. Its methods are safe for concurrent use.
type progress struct {
	bar  *progressbar.ProgressBar // nil: nobody looks
	out  *gate
	stop chan struct{} // closed by end
	gone chan struct{} // closed when nothing draws any more
	once sync.Once
}

// progress begins to follow a piece of work; the caller calls end. what is a
// few words, as "checking tiles".
func (e *env) progress(what string) *progress {
	f, ok := e.stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return new(progress)
	}
	return newProgress(f, what)
}

// newProgress draws on a terminal.
func newProgress(terminal io.Writer, what string) *progress {
	p := &progress{out: &gate{to: terminal}, stop: make(chan struct{}), gone: make(chan struct{})}
	p.bar = progressbar.NewOptions64(-1,
		progressbar.OptionSetWriter(p.out),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionSetSpinnerChangeInterval(0), // draw beats, and ends
		progressbar.OptionSetWidth(24),
		progressbar.OptionThrottle(progressBeat/2),
		progressbar.OptionClearOnFinish(),
	)
	go p.draw()
	return p
}

// draw opens the gate after the delay, and draws at each beat, so that work that
// is stuck is seen to be.
func (p *progress) draw() {
	defer close(p.gone)
	delay := time.NewTimer(progressDelay)
	defer delay.Stop()
	select {
	case <-p.stop:
		return
	case <-delay.C:
	}
	p.out.open()
	beat := time.NewTicker(progressBeat)
	defer beat.Stop()
	for {
		_ = p.bar.RenderBlank() // the terminal is gone: nobody looks
		select {
		case <-p.stop:
			return
		case <-beat.C:
		}
	}
}

// set says that done of total units are finished; a total below 1 is unknown.
func (p *progress) set(done, total int64) {
	if p.bar == nil {
		return
	}
	if total < 1 {
		total = -1
	}
	if p.bar.GetMax64() != total {
		p.bar.ChangeMax64(total)
	}
	_ = p.bar.Set64(done)
}

// end takes the bar off the terminal.
func (p *progress) end() {
	if p.bar == nil {
		return
	}
	p.once.Do(func() {
		close(p.stop)
		<-p.gone
		_ = p.bar.Clear()
		p.out.end()
	})
}

// gate lets nothing through before it is opened, and takes away what it let
// through when it ends. It is safe for concurrent use.
type gate struct {
	mu     sync.Mutex // guards all below
	to     io.Writer
	opened bool
	used   bool
}

// Write implements io.Writer.
func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.opened {
		return len(b), nil
	}
	g.used = true
	return g.to.Write(b)
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opened = true
}

func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.used {
		_, _ = g.to.Write([]byte("\r\033[K"))
	}
	g.opened = false
}
