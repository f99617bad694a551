package fsck_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"kiln/internal/fsck"
	"kiln/internal/logkey"
)

// at returns the log as it was at one of its sizes.
func (l *log) at(size int64) *log {
	c := l.clone()
	c.objects["checkpoint"] = []byte(l.notes[size])
	return c
}

// withState checks a log with a state file.
func withState(t *testing.T, l *log, source fsck.Source, file string) (*fsck.Report, error) {
	t.Helper()
	opts := l.options()
	opts.State = file
	return check(t, source, opts)
}

func fault(t *testing.T, err error) *fsck.Fault {
	t.Helper()
	var f *fsck.Fault
	if !errors.As(err, &f) {
		t.Fatalf("error is %v, want a fault", err)
	}
	return f
}

func unknown(t *testing.T, err error) *fsck.UnknownError {
	t.Helper()
	var f *fsck.Fault
	var u *fsck.UnknownError
	if errors.As(err, &f) || !errors.As(err, &u) {
		t.Fatalf("error is %v, want one that is no fault", err)
	}
	return u
}

func TestGrowthIsConsistent(t *testing.T) {
	t.Parallel()
	l, file := small(), filepath.Join(t.TempDir(), "state")
	for _, size := range []int64{100, 300, 300, 556} {
		r, err := withState(t, l, l.at(size).objects, file)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if r.TreeSize != size || r.Entries != size || r.ResumedAt != 0 {
			t.Errorf("size %d: report is %+v", size, r)
		}
	}
}

// What contradicts the remembered checkpoint is a fault of the checkpoint, and
// both stay in the state file.
func TestContradictions(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		next func(l *log) *log // of the log at size 300
		says string
	}{
		"smaller": {func(l *log) *log { return l.at(100) }, "is smaller than one that was seen before: got size 100 with root"},
		"fork at one size": {func(l *log) *log {
			leaves := l.leaves()[:300]
			leaves[299] = flip(7)(bytes.Clone(leaves[299]))
			f := l.forge(leaves, 300)
			f.sign(f.tree, l.millis)
			return f
		}, "the log has forked: two trees of size 300 were signed: got "},
		"fork": {func(l *log) *log {
			leaves := l.leaves()
			leaves[299] = flip(7)(bytes.Clone(leaves[299]))
			return l.forge(leaves, 556)
		}, "the log has forked: the tree of size 556 has another root at size 300 than the one that was signed before: got "},
		"fork at a full tile": {func(l *log) *log {
			leaves := l.leaves()
			leaves[0] = flip(7)(bytes.Clone(leaves[0]))
			return l.forge(leaves, 556)
		}, "the log has forked"},
		"time goes back": {func(l *log) *log {
			f := l.clone()
			f.sign(l.tree, l.millis-1000) // 556 entries
			return f
		}, "timestamp is before that of one that was seen before"},
		"two trees at one time": {func(l *log) *log {
			f := l.clone()
			f.sign(l.tree, l.millis-10) // when size 300 was signed
			return f
		}, "two trees were signed with timestamp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, file := small(), filepath.Join(t.TempDir(), "state")
			if _, err := withState(t, l, l.at(300).objects, file); err != nil {
				t.Fatal(err)
			}
			next := c.next(l)
			for range 2 { // and it stays a fault
				_, err := withState(t, l, next.objects, file)
				f := fault(t, err)
				t.Log(f)
				if f.Path != "checkpoint" || !strings.Contains(f.Detail, c.says) || f.Got == "" || f.Want == "" {
					t.Errorf("fault is %+v, want it to say %q", f, c.says)
				}
			}
			var state struct {
				Checkpoint string
				Conflicts  []string
			}
			if err := json.Unmarshal(must(os.ReadFile(file)), &state); err != nil {
				t.Fatal(err)
			}
			if state.Checkpoint != l.notes[300] {
				t.Errorf("the remembered checkpoint is now %q", state.Checkpoint)
			}
			if len(state.Conflicts) != 1 || state.Conflicts[0] != string(next.objects["checkpoint"]) {
				t.Errorf("conflicts are %q", state.Conflicts)
			}
			if _, err := withState(t, l, l.objects, file); err != nil {
				t.Errorf("the log itself: %v", err)
			}
		})
	}
}

// A source that cannot be listed is asked for the partial tiles that the
// remembered checkpoint needs.
func TestRememberedPartials(t *testing.T) {
	t.Parallel()
	l := small()
	for name, c := range map[string]struct {
		do         func(*log) *log
		path, says string
	}{
		"gone with the full tile there": {do: remove("tile/0/000.p/100")},
		"other hashes":                  {edit("tile/0/000.p/100", flip(64)), "tile/0/000.p/100", "is not the beginning of tile/0/000"},
		"other entries":                 {edit("tile/data/000.p/100", flip(-1)), "tile/data/000.p/100", "is not the beginning of tile/data/000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "state")
			if _, err := withState(t, l, l.at(100).objects, file); err != nil {
				t.Fatal(err)
			}
			_, err := withState(t, l, unlisted{c.do(l.clone()).objects}, file)
			if c.path == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if f := fault(t, err); f.Path != c.path || !strings.Contains(f.Detail, c.says) {
				t.Errorf("fault is %v", f)
			}
		})
	}
	t.Run("gone while the tile is partial", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "state")
		young := l.forge(l.leaves()[:120], 100, 120)
		if _, err := withState(t, young, young.at(100).objects, file); err != nil {
			t.Fatal(err)
		}
		delete(young.objects, "tile/data/000.p/100")
		_, err := withState(t, young, unlisted{young.objects}, file)
		if f := fault(t, err); f.Path != "tile/data/000.p/100" || f.Detail != "is missing" {
			t.Errorf("fault is %v", f)
		}
	})
}

type unlisted struct{ fsck.Source }

// limited fails for good after some objects.
type limited struct {
	fsck.Source
	left *atomic.Int64
	end  func()
}

func (l limited) Open(ctx context.Context, path string) (*fsck.Object, error) {
	if l.left.Add(-1) < 0 {
		l.end()
		return nil, errors.New("the line is dead")
	}
	return l.Source.Open(ctx, path)
}

// interrupt runs a check that is canceled after some objects.
func interrupt(t *testing.T, l *log, source fsck.Source, file string, objects int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	left := new(atomic.Int64)
	left.Store(objects)
	opts := l.options()
	opts.State = file
	if _, err := fsck.Run(ctx, limited{source, left, cancel}, opts); !errors.Is(err, context.Canceled) {
		t.Fatalf("interrupted run: %v", err)
	}
}

func TestResume(t *testing.T) {
	t.Parallel()
	l := big()
	leaves := l.leaves()
	rewritten := func(index int64) *log {
		changed := append([][]byte(nil), leaves...)
		changed[index] = flip(7)(bytes.Clone(changed[index]))
		return l.forge(changed, l.tree.N)
	}
	for name, c := range map[string]struct {
		next   func() *log
		from   bool // continues
		says   string
		newer  bool
		source func(objects) fsck.Source
	}{
		"sound":                       {next: func() *log { return l }, from: true},
		"fault in what was not read":  {next: func() *log { return edit("tile/data/250", flip(15))(l.clone()) }, from: true, says: "tile/data/250: "},
		"fault in what ends a tile":   {next: func() *log { return edit("tile/1/000", flip(2))(l.clone()) }, says: "tile/1/000: hash 0 "},
		"another log by the same key": {next: func() *log { return rewritten(3) }, says: "the log has forked"},
		"another source": {next: func() *log { return l }, source: func(o objects) fsck.Source {
			return renamed{o}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "state")
			interrupt(t, l, l.objects, file, 300)
			next := c.next()
			source := fsck.Source(next.objects)
			if c.source != nil {
				source = c.source(next.objects)
			}
			r, err := withState(t, l, source, file)
			if c.says == "" && err != nil || c.says != "" && !strings.Contains(fault(t, err).Error(), c.says) {
				t.Fatalf("error is %v, want %q", err, c.says)
			}
			if (r.ResumedAt > 256) != c.from {
				t.Errorf("resumed at %d", r.ResumedAt)
			}
			if err == nil && r.ResumedAt+r.Entries != l.tree.N {
				t.Errorf("%d entries and then %d, want %d in all", r.ResumedAt, r.Entries, l.tree.N)
			}
		})
	}
}

type renamed struct{ objects }

func (renamed) String() string { return "another place" }

// Entries that were checked and then changed with all hashes above them are found
// even if the remembered checkpoint is none: the state has their hashes.
func TestResumeOfAnotherTree(t *testing.T) {
	t.Parallel()
	l := big()
	file := filepath.Join(t.TempDir(), "state")
	interrupt(t, l, l.objects, file, 300)
	var state map[string]json.RawMessage
	if err := json.Unmarshal(must(os.ReadFile(file)), &state); err != nil {
		t.Fatal(err)
	}
	leaves := l.leaves()
	leaves[3] = flip(7)(bytes.Clone(leaves[3]))
	forged := l.forge(leaves, l.tree.N)
	rewrite(t, file, func(s map[string]any) { s["checkpoint"] = string(forged.objects["checkpoint"]) })
	_, err := withState(t, l, forged.objects, file)
	if f := fault(t, err); !strings.Contains(f.Detail, "entries are not those that were checked on 2026-10-03") || f.Got == f.Want {
		t.Errorf("fault is %v", f)
	}
}

// rewrite changes a state file and mends its checksum.
func rewrite(t *testing.T, file string, change func(map[string]any)) {
	t.Helper()
	var s map[string]any
	dec := json.NewDecoder(bytes.NewReader(must(os.ReadFile(file))))
	dec.UseNumber()
	if err := dec.Decode(&s); err != nil {
		t.Fatal(err)
	}
	change(s)
	delete(s, "sum")
	data := must(fsck.Seal(must(json.Marshal(s))))
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyNew(t *testing.T) {
	t.Parallel()
	l, file := small(), filepath.Join(t.TempDir(), "state")
	opts := l.options()
	opts.State, opts.OnlyNew = file, true
	for _, want := range []struct{ size, from, entries int64 }{{300, 0, 300}, {300, 256, 44}, {556, 256, 300}} {
		r, err := check(t, l.at(want.size).objects, opts)
		if err != nil {
			t.Fatal(err)
		}
		if r.ResumedAt != want.from || r.Entries != want.entries {
			t.Errorf("size %d: resumed at %d, %d entries; want %d and %d", want.size, r.ResumedAt, r.Entries, want.from, want.entries)
		}
	}
}

// A run that has found a fault finds it again.
func TestFaultIsNotForgotten(t *testing.T) {
	t.Parallel()
	l, file := edit("tile/data/001", flip(100))(small().clone()), filepath.Join(t.TempDir(), "state")
	opts := l.options()
	opts.State, opts.OnlyNew = file, true
	for range 3 {
		_, err := check(t, l.objects, opts)
		if f := fault(t, err); f.Path != "tile/data/001" {
			t.Errorf("fault is %v", f)
		}
	}
}

// While inner hash tiles do not fit, a fork cannot be told, and must not be
// forgotten either.
func TestUnprovedIsNotRemembered(t *testing.T) {
	t.Parallel()
	l, file := small(), filepath.Join(t.TempDir(), "state")
	if _, err := withState(t, l, l.at(300).objects, file); err != nil {
		t.Fatal(err)
	}
	before := must(os.ReadFile(file))
	_, err := withState(t, l, edit("tile/0/001", flip(32*43))(l.clone()).objects, file)
	if f := fault(t, err); f.Path != "tile/0/001" || f.Index != 256+43 {
		t.Errorf("fault is %v", f)
	}
	if !bytes.Equal(must(os.ReadFile(file)), before) {
		t.Error("the state has changed")
	}
}

func TestStateFile(t *testing.T) {
	t.Parallel()
	l, dir := small(), t.TempDir()
	file := filepath.Join(dir, "state")
	if _, err := withState(t, l, l.objects, file); err != nil {
		t.Fatal(err)
	}
	good := must(os.ReadFile(file))
	if list := must(os.ReadDir(dir)); len(list) != 1 {
		t.Errorf("folder holds %v", list)
	}
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"empty":          {nil, "no state file"},
		"cut off":        {good[:len(good)/2], "no state file"},
		"bit":            {bytes.Replace(good, []byte(`"entries": 512`), []byte(`"entries": 256`), 1), "checksum"},
		"version":        {bytes.Replace(good, []byte(`"kiln_fsck": 1`), []byte(`"kiln_fsck": 2`), 1), "version 2"},
		"unknown member": {bytes.Replace(good, []byte(`"origin"`), []byte(`"origins"`), 1), "unknown field"},
		"huge":           {bytes.Repeat(good, 4<<20/len(good)+1), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "state")
			if err := os.WriteFile(file, c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := withState(t, l, l.objects, file)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error is %v, want %q", err, c.says)
			}
		})
	}
	t.Run("levels that do not add up", func(t *testing.T) {
		t.Parallel()
		file := filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
		rewrite(t, file, func(s map[string]any) { s["pass"].(map[string]any)["entries"] = json.Number("1024") })
		if _, err := withState(t, l, l.objects, file); err == nil || !strings.Contains(err.Error(), "how far") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("of another log", func(t *testing.T) {
		t.Parallel()
		other := l.clone()
		other.key = must(logkey.Generate())
		other.sign(l.tree, l.millis)
		_, err := withState(t, other, other.objects, file)
		if err == nil || !strings.Contains(err.Error(), "give each log a file of its own") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("in no folder", func(t *testing.T) {
		t.Parallel()
		_, err := withState(t, l, l.objects, filepath.Join(dir, "no", "state"))
		if err == nil || !strings.Contains(err.Error(), "write state") {
			t.Errorf("error is %v", err)
		}
	})
}
