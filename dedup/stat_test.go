package dedup

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kiln/entry"
)

func stat(t *testing.T, path, whose string) Stats {
	t.Helper()
	steps := int64(0)
	s, err := Stat(t.Context(), Config{Path: path, Secret: secret(whose)}, func(done, total int64) {
		if done != steps+1 || total != countSteps {
			t.Errorf("progress %d of %d after %d", done, total, steps)
		}
		steps = done
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStat(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "c.db")
	if s := stat(t, path, "a"); s.Exists || s.Rows != 0 || s.Problem != nil {
		t.Errorf("of no file: %+v", s)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 0 {
		t.Errorf("a look made %v, %v", list, err)
	}

	c := mustOpen(t, path)
	put(t, c, upTo(fill)...)
	put(t, c, fill+10)
	var first, last entry.Key // the ends of the keys are counted too
	last = entry.Key(bytes.Repeat([]byte{0xff}, len(last)))
	if err := c.Put(t.Context(), []entry.Key{first, last}, []entry.Placement{place(fill), place(fill + 1)}); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		if s := stat(t, path, "a"); !s.Exists || s.Rows != fill+3 || s.Covered != fill+2 || s.Bytes < 50*fill || s.Problem != nil || len(s.Aside) != 0 {
			t.Errorf("%s: %+v", what, s)
		}
	}
	check("while it is in use")
	put(t, c, fill+2) // it goes on
	if got := c.Covered(); got != fill+3 {
		t.Errorf("covered %d", got)
	}
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := stat(t, path, "a"); s.Rows != 0 || s.Covered != 0 || !s.Exists {
		t.Errorf("after Reset: %+v", s)
	}
	mustClose(t, c)
}

// TestStatOfBadFiles says what the next Open would do, and does not do it.
func TestStatOfBadFiles(t *testing.T) {
	t.Parallel()
	good := filled(t)
	for name, c := range map[string]struct {
		body  []byte
		whose string
		mark  bool
		want  string
	}{
		"foreign":  {[]byte(strings.Repeat("not a database ", 1000)), "a", false, "not a sound cache file"},
		"another":  {good, "b", false, "another log"},
		"suspect":  {good, "a", true, "damage was found"},
		"sound":    {good, "a", false, ""},
		"empty":    {nil, "a", false, ""},
		"cut half": {good[:len(good)/2], "a", false, "not a sound cache file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "c.db")
			writeFile(t, path, c.body)
			if c.mark {
				if err := markSuspect(path); err != nil {
					t.Fatal(err)
				}
			}
			s := stat2(t, path, c.whose)
			if (s.Problem != nil) != (c.want != "") || s.Problem != nil && !strings.Contains(s.Problem.Error(), c.want) {
				t.Errorf("problem %v, want %q", s.Problem, c.want)
			}
			if s.Problem != nil && (s.Rows != 0 || s.Covered != 0) {
				t.Errorf("%+v", s)
			}
			if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, c.body) {
				t.Errorf("the file was changed (%v)", err)
			}
			o, err := Open(t.Context(), Config{Path: path, Secret: secret(c.whose)})
			if err != nil {
				t.Fatal(err)
			}
			mustClose(t, o)
			s = stat2(t, path, c.whose)
			if want := c.want != ""; (len(s.Aside) == 1) != want || want && (s.Aside[0].Path != path+".bad-1" || s.Aside[0].Bytes != int64(len(c.body))) {
				t.Errorf("aside: %+v", s.Aside)
			}
		})
	}
}

// stat2 does not look at the progress, which ends early at a bad file.
func stat2(t *testing.T, path, whose string) Stats {
	t.Helper()
	s, err := Stat(t.Context(), Config{Path: path, Secret: secret(whose)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStatCancelled(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.db")
	writeFile(t, path, filled(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Stat(ctx, Config{Path: path, Secret: secret("a")}, func(int64, int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestInUse opens one file twice: the second one is refused, and the file is not
// taken for a bad one.
func TestInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "c.db")
	c := mustOpen(t, path)
	put(t, c, upTo(10)...)
	refused := func(when string) {
		t.Helper()
		if o, err := Open(t.Context(), Config{Path: path, Secret: secret("a")}); !errors.Is(err, ErrInUse) {
			t.Errorf("%s: %v", when, err)
			if err == nil {
				mustClose(t, o)
			}
		}
	}
	refused("open")
	if err := c.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	refused("reset")
	mustClose(t, c)
	mustClose(t, c)
	if err := c.Reset(t.Context()); !errors.Is(err, errClosed) {
		t.Errorf("Reset of a closed cache: %v", err)
	}
	c = mustOpen(t, path)
	mustClose(t, c)
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, []string{"c.db", "c.db.lock"}) {
		t.Errorf("there is %q", names)
	}
}
