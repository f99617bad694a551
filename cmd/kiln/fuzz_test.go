package main

import (
	"errors"
	"flag"
	"net/url"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/fuzztest"
)

// FuzzCommandLine finds and parses any command line, and runs nothing. It is
// understood, or what is wrong with it is said with what to do next; no value is
// taken that its flag would not give back.
func FuzzCommandLine(f *testing.F) {
	for _, line := range []string{
		"", "help", "serve --config kiln.yaml", "serv", "roots", "roots apply --yes", "shards retire --keep 90d x", "shards retire --keep 9e9d", "fsck --parallel x y", "--version",
		"fsck -- -x", "gc --grace=1h --grace", "init --url=https://a/ --listen :1 name", "dedup stat -h", "keys check --json=maybe", "fsck --\x1b[31m", "-", "--", "serve ---x", "dev --=",
	} {
		f.Add(strings.ReplaceAll(line, " ", "\x00"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\x00")
		findGroup(args)
		cmd, rest, err := find(args)
		if err != nil {
			wantUsage(t, err)
			return
		}
		fs := newFlagSet(cmd)
		cmd.flags(fs)
		positional, err := parseFlags(fs, rest)
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		if err != nil {
			wantUsage(t, flagError(cmd, fs, err))
			return
		}
		if len(positional) > len(rest) {
			t.Fatalf("%q has the arguments %q", rest, positional)
		}
		fs.Visit(func(set *flag.Flag) {
			value := set.Value.String()
			if err := set.Value.Set(value); err != nil || set.Value.String() != value {
				t.Fatalf("--%s is %q, and then %q, %v", set.Name, value, set.Value, err)
			}
		})
	})
}

// wantUsage fails unless an error is one of the command line, and says what to do.
func wantUsage(t *testing.T, err error) {
	t.Helper()
	var usage *usageError
	if !errors.As(err, &usage) || usage.hint == "" {
		t.Fatalf("error is none of usage: %v", err)
	}
}

// FuzzKeepTime reads durations that may be in days.
func FuzzKeepTime(f *testing.F) {
	for _, s := range []string{"90d", "36h", "0d", "-1h", "d", "65536d", "36600d", "36601d", "1.5d", "1h30m", "9e9h", "+1d", "1d1d", "١d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var k keepTime
		if err := k.Set(s); err != nil {
			if fuzztest.Sentence(t, err); k != 0 {
				t.Fatalf("%q was refused, and is %v", s, k)
			}
			return
		}
		if k < 0 || time.Duration(k) > 100*366*24*time.Hour {
			t.Fatalf("%q is %v", s, time.Duration(k))
		}
		var again keepTime
		if err := again.Set(k.String()); err != nil || again != k {
			t.Fatalf("%q is written %q, which is %v, %v", s, k.String(), again, err)
		}
	})
}

// FuzzWindow reads the flags that say where and when a new log is.
func FuzzWindow(f *testing.F) {
	f.Add("example2026h2", "127.0.0.1:6962", "2026-07-01T00:00:00Z")
	f.Add("a0000h1", ":443", "2026-07-01T00:00:00.5Z")
	f.Add("a9999h2", "[::1]:0", "x")
	f.Add("", "host", "9999-12-31T23:59:60Z")
	half := config.HalfYearOf(time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))
	f.Fuzz(func(t *testing.T, name, listen, at string) {
		if prefix, err := prefixFor("init", listen, "name"); err != nil {
			wantUsage(t, err)
		} else if u, err := url.Parse(prefix); err == nil && (u.Hostname() == "" || u.Port() == "" || !strings.HasSuffix(u.Path, "/name/")) {
			t.Fatalf("%q is served at %q", listen, prefix)
		}
		start, limit, err := windowFor(name, half, initArgs{})
		if err != nil || !start.Before(limit) {
			t.Fatalf("%q is from %v to %v, %v", name, start, limit, err)
		}
		if when, err := parseTime("at", at); err != nil {
			wantUsage(t, err)
		} else if when.Nanosecond() != 0 || when.Location() != time.UTC {
			t.Fatalf("%q is %v", at, when)
		}
	})
}
