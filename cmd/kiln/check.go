package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"text/tabwriter"

	"kiln/internal/config"
)

func checkCommand() command {
	return command{
		name: "check", args: "[-c FILE] [--json]",
		summary: "say all that is wrong with a configuration",
		about: "Reads a configuration and every file it names as kiln serve does, and reports all faults at once, each with " +
			"file, line, key, what is wrong and what is wanted. It changes nothing, and may run beside kiln serve. " +
			"The status is 0 if there are no faults.",
		examples: []string{"kiln check -c kiln.yaml", "kiln check -c kiln.yaml --json"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			asJSON := fs.Bool("json", false, "write the report as JSON")
			return func(_ context.Context, e *env, args []string) error {
				if err := noArguments("check", args); err != nil {
					return err
				}
				cfg, err := config.Load(*path, e.now())
				if *asJSON {
					return checkJSON(e, *path, cfg, err)
				}
				if err != nil {
					return err
				}
				return printChecked(e, cfg)
			}
		},
	}
}

func printChecked(e *env, cfg *config.Config) error {
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LOG\tNOTAFTER\tSUBMISSION URL\tSTORAGE")
	for _, l := range cfg.Logs {
		fmt.Fprintf(tw, "%s\t%s%s\t%s\t%s\n", l.Name, windowOf(l), mode(l), l.SubmissionURL, l.Storage)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, l := range cfg.Logs {
		if data, err := os.ReadFile(l.RootsFile); err == nil && config.NoRoots(data) {
			fmt.Fprintf(e.stderr, "note: log %s accepts nothing: there are no roots in %s\n", l.Name, l.RootsFile)
		}
	}
	e.printf("%s: %s, no faults\n", cfg.Path, count(len(cfg.Logs), "log"))
	return nil
}

// checkJSON writes an object with the file, its faults, and the names of its
// logs if there are none.
func checkJSON(e *env, path string, cfg *config.Config, err error) error {
	type fault struct {
		File string `json:"file"`
		Line int    `json:"line"`
		Key  string `json:"key"`
		What string `json:"what"`
		Want string `json:"want"`
	}
	report := struct {
		File   string   `json:"file"`
		Faults []fault  `json:"faults"`
		Logs   []string `json:"logs"`
	}{path, []fault{}, []string{}}
	var faults config.Faults
	if err != nil && !errors.As(err, &faults) {
		return err
	}
	for _, f := range faults {
		report.Faults = append(report.Faults, fault(f))
	}
	if cfg != nil {
		for _, l := range cfg.Logs {
			report.Logs = append(report.Logs, l.Name)
		}
	}
	if err := writeJSON(e, report); err != nil {
		return err
	}
	if len(faults) > 0 {
		return errReported
	}
	return nil
}

func writeJSON(e *env, v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
