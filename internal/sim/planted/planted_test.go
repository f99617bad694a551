package planted

import (
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"
)

var (
	plant    = flag.Bool("planted", false, "plant every bug of the table and have the simulation find it")
	maxSeeds = flag.Int("planted.seeds", 3000, "how many worlds a bug may take at most")
	only     = flag.String("planted.only", "", "only the bugs whose name matches this expression")
	results  = flag.String("planted.results", "", "file with the results so far: what it holds of bugs as they are now is not run again")
	open     = flag.Bool("planted.open", false, "plant the bugs that no world has found yet, rather than the others")
	budget   = flag.Duration("planted.time", 0, "begin no bug after so long (0: no end)")
)

// TestTable checks that each bug can be planted into the sources as they are.
func TestTable(t *testing.T) {
	t.Parallel()
	bugs := append(all(), openBugs...)
	if len(all()) < 30 {
		t.Errorf("the table has %d bugs, at least 30 are wanted", len(all()))
	}
	names := map[string]bool{}
	for _, b := range bugs {
		if names[b.name] || b.breaks == "" || strings.ContainsAny(b.name, "|\n") {
			t.Errorf("%q is there twice, breaks nothing, or does not fit into a table", b.name)
		}
		names[b.name] = true
		files, err := b.patched()
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
			continue
		}
		for path, text := range files {
			if _, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution); err != nil {
				t.Errorf("%s: %v", b.name, err)
			}
		}
	}
}

// TestDocument checks that docs/reliability.md has a row for every bug.
func TestDocument(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join(root, "docs", "reliability.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([^|]+) \| [^|]+ \| [^|]+ \| \d+ \|$`).FindAllStringSubmatch(string(doc), -1) {
		rows[m[1]] = true
	}
	for _, b := range all() {
		if !rows[b.name] {
			t.Errorf("docs/reliability.md has no row for %q: run make planted, and take over what it prints", b.name)
		}
		delete(rows, b.name)
	}
	for name := range rows {
		t.Errorf("docs/reliability.md has a row for %q, which is no bug of the table", name)
	}
}

// TestFirstBug plants the bug that every world finds.
func TestFirstBug(t *testing.T) {
	if testing.Short() {
		return // it compiles the simulation
	}
	t.Parallel()
	for _, b := range all() {
		if b.name != "the checkpoint is published before its tiles" {
			continue
		}
		o, err := run(t.TempDir(), b, 20)
		if err != nil || !o.Caught {
			t.Errorf("%+v, %v", o, err)
		}
		return
	}
	t.Error("the table has no such bug")
}

// TestPlanted plants every bug, and demands that a world finds it.
func TestPlanted(t *testing.T) {
	if !*plant {
		return // it takes long: make planted
	}
	which, err := regexp.Compile(*only)
	if err != nil {
		t.Fatal(err)
	}
	known, err := readResults(*results)
	if err != nil {
		t.Fatal(err)
	}
	from := all()
	if *open {
		from = openBugs
	}
	var bugs []bug
	for _, b := range from {
		if which.MatchString(b.name) {
			bugs = append(bugs, b)
		}
	}
	var mu sync.Mutex // guards known, table and left
	var left int
	table := make([]outcome, len(bugs))
	var workers errgroup.Group
	workers.SetLimit(runtime.GOMAXPROCS(0))
	for i, b := range bugs {
		workers.Go(func() error {
			mu.Lock()
			o, ok := known[b.id()]
			mu.Unlock()
			if !ok && timeIsUp() {
				mu.Lock()
				defer mu.Unlock()
				left++
				return nil
			}
			if !ok {
				var err error
				if o, err = run(t.TempDir(), b, *maxSeeds); err != nil {
					t.Errorf("%s: %v", b.name, err)
					return nil
				}
			}
			mu.Lock()
			defer mu.Unlock()
			known[b.id()], table[i] = o, o
			fmt.Fprintln(os.Stderr, o)
			if !o.Caught {
				t.Errorf("%d worlds have not found: %s", o.Seeds, b.name)
			}
			return writeResults(*results, known)
		})
	}
	if err := workers.Wait(); err != nil {
		t.Error(err)
	}
	fmt.Println("| bug | promise broken | found as | seeds |\n|---|---|---|---|")
	for _, o := range table {
		if o.Name != "" {
			fmt.Println(o.row())
		}
	}
	if left > 0 {
		t.Errorf("the time is up, and %d bugs are left: run it again with the same -planted.results", left)
	}
}

// TestControl runs the worlds that the bugs were found in without any bug.
func TestControl(t *testing.T) {
	if !*plant {
		return // it takes long: make planted
	}
	known, err := readResults(*results)
	if err != nil {
		t.Fatal(err)
	}
	need := 1
	for _, o := range known {
		if o.Caught {
			need = max(need, o.Seeds)
		}
	}
	o, err := run(t.TempDir(), bug{name: "no bug"}, need)
	if err != nil || o.Caught {
		t.Errorf("without any bug: %+v, %v", o, err)
	}
	fmt.Fprintf(os.Stderr, "without any bug %d worlds are clean\n", need)
}
