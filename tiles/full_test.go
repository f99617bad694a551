package tiles

import (
	"errors"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
	"kiln/storage/mem"
)

// TestFull compares every partial tile of a log with its full one.
func TestFull(t *testing.T) {
	t.Parallel()
	bucket, tree := storedLog(t) // by steps to 200, 300 and 560
	for _, level := range []int{LevelNames, LevelData, 0} {
		full, err := ReadFull(t.Context(), bucket, tree, level, 0)
		if err != nil {
			t.Fatal(err)
		}
		if full.End() != 256 {
			t.Errorf("level %d: end %d, want 256", level, full.End())
		}
		of := func(n int64, w int) []byte {
			body, err := bucket.Get(t.Context(), Path(tlog.Tile{H: Height, L: level, N: n, W: w}))
			if err != nil {
				t.Fatal(err)
			}
			return body
		}
		if err := full.Covers(200, of(0, 200)); err != nil {
			t.Error(err)
		}
		for name, err := range map[string]error{
			"width too small":     full.Covers(199, of(0, 200)),
			"width too large":     full.Covers(201, of(0, 200)),
			"of another tile":     full.Covers(44, of(1, 44)),
			"the full tile":       full.Covers(200, of(0, 256)),
			"empty":               full.Covers(200, nil),
			"cut":                 full.Covers(200, of(0, 200)[:len(of(0, 200))/2]),
			"one byte is another": full.Covers(200, flipByte(func(n int) int { return n / 2 })(of(0, 200))),
		} {
			if corrupt := new(CorruptError); !errors.As(err, &corrupt) {
				t.Errorf("level %d, %s: %v", level, name, err)
			}
		}
		for _, w := range []int{-1, 0, 256, 300} {
			if full.Covers(w, of(0, 200)) == nil {
				t.Errorf("level %d: covers a partial tile of width %d", level, w)
			}
		}
	}
}

// TestReadFull refuses tiles that are not whole, and damaged ones.
func TestReadFull(t *testing.T) {
	t.Parallel()
	bucket, tree := storedLog(t)
	for _, c := range []struct {
		level int
		n     int64
	}{{0, 2}, {LevelData, 2}, {LevelNames, 2}, {1, 0}, {0, -1}, {6, 0}, {-3, 0}} {
		if _, err := ReadFull(t.Context(), bucket, tree, c.level, c.n); err == nil {
			t.Errorf("tile %d of level %d was read", c.n, c.level)
		}
	}
	for path, level := range map[string]int{"tile/0/001": 0, "tile/data/001": LevelData} {
		for name, damage := range damages {
			b := bucket.CrashClone()
			if err := b.Corrupt(path, damage); err != nil {
				t.Fatal(err)
			}
			_, err := ReadFull(t.Context(), b, tree, level, 1)
			if corrupt := new(CorruptError); !errors.As(err, &corrupt) && !errors.Is(err, ErrNotProved) && !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("%s %s: %v", path, name, err)
			}
		}
		b := bucket.CrashClone()
		if err := b.Delete(t.Context(), path); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFull(t.Context(), b, tree, level, 1); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s lost: %v", path, err)
		}
	}
	for name, lines := range map[string]int{"255 lines": 255, "257 lines": 257, "no line": 0} {
		b := bucket.CrashClone()
		text := ""
		for range lines {
			text += "{}\n"
		}
		if err := b.Corrupt("tile/names/001", func([]byte) []byte { return zip(t, []byte(text)) }); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFull(t.Context(), b, tree, LevelNames, 1); err == nil {
			t.Errorf("a names tile with %s was read", name)
		}
	}
}

// TestReadFullAbove reads a full tile of a higher level.
func TestReadFullAbove(t *testing.T) {
	t.Parallel()
	bucket, b := mem.New(), growRecords(NewEdge(false), 256*256+5)
	storeHashes(t, bucket, b)
	full, err := ReadFull(t.Context(), bucket, b.edge.Tree(), 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if full.End() != 1<<16 {
		t.Errorf("end %d", full.End())
	}
	body, err := bucket.Get(t.Context(), "tile/1/000")
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []int{1, 2, 255} {
		if err := full.Covers(w, body[:w*tlog.HashSize]); err != nil {
			t.Errorf("width %d: %v", w, err)
		}
	}
	for n := int64(0); n < 2; n++ {
		for level := LevelNames; level < levels; level++ {
			t1 := tlog.Tile{H: Height, L: level, N: n, W: 7}
			if got, want := FullEnd(t1), (n+1)*int64(fullWidth(level)); got != want {
				t.Errorf("level %d tile %d ends at %d, want %d", level, n, got, want)
			}
		}
	}
}

func fullWidth(level int) int {
	w := Width
	for ; level > 0; level-- {
		w *= Width
	}
	return w
}
