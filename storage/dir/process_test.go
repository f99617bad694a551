package dir

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"kiln/storage"
	"kiln/storage/storagetest"
)

const (
	childRoot = "KILN_TEST_DIR_ROOT" // tells the test binary to be a child
	childName = "KILN_TEST_DIR_NAME"

	childPaths      = 40
	childIncrements = 25
)

func TestMain(m *testing.M) {
	if root := os.Getenv(childRoot); root != "" {
		if err := child(root, os.Getenv(childName)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is one of the racing processes: it opens the bucket, says so, waits for
// the start, then creates paths of its own body and increments a counter. It
// prints each path that it won.
func child(root, name string) error {
	b, err := Open(root)
	if err != nil {
		return err
	}
	defer b.Close()
	ctx := context.Background()
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	for i := range childPaths {
		path := fmt.Sprintf("race/%d/object", i)
		err := b.Create(ctx, storage.Object{Path: path, Body: []byte(name)})
		switch {
		case err == nil:
			fmt.Println("won", path)
		case !errors.Is(err, storage.ErrDifferent):
			return err
		}
		if i < childIncrements {
			if err := storagetest.Increment(ctx, b, "counter"); err != nil {
				return err
			}
		}
	}
	fmt.Println("done")
	return nil
}

type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
}

func startChild(t *testing.T, root, name string) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childRoot+"="+root, childName+"="+name)
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
	if !p.out.Scan() || p.out.Text() != "ready" {
		t.Fatalf("child %s said %q, want ready", name, p.out.Text())
	}
	return p
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	var children []*process
	for i := range 4 {
		children = append(children, startChild(t, root, fmt.Sprint("child", i)))
	}
	for _, c := range children {
		if _, err := fmt.Fprintln(c.in, "go"); err != nil {
			t.Fatal(err)
		}
	}
	winner := make(map[string]string)
	for _, c := range children {
		last := ""
		for c.out.Scan() {
			last = c.out.Text()
			path, won := strings.CutPrefix(last, "won ")
			if !won {
				continue
			}
			if other := winner[path]; other != "" {
				t.Errorf("%s was created by %s and by %s", path, other, c.name)
			}
			winner[path] = c.name
		}
		if err := c.cmd.Wait(); err != nil || last != "done" {
			t.Errorf("child %s ended with %q: %v", c.name, last, err)
		}
	}
	got := objects(t, root)
	if want := fmt.Sprint(len(children) * childIncrements); got["counter"] != want {
		t.Errorf("the counter is %q, want %s", got["counter"], want)
	}
	delete(got, "counter")
	if fmt.Sprint(got) != fmt.Sprint(winner) || len(winner) != childPaths {
		t.Errorf("the objects are %v\nbut the winners were %v", got, winner)
	}
	wantNoTemps(t, root)
}

// TestKilled shows that a process that dies by force leaves no half object and
// no lock, and that what it said it created is there.
func TestKilled(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c := startChild(t, root, "victim")
	if _, err := fmt.Fprintln(c.in, "go"); err != nil {
		t.Fatal(err)
	}
	var said []string
	for len(said) < 10 && c.out.Scan() {
		said = append(said, strings.TrimPrefix(c.out.Text(), "won "))
	}
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = c.cmd.Wait() // it was killed, and says so
	b := openBucket(t, root)
	wantNoTemps(t, root)
	got := objects(t, root)
	for _, path := range said {
		if got[path] != "victim" {
			t.Errorf("%s was created but holds %q", path, got[path])
		}
	}
	for path, body := range got {
		if path != "counter" && body != "victim" {
			t.Errorf("%s holds %q", path, body)
		}
	}
	if err := storagetest.Increment(t.Context(), b, "counter"); err != nil {
		t.Error(err)
	}
}
