package shards_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/shards"
)

// gapText writes gaps for comparison.
func gapText(gaps []shards.Gap) (list []string) {
	for _, g := range gaps {
		list = append(list, fmt.Sprintf("%s %s %v %s", g.Start.Format(time.DateOnly), g.Limit.Format(time.DateOnly), g.Create, g.Why))
	}
	return list
}

func TestPlan(t *testing.T) {
	t.Parallel()
	const a, p, f, b = shards.Active, shards.Planned, shards.Frozen, shards.Broken
	for name, c := range map[string]struct {
		first  string
		states []shards.State
		create string // the half-years that would be made
		gaps   []string
	}{
		"whole":                {"2026h1", []shards.State{f, a, a, a, a, a, a, a}, "", nil},
		"old one and hole":     {"2026h1", []shards.State{a, p, a, a, a, a, a, a}, "2026h2", []string{"2026-09-01 2027-01-01 true example2026h2 was not made yet"}},
		"old one in its grace": {"2026h1", []shards.State{a, a, a, a, a, a, a, a}, "", nil},
		"new": {
			"2026h2",
			[]shards.State{p, p, p, p, p, p, p},
			"2026h2 2027h1 2027h2 2028h1 2028h2 2029h1 2029h2",
			[]string{
				"2026-09-01 2027-01-01 true example2026h2 was not made yet", "2027-01-01 2027-07-01 true example2027h1 was not made yet",
				"2027-07-01 2028-01-01 true example2027h2 was not made yet", "2028-01-01 2028-07-01 true example2028h1 was not made yet",
				"2028-07-01 2029-01-01 true example2028h2 was not made yet", "2029-01-01 2029-07-01 true example2029h1 was not made yet",
				"2029-07-01 2029-09-01 true example2029h2 was not made yet",
			},
		},
		"next is missing": {"2026h2", []shards.State{a, a, a, a, a, a, p}, "2029h2", []string{"2029-07-01 2029-09-01 true example2029h2 was not made yet"}},
		"hole":            {"2026h2", []shards.State{a, a, p, a, a, a, a}, "2027h2", []string{"2027-07-01 2028-01-01 true example2027h2 was not made yet"}},
		"past is missing": {"2025h1", []shards.State{p, p, p, a, a, a, a, a, a, a}, "", nil},
		"frozen early":    {"2026h2", []shards.State{a, f, a, a, a, a, a}, "", []string{"2027-01-01 2027-07-01 false example2027h1 is frozen"}},
		"broken":          {"2026h2", []shards.State{b, a, a, a, a, a, a}, "", []string{"2026-09-01 2027-01-01 false example2026h2 is broken"}},
		"short":           {"2026h2", []shards.State{a, a, a}, "", []string{"2028-01-01 2029-09-01 false the series ends before: give it a larger ahead"}},
		"over":            {"2024h1", []shards.State{f, f}, "", []string{"2026-09-01 2029-09-01 false the series ends before: give it a larger ahead"}},
		"late first": {
			"2027h2",
			[]shards.State{a, a, a, a, a},
			"",
			[]string{"2026-09-01 2027-07-01 false the series has no shard for it"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			half, ok := config.ParseHalfYear(c.first)
			if !ok {
				t.Fatal("no half-year")
			}
			var list []shards.Shard
			for _, state := range c.states {
				conf := config.NewLog("example"+half.Suffix, "http://ct.test/"+half.Suffix+"/", "/", half.Start, half.Limit)
				conf.FromSeries, conf.Series, conf.Shard = true, "example", half.Suffix
				list = append(list, shards.Shard{Conf: conf, State: state})
				half = half.Next()
			}
			alien := list[0]
			alien.Conf.Series, alien.State = "other", shards.Planned
			single := list[0]
			single.Conf.FromSeries = false
			slices.Reverse(list)
			plans := shards.MakePlan(&config.Config{Series: []config.Series{{Name: "example"}}}, append(list, alien, single), noon())
			if len(plans) != 1 || plans[0].Series != "example" || len(plans[0].Shards) != len(c.states) {
				t.Fatalf("plans are %+v", plans)
			}
			var create []string
			for i, s := range plans[0].Shards {
				if s.State != c.states[i] {
					t.Errorf("shard %d is %s, want %s", i, s.State, c.states[i])
				}
				if s.Create {
					create = append(create, s.Conf.Shard)
				}
			}
			if got := strings.Join(create, " "); got != c.create {
				t.Errorf("would make %q, want %q", got, c.create)
			}
			if got := gapText(plans[0].Gaps); !slices.Equal(got, c.gaps) {
				t.Errorf("gaps are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.gaps, "\n"))
			}
		})
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	cfg, opts := series(t, seriesYAML)
	for _, conf := range cfg.Logs[:3] {
		if _, err := shards.Create(t.Context(), cfg, conf, opts, false); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Logs[1].ReadOnly = true
	if err := os.WriteFile(cfg.Logs[2].Storage+"/checkpoint", []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	var steps []string
	list, err := shards.List(t.Context(), cfg, opts, func(done, total int64) { steps = append(steps, fmt.Sprintf("%d/%d", done, total)) })
	if err != nil {
		t.Fatal(err)
	}
	want := []shards.State{shards.ReadOnly, shards.ReadOnly, shards.Broken, shards.Planned}
	for i, s := range list {
		if s.State != want[i] || s.Conf.Name != cfg.Logs[i].Name || (s.Err != nil) != (i > 1) {
			t.Errorf("log %d is %+v, want %s", i, s, want[i])
		}
	}
	if got := strings.Join(steps, " "); got != "1/4 2/4 3/4 4/4" {
		t.Errorf("steps are %s", got)
	}

	// Its window is over on July 1; submissions are refused a week later.
	for now, want := range map[time.Time]shards.State{
		time.Date(2026, 7, 7, 23, 0, 0, 0, time.UTC): shards.Active,
		time.Date(2026, 7, 8, 1, 0, 0, 0, time.UTC):  shards.ReadOnly,
	} {
		opts.Now = func() time.Time { return now }
		if s := lookOf(t, cfg, cfg.Logs[0], opts); s.State != want {
			t.Errorf("on %v it is %s, want %s", now, s.State, want)
		}
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	one, _ := series(t, seriesYAML)
	two := *one
	two.Series = append(slices.Clone(one.Series), config.Series{Name: "other"})
	for _, c := range []struct {
		cfg        *config.Config
		name, want string
		err        string
	}{
		{one, "example2026h2", "example2026h2", ""},
		{one, "2026h2", "example2026h2", ""},
		{&two, "example2026h2", "example2026h2", ""},
		{&two, "2026h2", "", "give the whole name, such as example2026h2"},
		{one, "2030h1", "", "no such log as 2030h1"},
		{one, "exmaple2026h2", "", "did you mean example2026h2?"},
		{one, "", "", "no such log"},
	} {
		conf, err := shards.Find(c.cfg, c.name)
		if conf.Name != c.want || (err == nil) != (c.err == "") || err != nil && (!errors.Is(err, shards.ErrUnknown) || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q is %q, %v; want %q, %q", c.name, conf.Name, err, c.want, c.err)
		}
	}
}
