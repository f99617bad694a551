package sim

import (
	"fmt"
	"hash"
	"hash/fnv"
	"strings"
	"time"
)

// trace is the history of a world: its hash always, the lines on request.
type trace struct {
	sum   hash.Hash64
	lines []line
	buf   []byte
}

// line is one thing that happened.
type line struct {
	step int
	at   time.Duration
	who  string
	what string
	path string
	how  string
}

func (l line) String() string {
	return fmt.Sprintf("%5d %14v  %-6s %-11s %-9s %s", l.step, l.at, l.who, l.how, l.what, l.path)
}

func newTrace() *trace { return &trace{sum: fnv.New64a()} }

func (t *trace) add(l line) {
	b := t.buf[:0]
	for _, s := range [...]string{l.who, l.what, l.path, l.how} {
		b = append(append(b, s...), 0)
	}
	for v := uint64(l.at); v > 0; v >>= 8 {
		b = append(b, byte(v))
	}
	t.buf = b
	t.sum.Write(b)
	t.lines = append(t.lines, l)
}

// last returns the last n lines as text.
func (t *trace) last(n int) string {
	var b strings.Builder
	for _, l := range t.lines[max(0, len(t.lines)-n):] {
		b.WriteString(l.String())
		b.WriteByte('\n')
	}
	return b.String()
}
