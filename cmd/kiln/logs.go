package main

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"text/tabwriter"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

func logsCommand() command {
	return command{
		name: "logs", args: "[-c FILE] [--json]",
		summary: "describe the logs of a configuration",
		about: "Prints what others need to know of each log, and where it is kept. With --json it is an array of objects with name, " +
			"origin, log_id, key (SubjectPublicKeyInfo), submission_url, monitoring_url, not_after_start, not_after_limit, " +
			"roots_file, storage and lock; log_id and key are base64. It may run beside kiln serve.",
		examples: []string{"kiln logs -c kiln.yaml", "kiln logs -c kiln.yaml --json"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			asJSON := fs.Bool("json", false, "write JSON")
			return func(_ context.Context, e *env, args []string) error {
				if err := noArguments("logs", args); err != nil {
					return err
				}
				cfg, err := config.Load(*path, e.now())
				if err != nil {
					return err
				}
				infos, err := daemon.Metadata(cfg)
				if err != nil {
					return err
				}
				if *asJSON {
					return writeJSON(e, infos)
				}
				return printLogs(e, cfg, infos)
			}
		},
	}
}

func printLogs(e *env, cfg *config.Config, infos []daemon.LogInfo) error {
	tw := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "LOG\tNOTAFTER\tLOG ID\tSUBMISSION URL\tSTORAGE")
	for i, info := range infos {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", info.Name, windowOf(cfg.Logs[i]),
			base64.StdEncoding.EncodeToString(info.LogID), info.SubmissionURL, info.Storage)
	}
	return tw.Flush()
}
