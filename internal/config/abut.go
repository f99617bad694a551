package config

import (
	"fmt"
	"slices"
	"time"
)

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
	r.fault2(i, "not_after_start", prev, "not_after_start",
		fmt.Sprintf("window of %s, %s, %s that of %s, %s", logs[i].Name, window(logs[i]), what, logs[prev].Name, window(logs[prev])),
		fmt.Sprintf("want it to start at %s, or another series: than %q", limit.Format(time.RFC3339), logs[i].Series))
}

func window(l Log) string {
	return "[" + l.NotAfterStart.Format(time.RFC3339) + ", " + l.NotAfterLimit.Format(time.RFC3339) + ")"
}
