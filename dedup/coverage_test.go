package dedup

import (
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"kiln/entry"
)

// TestCoverageIsASet compares coverage with a plain set of indices.
func TestCoverageIsASet(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var c coverage
		set := make(map[int64]bool)
		for range rapid.IntRange(1, 20).Draw(t, "puts") {
			var batch []entry.Placement
			for _, i := range rapid.SliceOfN(rapid.Int64Range(0, 60), 0, 12).Draw(t, "indices") {
				set[i] = true
				batch = append(batch, place(i))
			}
			c = c.with(batch)
			mark := int64(0)
			for set[mark] {
				mark++
			}
			if c.mark != mark {
				t.Fatalf("mark = %d, want %d of %v", c.mark, mark, set)
			}
			count, last := c.mark, c.mark
			for _, s := range c.spans {
				if s.from <= last || s.to <= s.from {
					t.Fatalf("spans are not sorted and apart: %v above %d", c.spans, c.mark)
				}
				count, last = count+s.to-s.from, s.to
			}
			if count != int64(len(set)) {
				t.Fatalf("%d indices are held, want %d", count, len(set))
			}
		}
	})
}

// TestCoverageIsBounded: with more gaps than there is room for the mark stays
// right, and a catch-up from the mark completes it.
func TestCoverageIsBounded(t *testing.T) {
	t.Parallel()
	var c coverage
	var odd []entry.Placement
	const n = 3 * maxSpans
	for i := range int64(n) {
		odd = append(odd, place(2*i+1))
	}
	c = c.with(odd)
	if len(c.spans) != maxSpans || c.mark != 0 {
		t.Fatalf("%d spans and mark %d, want %d and 0", len(c.spans), c.mark, maxSpans)
	}
	var even []entry.Placement
	for i := range int64(n) {
		even = append(even, place(2*i))
	}
	// Of the odd ones the lowest maxSpans were kept; the next is missing.
	c = c.with(even)
	if want := int64(2*maxSpans + 1); c.mark != want {
		t.Fatalf("mark = %d, want %d", c.mark, want)
	}
	for c.mark < 2*n {
		c = c.with([]entry.Placement{place(c.mark)})
	}
}

func TestOutOfOrderPuts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.db")
	c := mustOpen(t, path)
	for _, step := range []struct {
		put  []int64
		want int64
	}{
		{[]int64{3, 4}, 0}, {[]int64{1}, 0}, {[]int64{0}, 2}, {[]int64{7, 6}, 2}, {[]int64{2}, 5}, {[]int64{2}, 5}, {[]int64{9}, 5},
	} {
		put(t, c, step.put...)
		wantCovered(t, c, step.want)
	}
	mustClose(t, c)

	// A new process knows the mark but not what lies above the gap: the
	// catch-up puts it again.
	c = mustOpen(t, path)
	wantCovered(t, c, 5)
	wantHit(t, c, key(9), place(9))
	put(t, c, 5, 6)
	wantCovered(t, c, 7)
	put(t, c, 7, 8, 9)
	wantCovered(t, c, 10)
}

func TestMarkHasAMAC(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"another mark": `UPDATE meta SET value = CAST(x'0000000000000100' || substr(value, 9) AS BLOB) WHERE name = 'covered'`,
		"no mac":       `UPDATE meta SET value = x'0000000000000100' WHERE name = 'covered'`,
		"no mark":      `DELETE FROM meta WHERE name = 'covered'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "c.db")
			c := mustOpen(t, path)
			put(t, c, upTo(10)...)
			mustClose(t, c)
			raw(t, path, statement)
			c = mustOpen(t, path)
			wantCovered(t, c, 0)
			wantHit(t, c, key(9), place(9)) // the rows speak for themselves
			put(t, c, upTo(11)...)
			wantCovered(t, c, 11)
		})
	}
}
