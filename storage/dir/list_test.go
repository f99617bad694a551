package dir

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kiln/storage"
)

func list(t *testing.T, b *Bucket, prefix string) []string {
	t.Helper()
	var paths []string
	err := b.List(t.Context(), prefix, func(i storage.Info) error {
		paths = append(paths, i.Path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(paths)
	return paths
}

// TestListNoObjects lists only objects, whatever else lies in the directory.
func TestListNoObjects(t *testing.T) {
	t.Parallel()
	outside, root := t.TempDir(), t.TempDir()
	b := openBucket(t, root)
	create(t, b, "d/object", "1")
	for name, body := range map[string]string{
		filepath.Join(outside, "secret"):        "s",
		filepath.Join(root, ".serve.lock"):      "",
		filepath.Join(root, "d", ".hidden"):     "h",
		filepath.Join(root, "d", "a b"):         "space",
		filepath.Join(root, "d", "ä"):           "umlaut",
		filepath.Join(root, Reserved, "tmp/x"):  "half an object",
		filepath.Join(root, "d", "object~"):     "of an editor",
		filepath.Join(root, "d", "also:object"): "colon",
	} {
		if err := os.WriteFile(name, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"out": outside, "up": "..", "loop": ".", "d/file": "object", "again": "d", "dead": "nowhere",
	} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "d", "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string][]string{
		"": {"d/object"}, "d/": {"d/object"}, "d": {"d/object"},
		"again/": nil, "again": nil, "out/": nil, "loop/d/": nil, ".kiln/": nil, "d/.": nil,
	} {
		if got := list(t, b, prefix); !slices.Equal(got, want) {
			t.Errorf("List of %q: %q, want %q", prefix, got, want)
		}
	}
}

// TestListWide has a folder that is read in several steps.
func TestListWide(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b := openBucket(t, root, WithParallelism(1))
	create(t, b, "w/w/deeper", "1")
	want := []string{"w/w/deeper"}
	for i := range 2*listChunk + 10 {
		want = append(want, fmt.Sprintf("w/%04d", i))
		if err := os.WriteFile(filepath.Join(root, "w", fmt.Sprintf("%04d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(want)
	if got := list(t, b, "w"); !slices.Equal(got, want) {
		t.Errorf("%d objects are listed, want %d", len(got), len(want))
	}
}
