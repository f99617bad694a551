package main

import (
	"flag"
	"strings"
	"testing"
)

func TestStatus(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int{
		"version": 0, "help": 0, "init --help": 0, "-h": 0,
		"check -c nowhere/kiln.yaml": 1, "check -c nowhere/kiln.yaml --json": 1,
		"": 2, "nonsense": 2, "check --nonsense": 2, "check file": 2, "serve -c": 2, "init": 2, "dev --samples -1": 2,
	} {
		e, _ := testEnv()
		if got := run(t.Context(), e, strings.Fields(line)); got != want {
			t.Errorf("kiln %s ends with status %d, want %d", line, got, want)
		}
	}
}

func TestParseFlags(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"": "", "a b": "a b", "--x 1 a": "1: a", "a --x 1": "1: a", "a --x=1 b": "1: a b",
		"a -- --x 1": "a --x 1", "-- -x": "-x", "--x -- a": "--: a",
	} {
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		x := fs.String("x", "", "")
		args, err := parseFlags(fs, strings.Fields(line))
		got := strings.Join(args, " ")
		if *x != "" {
			got = *x + ": " + got
		}
		if err != nil || got != want {
			t.Errorf("%q is read as %q (%v), want %q", line, got, err, want)
		}
	}
}
