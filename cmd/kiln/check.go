package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

func checkCommand() command {
	return command{
		name: "check", args: "[-c FILE] [--json] [--offline]",
		summary: "say all that is wrong with a configuration",
		about: "Reads a configuration and every file it names as kiln serve does, and reports all faults at once, each with " +
			"file, line, key, what is wrong and what is wanted. Without faults, it finds out by trying what the S3 and etcd servers do " +
			"that the configuration names, with probe objects that it removes again, and says what a log loses by what they lack. " +
			"It touches no log, and may run beside kiln serve. The status is 0 if kiln serve can do with everything: a fault of the configuration stops " +
			"all logs, a service that cannot be used those logs that need it.",
		examples: []string{"kiln check -c kiln.yaml", "kiln check -c kiln.yaml --json", "kiln check -c kiln.yaml --offline"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			asJSON := fs.Bool("json", false, "write the report as JSON")
			offline := fs.Bool("offline", false, "do not try the servers of storage and lock")
			return func(ctx context.Context, e *env, args []string) error {
				if err := noArguments("check", args); err != nil {
					return err
				}
				cfg, err := config.Load(*path, e.now())
				var services []daemon.ServiceCheck
				if err == nil && !*offline {
					bar := e.progress("trying the servers")
					services, err = daemon.CheckServices(ctx, cfg, daemon.Options{})
					bar.end()
					if err != nil {
						return err
					}
				}
				if *asJSON {
					return checkJSON(e, *path, cfg, services, err)
				}
				if err != nil {
					return err
				}
				return printChecked(e, cfg, services)
			}
		},
	}
}

func printChecked(e *env, cfg *config.Config, services []daemon.ServiceCheck) error {
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
	bad := printServices(e, services)
	if bad > 0 {
		return fmt.Errorf("%s: %s cannot be used: kiln serve would leave out the logs that need it, or not start if none is left", cfg.Path, count(bad, "service"))
	}
	e.printf("%s: %s, no faults\n", cfg.Path, count(len(cfg.Logs), "log"))
	return nil
}

// printServices says what was found out of each service, and returns how many
// cannot be used.
func printServices(e *env, services []daemon.ServiceCheck) (bad int) {
	for _, s := range services {
		switch {
		case s.Error != "":
			bad++
			fmt.Fprintf(e.stderr, "%s: %s\n", s.Service, s.Error)
		case len(s.Problems) == 0:
			e.printf("%s: does all that is wanted of it\n", s.Service)
		}
		for _, problem := range s.Problems {
			fmt.Fprintf(e.stderr, "note: %s: %s\n", s.Service, problem)
		}
	}
	return bad
}

// checkJSON writes an object with the file, its faults, and if there are none
// the names of its logs and what was found out of the services.
func checkJSON(e *env, path string, cfg *config.Config, services []daemon.ServiceCheck, err error) error {
	type fault struct {
		File string `json:"file"`
		Line int    `json:"line"`
		Key  string `json:"key"`
		What string `json:"what"`
		Want string `json:"want"`
	}
	report := struct {
		File     string                `json:"file"`
		Faults   []fault               `json:"faults"`
		Logs     []string              `json:"logs"`
		Services []daemon.ServiceCheck `json:"services"`
	}{path, []fault{}, []string{}, append([]daemon.ServiceCheck{}, services...)}
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
	if len(faults) > 0 || slices.ContainsFunc(services, func(s daemon.ServiceCheck) bool { return s.Error != "" }) {
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
