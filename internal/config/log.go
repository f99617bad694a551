package config

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
)

// place is where a log stands in the file.
type place struct {
	bases []string // the sections with its keys, the most particular first
	name  string   // what the reader of a fault knows it by
}

// keyOf returns the path of a key of log i, and its line.
func (r *reader) keyOf(i int, key string) (path string, line int) {
	bases := r.places[i].bases
	base := bases[len(bases)-1]
	if len(bases) > 1 && key == "not_after_start" {
		key = "first"
	}
	for _, b := range bases {
		if line := r.lines[b+"."+key]; line > 0 {
			return b + "." + key, line
		}
	}
	return base + "." + key, r.lines[base]
}

// who names log i in the fault of another.
func (r *reader) who(i int) string { return r.places[i].name }

// logFault reports a fault of a key of log i. What is wrong with a series is
// reported once, not for each shard.
func (r *reader) logFault(i int, key, what, want string) {
	path, line := r.keyOf(i, key)
	if id := path + "\x00" + what; len(r.places[i].bases) > 1 {
		if r.told[id] {
			return
		}
		r.told[id] = true
	}
	r.faults.add(line, path, what, want)
}

// fault2 reports a fault of a key of log i against a key of log j.
func (r *reader) fault2(i int, key string, j int, other, what, want string) {
	path, line := r.keyOf(i, key)
	against, otherLine := r.keyOf(j, other)
	if id := path + "\x00" + against; len(r.places[i].bases) > 1 {
		if r.told[id] {
			return
		}
		r.told[id] = true
	}
	if otherLine > 0 {
		what += fmt.Sprintf(" (line %d)", otherLine)
	}
	r.faults.add(line, path, what, want)
}

// allLogs reads the list of logs and the list of series, of which there has to
// be one.
func (r *reader) allLogs(s *section, c *Config, now time.Time) {
	logs, series := s.take("logs"), s.take("series")
	switch {
	case logs != nil:
		r.logs(logs, s, c)
	case series == nil:
		s.missing("logs", "want a list with one log at least, or series:; kiln help config shows both")
	}
	if series != nil {
		r.allSeries(series, s, c, now)
	}
}

// logs reads the list of logs. A log with faults is kept as far as it could be
// read, so that indexes agree with the file.
func (r *reader) logs(n *yaml.Node, s *section, c *Config) {
	switch {
	case n.Kind != yaml.SequenceNode:
		s.fault("logs", &problem{"is " + describe(n), "want a list, each log beginning with a dash"})
		return
	case len(n.Content) == 0:
		s.fault("logs", &problem{"is an empty list", "want one log at least"})
		return
	case len(n.Content) > MaxLogs:
		s.fault("logs", &problem{fmt.Sprintf("has %d logs", len(n.Content)), fmt.Sprintf("want %d at most", MaxLogs)})
		return
	}
	for i, item := range n.Content {
		path := fmt.Sprintf("logs[%d]", i)
		c.Logs = append(c.Logs, r.log(item, path, c.Dir))
		r.places = append(r.places, place{[]string{path}, path})
	}
}

// defaultLog returns a log with the defaults that do not depend on anything.
func defaultLog() Log {
	return Log{Batchers: DefaultBatchers, MaxInFlight: DefaultMaxInFlight, Grease: true, IntendedUse: UseProduction}
}

// log reads one log.
func (r *reader) log(n *yaml.Node, path, dir string) Log {
	l := defaultLog()
	s := r.section(n, path)
	if s == nil {
		return l
	}
	r.lines[path] = s.line
	need(s, "name", "want a word that names the log, such as example2026h2", &l.Name, parseName, isText...)
	l.Series = Stem(l.Name)
	read(s, "series", &l.Series, parseName, isText...)
	r.whereabouts(s, &l, spelling{dir: dir, own: true})
	start := need(s, "not_after_start", "want the first NotAfter accepted, such as 2026-07-01T00:00:00Z", &l.NotAfterStart, parseTime, isTime...)
	limit := need(s, "not_after_limit", "want the first NotAfter no longer accepted, such as 2027-01-01T00:00:00Z", &l.NotAfterLimit, parseTime, isTime...)
	if start && limit && !l.NotAfterStart.Before(l.NotAfterLimit) {
		s.fault("not_after_limit", &problem{"is not after not_after_start", "want a window with an end after its start"})
	}
	r.options(s, &l)
	r.keySource(s, &l, true)
	s.done()
	l.complete()
	return l
}

// whereabouts reads the URLs and places of a log. Those without which it cannot
// be are asked for, except from a single shard of a series.
func (r *reader) whereabouts(s *section, l *Log, f spelling) {
	require := func(key, want string) {
		if _, there := s.values[key]; !there && f.own {
			s.missing(key, want)
		}
	}
	require("submission_url", "want the URL that submissions go to, with a slash at its end")
	read(s, "submission_url", &l.SubmissionURL, f.alone(prefixText), isText...)
	read(s, "monitoring_url", &l.MonitoringURL, f.alone(prefixText), isText...)
	read(s, "key_file", &l.KeyFile, f.alone(fileAt(f.dir)), isText...)
	read(s, "secret_file", &l.SecretFile, f.shared(fileAt(f.dir)), isText...)
	require("roots_file", "want the PEM of the accepted roots")
	read(s, "roots_file", &l.RootsFile, f.shared(fileAt(f.dir)), isText...)
	require("storage", "want the directory for tiles and checkpoint, or s3://BUCKET/PREFIX")
	read(s, "storage", &l.Storage, f.alone(storageAt(f.dir)), isText...)
	require("lock", "want the SQLite file of the lock, s3://BUCKET/PREFIX or etcd:PREFIX")
	read(s, "lock", &l.Lock, f.shared(lockAt(f.dir)), isText...)
	require("dedup", "want the SQLite file of the deduplication cache")
	read(s, "dedup", &l.Dedup, f.alone(fileAt(f.dir)), isText...)
	read(s, "watch_url", &l.WatchURL, f.watched(), isText...)
}

// keySource checks that a log has a key, or a secret to derive it from, and not
// both. What a shard of a series names takes the place of what it inherits.
func (r *reader) keySource(s *section, l *Log, required bool) {
	_, key := s.values["key_file"]
	_, secret := s.values["secret_file"]
	switch {
	case key && secret:
		s.fault("secret_file", &problem{"stands beside key_file", "want one of them: the key is in a file, or derived from a secret"})
	case key:
		l.SecretFile = ""
	case secret:
		l.KeyFile = ""
	case required:
		s.missing("key_file", "want the PEM of the log's private key, or secret_file")
	}
}

// options reads what a log does, beside where it is.
func (r *reader) options(s *section, l *Log) {
	read(s, "period", &l.Period, parsePeriod, isText...)
	read(s, "batchers", &l.Batchers, between(MinBatchers, MaxBatchers), isInt...)
	read(s, "max_in_flight", &l.MaxInFlight, between(MinMaxInFlight, MaxMaxInFlight), isInt...)
	read(s, "read_rate", &l.ReadRate, between(MinReadRate, MaxReadRate), isInt...)
	read(s, "require_server_auth", &l.RequireServerAuth, parseBool, isBool...)
	read(s, "names_tiles", &l.Names, parseBool, isBool...)
	read(s, "grease", &l.Grease, parseBool, isBool...)
	read(s, "intended_use", &l.IntendedUse, parseUse, isText...)
	read(s, "read_only", &l.ReadOnly, parseBool, isBool...)
}
