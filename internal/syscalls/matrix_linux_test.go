package syscalls_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

var (
	allCases = flag.Bool("syscalls.all", false, "make every call of a round fail in every way, and print a table")
	only     = flag.String("syscalls.only", "", "with a regular expression: only cases whose text it matches")
)

// scenario is a state of the log before the two rounds of a case.
type scenario struct {
	name    string
	entries int
	cut     bool // a round was cut off, and the faults are met by the start after it
	pairs   bool // the selection has each call with each fault, and not only each kind of file
}

// scenarios: a first entry ever makes all folders and stores the issuers; two
// more after 255 fill a tile and begin the next.
var scenarios = []scenario{
	{name: "first entries", pairs: true}, {name: "a tile is filled", entries: 255}, {name: "start after a kill", cut: true},
}

// job is one case, and what came of it.
type job struct {
	scenario string
	site     site
	fault    fault
	clients  map[string]int
	outcome  string
	err      error
}

func (j *job) String() string { return j.scenario + ": " + j.site.String() + ": " + j.fault.name }

// TestEachCall makes the system calls of rounds fail one at a time. Whatever
// fails: no client has an SCT that is not in the tree, each asks again and gets
// one, the log goes on, and an audit from outside finds nothing wrong.
//
// Without -syscalls.all it is a selection that has each kind of call on each kind
// of file with some fault, and each kind of call with each fault.
func TestEachCall(t *testing.T) {
	t.Parallel()
	const workers = 2
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 90*time.Minute)
			rigs := make([]*rig, workers)
			for i := range rigs {
				rigs[i] = newRig(t, sc.entries)
				if sc.cut {
					if err := rigs[i].cutRound(ctx); err != nil {
						t.Fatal(err)
					}
				}
			}
			sites, err := rigs[0].survey(ctx)
			if err != nil {
				t.Fatal(err)
			}
			list := jobs(sc, sites)
			if !*allCases {
				list = choose(list, sc.pairs)
			}
			if *only != "" {
				re := regexp.MustCompile(*only)
				list = slices.DeleteFunc(list, func(j *job) bool { return !re.MatchString(j.String()) })
			}
			began := time.Now()
			work(ctx, rigs, list)
			for _, j := range list {
				if j.err != nil {
					t.Errorf("%s: %v", j, j.err)
				}
			}
			t.Logf("%d calls in two rounds, %d cases, %v", len(sites), len(list), time.Since(began).Round(time.Second))
			if *allCases || testing.Verbose() {
				print(list)
			}
		})
	}
}

func jobs(sc scenario, sites []site) (list []*job) {
	for _, s := range sites {
		for _, f := range faultsOf(s.call) {
			list = append(list, &job{scenario: sc.name, site: s, fault: f})
		}
	}
	return list
}

var reNumber = regexp.MustCompile(`/\d+(-HASH|\b)`)

// kind is a call on a kind of file.
func (j *job) kind() string { return j.site.call + " " + reNumber.ReplaceAllString(j.site.file, "/N") }

// choose takes a case for each kind, with faults by turns, and if asked for one
// for each pair of call and fault, from all places in a round.
func choose(list []*job, all bool) (chosen []*job) {
	pairs := map[string]bool{}
	pair := func(j *job) string { return j.site.call + " " + j.fault.name }
	take := func(j *job) {
		pairs[pair(j)] = true
		chosen = append(chosen, j)
	}
	byKind := map[string][]*job{}
	for _, j := range list {
		byKind[j.kind()] = append(byKind[j.kind()], j)
	}
	for n, kind := range slices.Sorted(maps.Keys(byKind)) {
		of := byKind[kind]
		at := n * 7 % len(of)
		of = append(slices.Clone(of[at:]), of[:at]...)
		take(of[max(0, slices.IndexFunc(of, func(j *job) bool { return !pairs[pair(j)] }))])
	}
	for n := range list {
		j := list[n*61%len(list)]
		if all && !pairs[pair(j)] {
			take(j)
		}
	}
	return chosen
}

// work runs jobs, each rig one at a time.
func work(ctx context.Context, rigs []*rig, list []*job) {
	next := make(chan *job)
	var g sync.WaitGroup
	for _, r := range rigs {
		g.Go(func() {
			for j := range next {
				j.run(ctx, r)
			}
		})
	}
	for _, j := range list {
		next <- j
	}
	close(next)
	g.Wait()
}

// run runs a case. Parallel calls have another order, and folders other numbers of
// syncs, from run to run: if no call met the fault it is tried again, and then
// with the call before.
func (j *job) run(ctx context.Context, r *rig) {
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		c := newCase(r, j.fault, j.site)
		began := time.Now()
		j.err = c.run(ctx)
		cancel()
		j.clients, j.outcome = c.clients, c.outcome
		if testing.Verbose() {
			fmt.Printf("%6d ms %s: %v %s\n", time.Since(began).Milliseconds(), j, c.clients, c.outcome)
		}
		switch {
		case !errors.Is(j.err, errNotMet), try >= 2 && j.site.nth == 1:
			return
		case try >= 2:
			j.site.nth--
		}
	}
}

// print prints the table, lines that differ in the fault alone joined.
func print(list []*job) {
	type line struct{ call, file, clients, outcome, audit string }
	faults, order := map[line][]string{}, []line{}
	for _, j := range list {
		var answers []string
		for _, kind := range slices.Sorted(maps.Keys(j.clients)) {
			if kind != "SCT" {
				answers = append(answers, kind)
			}
		}
		l := line{j.site.call, fmt.Sprintf("%s #%d", j.site.file, j.site.nth), cmp.Or(strings.Join(answers, ", ")+", then SCT", "SCT"), j.outcome, "ok"}
		if len(answers) == 0 {
			l.clients = "SCT"
		}
		if j.err != nil {
			l.audit = "FAULT"
		}
		if faults[l] == nil {
			order = append(order, l)
		}
		faults[l] = append(faults[l], j.fault.name)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "call\tfile\tfaults\tclients\tit goes on\taudit")
	for _, l := range order {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", l.call, l.file, strings.Join(faults[l], ", "), l.clients, l.outcome, l.audit)
	}
	w.Flush()
}
