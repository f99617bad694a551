package main

import (
	"context"
	"encoding/base64"
	"flag"
	"fmt"
	"path/filepath"
	"slices"

	"kiln/internal/config"
	"kiln/internal/keycheck"
	"kiln/internal/logkey"
)

func keysNewCommand() command {
	return command{
		name: "keys new", args: "FILE [--type secret|log] [--dry-run] [--json]",
		summary: "make a secret that log keys are derived from, or one log key",
		about: "Makes a file with a new secret (secret_file in kiln.yaml), from which the key of each log is derived with its origin, " +
			"so that one backup keeps all shards of a series for ever; or with --type log one private key (key_file). The file is " +
			"readable by its owner alone, and is never put over another. Back it up before a log is made with it: a log whose key " +
			"is lost cannot go on, and one whose key is in other hands has to be given up.",
		examples: []string{"kiln keys new keys/example.secret", "kiln keys new --type log keys/example2026h2.pem"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			typ := fs.String("type", "secret", "what to make, secret or log (a `type`)")
			dryRun := fs.Bool("dry-run", false, "say what would be made, and make nothing")
			asJSON := fs.Bool("json", false, "write the result as JSON")
			return func(_ context.Context, e *env, args []string) error {
				if len(args) != 1 {
					return misuse("keys new", "kiln keys new takes the name of one file, but got %s", count(len(args), "name"))
				}
				if *typ != "secret" && *typ != "log" {
					return misuse("keys new", "--type: %q is neither secret nor log", *typ)
				}
				return newKeyFile(e, args[0], *typ, *dryRun, *asJSON)
			}
		},
	}
}

// newKeyFile makes a file with a secret or a log key.
func newKeyFile(e *env, path, typ string, dryRun, asJSON bool) error {
	switch found, err := exists(path); {
	case err != nil:
		return fmt.Errorf("look for %s: %w", path, err)
	case found:
		return fmt.Errorf("%s is there already, and a key is never written over: name another file", path)
	}
	result := struct {
		File   string   `json:"file"`
		Type   string   `json:"type"`
		DryRun bool     `json:"dry_run"`
		Log    *logJSON `json:"log,omitempty"`
	}{path, typ, dryRun, nil}
	data, key, err := makeKey(typ)
	if err != nil {
		return err
	}
	if !dryRun {
		if err := makeFolder(filepath.Dir(path)); err != nil {
			return fmt.Errorf("make folder for %s: %w", path, err)
		}
		if err := writeSecret(path, data); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		if key != nil {
			result.Log = &logJSON{LogID: logID(key.LogID()), SPKI: key.SPKI()}
		}
	}
	if asJSON {
		return writeJSON(e, result)
	}
	if dryRun {
		e.printf("Would make a %s in %s\n", named(typ), path)
		return nil
	}
	e.printf("Made a %s in %s\n", named(typ), path)
	if result.Log != nil {
		e.printf("  log ID  %s\n", base64.StdEncoding.EncodeToString(result.Log.LogID))
		e.printf("Back it up now: without it the log cannot go on. In kiln.yaml it is the key_file of one log.\n")
		return nil
	}
	e.printf("Back it up now: without it no log made with it can go on. In kiln.yaml it is a secret_file.\n")
	return nil
}

// makeKey returns the file of a new secret, or of a new key and the key.
func makeKey(typ string) ([]byte, *logkey.Key, error) {
	if typ == "secret" {
		s, err := logkey.NewSecret()
		if err != nil {
			return nil, nil, err
		}
		return s.PEM(), nil, nil
	}
	key, err := logkey.Generate()
	if err != nil {
		return nil, nil, err
	}
	if err := key.Weak(); err != nil {
		return nil, nil, fmt.Errorf("generate log key: %w", err)
	}
	data, err := key.PEM()
	return data, key, err
}

func named(typ string) string {
	if typ == "log" {
		return "log key"
	}
	return "secret"
}

// logJSON is the public side of a log's key as JSON; log_id and spki are base64.
type logJSON struct {
	Name   string `json:"name,omitempty"`
	Origin string `json:"origin,omitempty"`
	LogID  []byte `json:"log_id"`
	SPKI   []byte `json:"spki"`
}

func logID(id [32]byte) []byte { return id[:] }

func keysShowCommand() command {
	return command{
		name: "keys show", args: "[FILE...] [-c FILE] [--json]",
		summary: "show the public side of keys: log IDs, public keys, types",
		about: "Prints what others may know of the keys in the files, or of all that a configuration names: type, log ID (base64 of the SHA-256) " +
			"and public key (base64 of the SubjectPublicKeyInfo). With -c, a secret is shown with each log that derives its key from it, " +
			"shards included that were not created yet. It shows nothing that is private. With --json it is an array of objects with file, " +
			"type and logs.",
		examples: []string{
			"kiln keys show -c kiln.yaml", "kiln keys show keys/example.secret -c kiln.yaml",
			"kiln keys show keys/example2026h2.pem --json",
		},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			asJSON := fs.Bool("json", false, "write JSON")
			return func(_ context.Context, e *env, args []string) error {
				r, err := lookAtKeys(e, fs, *path, args)
				if err != nil {
					return err
				}
				return showKeys(e, r, args, *asJSON)
			}
		},
	}
}

// lookAtKeys looks at the files that were named, at those of the configuration
// if that was named or no file was, and at both if both were.
func lookAtKeys(e *env, fs *flag.FlagSet, path string, args []string) (*keycheck.Report, error) {
	if len(args) > 0 && !isSet(fs, "c") && !isSet(fs, "config") {
		return keycheck.Files(args...), nil
	}
	cfg, err := config.Read(path, e.now())
	if err != nil {
		return nil, err
	}
	return keycheck.Config(cfg, args...), nil
}

// fileJSON is a file with keys as JSON.
type fileJSON struct {
	File    string    `json:"file"`
	Type    string    `json:"type"`
	Missing bool      `json:"missing"`
	Logs    []logJSON `json:"logs"`
}

func asFileJSON(f keycheck.File) fileJSON {
	j := fileJSON{f.Path, f.Type, f.Missing, []logJSON{}}
	for _, l := range f.Logs {
		j.Logs = append(j.Logs, logJSON{l.Name, l.Origin, logID(l.LogID), l.SPKI})
	}
	return j
}

// showKeys writes the public side of the files that were named, or of all. It
// fails after that if one could not be read.
func showKeys(e *env, r *keycheck.Report, named []string, asJSON bool) error {
	var failed error
	list := []fileJSON{}
	for _, f := range r.Files {
		as := slices.IndexFunc(named, func(path string) bool { return samePath(path, f.Path) })
		if as >= 0 {
			f.Path = named[as]
		}
		switch {
		case len(named) > 0 && as < 0:
		case f.Unusable:
			failed = errReported
			for _, p := range r.Problems {
				if samePath(p.Path, f.Path) {
					fmt.Fprintf(e.stderr, "kiln keys show: %s: %s; %s\n", f.Path, p.What, p.Want)
				}
			}
		case f.Type == keycheck.TypeLog || f.Type == keycheck.TypeSecret:
			list = append(list, asFileJSON(f))
		}
	}
	if asJSON {
		if err := writeJSON(e, list); err != nil {
			return err
		}
		return failed
	}
	for _, f := range list {
		printKey(e, f)
	}
	return failed
}

// samePath reports whether two paths are the same, as they are written.
func samePath(a, b string) bool {
	x, errX := filepath.Abs(a)
	y, errY := filepath.Abs(b)
	return errX == nil && errY == nil && x == y
}

func printKey(e *env, f fileJSON) {
	what := f.Type
	switch {
	case f.Missing:
		what += ", not made yet"
	case f.Type == keycheck.TypeSecret && len(f.Logs) == 0:
		what += ", no log is known that derives its key from it: -c names a configuration"
	case f.Type == keycheck.TypeLog:
		what += ", ECDSA P-256"
	}
	e.printf("%s: %s\n", f.File, what)
	for _, l := range f.Logs {
		if l.Name != "" {
			e.printf("  %s  %s\n", l.Name, l.Origin)
		}
		e.printf("    log ID      %s\n    public key  %s\n", base64.StdEncoding.EncodeToString(l.LogID), base64.StdEncoding.EncodeToString(l.SPKI))
	}
}

func keysCheckCommand() command {
	return command{
		name: "keys check", args: "[FILE...] [-c FILE] [--json]",
		summary: "find weak, reused, open or wrong keys",
		about: "Reads the files, or with -c (and if no file is named) every file with a secret that a configuration names, and reports all that " +
			"is wrong at once: keys that are public, tiny or patterned, on another curve or of another kind, used by two logs, used for TLS " +
			"as well, or open to other users. It changes nothing, and may run beside kiln serve. The status is 0 if nothing is wrong. " +
			"Keys in the cache of ACME are made by kiln for TLS alone, and are not read.",
		examples: []string{"kiln keys check", "kiln keys check -c kiln.yaml --json", "kiln keys check new.pem -c kiln.yaml"},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			path := configFlag(fs)
			asJSON := fs.Bool("json", false, "write the report as JSON")
			return func(_ context.Context, e *env, args []string) error {
				r, err := lookAtKeys(e, fs, *path, args)
				if err != nil {
					return err
				}
				return reportKeys(e, r, *asJSON)
			}
		},
	}
}

// reportKeys writes what was looked at and what is wrong.
func reportKeys(e *env, r *keycheck.Report, asJSON bool) error {
	type problem struct {
		File string `json:"file"`
		What string `json:"what"`
		Want string `json:"want"`
	}
	report := struct {
		Files    []fileJSON `json:"files"`
		Problems []problem  `json:"problems"`
	}{[]fileJSON{}, []problem{}}
	logs := 0
	for _, f := range r.Files {
		report.Files = append(report.Files, asFileJSON(f))
		logs += len(f.Logs)
	}
	for _, p := range r.Problems {
		report.Problems = append(report.Problems, problem{p.Path, p.What, p.Want})
		if !asJSON {
			text := p.Path + ": " + p.What
			if p.Want != "" {
				text += "; " + p.Want
			}
			fmt.Fprintln(e.stderr, text)
		}
	}
	if asJSON {
		if err := writeJSON(e, report); err != nil {
			return err
		}
	} else if len(r.Problems) == 0 {
		e.printf("%s with %s, nothing wrong\n", count(len(r.Files), "file"), count(logs, "log key"))
	} else {
		fmt.Fprintf(e.stderr, "kiln keys check: %s\n", count(len(r.Problems), "problem"))
	}
	if len(r.Problems) > 0 {
		return errReported
	}
	return nil
}
