package config

import (
	"fmt"
	"sort"
	"strings"
)

// maxFaults bounds how many faults are kept, so that a hostile file cannot make
// an endless report.
const maxFaults = 100

// Fault is one thing that is wrong in one place.
type Fault struct {
	File string // the configuration file, as it was named by the caller
	Line int    // from 1; 0 when the file as a whole is meant
	Key  string // such as "logs[0].period"; empty when no key is meant
	What string // what is wrong
	Want string // what is wanted instead; may be empty
}

// Error returns "file:line: key: what is wrong; what is wanted".
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d", f.Line)
	}
	b.WriteString(": ")
	if f.Key != "" {
		b.WriteString(f.Key + ": ")
	}
	b.WriteString(f.What)
	if f.Want != "" {
		b.WriteString("; " + f.Want)
	}
	return b.String()
}

// Faults is everything that is wrong with a configuration, by line. Load and
// Parse return it as their error.
type Faults []Fault

// Error returns the faults, each on a line of its own.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i := range f {
		lines[i] = f[i].Error()
	}
	return strings.Join(lines, "\n")
}

// faultList gathers faults while a file is read. It is used by one goroutine.
type faultList struct {
	file  string
	list  Faults
	extra int // faults beyond maxFaults, counted but not kept
}

func (l *faultList) add(line int, key, what, want string) {
	if len(l.list) == maxFaults {
		l.extra++
		return
	}
	l.list = append(l.list, Fault{File: l.file, Line: line, Key: key, What: what, Want: want})
}

// err returns the faults as an error, or nil when there are none.
func (l *faultList) err() error {
	if len(l.list) == 0 {
		return nil
	}
	sort.SliceStable(l.list, func(i, j int) bool { return l.list[i].Line < l.list[j].Line })
	if l.extra > 0 {
		return append(l.list[:len(l.list):len(l.list)], Fault{
			File: l.file,
			What: fmt.Sprintf("%d more faults are not shown", l.extra), Want: "correct these first",
		})
	}
	return l.list
}
