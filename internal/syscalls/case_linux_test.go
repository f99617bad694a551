package syscalls_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"kiln/testlogs"
)

// fault is what happens to a call.
type fault struct {
	name  string
	v     verdict
	times int // how many calls on the same file, from the first one on, it meets; 0 is one
	// cut is a power cut: in the place of the kill, or, for other effects, when the
	// first SCT has arrived.
	cut bool
}

// run is one case: a log at work, a fault at one of its calls, and what follows.
type run struct {
	*rig
	fault fault
	site  site
	watch func(*sysCall) verdict // in the place of the fault

	auditor *testlogs.Auditor
	client  *testlogs.Client
	proc    *process
	entries int // what the log must hold

	mu    sync.Mutex
	seen  int // calls like the site's since the work began
	hits  int
	armed bool

	// What is told in the table.
	clients map[string]int // answers by kind
	outcome string         // how the log went on
}

func newCase(r *rig, f fault, s site) *run {
	return &run{rig: r, fault: f, site: s, clients: map[string]int{}, entries: len(r.before)}
}

// judge is the supervisor's: it meets the call at the site.
func (c *run) judge(call *sysCall) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.armed {
		return verdict{}
	}
	if c.watch != nil {
		return c.watch(call)
	}
	if call.name != c.site.call || c.label(call.path) != c.site.file {
		return verdict{}
	}
	c.seen++
	if c.seen < c.site.nth || c.seen >= c.site.nth+max(1, c.fault.times) {
		return verdict{}
	}
	c.hits++
	return c.fault.v
}

func (c *run) arm(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = on
}

func (c *run) hit() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits
}

// errNotMet says that no call met the fault.
var errNotMet = errors.New("no call met the fault")

func (c *run) run(ctx context.Context) (err error) {
	if c.auditor, err = c.reset(); err != nil {
		return err
	}
	c.client = c.log.ClientAt(c.url)
	defer func() {
		if c.proc == nil {
			return
		}
		c.proc.kill()
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, c.proc.output)
		}
	}()
	chains, scts, err := c.work(ctx)
	if err != nil {
		return err
	}
	c.arm(false)
	if err := c.powerCut(ctx); err != nil {
		return err
	}
	if err := c.describe(); err != nil {
		return err
	}
	return c.finish(ctx, chains, scts)
}

// work is what the fault is met in: a start that finishes what was cut off, or two
// rounds. Both have an entry each, so that their calls are the same every time.
func (c *run) work(ctx context.Context) (chains []testlogs.Chain, scts []*testlogs.SCT, err error) {
	c.arm(c.owed != nil)
	if err := c.firstStart(ctx); err != nil {
		return nil, nil, err
	}
	if c.watch != nil && c.owed != nil {
		c.arm(false) // only the start is looked at
	}
	if err := c.look(ctx); err != nil {
		return nil, nil, err
	}
	if c.owed != nil {
		chains = append(chains, *c.owed)
	} else {
		c.arm(true)
	}
	for len(chains) < 2 {
		chain, err := c.log.CA.Precert(testlogs.LeafOptions{})
		if err != nil {
			return nil, nil, err
		}
		chains = append(chains, chain)
	}
	for _, chain := range chains {
		c.entries++
		sct, err := c.submit(ctx, chain)
		if err != nil {
			return nil, nil, err
		}
		if err := c.settle(ctx); err != nil {
			return nil, nil, err
		}
		scts = append(scts, sct)
	}
	return chains, scts, nil
}

// firstStart starts the log. A fault may keep it from starting: then it says
// what failed, and starts when the fault is gone.
func (c *run) firstStart(ctx context.Context) error {
	err := c.start(ctx, c.judge)
	switch {
	case err == nil || !errors.Is(err, errExited) || c.hit() == 0:
		return err
	case c.killed():
		return c.revive(ctx)
	case !strings.Contains(c.proc.output.all(), c.root):
		return fmt.Errorf("the start was refused, and the error names no file: %w", err)
	}
	c.outcome = "a start was refused, the next one went well"
	return c.start(ctx, nil)
}

func (c *run) killed() bool { return c.fault.v.effect == kill || c.fault.v.effect == killAfter }

// start starts the log and waits until it serves.
func (c *run) start(ctx context.Context, judge func(*sysCall) verdict) (err error) {
	if c.proc, err = c.serve(judge); err != nil {
		return err
	}
	return c.proc.ready(ctx)
}

// look has the auditor see the checkpoint as it is now.
func (c *run) look(ctx context.Context) error {
	_, err := c.auditor.Observe(ctx)
	if err != nil && isCut(err) && c.expectsKill() && c.hit() > 0 {
		return nil // it is dead or dying
	}
	return err
}

// submit posts a chain from three clients at once, each again until it has the
// SCT: all get the same. Meanwhile a process that was killed is started again.
func (c *run) submit(ctx context.Context, chain testlogs.Chain) (*testlogs.SCT, error) {
	const clients = 3
	answers := make(chan answer, clients)
	ask := func() {
		p := c.proc
		go func() {
			sct, err := c.client.Submit(ctx, chain)
			answers <- answer{p, sct, err}
		}()
	}
	for range clients {
		ask()
	}
	var first *testlogs.SCT
	var failed error
	for waiting := clients; waiting > 0; waiting-- {
		a := <-answers
		again, err := c.judgeAnswer(ctx, a, first)
		failed = errors.Join(failed, err)
		if failed != nil {
			continue // the others are waited for
		}
		if first == nil && a.sct != nil {
			first = a.sct
			c.auditor.Remember(first)
			failed = c.powerCut(ctx)
		}
		if again {
			waiting++
			ask()
		}
	}
	if failed != nil {
		return nil, failed
	}
	return first, c.look(ctx)
}

type answer struct {
	proc *process // that was asked
	sct  *testlogs.SCT
	err  error
}

// judgeAnswer reports whether a client has to ask again, or that its answer is
// one that kiln must not give.
func (c *run) judgeAnswer(ctx context.Context, a answer, first *testlogs.SCT) (again bool, err error) {
	var status *testlogs.StatusError
	switch {
	case a.err == nil && first != nil && string(a.sct.Body) != string(first.Body):
		return false, fmt.Errorf("two SCTs for one entry: %s and %s", a.sct.Body, first.Body)
	case a.err == nil:
		c.clients["SCT"]++
		return false, nil
	case ctx.Err() != nil:
		return false, fmt.Errorf("no SCT in time: %w", a.err)
	case errors.As(a.err, &status) && status.Code == http.StatusServiceUnavailable && status.RetryAfter > 0:
		c.clients["503"]++
		return true, c.afterRefusal(ctx)
	case isCut(a.err) && !c.expectsKill():
		return false, fmt.Errorf("the connection was cut, and the process not killed: %w", a.err)
	case isCut(a.err) && a.proc != c.proc:
		return true, nil // another client found out before
	case isCut(a.err):
		c.clients["cut"]++
		return true, c.revive(ctx)
	}
	return false, a.err
}

func (c *run) expectsKill() bool {
	return c.fault.cut || c.killed()
}

// afterRefusal keeps a client from spinning; a log that has stopped for good is
// started again, as an operator would.
func (c *run) afterRefusal(ctx context.Context) error {
	if line := c.proc.stopped(); line != "" {
		c.outcome = "stopped: " + line
		c.arm(false)
		c.proc.kill()
		return c.start(ctx, nil)
	}
	select {
	case <-time.After(20 * time.Millisecond):
	case <-ctx.Done():
	}
	return nil
}

// revive starts the process again if the fault has killed it.
func (c *run) revive(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	select {
	case <-c.proc.exited:
	case <-ctx.Done():
		return fmt.Errorf("the connection was cut, but the process lives: %w", ctx.Err())
	}
	if c.fault.cut {
		if err := c.proc.sup.disk.store(); err != nil {
			return err
		}
	}
	c.outcome = "after a new start"
	if err := c.start(ctx, nil); err != nil {
		return err
	}
	return c.look(ctx)
}

// powerCut cuts the power at the first SCT after a sync has failed.
func (c *run) powerCut(ctx context.Context) error {
	if !c.fault.cut || c.killed() || c.hit() == 0 || c.outcome != "" {
		return nil
	}
	if err := c.proc.cut(); err != nil {
		return err
	}
	c.outcome = "after a new start"
	if err := c.start(ctx, nil); err != nil {
		return err
	}
	return c.look(ctx)
}

// settle waits until what follows an SCT is done: the long-term cache is written.
func (c *run) settle(ctx context.Context) error {
	for {
		if !c.proc.alive() {
			return c.revive(ctx)
		}
		if c.proc.metric(ctx, "kiln_dedup_covered_entries") >= int64(c.entries) || c.watch == nil && c.hit() > 0 {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the cache was not written: %w", ctx.Err())
		}
	}
}

// describe checks that the fault was met, and what became of the process.
func (c *run) describe() error {
	switch {
	case c.watch != nil:
		return nil
	case c.hit() == 0:
		return errNotMet
	case c.outcome == "" && c.proc.alive():
		c.outcome = "by itself"
	}
	return nil
}

// finish kills the process, starts it in peace and audits the log: what was
// promised is there, what is asked again is answered the same, and new entries
// are taken.
func (c *run) finish(ctx context.Context, chains []testlogs.Chain, scts []*testlogs.SCT) error {
	c.proc.kill()
	c.proc.sup.mu.Lock()
	err := c.proc.sup.err
	c.proc.sup.mu.Unlock()
	if err != nil {
		return fmt.Errorf("supervisor: %w", err)
	}
	if err := c.start(ctx, nil); err != nil {
		return err
	}
	for i, chain := range chains {
		sct, err := c.client.Submit(ctx, chain)
		if err != nil {
			return fmt.Errorf("asked again: %w", err)
		}
		if string(sct.Body) != string(scts[i].Body) {
			return fmt.Errorf("asked again the answer is %s, was %s", sct.Body, scts[i].Body)
		}
	}
	chain, err := c.log.CA.Precert(testlogs.LeafOptions{})
	if err != nil {
		return err
	}
	sct, err := c.client.Submit(ctx, chain)
	if err != nil {
		return fmt.Errorf("a new entry after all: %w", err)
	}
	c.entries++
	c.auditor.Remember(sct)
	report, err := c.auditor.Audit(ctx)
	if err != nil {
		return err
	}
	if report.Checkpoint.N != int64(c.entries) || len(report.Repeated) > 0 {
		return fmt.Errorf("%d different submissions gave %d entries, of which %v are there twice", c.entries, report.Checkpoint.N, report.Repeated)
	}
	return nil
}

// isCut reports whether an error only says that the process was gone or going.
func isCut(err error) bool {
	var transport *url.Error
	var network *net.OpError
	return errors.As(err, &transport) || errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF)
}

// faults by the name of a call.
func faultsOf(call string) []fault {
	errno := func(name string, e effect, n unix.Errno, times int) fault {
		return fault{name: name, v: verdict{e, n}, times: times}
	}
	list := []fault{
		errno("EIO", fail, unix.EIO, 1), errno("EIO after", failAfter, unix.EIO, 1),
		errno("ENOSPC", fail, unix.ENOSPC, 1),
		errno("EIO ×12", fail, unix.EIO, 12),
		{name: "kill", v: verdict{effect: kill}},
		{name: "kill after", v: verdict{effect: killAfter}},
		{name: "power cut", v: verdict{effect: kill}, cut: true},
		{name: "power cut after", v: verdict{effect: killAfter}, cut: true},
	}
	if strings.Contains(call, "write") {
		list = append(list, fault{name: "short", v: verdict{effect: shorten}})
	}
	if strings.Contains(call, "sync") {
		list = append(list, fault{name: "EIO, power cut later", v: verdict{fail, unix.EIO}, cut: true})
	}
	return list
}
