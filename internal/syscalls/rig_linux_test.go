package syscalls_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// rig is a log that is brought back to one state for each case.
type rig struct {
	log    *testlogs.Log
	root   string // its folder
	url    string
	admin  string
	state  *disk
	before []*testlogs.SCT // of the entries in that state
	owed   *testlogs.Chain // committed in that state, not published, and never answered
}

// newRig makes a log of so many entries, not running.
func newRig(t *testing.T, entries int) *rig {
	t.Helper()
	ctx := t.Context()
	var addresses [2]string
	for i := range addresses {
		var err error
		if addresses[i], err = servers.FreeAddress(ctx); err != nil {
			t.Fatal(err)
		}
	}
	log := testlogs.New(t, testlogs.Options{Listen: addresses[0], Admin: addresses[1], Configure: func(c *config.Log) { c.Names = true }})
	r := &rig{
		log: log, root: filepath.Dir(log.ConfigPath),
		url: "http://" + addresses[0] + "/" + log.Conf.Name + "/", admin: "http://" + addresses[1] + "/",
	}
	log.Start()
	r.fill(t, entries)
	r.awaitRoots(t) // copied beside the first start, and never again
	log.Stop()
	var err error
	if r.state, err = readDisk(r.root); err != nil {
		t.Fatal(err)
	}
	return r
}

// cutRound makes the state one in which a process was killed after the commit of
// a round, before its objects were published.
func (r *rig) cutRound(ctx context.Context) error {
	chain, err := r.log.CA.Precert(testlogs.LeafOptions{})
	if err != nil {
		return err
	}
	c := newCase(r, fault{v: verdict{effect: kill}}, site{"mkdirat", "log/tile", 1})
	if _, err := c.reset(); err != nil {
		return err
	}
	if err := c.start(ctx, c.judge); err != nil {
		return err
	}
	defer func() { c.proc.kill() }()
	c.arm(true)
	if _, err := r.log.ClientAt(r.url).Submit(ctx, chain); err == nil || !isCut(err) {
		return fmt.Errorf("the round was not cut: %w", err)
	}
	<-c.proc.exited
	r.owed = &chain
	r.state, err = readDisk(r.root)
	return err
}

func (r *rig) awaitRoots(t *testing.T) {
	t.Helper()
	ctx := deadline(t, time.Minute)
	for {
		if _, err := os.Stat(filepath.Join(r.root, "log", "roots", "latest")); err == nil {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("the roots are not copied")
		}
	}
}

func (r *rig) fill(t *testing.T, entries int) {
	t.Helper()
	client := r.log.ClientAt(r.url)
	r.before = make([]*testlogs.SCT, entries)
	g, ctx := errgroup.WithContext(t.Context())
	g.SetLimit(32)
	for i := range entries {
		g.Go(func() (err error) {
			chain, err := r.log.CA.Precert(testlogs.LeafOptions{})
			if err == nil {
				r.before[i], err = client.Submit(ctx, chain)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

// reset brings the state back and returns an auditor that knows the SCTs of it.
func (r *rig) reset() (*testlogs.Auditor, error) {
	if err := r.state.store(); err != nil {
		return nil, err
	}
	a, err := testlogs.NewAuditor(testlogs.AuditorConfig{URL: r.url, Origin: r.log.Conf.Origin, SPKI: r.log.SPKI, Names: true})
	if err == nil {
		a.Remember(r.before...)
	}
	return a, err
}

func (r *rig) serve(judge func(*sysCall) verdict) (*process, error) {
	return serve(r.log.ConfigPath, r.root, r.url, r.admin, judge)
}

// what a path is called in a table: the same in every run.
var (
	reHash = regexp.MustCompile(`[0-9a-f]{16,64}`)
	reTemp = regexp.MustCompile(`^log/\.kiln/tmp/[^/]+$`)
)

func (r *rig) label(path string) string {
	rel, err := filepath.Rel(r.root, path)
	if err != nil {
		return path
	}
	if reTemp.MatchString(rel) {
		return "log/.kiln/tmp/TEMP"
	}
	return reHash.ReplaceAllString(rel, "HASH")
}

// site is a call of a round: the how many-th of this name on this file.
type site struct {
	call string
	file string
	nth  int // from 1
}

func (s site) String() string { return fmt.Sprintf("%s %s #%d", s.call, s.file, s.nth) }

// survey runs the work of a case without faults and lists its calls in order.
func (r *rig) survey(ctx context.Context) ([]site, error) {
	var list []site
	count := map[site]int{}
	c := newCase(r, fault{}, site{})
	c.watch = func(call *sysCall) verdict {
		s := site{call: call.name, file: r.label(call.path)}
		count[s]++
		s.nth = count[s]
		list = append(list, s)
		return verdict{}
	}
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("without a fault: %w", err)
	}
	return list, nil
}

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
