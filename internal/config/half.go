package config

import (
	"fmt"
	"regexp"
	"strconv"
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

// ParseHalfYear returns the half-year of a suffix such as "2026h2", from 2000h1
// to 2199h2.
func ParseHalfYear(suffix string) (HalfYear, bool) {
	if !halfForm.MatchString(suffix) {
		return HalfYear{}, false
	}
	year, _ := strconv.Atoi(suffix[:4]) // four digits
	return halfYearAt(2*year + int(suffix[5]-'1')), true
}

var halfForm = regexp.MustCompile(`^2[01][0-9]{2}h[12]$`)

// index counts half-years from the year 0.
func (h HalfYear) index() int { return 2*h.Start.Year() + int(h.Start.Month())/7 }

func halfYearAt(index int) HalfYear {
	return HalfYearOf(time.Date(index/2, time.Month(1+6*(index%2)), 1, 0, 0, 0, 0, time.UTC))
}

// Add returns the half-year that is n half-years after h, or before it.
func (h HalfYear) Add(n int) HalfYear { return halfYearAt(h.index() + n) }
