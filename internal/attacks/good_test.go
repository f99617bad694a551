package attacks_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"kiln/testlogs"
)

// goodRate is how many fresh precertificates the well-behaved CA submits a
// second, each at its time whatever became of the ones before.
const goodRate = 20

// patience is how long the well-behaved clients wait for one answer.
const patience = 20 * time.Second

// good is what well-behaved clients saw.
type good struct {
	mu       sync.Mutex
	sent     int             // submissions
	accepted []time.Duration // times of those that got their SCT
	refused  map[string]int  // the others, by status or error
	reads    []time.Duration // of the monitor
	failed   map[string]int  // its failures
	scts     []*testlogs.SCT
	wrong    []error // what can never be right: a bad SCT, a broken log
}

// outcome names what became of a request, in few words.
func outcome(err error) string {
	var status *testlogs.StatusError
	var op *net.OpError
	switch {
	case errors.As(err, &status):
		return strconv.Itoa(status.Code)
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &op):
		return op.Op
	case err != nil:
		return cut
	}
	return "200"
}

// cut is the outcome of what ended in any other way than with an answer.
const cut = "cut"

// isNetwork reports whether an error is of the way to the log, not of what it
// said.
func isNetwork(err error) bool {
	var u *url.Error
	return errors.As(err, &u) || errors.Is(err, io.ErrUnexpectedEOF)
}

// run submits and monitors until ctx ends, then waits for the last answers.
func (g *good) run(ctx context.Context, a *arena) {
	g.refused, g.failed = make(map[string]int), make(map[string]int)
	var all sync.WaitGroup
	all.Go(func() { g.monitor(ctx, a) })
	tick := time.NewTicker(time.Second / goodRate)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			all.Go(func() { g.submit(context.WithoutCancel(ctx), a) })
		case <-ctx.Done():
		}
	}
	all.Wait()
	a.auditor.Remember(g.scts...)
}

func (g *good) submit(ctx context.Context, a *arena) {
	chain, err := a.log.CA.Precert(testlogs.LeafOptions{})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	sct, err := a.good.Submit(ctx, chain)
	took := time.Since(began)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sent++
	if err != nil {
		g.refused[outcome(err)]++
		if outcome(err) == cut && !isNetwork(err) {
			g.wrong = append(g.wrong, fmt.Errorf("submission: %w", err))
		}
		return
	}
	g.accepted = append(g.accepted, took)
	g.scts = append(g.scts, sct)
}

// monitor follows the log: each checkpoint, then the tiles at its right edge.
func (g *good) monitor(ctx context.Context, a *arena) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.look(context.WithoutCancel(ctx), a)
		}
	}
}

func (g *good) look(ctx context.Context, a *arena) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now()
	c, err := a.auditor.Observe(ctx)
	g.noteRead(time.Since(began), err)
	if err != nil || c.N == 0 {
		return
	}
	for _, kind := range []string{"tile/0/", "tile/data/"} {
		path := kind + tilePath((c.N-1)/256, int((c.N-1)%256)+1)
		began := time.Now()
		resp, err := get(ctx, a.goodHTTP, a.url+path)
		if err == nil {
			err = drain(resp)
		}
		g.noteRead(time.Since(began), err)
	}
}

func (g *good) noteRead(took time.Duration, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.failed[outcome(err)]++
		if outcome(err) == cut && !isNetwork(err) {
			g.wrong = append(g.wrong, fmt.Errorf("monitor: %w", err))
		}
		return
	}
	g.reads = append(g.reads, took)
}

// drain reads an answer to its end and wants a 200.
func drain(resp *http.Response) error {
	defer resp.Body.Close()
	if _, err := discard(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return &testlogs.StatusError{URL: resp.Request.URL.String(), Code: resp.StatusCode}
	}
	return nil
}

// tilePath is the path of a tile below its level (tlog's form).
func tilePath(n int64, width int) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	if width < 256 {
		path += fmt.Sprintf(".p/%d", width)
	}
	return path
}

// quantile returns the q-th part of sorted durations.
func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	all = slices.Clone(all)
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}
