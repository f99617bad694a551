package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/storage"
)

// manyObjects is more than S3 lists in one answer.
const manyObjects = 1010

func lister(t *testing.T, b storage.Bucket) storage.Lister {
	t.Helper()
	l, ok := b.(storage.Lister)
	if !ok {
		t.Fatalf("%T lists nothing: every backend is a storage.Lister", b)
	}
	return l
}

// listed returns the sizes of what is listed, by path.
func listed(t *testing.T, b storage.Bucket, prefix string) map[string]int64 {
	t.Helper()
	m := make(map[string]int64)
	err := lister(t, b).List(t.Context(), prefix, func(i storage.Info) error {
		if _, ok := m[i.Path]; ok {
			t.Errorf("List of %q: %s twice", prefix, i.Path)
		}
		// Loosely: the clock may be another's.
		if age := time.Since(i.Modified); age.Abs() > 12*time.Hour {
			t.Errorf("List of %q: %s was modified at %v, %v ago", prefix, i.Path, i.Modified, age)
		}
		m[i.Path] = i.Size
		return nil
	})
	if err != nil {
		t.Fatalf("List of %q: %v", prefix, err)
	}
	return m
}

func testList(t *testing.T, b storage.Bucket) {
	if got := listed(t, b, ""); len(got) != 0 {
		t.Errorf("a new bucket lists %v", got)
	}
	bodies := map[string]string{
		"checkpoint":             "text\n",
		"tile/0/000":             "full",
		"tile/0/000.p/17":        "partial",
		"tile/0/001.p/1":         "p",
		"tile/0/x001/000":        "",
		"tile/10/000":            "ten",
		"tiles":                  "not below tile",
		"issuer/0123":            "i",
		"a/b/c/d/e/f/g/h":        "deep",
		strings.Repeat("l", 255): "the longest name",
	}
	for path, body := range bodies {
		mustCreate(t, b, path, body)
	}
	mustCreate(t, b, "tile/0/gone", "1")
	if err := b.Delete(t.Context(), "tile/0/gone"); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{
		"", "t", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/000", "tile/0/000.p", "tile/0/000.p/1", "tile/0/000.p/17",
		"tile/0/000.p/17/", "tile/1", "checkpoint", "checkpoint/", "checkpoints", "a/b/c/d/e/f/g/", "issuer/01", "none", "no/where/at/all",
		"/", "/tile", "tile//", "tile/./", ".", "..", "../", "tile/../", ".kiln", strings.Repeat("l", 254), strings.Repeat("l", 256), "ä", "a b",
	} {
		got := listed(t, b, prefix)
		for path, body := range bodies {
			size, ok := got[path]
			if ok != strings.HasPrefix(path, prefix) || ok && size != int64(len(body)) {
				t.Errorf("List of %q: %s with %d bytes (%v), want %d bytes", prefix, path, size, ok, len(body))
			}
			delete(got, path)
		}
		if len(got) != 0 {
			t.Errorf("List of %q: also %v", prefix, got)
		}
	}

	err := b.Update(t.Context(), storage.Object{Path: "checkpoint"}, func([]byte) ([]byte, error) { return []byte("longer text\n"), nil })
	if err != nil {
		t.Fatal(err)
	}
	if got := listed(t, b, "checkpoint"); got["checkpoint"] != 12 {
		t.Errorf("List after an Update: %v", got)
	}
}

func manyPath(i int) string { return fmt.Sprintf("many/%d/%04d", i%3, i) }

func createMany(t *testing.T, b storage.Bucket) {
	t.Helper()
	const writers = 32
	concurrently(t, writers, func(w int) error {
		for i := w; i < manyObjects; i += writers {
			if err := b.Create(t.Context(), object(manyPath(i), "x")); err != nil {
				return err
			}
		}
		return nil
	})
}

func testListMany(t *testing.T, b storage.Bucket) {
	createMany(t, b)
	got := listed(t, b, "many/")
	for i := range manyObjects {
		if got[manyPath(i)] != 1 {
			t.Errorf("%s is not listed", manyPath(i))
		}
	}
	if len(got) != manyObjects {
		t.Errorf("%d objects are listed, want %d", len(got), manyObjects)
	}

	// Whoever lists may use the bucket, and delete what is listed.
	deleted := 0
	err := lister(t, b).List(t.Context(), "many/0/", func(i storage.Info) error {
		if _, err := b.Get(t.Context(), i.Path); err != nil {
			return err
		}
		deleted++
		return b.Delete(t.Context(), i.Path)
	})
	if err != nil {
		t.Fatal(err)
	}
	if left := listed(t, b, "many/0"); deleted != (manyObjects+2)/3 || len(left) != 0 {
		t.Errorf("%d objects were listed and deleted, %d are left", deleted, len(left))
	}
}

func testListEnds(t *testing.T, b storage.Bucket) {
	createMany(t, b)
	errEach := errors.New("each says no")
	for _, after := range []int{1, 7, manyObjects} {
		calls := 0
		err := lister(t, b).List(t.Context(), "many", func(storage.Info) error {
			if calls++; calls == after {
				return errEach
			}
			return nil
		})
		wantError(t, "List whose each fails", err, errEach, "many")
		if calls != after {
			t.Errorf("each failed at call %d and was called %d times", after, calls)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := lister(t, b).List(ctx, "many", func(storage.Info) error { cancel(); return nil })
	wantError(t, "List cancelled in the middle", err, context.Canceled, "many")
	err = lister(t, b).List(ctx, "many", func(storage.Info) error { t.Error("each was called"); return nil })
	wantError(t, "List with a cancelled context", err, context.Canceled, "many")
}

// testListRace lists while objects come and go: those that stay are listed, once.
func testListRace(t *testing.T, b storage.Bucket) {
	const standing = 40
	for i := range standing {
		mustCreate(t, b, fmt.Sprintf("race/%02d/stays", i), "x")
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				path := fmt.Sprintf("race/%02d/comes-%d", i%standing, w)
				if err := b.Create(t.Context(), object(path, "y")); err != nil {
					t.Error(err)
					return
				}
				if err := b.Delete(t.Context(), path); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		seen := make(map[string]int)
		err := lister(t, b).List(t.Context(), "race/", func(i storage.Info) error {
			seen[i.Path]++
			return nil
		})
		if err != nil {
			t.Error(err)
			break
		}
		for i := range standing {
			path := fmt.Sprintf("race/%02d/stays", i)
			if n := seen[path]; n != 1 {
				t.Errorf("%s was listed %d times", path, n)
			}
			delete(seen, path)
		}
		for path := range seen {
			if !strings.Contains(path, "/comes-") {
				t.Errorf("%s was listed, which nobody made", path)
			}
		}
	}
	close(done)
	wg.Wait()
}
