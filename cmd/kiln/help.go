package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"kiln/internal/config"
)

const topic = "config" // of kiln help, beside the commands

func helpCommand() command {
	return command{
		name: "help", args: "[COMMAND | config]",
		summary:  "say how a command is used, or what kiln.yaml may hold",
		about:    "Shows the list of commands, how one command is used, or a kiln.yaml with every option explained.",
		examples: []string{"kiln help init", "kiln help config"},
		flags: func(*flag.FlagSet) func(context.Context, *env, []string) error {
			return func(_ context.Context, e *env, args []string) error {
				switch {
				case len(args) == 0:
					return writeOverview(e.stdout)
				case args[0] == topic && len(args) == 1:
					_, err := e.stdout.Write(config.Template(e.now()))
					return err
				}
				if g, rest, ok := findGroup(args); ok && len(rest) == 0 {
					writeGroup(e.stdout, g)
					return nil
				}
				cmd, rest, err := find(args)
				if err != nil {
					return err
				}
				if len(rest) > 0 {
					return misuse("help", "kiln help takes the name of one command, but got %s", strings.Join(args, " "))
				}
				return writeHelp(e.stdout, cmd)
			}
		},
	}
}

func writeOverview(w io.Writer) error {
	fmt.Fprint(w, "kiln is a Static CT API Certificate Transparency log.\n\nUsage: kiln COMMAND [flags]\n\nCommands:\n")
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range commands() {
		if !strings.Contains(c.name, " ") {
			fmt.Fprintf(tw, "  %s\t%s\n", c.name, c.summary)
		}
	}
	for _, g := range groups() {
		fmt.Fprintf(tw, "  %s ...\t%s\n", g.name, g.summary)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprint(w, "\nFor a first look: kiln dev. For a log of your own: kiln init DIR. For a public series\n"+
		"of logs: a series in kiln.yaml (kiln help config), then kiln shards plan.\nEach command explains itself: kiln COMMAND --help.\n")
	return err
}

// writeGroup lists the commands of a group.
func writeGroup(w io.Writer, g group) {
	fmt.Fprintf(w, "Usage: kiln %s COMMAND [flags]\n\nCommands to %s:\n", g.name, g.summary)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range g.commands() {
		fmt.Fprintf(tw, "  %s\t%s\n", c.name, c.summary)
	}
	tw.Flush()
	fmt.Fprintf(w, "\nEach command explains itself: kiln %s COMMAND --help.\n", g.name)
}

// writeHelp writes how a command is used.
func writeHelp(w io.Writer, cmd command) error {
	fs := newFlagSet(cmd)
	cmd.flags(fs)
	usage := "Usage: kiln " + cmd.name
	if cmd.args != "" {
		usage += " " + cmd.args
	}
	var flags strings.Builder
	tw := tabwriter.NewWriter(&flags, 0, 0, 2, ' ', 0)
	fs.VisitAll(func(f *flag.Flag) {
		value, text := flag.UnquoteUsage(f)
		if text == "" { // another spelling of -c
			return
		}
		name := dashed(f.Name)
		if f.Name == "c" {
			name = "-c, --config"
		}
		if value != "" {
			name += " " + strings.ToUpper(value)
		}
		if f.DefValue != "" && f.DefValue != "false" {
			text += fmt.Sprintf(" (default %s)", f.DefValue)
		}
		fmt.Fprintf(tw, "  %s\t%s\n", name, text)
	})
	if err := tw.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n\n%s\n", usage, wrap(cmd.about, 90))
	if flags.Len() > 0 {
		fmt.Fprintf(w, "\nFlags:\n%s", flags.String())
	}
	if len(cmd.examples) > 0 {
		fmt.Fprintf(w, "\nExamples:\n  %s\n", strings.Join(cmd.examples, "\n  "))
	}
	return nil
}

// wrap breaks a paragraph into lines.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case column == 0:
		case column+1+len(word) > width:
			b.WriteByte('\n')
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

func versionCommand() command {
	return command{
		name: "version", summary: "print the version",
		about: "Prints the version, the commit it was built from, and the version of Go that built it.",
		flags: func(*flag.FlagSet) func(context.Context, *env, []string) error {
			return func(_ context.Context, e *env, args []string) error {
				if err := noArguments("version", args); err != nil {
					return err
				}
				e.printf("kiln %s %s %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return nil
			}
		},
	}
}

// version returns the module's version, with the commit where it was built in a
// checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) > 12 && !strings.Contains(v, s.Value[:12]) {
			v += " " + s.Value[:12]
		}
	}
	return v
}
