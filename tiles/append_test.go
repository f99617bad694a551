package tiles

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"kiln/entry"
	"kiln/storage/mem"
)

// TestAppend grows a log in random batches and reads it back after each.
func TestAppend(t *testing.T) {
	t.Parallel()
	pool := cheap(t, 0, 1200)
	rapid.Check(t, func(rt *rapid.T) {
		ctx, bucket := context.Background(), mem.New()
		e := NewEdge(rapid.Bool().Draw(rt, "names"))
		var timestamps []int64
		for step, n := range rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 5), rapid.IntRange(250, 260), rapid.IntRange(1, 300)), 1, 4).Draw(rt, "batches") {
			timestamp := int64(1_000 + step)
			next, objects := round(rt, e, pool[e.size:e.size+int64(n)], timestamp)
			store(rt, bucket, objects)
			timestamps = append(timestamps, slices.Repeat([]int64{timestamp}, n)...)
			e = next
			loaded, err := Load(ctx, bucket, e.Tree(), e.withNames)
			if err != nil {
				rt.Fatal(err)
			}
			compareEdges(rt, loaded, e)
		}
		tree := e.Tree()
		from := rapid.Int64Range(0, tree.N).Draw(rt, "from")
		to := rapid.Int64Range(from, tree.N).Draw(rt, "to")
		index := from
		err := Entries(ctx, bucket, tree, from, to, func(got Entry) error {
			want := Entry{pool[index].Key(), entry.Placement{Index: index, TimestampMillis: timestamps[index]}, pool[index].Chain()}
			if got.Key != want.Key || got.Placement != want.Placement || !slices.Equal(got.Chain, want.Chain) {
				return fmt.Errorf("entry is %+v, want %+v", got, want)
			}
			h, err := LeafHash(ctx, bucket, tree, index)
			if err == nil && h != pool[index].LeafHash(want.Placement) {
				err = fmt.Errorf("leaf hash %d is %v", index, h)
			}
			index++
			return err
		})
		if err != nil || index != to {
			rt.Fatalf("Entries [%d, %d) of %d stops at %d: %v", from, to, tree.N, index, err)
		}
		if v := bucket.Violations(); len(v) > 0 {
			rt.Fatal(v)
		}
	})
}

// TestAppendAroundFullTiles passes the sizes at which tiles and levels fill.
func TestAppendAroundFullTiles(t *testing.T) {
	t.Parallel()
	ctx, bucket, e := context.Background(), mem.New(), NewEdge(false)
	pool := cheap(t, 0, 65794)
	for _, size := range []int64{255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 65792, 65793} {
		next, objects := round(t, e, pool[e.size:size], size)
		store(t, bucket, objects)
		e = next
		loaded, err := Load(ctx, bucket, e.Tree(), false)
		if err != nil {
			t.Fatal(err)
		}
		compareEdges(t, loaded, e)
	}
	index := int64(0)
	err := Entries(ctx, bucket, e.Tree(), 0, e.size, func(got Entry) error {
		if got.Index != index || got.Key != pool[index].Key() {
			return fmt.Errorf("entry %d is %+v", index, got)
		}
		index++
		return nil
	})
	if err != nil || index != e.size {
		t.Errorf("Entries stops at %d of %d: %v", index, e.size, err)
	}
}

func TestAppendLeavesTheEdge(t *testing.T) {
	t.Parallel()
	e, _ := round(t, NewEdge(true), cheap(t, 0, 300), 1)
	before := e.clone()
	a, objectsA := round(t, e, cheap(t, 300, 600), 2)
	compareEdges(t, e, before)
	rival, _ := round(t, e, cheap(t, 1000, 1100), 2)
	if rival.Tree() == a.Tree() {
		t.Error("two different rounds lead to one tree")
	}
	compareEdges(t, e, before)
	again, objectsAgain := round(t, e, cheap(t, 300, 600), 2)
	compareEdges(t, again, a)
	if !reflect.DeepEqual(objectsAgain, objectsA) {
		t.Error("the same round gives other objects when made again")
	}
}

// TestRivalRounds makes two rounds from one edge, as after a round that failed:
// neither changes the other.
func TestRivalRounds(t *testing.T) {
	t.Parallel()
	edge := func() *Edge {
		e, _ := round(t, NewEdge(true), cheap(t, 0, 300), 1)
		e, _ = round(t, e, cheap(t, 300, 301), 2) // its slices have room for more
		return e
	}
	want, _ := round(t, edge(), cheap(t, 400, 405), 3)
	e := edge()
	a, _ := round(t, e, cheap(t, 400, 405), 3)
	b, _ := round(t, e, cheap(t, 500, 505), 44)
	compareEdges(t, a, want)
	round(t, a, cheap(t, 405, 406), 5)
	round(t, b, cheap(t, 505, 506), 5)
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	if _, _, err := NewEdge(false).Append(cheap(t, 0, 1), -1); err == nil || !strings.Contains(err.Error(), "negative") {
		t.Errorf("negative timestamp: %v", err)
	}
	full := NewEdge(false)
	full.size = MaxTree
	if _, _, err := full.Append(cheap(t, 0, 1), 1); err == nil || !strings.Contains(err.Error(), "2^40") {
		t.Errorf("entry 2^40: %v", err)
	}
}

func TestNamesOfNoCertificate(t *testing.T) {
	t.Parallel()
	_, objects := round(t, NewEdge(true), cheap(t, 0, 2), 42)
	for _, o := range objects {
		if o.Path != "tile/names/000.p/2" {
			continue
		}
		if lines, err := Gunzip(o.Body); err != nil || string(lines) != "{\"Timestamp\":42}\n{\"Timestamp\":42}\n" {
			t.Errorf("names are %q, %v", lines, err)
		}
		return
	}
	t.Error("no names tile was made")
}

// TestNamesAreKept: a log that turns names on makes the lines of the entries it
// has, as far as they share a tile with new ones.
func TestNamesAreKept(t *testing.T) {
	t.Parallel()
	bucket := mem.New()
	without, objects := round(t, NewEdge(false), cheap(t, 0, 300), 1)
	store(t, bucket, objects)
	e, err := Load(context.Background(), bucket, without.Tree(), true)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(e.names, []byte("\n")); n != 44 {
		t.Errorf("%d names lines, want 44", n)
	}
	round(t, e, cheap(t, 300, 301), 2)
}

func TestEntriesStops(t *testing.T) {
	t.Parallel()
	bucket := mem.New()
	e, objects := round(t, NewEdge(false), cheap(t, 0, 10), 1)
	store(t, bucket, objects)
	stop, calls := errors.New("stop"), 0
	err := Entries(context.Background(), bucket, e.Tree(), 0, 10, func(Entry) error {
		calls++
		if calls == 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	for _, r := range [][2]int64{{-1, 5}, {0, 11}, {6, 5}} {
		err := Entries(context.Background(), bucket, e.Tree(), r[0], r[1], func(Entry) error { t.Error("called"); return nil })
		if err == nil {
			t.Errorf("entries %v of 10 are read", r)
		}
	}
	for _, index := range []int64{-1, 10, 1 << 50} {
		if _, err := LeafHash(context.Background(), bucket, e.Tree(), index); err == nil {
			t.Errorf("leaf hash %d of 10 is read", index)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Load(ctx, bucket, e.Tree(), false); !errors.Is(err, context.Canceled) {
		t.Errorf("Load with an ended context: %v", err)
	}
}

func TestCheckConsistency(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	sizes := []int64{0, 1, 2, 3, 7, 255, 256, 257, 512, 65535, 65536, 65537, 66000}
	bucket, e := mem.New(), NewEdge(false)
	forgedEdge := NewEdge(false)
	var trees, forged []tlog.Tree
	for _, size := range sizes {
		b := growRecords(e, size)
		storeHashes(t, bucket, b)
		e = b.edge
		trees = append(trees, e.Tree())

		f := &builder{edge: forgedEdge.clone()}
		for i := forgedEdge.size; i < size; i++ {
			h := recordHash(i)
			if i == 0 {
				h = recordHash(7) // the forged log has another first record
			}
			f.edge.size++
			f.push(0, h)
		}
		forgedEdge = f.edge
		forged = append(forged, forgedEdge.Tree())
	}
	for i, old := range trees {
		for j, tree := range trees {
			if err := CheckConsistency(ctx, bucket, old, tree); (err == nil) != (i <= j) {
				t.Errorf("tree of %d extends tree of %d: %v", tree.N, old.N, err)
			}
			if i > 0 && CheckConsistency(ctx, bucket, forged[i], tree) == nil {
				t.Errorf("tree of %d extends a forged tree of %d", tree.N, old.N)
			}
			if i > 0 && j > 0 && CheckConsistency(ctx, bucket, old, forged[j]) == nil {
				t.Errorf("forged tree of %d extends tree of %d", tree.N, old.N)
			}
		}
	}
}
