package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/internal/servers"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kiln": main})
}

// patience is how long the scripts wait for something that has to come. It is
// never a measure of anything.
const patience = time.Minute

// TestScripts runs testdata/script. Beside what testscript has, there is
//
//	freeport NAME...           set variables to ports that are free
//	start NAME kiln ARG...     start kiln in the background
//	await NAME REGEXP          wait until its standard output has a match
//	awaitfile FILE             wait until there is such a file
//	end NAME SIGNAL  STATUS    send INT, TERM or KILL, and want that exit status
//	get URL FILE               write the body of a 200 answer to a file
//
// and the commands of script_test.go.
func TestScripts(t *testing.T) {
	gateway, err := servers.BuildTool(t.Context(), "versitygw")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Values[processKey{}] = make(map[string]*process)
			env.Setenv("PATH", env.Getenv("PATH")+string(filepath.ListSeparator)+filepath.Dir(gateway))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"freeport": freePorts, "start": start, "await": await, "end": end, "get": get,
			"awaitfile": awaitFile, "status": status, "filemode": fileMode, "shard": shard,
			"report": report, "refuse": refuse, "replace": replace, "damage": damage, "newkey": newKey, "tree": tree, "checklogs": checkLogs,
			"agedlog": agedLog, "countfiles": countFiles,
		},
	})
}

type processKey struct{}

type process struct {
	cmd  *exec.Cmd
	out  string        // file of its standard output; standard error is beside it
	done chan struct{} // closed when it has ended
}

func processes(ts *testscript.TestScript) map[string]*process {
	return ts.Value(processKey{}).(map[string]*process)
}

func freePorts(ts *testscript.TestScript, _ bool, names []string) {
	taken := make(map[string]bool)
	for _, name := range names {
		var address string
		for address = ""; address == "" || taken[address]; {
			var err error
			address, err = servers.FreeAddress(context.Background())
			ts.Check(err)
		}
		taken[address] = true
		_, port, err := net.SplitHostPort(address)
		ts.Check(err)
		ts.Setenv(name, port)
	}
}

func start(ts *testscript.TestScript, _ bool, args []string) {
	p := &process{out: ts.MkAbs(args[0] + ".out"), done: make(chan struct{})}
	stdout, err := os.Create(p.out)
	ts.Check(err)
	stderr, err := os.Create(ts.MkAbs(args[0] + ".err"))
	ts.Check(err)
	p.cmd = exec.Command(args[1], args[2:]...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = ts.Getenv("WORK"), stdout, stderr
	ts.Check(p.cmd.Start())
	ts.Check(errors.Join(stdout.Close(), stderr.Close()))
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // end looks at the status
	}()
	processes(ts)[args[0]] = p
	ts.Defer(func() {
		_ = p.cmd.Process.Kill() // it may have ended
		<-p.done
	})
}

func await(ts *testscript.TestScript, _ bool, args []string) {
	p, want := processes(ts)[args[0]], regexp.MustCompile(args[1])
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		ended := false
		select {
		case <-p.done:
			ended = true
		case <-tick.C:
		case <-deadline:
			ended = true
		}
		out, err := os.ReadFile(p.out)
		ts.Check(err)
		if want.Match(out) {
			return
		}
		if ended {
			ts.Fatalf("%s did not print %q:\n%s%s", args[0], args[1], out, ts.ReadFile(args[0]+".err"))
		}
	}
}

func awaitFile(ts *testscript.TestScript, _ bool, args []string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		} else if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) {
			ts.Fatalf("%v", err)
		}
	}
}

func end(ts *testscript.TestScript, _ bool, args []string) {
	p := processes(ts)[args[0]]
	sig := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}[args[1]]
	if args[1] != "" { // else it ends by itself
		ts.Check(p.cmd.Process.Signal(sig))
	}
	select {
	case <-p.done:
	case <-time.After(patience):
		ts.Fatalf("%s did not end", args[0])
	}
	if got := strconv.Itoa(p.cmd.ProcessState.ExitCode()); got != args[2] {
		ts.Fatalf("%s ended with status %s, want %s:\n%s", args[0], got, args[2], ts.ReadFile(args[0]+".err"))
	}
}

func get(ts *testscript.TestScript, _ bool, args []string) {
	body, err := fetch(args[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}

func fetch(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return body, err
}

// TestTestdata makes sure that the scripts are found.
func TestTestdata(t *testing.T) {
	t.Parallel()
	if found, err := filepath.Glob("testdata/script/*.txtar"); err != nil || len(found) < 5 {
		t.Errorf("there are only %d scripts (%v)", len(found), err)
	}
}
