package dir

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"kiln/storage"
)

// FuzzPaths reads, writes, lists and deletes under any path. Nothing outside of
// the bucket is touched, and what was written is what is read and listed.
func FuzzPaths(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../outside", "..", ".", "", "/etc/passwd", "a/../../outside", Reserved, Reserved + "/x", "a\x00", "a//b", "a/", "link", "link/outside", "link/x"} {
		f.Add(s, []byte("body"))
	}
	f.Fuzz(func(t *testing.T, p string, body []byte) {
		top := t.TempDir()
		outside, root := filepath.Join(top, "outside"), filepath.Join(top, "root")
		if err := errors.Join(os.WriteFile(outside, []byte("outside"), 0o600), os.Mkdir(root, 0o700), os.Symlink(top, filepath.Join(root, "link"))); err != nil {
			t.Fatal(err)
		}
		b := openBucket(t, root)
		ctx := t.Context()
		err := b.Create(ctx, storage.Object{Path: p, Body: body})
		got, getErr := b.Get(ctx, p)
		if (err == nil) != (getErr == nil) || err == nil && !bytes.Equal(got, body) {
			t.Fatalf("%q: created with %v, read as %q, %v", p, err, got, getErr)
		}
		if err == nil && !storage.ValidPath(p) {
			t.Fatalf("%q was taken for a path", p)
		}
		n := 0
		listErr := b.List(ctx, p, func(i storage.Info) error {
			if i.Path == p && i.Size == int64(len(body)) {
				n++
			}
			return nil
		})
		if listErr == nil && err == nil && n != 1 {
			t.Fatalf("%q is listed %d times", p, n)
		}
		if delErr := b.Delete(ctx, p); err == nil && delErr != nil {
			t.Fatal(delErr)
		}
		files, err := os.ReadDir(top)
		if kept, readErr := os.ReadFile(outside); err != nil || readErr != nil || len(files) != 2 || string(kept) != "outside" {
			t.Fatalf("%q: outside are %v, %q", p, files, kept)
		}
	})
}
