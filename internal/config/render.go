package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Render writes a Config as a kiln.yaml with comments, one that Parse reads
// back as the same Config. Options at their default are written as comments, so
// that the file shows what there is; the first log carries the explanations.
// Paths within c.Dir are written relative to it. Fields that have a default
// must be filled in, as Load does.
func Render(c *Config) []byte {
	w := &renderer{dir: c.Dir}
	w.note("", "kiln: a Certificate Transparency log. Check this file: kiln check -c kiln.yaml",
		"Relative paths start from this file's directory. Times are RFC 3339 in UTC.",
		"Options that are commented out stand at their default.")
	w.blank()
	w.note("", "The public listener: submission and monitoring.")
	w.value("", "listen", c.Listen)
	w.note("", "The private one: /metrics, /livez, /readyz, /debug/pprof. Not for the public.")
	w.value("", "admin", c.Admin)
	w.blank()
	w.tls(c.TLS)
	w.note("", "Plain HTTP that other machines can reach, as behind a proxy that speaks TLS.")
	w.option("", "insecure_http", c.InsecureHTTP, false)
	w.note("", fmt.Sprintf("Open connections of the public listener, %d to %d.", MinMaxConnections, MaxMaxConnections))
	w.option("", "max_connections", c.MaxConnections, DefaultMaxConnections)
	w.blank()
	w.note("", "What goes to standard error. level: debug, info, warn, error. format: text, json.")
	w.logging(c.Logging)
	w.blank()
	w.services(c)
	if len(c.Series) > 0 {
		w.note("", "A log for each half-year from the first one on. {shard} stands for the name of the",
			"log, such as example2026h1, {half} for its half-year, such as 2026h1.")
		w.line("", "series:")
		for i := range c.Series {
			w.quiet = i > 0
			w.series(&c.Series[i])
		}
	} else {
		w.block(exampleSeries)
	}
	w.blank()
	w.quiet = false
	first := true
	for i := range c.Logs {
		if c.Logs[i].FromSeries {
			continue
		}
		if first {
			w.note("", "One entry for each log. Windows of one series have to abut.")
			w.line("", "logs:")
		} else {
			w.blank()
		}
		w.quiet, first = !first, false
		w.log(&c.Logs[i])
	}
	return w.buf.Bytes()
}

type renderer struct {
	buf   bytes.Buffer
	dir   string
	quiet bool // no comments
}

func (w *renderer) line(indent, text string) { w.buf.WriteString(indent + text + "\n") }
func (w *renderer) blank()                   { w.buf.WriteByte('\n') }

func (w *renderer) note(indent string, lines ...string) {
	if w.quiet {
		return
	}
	for _, l := range lines {
		w.line(indent, "# "+l)
	}
}

// value writes a key with its value.
func (w *renderer) value(indent, key string, v any) { w.line(indent, key+": "+scalar(v)) }

// option writes a key with its value, as a comment where that is the default.
func (w *renderer) option(indent, key string, v, def any) {
	switch {
	case v != def:
		w.value(indent, key, v)
	case !w.quiet:
		w.line(indent, "# "+key+": "+scalar(v))
	}
}

// given writes a key with its value where there is one.
func (w *renderer) given(indent, key, v string) {
	if v != "" {
		w.value(indent, key, v)
	}
}

// list writes a key with a list of texts.
func (w *renderer) list(indent, key string, values []string) {
	list := make([]string, len(values))
	for i, v := range values {
		list[i] = scalar(v)
	}
	w.line(indent, key+": ["+strings.Join(list, ", ")+"]")
}

// block writes an example as a comment.
func (w *renderer) block(text string) {
	for line := range strings.Lines(text) {
		w.note("", strings.TrimRight(line, "\n"))
	}
}

func (w *renderer) tls(t *TLS) {
	w.note("", "TLS from certificate files, or by ACME. Without it the listener speaks plain HTTP.")
	switch {
	case t == nil:
		w.note("", "tls: {cert_file: tls/cert.pem, key_file: tls/key.pem}")
		w.note("", "tls: {acme: {hosts: [log.example.org], email: ct@example.org, cache_dir: acme}}")
		return
	case t.ACME == nil:
		w.line("", "tls:")
		w.value("  ", "cert_file", w.path(t.CertFile))
		w.value("  ", "key_file", w.path(t.KeyFile))
		return
	}
	w.line("", "tls:")
	w.line("  ", "acme:")
	w.list("    ", "hosts", t.ACME.Hosts)
	if t.ACME.Email != "" {
		w.value("    ", "email", t.ACME.Email)
	}
	w.value("    ", "cache_dir", w.path(t.ACME.CacheDir))
	if t.ACME.DirectoryURL != "" {
		w.value("    ", "directory_url", t.ACME.DirectoryURL)
	}
}

func (w *renderer) logging(l Logging) {
	comment := "# "
	if l != (Logging{Level: slog.LevelInfo, Format: "text"}) {
		comment = ""
	}
	w.line("", fmt.Sprintf("%slogging: {level: %s, format: %s}", comment, strings.ToLower(l.Level.String()), l.Format))
}

func (w *renderer) log(l *Log) {
	const in = "    "
	w.line("  - ", "name: "+scalar(l.Name))
	w.note(in, "Logs whose names differ only in the half-year at their end are one series;",
		"this says otherwise.")
	w.option(in, "series", l.Series, Stem(l.Name))
	w.note(in, "What clients are told, with a slash at the end. The log's origin is the",
		"submission URL without its scheme: it may never change.")
	w.value(in, "submission_url", l.SubmissionURL)
	w.value(in, "monitoring_url", l.MonitoringURL)
	w.note(in, "The NotAfter dates that are accepted: from start, to just before limit.")
	w.value(in, "not_after_start", l.NotAfterStart)
	w.value(in, "not_after_limit", l.NotAfterLimit)
	w.note(in, "The log's private key: PEM, PKCS#8, ECDSA P-256, mode 0600. Back it up.",
		"With secret_file instead, it is derived from a secret that logs may share.")
	w.given(in, "key_file", w.path(l.KeyFile))
	w.given(in, "secret_file", w.path(l.SecretFile))
	w.note(in, "The accepted roots: PEM certificates. Logs may share the file.")
	w.value(in, "roots_file", w.path(l.RootsFile))
	w.note(in, "The tree, a directory of its own or s3://BUCKET/PREFIX; the cell that says how far",
		"it is, a SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX that logs may share; the",
		"memory of past submissions, a SQLite file.")
	w.value(in, "storage", w.path(l.Storage))
	w.value(in, "lock", w.path(l.Lock))
	w.value(in, "dedup", w.path(l.Dedup))
	w.note(in, "Where the process watches the log as monitors do; off for nowhere.")
	w.option(in, "watch_url", cmp.Or(l.WatchURL, l.MonitoringURL), l.MonitoringURL)
	w.options(in, l, l.DefaultPeriod())
}

// options writes what a log does, beside where it is.
func (w *renderer) options(in string, l *Log, period time.Duration) {
	w.note(in, fmt.Sprintf("The least time between two rounds, %s to %s; on S3, %s if it is not said.", MinPeriod, MaxPeriod, DefaultPeriodS3))
	if shown := *l; l.Period == 0 { // a series without one
		shown.Period = l.DefaultPeriod()
		w.option(in, "period", shown.Period, shown.Period)
	} else {
		w.option(in, "period", l.Period, period)
	}
	w.note(in, fmt.Sprintf("How many batchers pool submissions, %d to %d.", MinBatchers, MaxBatchers))
	w.option(in, "batchers", l.Batchers, DefaultBatchers)
	w.note(in, fmt.Sprintf("How many submissions are worked on at a time, %d to %d; more get 503.", MinMaxInFlight, MaxMaxInFlight))
	w.option(in, "max_in_flight", l.MaxInFlight, DefaultMaxInFlight)
	w.note(in, "Monitoring requests a second for each client; more get 429. 0 is no limit.")
	w.option(in, "read_rate", l.ReadRate, 0)
	w.note(in, "Refuse certificates without the serverAuth usage.")
	w.option(in, "require_server_auth", l.RequireServerAuth, false)
	w.note(in, "Keep names tiles too: the names of each entry as JSON lines.")
	w.option(in, "names_tiles", l.Names, false)
	w.note(in, "Checkpoints carry signature lines that no key verifies, to keep clients honest.")
	w.option(in, "grease", l.Grease, true)
	w.note(in, "What log.v3.json says of the log: production or test.")
	w.option(in, "intended_use", l.IntendedUse, UseProduction)
	w.note(in, "Refuse submissions with 410 and go on serving the tree.")
	w.option(in, "read_only", l.ReadOnly, false)
}

// path returns a path as it is written: relative where it lies within the
// directory of the file.
func (w *renderer) path(p string) string {
	rel, err := filepath.Rel(w.dir, p)
	if err != nil || !filepath.IsLocal(rel) || strings.HasPrefix(rel, "s3:") || strings.HasPrefix(rel, etcdScheme) {
		return p
	}
	return filepath.ToSlash(rel)
}

// What needs no quotes; it is less than YAML allows.
var (
	plainScalar = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/_.:-]*[A-Za-z0-9/_-]$`)
	plainAddr   = regexp.MustCompile(`^([0-9]{1,3}\.){3}[0-9]{1,3}:[0-9]{1,5}$`)
)

// scalar writes a value as YAML reads it back.
func scalar(v any) string {
	switch v := v.(type) {
	case string:
		switch strings.ToLower(v) {
		case "true", "false", "null", "yes", "no", "on", "off":
			return strconv.Quote(v)
		}
		if plainScalar.MatchString(v) || plainAddr.MatchString(v) {
			return v
		}
		b, _ := json.Marshal(v) // cannot fail for a string; JSON is YAML
		return string(b)
	case time.Time:
		return v.Format(time.RFC3339)
	}
	return fmt.Sprint(v)
}

// Template returns a kiln.yaml that shows every option, with comments.
func Template(now time.Time) []byte {
	half := HalfYearOf(now)
	name := "example" + half.Suffix
	return Render(&Config{
		Listen: DefaultListen, Admin: DefaultAdmin, MaxConnections: DefaultMaxConnections,
		Logging: Logging{Format: "text"}, Dir: "/", Roots: Roots{Refresh: DefaultRefresh},
		Logs: []Log{NewLog(name, "http://"+DefaultListen+"/"+name+"/", "/", half.Start, half.Limit)},
	})
}

// NewLog returns a log with every default filled in and the usual places below
// dir: keys/NAME.pem, roots.pem, logs/NAME, lock.db and dedup/NAME.db. The
// prefix is used for submission and monitoring alike; it has to be one that
// Parse would take.
func NewLog(name, prefix, dir string, notAfterStart, notAfterLimit time.Time) Log {
	_, rest, _ := strings.Cut(prefix, "://")
	return Log{
		Name: name, Series: Stem(name), Origin: strings.TrimRight(rest, "/"),
		SubmissionURL: prefix, MonitoringURL: prefix, WatchURL: prefix,
		NotAfterStart: notAfterStart, NotAfterLimit: notAfterLimit,
		KeyFile:   filepath.Join(dir, "keys", name+".pem"),
		RootsFile: filepath.Join(dir, "roots.pem"),
		Storage:   filepath.Join(dir, "logs", name),
		Lock:      filepath.Join(dir, "lock.db"),
		Dedup:     filepath.Join(dir, "dedup", name+".db"),
		Period:    DefaultPeriod, Batchers: DefaultBatchers, MaxInFlight: DefaultMaxInFlight, Grease: true,
		IntendedUse: UseProduction,
	}
}
