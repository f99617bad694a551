package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kiln/internal/servers"
	"kiln/testlogs"
)

// toolsEnv names the folder of the programs for the test that runs in a network
// of its own.
const toolsEnv = "KILN_GUIDE_TOOLS"

// TestOperatingGuide runs every command of docs/operating.md as it is printed
// there, in order, in one shell and an empty folder, with the files that it
// prints. CAs submit to the logs that it makes while they are served, and
// monitors read them.
//
// The guide's addresses are those that an operator gets by default, so the test
// takes a network of its own, as Linux gives one to root and most users. Where
// it does not, it runs in that of the machine, and says if a port is taken.
func TestOperatingGuide(t *testing.T) {
	if tools := os.Getenv(toolsEnv); tools != "" {
		raiseLoopback(t)
		runOperatingGuide(t, tools)
		return
	}
	t.Parallel()
	tools := t.TempDir()
	gw, err := servers.BuildTool(t.Context(), "versitygw")
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"kiln": kilnBinary(t), "versitygw": gw} {
		if err := os.Symlink(path, filepath.Join(tools, name)); err != nil {
			t.Fatal(err)
		}
	}
	switch err := inOwnNetwork(t, tools); {
	case errors.Is(err, errNoNetwork):
		t.Logf("%v: the guide runs in the network of this machine", err)
		runOperatingGuide(t, tools)
	case err != nil:
		t.Fatal(err)
	}
}

var errNoNetwork = errors.New("no network namespace can be had")

// inOwnNetwork runs this test once more, in a network of its own.
func inOwnNetwork(t *testing.T, tools string) error {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		return err
	}
	ctx := deadline(t, 10*time.Minute)
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	group := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	for _, attr := range []*syscall.SysProcAttr{
		{Cloneflags: syscall.CLONE_NEWNET},
		{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWUSER, UidMappings: root, GidMappings: group},
	} {
		cmd := exec.CommandContext(ctx, program, "-test.run=^TestOperatingGuide$", "-test.timeout=10m", "-test.v="+fmt.Sprint(testing.Verbose()))
		cmd.Env = append(os.Environ(), toolsEnv+"="+tools)
		cmd.SysProcAttr = attr
		out := &output{}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			continue // not permitted here
		}
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("in a network of its own: %w\n%s", err, out)
		}
		t.Logf("%s", out)
		return nil
	}
	return errNoNetwork
}

// raiseLoopback makes 127.0.0.1 usable in a new network.
func raiseLoopback(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatalf("raise the loopback interface: %v", err)
	}
}

// guideAddress finds the addresses that the guide's commands listen on.
var guideAddress = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)

func runOperatingGuide(t *testing.T, tools string) {
	ctx := deadline(t, 9*time.Minute)
	steps := readOperating(t)
	for _, address := range append(guideAddresses(steps), "127.0.0.1:6962", "127.0.0.1:6963", "127.0.0.1:7070") {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatalf("the guide needs the port of %s, which something else on this machine has: %v", address, err)
		}
		l.Close()
	}
	ca, err := testlogs.NewCA(testlogs.CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	in := newInternet(t, t.TempDir(), append([][]byte{ca.Root()}, someRoots(t)...))
	dir := t.TempDir()
	sh, err := startShell(dir, guideEnv(tools, t.TempDir(), in))
	if err != nil {
		t.Fatal(err)
	}
	u := &users{ca: ca, requests: filepath.Join(dir, "requests"), auditors: map[string]*testlogs.Auditor{}}
	err = followGuide(ctx, sh, steps, u)
	if err := errors.Join(err, sh.close()); err != nil {
		t.Fatalf("docs/operating.md: %v", err)
	}
	t.Logf("%d steps, %d logs with traffic, %d SCTs", len(steps), len(u.auditors), u.scts)
	if len(u.auditors) < 2 || u.scts < 6 {
		t.Errorf("the guide has %d logs with traffic, and %d SCTs: want a series", len(u.auditors), u.scts)
	}
	requireCommands(t, filepath.Join(tools, "kiln"), steps)
}

func guideAddresses(steps []step) (addresses []string) {
	for _, s := range steps {
		addresses = append(addresses, guideAddress.FindAllString(s.text, -1)...)
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

// guideEnv is the environment of a person with kiln and versitygw on PATH.
func guideEnv(tools, home string, in *internet) []string {
	return []string{
		"PATH=" + tools + ":" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "TERM=dumb",
		"HTTPS_PROXY=" + in.Proxy, "SSL_CERT_FILE=" + in.CAFile,
	}
}

// followGuide follows the steps of a guide. When kiln serves a series, chains are
// submitted to it; before it is stopped they are looked for.
func followGuide(ctx context.Context, sh *shell, steps []step, u *users) error {
	for _, st := range steps {
		if strings.HasPrefix(st.text, "kill %kiln") {
			if err := u.audit(ctx); err != nil {
				return fmt.Errorf("before line %d: audit: %w", st.line, err)
			}
		}
		if err := sh.run(ctx, st); err != nil {
			return err
		}
		if st.background && strings.HasPrefix(st.text, "kiln ") {
			if err := u.submit(ctx); err != nil {
				return fmt.Errorf("after line %d: submit: %w", st.line, err)
			}
		}
	}
	return nil
}

// requireCommands fails the test for each command of kiln that the guide's
// steps do not have.
func requireCommands(t *testing.T, kiln string, steps []step) {
	t.Helper()
	names, err := listCommands(func(args ...string) (string, error) {
		out, err := exec.Command(kiln, args...).Output()
		return string(out), err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		isThere := func(s step) bool { return s.file == "" && strings.HasPrefix(s.text+" ", "kiln "+name+" ") }
		if !slices.ContainsFunc(steps, isThere) && name != "version" && name != "help" {
			t.Errorf("docs/operating.md has no fenced command of kiln %s", name)
		}
	}
}

// TestGuideFails follows small guides, each with a mistake that has to be found.
func TestGuideFails(t *testing.T) {
	t.Parallel()
	kiln := filepath.Dir(kilnBinary(t))
	for _, c := range []struct{ name, commands, want string }{
		{"no mistake", "mkdir a && cd a\nkiln keys new one.secret\nls one.secret", ""},
		{"flag", "kiln keys new --tpye secret one.secret", "status is 2, want 0"},
		{"subcommand", "kiln key new one.secret", "status is 2, want 0"},
		{"program", "kilm keys new one.secret", "status is 127, want 0"},
		{"path", "kiln keys new one.secret\ncat two.secret", "status is 1, want 0"},
		{"syntax", "kiln keys new 'one.secret", "status is"},
		{"status", "kiln keys new one.secret  # status 1: there is one", "status is 0, want 1"},
		{"left behind", "cat /dev/zero > /dev/null &", "a process is left behind"},
		{"never says it", `echo kiln here &  # go on once it says "serving on"`, `did not say "serving on"`},
		{"no such job", "kill %versitygw", "status is 1, want 0"},
		{"ends before Ctrl-C", `kiln version  # Ctrl-C ends it, once it says "serving on"`, `did not say "serving on"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			steps, err := readGuide("```sh\n" + c.commands + "\n```\n")
			if err != nil {
				t.Fatal(err)
			}
			sh, err := startShell(t.TempDir(), []string{"PATH=" + kiln + ":" + os.Getenv("PATH")})
			if err != nil {
				t.Fatal(err)
			}
			err = errors.Join(followGuide(deadline(t, time.Minute), sh, steps, &users{}), sh.close())
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
