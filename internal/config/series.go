package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// DefaultAhead is how many half-years after the current one a series has, if it
// does not say: three years, as root programmes want.
const DefaultAhead = 6

// Bounds of Series.Ahead, inclusive.
const MinAhead, MaxAhead = 0, 20

// What stands for a shard in the texts of a series.
const (
	markShard = "{shard}" // its name, such as example2026h1
	markHalf  = "{half}"  // its half-year, such as 2026h1
)

// Series is a row of logs, one for each half-year of NotAfter (OPS-10). Its
// shards are in Config.Logs. As time passes shards are added at the end; those
// that were there stay as they are.
type Series struct {
	// Name begins the name of each shard; the half-year follows it.
	Name string
	// First is the half-year of the first shard.
	First HalfYear
	// Ahead is how many half-years after the current one have a shard,
	// MinAhead to MaxAhead. Default DefaultAhead.
	Ahead int
	// Log holds the options that every shard inherits, as they are written:
	// relative paths, {shard} and {half} in URLs, paths and prefixes. It has no
	// name, no window and no origin; MonitoringURL may be empty and Period 0
	// for their defaults.
	Log Log
	// Shards are the half-years with options of their own, in their order.
	Shards []Override
}

// Override is one shard of a series with options of its own.
type Override struct {
	// Half is the half-year, such as "2027h1".
	Half string
	// Log is that of the series with the shard's own options put in.
	Log Log
}

// Last returns the last half-year that the series has a shard for at a moment.
func (s *Series) Last(now time.Time) HalfYear { return HalfYearOf(now).Add(s.Ahead) }

// seriesForm lets a series end in a dash, which then stands before the half-year.
var seriesForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func parseSeriesName(s string) (string, *problem) {
	if most := maxName - len("2026h1"); len(s) > most || !seriesForm.MatchString(s) {
		return "", &problem{fmt.Sprintf("%q is no name", shorten(s)), fmt.Sprintf("want 1 to %d of a-z 0-9 - _, such as example", most)}
	}
	return s, nil
}

func parseHalf(s string) (HalfYear, *problem) {
	h, ok := ParseHalfYear(s)
	if !ok {
		return h, &problem{fmt.Sprintf("%q is no half-year", shorten(s)), "want the year, h and 1 or 2, such as 2026h1"}
	}
	return h, nil
}

// allSeries reads the list of series and adds their shards to the logs.
func (r *reader) allSeries(n *yaml.Node, s *section, c *Config, now time.Time) {
	switch {
	case n.Kind != yaml.SequenceNode:
		s.fault("series", &problem{"is " + describe(n), "want a list, each series beginning with a dash"})
		return
	case len(n.Content) == 0:
		s.fault("series", &problem{"is an empty list", "want one series at least, or leave the key out"})
		return
	case len(n.Content) > MaxLogs:
		s.fault("series", &problem{fmt.Sprintf("has %d series", len(n.Content)), fmt.Sprintf("want %d logs in all at most", MaxLogs)})
		return
	}
	names := make(map[string]int)
	for i, item := range n.Content {
		path := fmt.Sprintf("series[%d]", i)
		one, ok := r.series(item, path, c.Dir)
		c.Series = append(c.Series, one)
		if j, dup := names[one.Name]; dup && one.Name != "" {
			key := path + ".name"
			r.faults.add(r.lines[key], key, fmt.Sprintf("%s is that of series[%d] too (line %d)", one.Name, j, r.lines[fmt.Sprintf("series[%d].name", j)]), "want another")
			continue
		}
		names[one.Name] = i
		if ok {
			r.expand(c, &c.Series[i], path, now)
		}
	}
}

// series reads one series. It reports whether its shards can be named.
func (r *reader) series(n *yaml.Node, path, dir string) (one Series, ok bool) {
	one = Series{Ahead: DefaultAhead, Log: defaultLog()}
	s := r.section(n, path)
	if s == nil {
		return one, false
	}
	r.lines[path] = s.line
	named := need(s, "name", "want a word that begins the name of each shard, such as example", &one.Name, parseSeriesName, isText...)
	first := need(s, "first", "want the half-year of the first shard, such as 2026h1", &one.First, parseHalf, isText...)
	_, there := s.values["ahead"]
	ahead := read(s, "ahead", &one.Ahead, between(MinAhead, MaxAhead), isInt...)
	f := spelling{dir: dir, name: one.Name, series: true, own: true}
	if !named {
		f.name = "x"
	}
	r.whereabouts(s, &one.Log, f)
	r.options(s, &one.Log)
	r.keySource(s, &one.Log, true)
	if shards := s.take("shards"); shards != nil {
		r.overrides(shards, path+".shards", &one, f)
	}
	s.done()
	return one, named && first && (ahead || !there)
}

// overrides reads the options that single shards have of their own.
func (r *reader) overrides(n *yaml.Node, path string, one *Series, f spelling) {
	s := r.section(n, path)
	if s == nil {
		return
	}
	f.own = false // a shard may name a place in full
	for _, k := range s.order {
		node := s.take(k.Value)
		h, ok := ParseHalfYear(k.Value)
		if !ok {
			r.faults.add(k.Line, path+"."+shorten(k.Value), "is no half-year", "want the half-year of a shard, such as 2027h1")
			continue
		}
		o := Override{Half: h.Suffix, Log: one.Log}
		own := r.section(node, path+"."+k.Value)
		if own == nil {
			continue
		}
		r.whereabouts(own, &o.Log, f)
		r.options(own, &o.Log)
		r.keySource(own, &o.Log, false)
		own.done()
		one.Shards = append(one.Shards, o)
	}
	slices.SortFunc(one.Shards, func(a, b Override) int { return strings.Compare(a.Half, b.Half) })
}

// expand adds the shards of a series to the logs.
func (r *reader) expand(c *Config, one *Series, path string, now time.Time) {
	last := one.Last(now)
	fault := func(key, what, want string) {
		line := r.lines[path+"."+key]
		r.faults.add(line, path+"."+key, what, want)
	}
	n := last.index() - one.First.index() + 1
	switch {
	case n <= 0:
		fault("first", fmt.Sprintf("%s has no shard as yet: the last is %s, by ahead", one.First.Suffix, last.Suffix), "want an earlier half-year, or a larger ahead")
		return
	case len(c.Logs)+n > MaxLogs:
		fault("first", fmt.Sprintf("makes %d shards, up to %s, beside %d other logs", n, last.Suffix, len(c.Logs)), fmt.Sprintf("want %d logs in all at most", MaxLogs))
		return
	}
	for _, o := range one.Shards {
		if h, _ := ParseHalfYear(o.Half); h.index() < one.First.index() || h.index() > last.index() {
			fault("shards."+o.Half, "is no shard of the series", fmt.Sprintf("want one of %s to %s", one.First.Suffix, last.Suffix))
		}
	}
	for i := range n {
		h := one.First.Add(i)
		c.Logs = append(c.Logs, one.shard(h, c.Dir))
		r.places = append(r.places, place{[]string{path + ".shards." + h.Suffix, path}, one.Name + h.Suffix})
	}
}

// shard returns the log of a half-year.
func (s *Series) shard(h HalfYear, dir string) Log {
	l := s.Log
	for _, o := range s.Shards {
		if o.Half == h.Suffix {
			l = o.Log
		}
	}
	l.Name, l.Series, l.Shard, l.FromSeries = s.Name+h.Suffix, s.Name, h.Suffix, true
	l.NotAfterStart, l.NotAfterLimit = h.Start, h.Limit
	for _, t := range []struct {
		text  *string
		parse func(string) (string, *problem)
	}{
		{&l.SubmissionURL, prefixText},
		{&l.MonitoringURL, prefixText},
		{&l.KeyFile, fileAt(dir)},
		{&l.SecretFile, fileAt(dir)},
		{&l.RootsFile, fileAt(dir)},
		{&l.Storage, storageAt(dir)},
		{&l.Lock, lockAt(dir)},
		{&l.Dedup, fileAt(dir)},
		{&l.WatchURL, watchText},
	} {
		if *t.text != "" {
			*t.text, _ = t.parse(fill(*t.text, s.Name, h.Suffix)) // held with another half-year
		}
	}
	l.complete()
	return l
}

// fill puts a shard in the place of the marks.
func fill(s, name, half string) string {
	return strings.NewReplacer(markShard, name+half, markHalf, half).Replace(s)
}

// complete fills in what follows from other fields.
func (l *Log) complete() {
	if l.SubmissionURL != "" {
		u, _ := url.Parse(l.SubmissionURL) // parsePrefix took it
		l.Origin = originOf(u)
	}
	if l.MonitoringURL == "" {
		l.MonitoringURL = l.SubmissionURL
	}
	if l.WatchURL == "" {
		l.WatchURL = l.MonitoringURL
	}
	if l.Period == 0 {
		l.Period = l.DefaultPeriod()
	}
}

// spelling is how the URLs and places of a log are written.
type spelling struct {
	dir    string // what relative paths start from
	name   string // of the series
	series bool   // marks stand for the shard
	own    bool   // and what a log has to itself needs one
}

// shared returns parse for a text that logs may share. In a series it returns
// the text as it is written, once it holds for a shard.
func (f spelling) shared(parse func(string) (string, *problem)) func(string) (string, *problem) {
	return f.text(parse, false)
}

// alone returns parse for a text that each log has to itself.
func (f spelling) alone(parse func(string) (string, *problem)) func(string) (string, *problem) {
	return f.text(parse, f.own)
}

func (f spelling) text(parse func(string) (string, *problem), own bool) func(string) (string, *problem) {
	return func(s string) (string, *problem) {
		if !f.series {
			for _, mark := range []string{markShard, markHalf} {
				if strings.Contains(s, mark) {
					return "", &problem{fmt.Sprintf("%q has %s, which means something in a series only", shorten(s), mark), "want it in full"}
				}
			}
			return parse(s)
		}
		one, other := fill(s, f.name, "2026h1"), fill(s, f.name, "2026h2")
		if strings.ContainsAny(one, "{}") {
			return "", &problem{fmt.Sprintf("%q has braces round another word", shorten(s)), "want {shard} or {half}"}
		}
		v, p := parse(one)
		if p != nil {
			return "", p
		}
		if w, _ := parse(other); own && v == w {
			return "", &problem{fmt.Sprintf("%q is the same for every shard", shorten(s)), "want {shard} or {half} in it, which stand for example2026h1 and 2026h1"}
		}
		return s, nil
	}
}

// watched is alone for a prefix to watch; that nothing is watched may be said of
// all shards.
func (f spelling) watched() func(string) (string, *problem) {
	return func(s string) (string, *problem) {
		if s == WatchOff {
			return s, nil
		}
		return f.alone(watchText)(s)
	}
}

// watchText takes a prefix to watch.
func watchText(s string) (string, *problem) {
	if s == WatchOff {
		return s, nil
	}
	v, p := prefixText(s)
	if p != nil {
		p.want += ", or off"
	}
	return v, p
}

// prefixText is parsePrefix in one spelling.
func prefixText(s string) (string, *problem) {
	u, p := parsePrefix(s)
	if p != nil {
		return "", p
	}
	return u.String(), nil
}
