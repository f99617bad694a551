package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
)

// someDay is the clock of the tests.
func someDay() time.Time { return time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC) }

func testEnv() (*env, *bytes.Buffer) {
	var out bytes.Buffer
	return &env{stdout: &out, stderr: io.Discard, now: someDay}, &out
}

func testArgs() initArgs {
	return initArgs{Listen: "127.0.0.1:6962", Admin: "127.0.0.1:6963", Period: config.DefaultPeriod}
}

// begin does the first steps of kiln init in dir and then stops, as a crash
// between two steps would.
func begin(t *testing.T, dir string, steps int) *plan {
	t.Helper()
	p, err := newPlan(dir, testArgs(), someDay())
	if err != nil {
		t.Fatal(err)
	}
	if p, err = claim(p); err != nil {
		t.Fatal(err)
	}
	for _, step := range initSteps()[:steps] {
		if err := step(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// wantLog checks that a whole log is in dir, and nothing of its making.
func wantLog(t *testing.T, dir string) *config.Config {
	t.Helper()
	cfg, err := config.Load(filepath.Join(dir, configName), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if name := cfg.Logs[0].Name; name != "kiln2026h2" {
		t.Errorf("the log is %s, want kiln2026h2", name)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range entries {
		if f.Name() == markerName {
			t.Errorf("%s is left over", f.Name())
		}
	}
	return cfg
}

// TestInitAfterCrash stops after each step, and runs the same command again, a
// year later: that makes the log that was begun, with the key that was made.
func TestInitAfterCrash(t *testing.T) {
	t.Parallel()
	for steps := range initSteps() {
		dir := filepath.Join(t.TempDir(), "log")
		p := begin(t, dir, steps)
		before, _ := os.ReadFile(p.Config.Logs[0].KeyFile) // not there yet, at first

		other := testArgs()
		other.Name = "other"
		e, _ := testEnv()
		if err := initLog(t.Context(), e, dir, other); err == nil || !strings.Contains(err.Error(), "begun with other arguments") {
			t.Errorf("after %d steps, other arguments: error is %v", steps, err)
		}

		e, out := testEnv()
		e.now = func() time.Time { return someDay().AddDate(1, 0, 0) }
		if err := initLog(t.Context(), e, dir, testArgs()); err != nil {
			t.Fatalf("after %d steps: %v", steps, err)
		}
		if !strings.HasPrefix(out.String(), "Made log kiln2026h2 in "+dir) {
			t.Errorf("after %d steps, output is %q", steps, out)
		}
		cfg := wantLog(t, dir)
		after, err := os.ReadFile(cfg.Logs[0].KeyFile)
		if err != nil || before != nil && !bytes.Equal(before, after) {
			t.Errorf("after %d steps, the key is another (%v)", steps, err)
		}
		if err := initLog(t.Context(), e, dir, testArgs()); err == nil || !strings.Contains(err.Error(), "there is a log already") {
			t.Errorf("after %d steps and success, error is %v", steps, err)
		}
	}
}

// TestInitAfterCrashAtTheStart has what a crash leaves while the marker is
// written.
func TestInitAfterCrashAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, unfinished+"123"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, _ := testEnv()
	if err := initLog(t.Context(), e, dir, testArgs()); err != nil {
		t.Fatal(err)
	}
	wantLog(t, dir)
}

// TestInitAfterCrashAtTheEnd: only the marker is left of the making, and the
// operator has gone to work already. Nothing is taken back.
func TestInitAfterCrashAtTheEnd(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	p := begin(t, dir, len(initSteps())-1)
	roots := []byte("# mine\n")
	edited := append([]byte("# mine\n"), config.Render(p.Config)...)
	for path, data := range map[string][]byte{p.Config.Path: edited, p.Config.Logs[0].RootsFile: roots} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e, _ := testEnv()
	if err := initLog(t.Context(), e, dir, testArgs()); err != nil {
		t.Fatal(err)
	}
	wantLog(t, dir)
	for path, want := range map[string][]byte{p.Config.Path: edited, p.Config.Logs[0].RootsFile: roots} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s was changed: %q, %v", path, got, err)
		}
	}
}

func TestInitDamagedMarker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, markerName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e, _ := testEnv()
	if err := initLog(t.Context(), e, dir, testArgs()); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("error is %v", err)
	}
}

// TestWindowFor: a name that ends in a half-year means it.
func TestWindowFor(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"a": "[2026-07-01, 2027-01-01)", "a2029h1": "[2029-01-01, 2029-07-01)", "2031h2": "[2031-07-01, 2032-01-01)",
	} {
		start, limit, err := windowFor(name, config.HalfYearOf(someDay()), initArgs{})
		if got := windowOf(config.Log{NotAfterStart: start, NotAfterLimit: limit}); err != nil || got != want {
			t.Errorf("window of %s is %s (%v), want %s", name, got, err, want)
		}
	}
}

// TestDevMovesOn: what is missing is made when the calendar has moved on, and
// what is there stays.
func TestDevMovesOn(t *testing.T) {
	t.Parallel()
	o := devOptions{dir: t.TempDir(), listen: "127.0.0.1:6962", admin: "127.0.0.1:6963"}
	keys := make(map[string][]byte)
	for _, step := range []struct {
		at   time.Time
		want string
	}{
		{someDay(), "dev2026h2 dev2027h1"},
		{someDay().AddDate(0, 1, 0), "dev2026h2 dev2027h1"},
		{someDay().AddDate(0, 6, 0), "dev2026h2 dev2027h1 dev2027h2"},
		{someDay().AddDate(2, 0, 0), "dev2026h2 dev2027h1 dev2027h2 dev2028h1 dev2028h2 dev2029h1"},
		{someDay(), "dev2026h2 dev2027h1 dev2027h2 dev2028h1 dev2028h2 dev2029h1"},
	} {
		e, _ := testEnv()
		e.now = func() time.Time { return step.at }
		if _, err := o.openCA(e); err != nil {
			t.Fatal(err)
		}
		if _, err := o.prepare(context.Background(), e); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(filepath.Join(o.dir, configName), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, l := range cfg.Logs {
			names = append(names, l.Name)
			key, err := os.ReadFile(l.KeyFile)
			if before := keys[l.Name]; err != nil || before != nil && !bytes.Equal(before, key) {
				t.Errorf("key of %s was changed (%v)", l.Name, err)
			}
			keys[l.Name] = key
		}
		if got := strings.Join(names, " "); got != step.want {
			t.Errorf("on %v the logs are %s, want %s", step.at, got, step.want)
		}
	}
}

// TestDevRefusesBeforeItMakes: arguments that cannot be right leave nothing.
func TestDevRefusesBeforeItMakes(t *testing.T) {
	t.Parallel()
	for _, o := range []devOptions{
		{listen: "127.0.0.1:0", admin: "127.0.0.1:6963"},
		{listen: "127.0.0.1:6962", admin: "127.0.0.1:6962"},
	} {
		o.dir = t.TempDir()
		e, _ := testEnv()
		if err := dev(t.Context(), e, o); err == nil {
			t.Fatalf("%+v is accepted", o)
		}
		if _, err := os.Stat(filepath.Join(o.dir, "keys")); err == nil {
			t.Errorf("%+v: keys were made", o)
		}
		if _, err := os.Stat(filepath.Join(o.dir, configName)); err == nil {
			t.Errorf("%+v: %s was made", o, configName)
		}
	}
}
