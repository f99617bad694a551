package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"kiln/internal/config"
)

// usageError is a command line that was not understood.
type usageError struct{ what, hint string }

func (e *usageError) Error() string { return e.what }

// misuse makes a usageError of a command.
func misuse(command, format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...), "Run kiln " + command + " --help for what it takes."}
}

// find returns the command that a command line names, and the arguments after
// its name. "kiln", "kiln --help" and "kiln --version" are understood too.
func find(args []string) (cmd command, rest []string, err error) {
	const hint = "Run kiln help for the list of commands."
	if len(args) == 0 {
		return command{}, nil, &usageError{"no command given", hint}
	}
	var names []string
	for _, c := range commands() {
		first, second, two := strings.Cut(c.name, " ")
		switch {
		case two && len(args) > 1 && args[0] == first && args[1] == second:
			return c, args[2:], nil
		case !two && (args[0] == c.name || args[0] == "-"+c.name || args[0] == "--"+c.name):
			return c, args[1:], nil
		}
		names = append(names, first)
	}
	if args[0] == "-h" {
		return helpCommand(), args[1:], nil
	}
	what := fmt.Sprintf("unknown command %q", args[0])
	if near := config.Nearest(args[0], names); near != "" {
		what += fmt.Sprintf("; did you mean %s?", near)
	}
	return command{}, nil, &usageError{what, hint}
}

// findGroup returns the group that a command line names without naming one of
// its commands, and the arguments after its name.
func findGroup(args []string) (group, []string, bool) {
	if len(args) == 0 {
		return group{}, nil, false
	}
	for _, g := range groups() {
		if g.name != args[0] {
			continue
		}
		if _, _, err := find(args); err == nil {
			return group{}, nil, false
		}
		return g, args[1:], true
	}
	return group{}, nil, false
}

// commands returns the commands of the group.
func (g group) commands() []command {
	return slices.DeleteFunc(commands(), func(c command) bool { return !strings.HasPrefix(c.name, g.name+" ") })
}

// runGroup answers a command line that names a group and no command of it.
func runGroup(e *env, g group, rest []string) int {
	if len(rest) > 0 && slices.Contains([]string{"help", "-h", "-help", "--help"}, rest[0]) {
		writeGroup(e.stdout, g)
		return 0
	}
	what := fmt.Sprintf("kiln %s needs a command after it", g.name)
	if len(rest) > 0 {
		what = fmt.Sprintf("unknown command %q of kiln %s", rest[0], g.name)
		var names []string
		for _, c := range g.commands() {
			names = append(names, strings.TrimPrefix(c.name, g.name+" "))
		}
		if near := config.Nearest(rest[0], names); near != "" {
			what += fmt.Sprintf("; did you mean %s?", near)
		}
	}
	fmt.Fprintf(e.stderr, "kiln: %s\nRun kiln %s --help for the list of them.\n", what, g.name)
	return 2
}

// runCommand parses the flags of a command and runs it.
func runCommand(ctx context.Context, e *env, cmd command, args []string) error {
	fs := newFlagSet(cmd)
	action := cmd.flags(fs)
	positional, err := parseFlags(fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return writeHelp(e.stdout, cmd)
	case err != nil:
		return flagError(cmd, fs, err)
	}
	return action(ctx, e, positional)
}

func newFlagSet(cmd command) *flag.FlagSet {
	fs := flag.NewFlagSet(cmd.name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	return fs
}

// parseFlags parses flags before, between and after the other arguments, which
// it returns; package flag stops at the first of those. After "--" there are no
// flags.
func parseFlags(fs *flag.FlagSet, args []string) (positional []string, err error) {
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		rest := fs.Args()
		if used := len(args) - len(rest); used > 0 && args[used-1] == "--" {
			return append(positional, rest...), nil
		}
		if len(rest) == 0 {
			break
		}
		positional, args = append(positional, rest[0]), rest[1:]
	}
	return positional, nil
}

var (
	undefinedFlag = regexp.MustCompile(`^flag provided but not defined: -(.*)$`)
	invalidValue  = regexp.MustCompile(`(?s)^invalid (?:boolean )?value (".*") for (?:flag )?-([a-z-]+): (.*)$`)
	missingValue  = regexp.MustCompile(`^flag needs an argument: -(.*)$`)
)

// flagError puts the errors of package flag into the words of this program.
func flagError(cmd command, fs *flag.FlagSet, err error) error {
	text := err.Error()
	if m := undefinedFlag.FindStringSubmatch(text); m != nil {
		var known []string
		fs.VisitAll(func(f *flag.Flag) { known = append(known, f.Name) })
		if near := config.Nearest(m[1], known); near != "" {
			return misuse(cmd.name, "unknown flag %s of kiln %s; did you mean %s?", dashed(m[1]), cmd.name, dashed(near))
		}
		return misuse(cmd.name, "unknown flag %s of kiln %s", dashed(m[1]), cmd.name)
	}
	if m := invalidValue.FindStringSubmatch(text); m != nil {
		return misuse(cmd.name, "%s: %s is not understood: %s", dashed(m[2]), m[1], flagWants(fs.Lookup(m[2]), m[3]))
	}
	if m := missingValue.FindStringSubmatch(text); m != nil {
		return misuse(cmd.name, "%s needs a value", dashed(m[1]))
	}
	return misuse(cmd.name, "%s", text)
}

// flagWants says what a flag takes, where package flag only says that it is none.
func flagWants(f *flag.Flag, problem string) string {
	if f == nil || problem != "parse error" {
		return problem
	}
	if g, ok := f.Value.(flag.Getter); ok {
		switch g.Get().(type) {
		case time.Duration:
			return "want a duration such as 500ms, 30s or 6h"
		case int:
			return "want a whole number"
		case bool:
			return "want true or false"
		}
	}
	return problem
}

// dashed writes a flag as people type it.
func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// isSet reports whether a flag was given.
func isSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// configFlag declares -c, and --config for the same.
func configFlag(fs *flag.FlagSet) *string {
	path := fs.String("c", "kiln.yaml", "the configuration `file`")
	fs.StringVar(path, "config", *path, "") // shown beside -c
	return path
}

// noArguments refuses arguments of a command that has flags only.
func noArguments(command string, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case len(args) == 1 && (strings.HasSuffix(args[0], ".yaml") || strings.HasSuffix(args[0], ".yml")):
		return misuse(command, "kiln %s takes no argument, but got %s; did you mean -c %s?", command, args[0], args[0])
	}
	return misuse(command, "kiln %s takes no argument, but got %s", command, strings.Join(args, " "))
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
