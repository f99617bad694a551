package shards

import (
	"fmt"
	"slices"
	"time"

	"kiln/internal/config"
)

// coverYears is how far ahead of now programmes want shards (OPS-10).
const coverYears = 3

// Plan is what a series has, and what it lacks.
type Plan struct {
	Series string
	Shards []Step // in the order of their windows
	// Gaps are where in [now, now + 3 years) no shard takes submissions, as it
	// is; in order.
	Gaps []Gap
}

// Step is what kiln shards create would do about a shard.
type Step struct {
	Shard
	Create bool // make it, or complete it
}

// Gap is a window of NotAfter that no shard takes.
type Gap struct {
	Start, Limit time.Time // [Start, Limit)
	// Create says that making what is missing closes it.
	Create bool
	Why    string
}

// MakePlan plans each series of a configuration from what is known of its logs,
// as [List] has it.
func MakePlan(cfg *config.Config, list []Shard, now time.Time) []Plan {
	plans := make([]Plan, 0, len(cfg.Series))
	for _, series := range cfg.Series {
		plan := Plan{Series: series.Name}
		for _, s := range list {
			if s.Conf.FromSeries && s.Conf.Series == series.Name {
				plan.Shards = append(plan.Shards, Step{s, Wanted(s, now)})
			}
		}
		slices.SortFunc(plan.Shards, func(a, b Step) int { return a.Conf.NotAfterStart.Compare(b.Conf.NotAfterStart) })
		plan.Gaps = gaps(plan.Shards, now)
		plans = append(plans, plan)
	}
	return plans
}

// Wanted reports whether a shard is missing: it was not made, and its window is
// not over.
func Wanted(s Shard, now time.Time) bool {
	return s.State == Planned && now.Before(s.Conf.NotAfterLimit)
}

// gaps walks through the windows in their order.
func gaps(steps []Step, now time.Time) []Gap {
	var list []Gap
	at, end := now.UTC(), now.UTC().AddDate(coverYears, 0, 0)
	add := func(limit time.Time, create bool, why string) {
		if limit.After(end) {
			limit = end
		}
		if at.Before(limit) {
			list = append(list, Gap{at, limit, create, why})
			at = limit
		}
	}
	for _, s := range steps {
		if !s.Conf.NotAfterLimit.After(at) {
			continue
		}
		add(s.Conf.NotAfterStart, false, "the series has no shard for it")
		switch s.State {
		case Active:
			at = s.Conf.NotAfterLimit
		case Planned:
			add(s.Conf.NotAfterLimit, true, s.Conf.Name+" was not made yet")
		default:
			add(s.Conf.NotAfterLimit, false, fmt.Sprintf("%s is %s", s.Conf.Name, s.State))
		}
	}
	add(end, false, "the series ends before: give it a larger ahead")
	return list
}
