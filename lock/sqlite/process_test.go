package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kiln/lock"
	"kiln/lock/locktest"
)

const (
	childPath = "KILN_TEST_LOCK_PATH" // tells the test binary to be a child
	childName = "KILN_TEST_LOCK_NAME"

	childRounds     = 30
	childIncrements = 20
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childPath); path != "" {
		if err := child(path, os.Getenv(childName)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is one of the racing processes. For each line that it is given, a
// version, it tries to replace the cell at that version and answers how that
// went. Then it increments a counter, and prints what it knows to be counted.
func child(path, name string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && in.Text() != "count" {
		version, body, _ := strings.Cut(in.Text(), " ")
		held := lock.Held{ID: "cell", Version: version, Body: []byte(body)}
		_, err := s.Replace(ctx, held, []byte(name))
		switch {
		case err == nil:
			fmt.Println("won")
		case errors.Is(err, lock.ErrConflict):
			fmt.Println("lost")
		default:
			return err
		}
	}
	for i := range childIncrements {
		if err := locktest.Increment(ctx, s, "counter"); err != nil {
			return err
		}
		fmt.Println(i + 1)
	}
	return nil
}

type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
}

func (p *process) tell(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		t.Fatal(err)
	}
}

func (p *process) answer(t *testing.T) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("%s said nothing more (%v)", p.name, p.out.Err())
	}
	return p.out.Text()
}

func startChild(t *testing.T, path, name string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childPath+"="+path, childName+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{name: name, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	if got := p.answer(t); got != "ready" {
		t.Fatalf("%s said %q, want ready", name, got)
	}
	return p
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock.db")
	s := open(t, path)
	for id, body := range map[string]string{"cell": "start", "counter": "0"} {
		if err := s.Create(t.Context(), id, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	var children []*process
	for i := range 5 {
		children = append(children, startChild(t, path, fmt.Sprint("child", i)))
	}
	for round := range childRounds {
		held := load(t, s, "cell")
		for _, c := range children {
			c.tell(t, held.Version+" "+string(held.Body))
		}
		var winners []string
		for _, c := range children {
			if c.answer(t) == "won" {
				winners = append(winners, c.name)
			}
		}
		now := load(t, s, "cell")
		if len(winners) != 1 || string(now.Body) != winners[0] {
			t.Fatalf("round %d was won by %q, and the cell is %q", round, winners, now.Body)
		}
	}
	for _, c := range children {
		c.tell(t, "count")
	}
	for _, c := range children {
		for range childIncrements {
			c.answer(t)
		}
		if err := c.cmd.Wait(); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if got, want := string(load(t, s, "counter").Body), strconv.Itoa(len(children)*childIncrements); got != want {
		t.Errorf("the counter is %s, want %s", got, want)
	}
}

// TestKilled shows that what a process was told is written stays written when it
// dies by force, and that it takes its locks along.
func TestKilled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock.db")
	s := open(t, path)
	if err := s.Create(t.Context(), "counter", []byte("0")); err != nil {
		t.Fatal(err)
	}
	counted := 0
	for run := range 3 {
		c := startChild(t, path, "victim")
		c.tell(t, "count")
		for range run + 2 {
			c.answer(t)
		}
		if err := c.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		said := run + 2
		for c.out.Scan() { // what it said before it died
			said++
		}
		_ = c.cmd.Wait() // it was killed, and says so
		got, err := strconv.Atoi(string(load(t, s, "counter").Body))
		if err != nil || got != counted+said && got != counted+said+1 {
			t.Fatalf("the counter is %d (%v), was %d, and the process said %d more", got, err, counted, said)
		}
		counted = got
		if err := locktest.Increment(t.Context(), s, "counter"); err != nil {
			t.Fatal(err)
		}
		counted++
	}
}
