package config

import (
	"fmt"
	"regexp"
	"slices"
	"time"
)

var seriesSuffix = regexp.MustCompile(`^(.*?)([0-9]{4}h[12]|[0-9]+)$`)

// Stem returns the series a log belongs to by its name: the name without the
// half-year ("2026h2") or the digits it ends in; that may leave nothing. A name
// that ends in neither is a series of its own.
func Stem(name string) string {
	if m := seriesSuffix.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return name
}

// HalfYear is a window of six months, as shards have it (OPS-10).
type HalfYear struct {
	Suffix       string    // such as "2026h2"
	Start, Limit time.Time // the window, [Start, Limit)
}

// HalfYearOf returns the half-year that holds a moment.
func HalfYearOf(t time.Time) HalfYear {
	t = t.UTC()
	half := (int(t.Month()) - 1) / 6
	start := time.Date(t.Year(), time.Month(1+6*half), 1, 0, 0, 0, 0, time.UTC)
	return HalfYear{
		Suffix: fmt.Sprintf("%04dh%d", t.Year(), half+1),
		Start:  start,
		Limit:  start.AddDate(0, 6, 0),
	}
}

// Next returns the half-year after h.
func (h HalfYear) Next() HalfYear { return HalfYearOf(h.Limit) }

// checkSeries reports windows of one series that overlap or leave a gap
// (OPS-10), at the start of the later one. Logs without a sound window are left
// out: they have their fault already.
func (r *reader) checkSeries(logs []Log) {
	series := make(map[string][]int)
	for i, l := range logs {
		if l.Name != "" && l.NotAfterStart.Before(l.NotAfterLimit) && !l.NotAfterStart.IsZero() {
			series[l.Series] = append(series[l.Series], i)
		}
	}
	for _, members := range series {
		slices.SortStableFunc(members, func(a, b int) int {
			return logs[a].NotAfterStart.Compare(logs[b].NotAfterStart)
		})
		widest := members[0] // the one that reaches furthest so far
		for _, i := range members[1:] {
			r.checkAbut(logs, widest, i)
			if logs[i].NotAfterLimit.After(logs[widest].NotAfterLimit) {
				widest = i
			}
		}
	}
}

// checkAbut reports whether the window of log i begins where that of log prev
// ends.
func (r *reader) checkAbut(logs []Log, prev, i int) {
	start, limit := logs[i].NotAfterStart, logs[prev].NotAfterLimit
	what := "leaves a gap after"
	switch {
	case start.Equal(limit):
		return
	case start.Before(limit):
		what = "overlaps"
	}
	key := fmt.Sprintf("logs[%d].not_after_start", i)
	r.faults.add(r.lines[key], key,
		fmt.Sprintf("window of %s, %s, %s that of %s, %s (line %d)", logs[i].Name, window(logs[i]), what,
			logs[prev].Name, window(logs[prev]), r.lines[fmt.Sprintf("logs[%d].not_after_start", prev)]),
		fmt.Sprintf("want it to start at %s, or another series: than %q", limit.Format(time.RFC3339), logs[i].Series))
}

func window(l Log) string {
	return "[" + l.NotAfterStart.Format(time.RFC3339) + ", " + l.NotAfterLimit.Format(time.RFC3339) + ")"
}
