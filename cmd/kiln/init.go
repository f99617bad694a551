package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
)

const (
	configName = "kiln.yaml"
	// markerName is the file that makes a half-made log ours to complete.
	markerName = ".kiln-init"
)

// noRoots is the roots file of a log without any.
const noRoots = `# The accepted roots: PEM certificates, one after the other.
# As long as there are none, the log accepts no submission.
`

// initArgs is the command line of kiln init. Two runs with equal ones mean the
// same log.
type initArgs struct {
	Name, Listen, Admin, URL, Roots string
	NotAfterStart, NotAfterLimit    string
	Period                          time.Duration
}

func initCommand() command {
	return command{
		name: "init", args: "DIR [flags]",
		summary: "make a new log",
		about: "Makes a log in DIR: its private key, lock cell, checkpoint of size 0, roots file, and DIR/kiln.yaml with comments. " +
			"DIR must not exist or be empty. After a crash half-way, the same command line completes what it began. " +
			"The log's origin is made from its URL and may never change, so give the URL that clients will use.",
		examples: []string{
			"kiln init mylog",
			"kiln init mylog --name mylog2026h2 --roots roots.pem --url https://ct.example.org/mylog2026h2/",
		},
		flags: func(fs *flag.FlagSet) func(context.Context, *env, []string) error {
			a := declareInit(fs)
			return func(ctx context.Context, e *env, args []string) error {
				if len(args) != 1 || args[0] == "" {
					return misuse("init", "kiln init takes one argument, the folder to make the log in, but got %d", len(args))
				}
				return initLog(ctx, e, args[0], *a)
			}
		},
	}
}

func declareInit(fs *flag.FlagSet) *initArgs {
	a := new(initArgs)
	fs.StringVar(&a.Name, "name", "", "the log's `name` (default kiln and the current half-year, such as kiln2026h2)")
	fs.StringVar(&a.Listen, "listen", config.DefaultListen, "`host:port` for submission and monitoring")
	fs.StringVar(&a.Admin, "admin", config.DefaultAdmin, "`host:port` for metrics and health")
	fs.StringVar(&a.URL, "url", "", "the `URL` of the log for clients, with a slash at its end (default http://LISTEN/NAME/)")
	fs.StringVar(&a.Roots, "roots", "", "PEM `file` of the accepted roots, which is copied; without it the log accepts nothing as yet")
	fs.StringVar(&a.NotAfterStart, "not-after-start", "", "first NotAfter accepted, a `time` such as 2026-07-01T00:00:00Z (default: start of the half-year that the name ends in, or of the current one)")
	fs.StringVar(&a.NotAfterLimit, "not-after-limit", "", "first NotAfter no longer accepted, a `time` (default: end of the half-year)")
	fs.DurationVar(&a.Period, "period", config.DefaultPeriod, "least `duration` between two rounds")
	return a
}

// plan is what kiln init is about to make. It is kept in the marker, so that a
// repetition half a year later makes the same.
type plan struct {
	Args   initArgs
	Config *config.Config
}

// initLog makes a log in a folder, or completes one that was begun with the
// same arguments.
func initLog(ctx context.Context, e *env, dir string, args initArgs) error {
	p, err := newPlan(dir, args, e.now())
	if err != nil {
		return err
	}
	if p, err = claim(p); err != nil {
		return err
	}
	for _, step := range initSteps() {
		if err := step(ctx, p); err != nil {
			return fmt.Errorf("%w\nOnce the cause is gone, the same command completes what is half made", err)
		}
	}
	return printMade(e, dir, p)
}

// initSteps are what follows the claim, in order. Each may be cut short and
// repeated.
func initSteps() []func(context.Context, *plan) error {
	return []func(context.Context, *plan) error{copyRoots, createLog, writeConfig, removeMarker}
}

// newPlan fills in what was not given, and checks it all before anything is
// touched.
func newPlan(dir string, args initArgs, now time.Time) (*plan, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", dir, err)
	}
	if args.Roots != "" {
		if err := config.CheckRoots(args.Roots); err != nil {
			return nil, fmt.Errorf("--roots: %w", err)
		}
		if args.Roots, err = filepath.Abs(args.Roots); err != nil {
			return nil, fmt.Errorf("--roots: %w", err)
		}
	}
	name, half := args.Name, config.HalfYearOf(now)
	if name == "" {
		name = "kiln" + half.Suffix
	}
	start, limit, err := windowFor(name, half, args)
	if err != nil {
		return nil, err
	}
	prefix := args.URL
	if prefix == "" {
		if prefix, err = prefixFor("init", args.Listen, name); err != nil {
			return nil, err
		}
	}
	l := config.NewLog(name, prefix, abs, start, limit)
	l.Period = args.Period
	c := newConfig(abs, args.Listen, args.Admin, l)
	if _, err := config.Parse(configName, config.Render(c), abs, now); err != nil {
		return nil, flagFaults("init", err)
	}
	return &plan{args, c}, nil
}

// newConfig puts a configuration round a log. Plain HTTP that others can reach
// has to be stated in it: who gave such an address meant it.
func newConfig(dir, listen, admin string, l config.Log) *config.Config {
	host, _, _ := net.SplitHostPort(listen)
	return &config.Config{
		Path: filepath.Join(dir, configName), Dir: dir, Listen: listen, Admin: admin,
		InsecureHTTP:   !config.Loopback(host) || strings.HasPrefix(l.SubmissionURL, "http:") && !config.Loopback(l.Host()),
		Logging:        config.Logging{Format: "text"},
		MaxConnections: config.DefaultMaxConnections,
		Roots:          config.Roots{Refresh: config.DefaultRefresh},
		Logs:           []config.Log{l},
	}
}

// prefixFor makes a log's URL from the address it is served on. Every interface
// is localhost, for lack of a name that would be true.
func prefixFor(command, listen, name string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", misuse(command, "--listen: %q is no address; want host:port, such as %s", listen, config.DefaultListen)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", misuse(command, "--listen: %q has no port from 1 to 65535, and the log's URL needs it", listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return "http://" + net.JoinHostPort(host, port) + "/" + name + "/", nil
}

var halfYearName = regexp.MustCompile(`([0-9]{4})h([12])$`)

// windowFor returns the window of a new log: what was given, or the half-year
// that the name ends in, or the current one.
func windowFor(name string, half config.HalfYear, a initArgs) (start, limit time.Time, err error) {
	if m := halfYearName.FindStringSubmatch(name); m != nil {
		year, _ := strconv.Atoi(m[1])
		month := time.January
		if m[2] == "2" {
			month = time.July
		}
		half = config.HalfYearOf(time.Date(year, month, 1, 0, 0, 0, 0, time.UTC))
	}
	start, limit = half.Start, half.Limit
	if (a.NotAfterStart == "") != (a.NotAfterLimit == "") {
		return start, limit, misuse("init", "--not-after-start and --not-after-limit go together: give both or neither")
	}
	if a.NotAfterStart == "" {
		return start, limit, nil
	}
	if start, err = parseTime("not-after-start", a.NotAfterStart); err != nil {
		return start, limit, err
	}
	limit, err = parseTime("not-after-limit", a.NotAfterLimit)
	return start, limit, err
}

func parseTime(name, value string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, value)
	if err != nil || t.Nanosecond() != 0 {
		return t, misuse("init", "--%s: %q is no time; want RFC 3339 at a whole second, such as 2026-07-01T00:00:00Z", name, value)
	}
	return t.UTC(), nil
}

// flagFaults says faults of the configuration that is about to be written in
// terms of the flags they came from.
func flagFaults(command string, err error) error {
	var faults config.Faults
	if !errors.As(err, &faults) {
		return err
	}
	var lines []string
	for _, f := range faults {
		key := strings.ReplaceAll(strings.TrimPrefix(f.Key, "logs[0]."), "_", "-")
		if key == "submission-url" {
			key = "url"
		}
		if key == "monitoring-url" { // the same again
			continue
		}
		lines = append(lines, fmt.Sprintf("--%s: %s; %s", key, f.What, f.Want))
	}
	return misuse(command, "%s", strings.Join(lines, "\nkiln: "))
}

// claim makes the folder and the marker. It refuses a folder with
// anything in it but a half-made log of the same arguments, whose plan it
// returns.
func claim(p *plan) (*plan, error) {
	dir := p.Config.Dir
	if err := makeFolder(dir); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	marker := filepath.Join(dir, markerName)
	switch data, err := os.ReadFile(marker); {
	case err == nil:
		return claimed(p, marker, data)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("look for a half-made log: %w", err)
	}
	if p.whole() {
		return nil, fmt.Errorf("%s exists: there is a log already; name another folder, or serve it with kiln serve -c %[1]s", p.Config.Path)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for a log: %w", err)
	}
	for _, f := range entries {
		if !strings.HasPrefix(f.Name(), unfinished) { // what a crash at the very start leaves
			return nil, fmt.Errorf("%s is not empty: it has %s; name a folder that does not exist or is empty", dir, f.Name())
		}
	}
	data, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", marker, err)
	}
	return p, writeFile(marker, data)
}

func claimed(p *plan, marker string, data []byte) (*plan, error) {
	var begun plan
	if err := json.Unmarshal(data, &begun); err != nil || begun.Config == nil {
		return nil, fmt.Errorf("%s is damaged: remove %s and begin anew", marker, p.Config.Dir)
	}
	if begun.Args != p.Args || begun.Config.Dir != p.Config.Dir {
		return nil, fmt.Errorf("%s holds a half-made log that was begun with other arguments: repeat those (they stand in %s), or remove the folder",
			p.Config.Dir, marker)
	}
	return &begun, nil
}

// whole reports whether the log was made and only the marker is left: the
// configuration is the last thing that is written. The log may have been served
// since, and its files edited.
func (p *plan) whole() bool {
	_, err := os.Lstat(p.Config.Path)
	return err == nil
}

func copyRoots(_ context.Context, p *plan) error {
	if p.whole() {
		return nil
	}
	data := []byte(noRoots)
	if p.Args.Roots != "" {
		var err error
		if data, err = os.ReadFile(p.Args.Roots); err != nil {
			return fmt.Errorf("copy roots: %w", err)
		}
	}
	return writeFile(p.Config.Logs[0].RootsFile, data)
}

func createLog(ctx context.Context, p *plan) error {
	if p.whole() {
		return nil
	}
	return daemon.CreateLog(ctx, p.Config, p.Config.Logs[0], daemon.Options{})
}

func writeConfig(_ context.Context, p *plan) error {
	if p.whole() {
		return nil
	}
	return writeFile(p.Config.Path, config.Render(p.Config))
}

func removeMarker(_ context.Context, p *plan) error {
	if err := os.Remove(filepath.Join(p.Config.Dir, markerName)); err != nil {
		return fmt.Errorf("end the making: %w", err)
	}
	return syncFolder(p.Config.Dir)
}

func printMade(e *env, dir string, p *plan) error {
	infos, err := daemon.Metadata(p.Config)
	if err != nil {
		return err
	}
	l, path := p.Config.Logs[0], filepath.Join(dir, configName)
	e.printf("Made log %s in %s:\n", l.Name, dir)
	e.printf("  submission  %s\n", l.SubmissionURL)
	e.printf("  NotAfter    %s\n", windowOf(l))
	e.printf("  log ID      %s\n", base64.StdEncoding.EncodeToString(infos[0].LogID))
	e.printf("  key         %s (back it up: without it the log cannot go on)\n", relativeTo(p.Config.Dir, dir, l.KeyFile))
	if p.Config.InsecureHTTP {
		e.printf("Plain HTTP on %s is open to other machines: %s says so with insecure_http, until there is tls.\n", p.Config.Listen, path)
	}
	if p.Args.Roots == "" {
		e.printf("It accepts nothing as yet: put the accepted roots, as PEM, into %s.\n", relativeTo(p.Config.Dir, dir, l.RootsFile))
	}
	e.printf("Next: kiln serve -c %s\n", path)
	return nil
}

// relativeTo writes a path below abs as one below dir, which is how the user
// named it.
func relativeTo(abs, dir, path string) string {
	rel, err := filepath.Rel(abs, path)
	if err != nil {
		return path
	}
	return filepath.Join(dir, rel)
}
