package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"kiln/storage"
	"kiln/storage/storagetest"
)

func openBucket(t testing.TB, root string, options ...Option) *Bucket {
	t.Helper()
	b, err := Open(root, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func create(t testing.TB, b *Bucket, path, body string) {
	t.Helper()
	if err := b.Create(t.Context(), storage.Object{Path: path, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

// objects lists the files below a folder, reserved ones apart, with their bytes.
func objects(t *testing.T, root string) map[string]string {
	t.Helper()
	m := make(map[string]string)
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == Reserved:
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		body, err := os.ReadFile(p)
		rel, _ := filepath.Rel(root, p)
		m[rel] = string(body)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func wantNoTemps(t *testing.T, root string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(root, filepath.FromSlash(tempFolder)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		t.Errorf("temporary file %s was left", e.Name())
	}
}

func TestSuite(t *testing.T) {
	storagetest.Test(t, func(t *testing.T) storage.Bucket { return openBucket(t, t.TempDir()) })
}

func TestSuiteOneAtATime(t *testing.T) {
	storagetest.Test(t, func(t *testing.T) storage.Bucket { return openBucket(t, t.TempDir(), WithParallelism(1)) })
}

// TestSuiteByLink runs the suite on the way of file systems that cannot rename
// without replacing.
func TestSuiteByLink(t *testing.T) {
	storagetest.Test(t, func(t *testing.T) storage.Bucket {
		root := t.TempDir()
		b := openBucket(t, root)
		b.sys.renameNew = linkNew
		t.Cleanup(func() { wantNoTemps(t, root) })
		return b
	})
}

func TestTwoHandles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	a, b := openBucket(t, root), openBucket(t, root)
	storagetest.Race(t, a, b)
	wantNoTemps(t, root)
}

func TestReopen(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "made", "with", "parents")
	b, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	create(t, b, "tile/0/000", "tile")
	create(t, b, "checkpoint", "1")
	if err := storagetest.Increment(t.Context(), b, "checkpoint"); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openBucket(t, root)
	create(t, b, "tile/0/000", "tile")
	for path, want := range map[string]string{"tile/0/000": "tile", "checkpoint": "2"} {
		if got, err := b.Get(t.Context(), path); err != nil || string(got) != want {
			t.Errorf("%s: %q (%v), want %q", path, got, err, want)
		}
	}
	for path, want := range map[string]fs.FileMode{
		"tile": fs.ModeDir | folderMode, "tile/0": fs.ModeDir | folderMode, "tile/0/000": fileMode, "checkpoint": fileMode,
	} {
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || info.Mode()&^umask(t) != want&^umask(t) {
			t.Errorf("%s: mode %v (%v), want %v", path, info.Mode(), err, want)
		}
	}
}

// umask is what this process's umask takes from the mode of new files.
func umask(t *testing.T) fs.FileMode {
	t.Helper()
	p := filepath.Join(t.TempDir(), "f")
	f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o777)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return 0o777 &^ info.Mode()
}

func TestStaleTemporaries(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	stale := filepath.Join(root, filepath.FromSlash(tempFolder), "STALE-1")
	first := openBucket(t, root)
	if err := os.WriteFile(stale, []byte("half an obj"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); err != nil {
		t.Fatalf("a temporary file was removed while another bucket was open: %v", err)
	}
	for _, b := range []*Bucket{first, second} {
		if got, err := b.Get(t.Context(), tempFolder+"/STALE-1"); err == nil {
			t.Errorf("Get served a temporary file: %q", got)
		}
	}
	if err := errors.Join(second.open.Close(), first.open.Close()); err != nil { // as a crash does
		t.Fatal(err)
	}
	third, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if _, err := os.Stat(stale); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a stale temporary file was left (%v)", err)
	}
	first.open, second.open = nil, nil
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSymbolicLinks(t *testing.T) {
	t.Parallel()
	outside, root := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel(root, outside)
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{
		"absolute": outside, "relative": rel, "file": filepath.Join(outside, "secret"), "dangling": filepath.Join(outside, "new"),
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	b := openBucket(t, root)
	for _, path := range []string{"absolute/secret", "relative/secret", "file", "dangling", "absolute/new", "relative/sub/new"} {
		if got, err := b.Get(t.Context(), path); err == nil {
			t.Errorf("Get of %s followed a link out of the root: %q", path, got)
		}
		if err := b.Create(t.Context(), storage.Object{Path: path, Body: []byte("x")}); err == nil {
			t.Errorf("Create of %s followed a link out of the root", path)
		}
		if strings.Contains(path, "/") {
			if err := b.Delete(t.Context(), path); err == nil {
				t.Errorf("Delete of %s followed a link out of the root", path)
			}
		}
	}
	if got := objects(t, outside); len(got) != 1 || got["secret"] != "secret" {
		t.Errorf("outside the root there is now %q", got)
	}
}

func TestOddFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b := openBucket(t, root)
	create(t, b, "file", "file")
	create(t, b, "folder/object", "object")
	if err := unix.Mkfifo(filepath.Join(root, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	next := func([]byte) ([]byte, error) { return []byte("x"), nil }
	o := func(p string) storage.Object { return storage.Object{Path: p, Body: []byte("x")} }
	ctx := t.Context()
	for _, c := range []struct {
		what, want string
		err        error
	}{
		{"Create below a file", filepath.Join(root, "file") + " is a file where a folder is wanted", b.Create(ctx, o("file/x"))},
		{"Create far below a file", filepath.Join(root, "file") + " is a file where a folder is wanted", b.Create(ctx, o("file/x/y"))},
		{"Update below a file", filepath.Join(root, "file") + " is a file where a folder is wanted", b.Update(ctx, o("file/x"), next)},
		{"Create over a folder", "a folder is where an object is wanted", b.Create(ctx, o("folder"))},
		{"Update over a folder", "a folder is where an object is wanted", b.Update(ctx, o("folder"), next)},
		{"Delete of a folder", "a folder is where an object is wanted", b.Delete(ctx, "folder")},
		{"Create over a pipe", "is not a file", b.Create(ctx, o("pipe"))},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.want) || !strings.Contains(c.err.Error(), root) {
			t.Errorf("%s: error %v, want %q", c.what, c.err, c.want)
		}
	}
	if _, err := b.Get(ctx, "pipe"); err == nil {
		t.Error("Get of a pipe: no error")
	}
	wantNoTemps(t, root)

	if _, err := Open(filepath.Join(root, "file")); err == nil || !strings.Contains(err.Error(), filepath.Join(root, "file")) {
		t.Errorf("Open of a file: %v", err)
	}
	if _, err := Open(filepath.Join(root, "file", "below")); err == nil {
		t.Error("Open below a file: no error")
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b := openBucket(t, root)
	f, err := os.Create(filepath.Join(root, "huge"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(storage.MaxObject+1), f.Close()); err != nil { // a hole: takes no space
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "huge"); err == nil || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Get of an object above the limit: %v", err)
	}
}

// TestCancelWhileWaiting shows that a caller does not wait for others when its
// context ends: for a place among the writers, nor for the update lock.
func TestCancelWhileWaiting(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b, other := openBucket(t, root, WithParallelism(1)), openBucket(t, root)
	inside, leave := make(chan struct{}), make(chan struct{})
	b.sys.syncFile = func(f *os.File) error {
		inside <- struct{}{}
		<-leave
		return f.Sync()
	}
	done := make(chan error)
	go func() { done <- b.Create(t.Context(), storage.Object{Path: "first"}) }()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- b.Create(ctx, storage.Object{Path: "second"}) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Create waiting for another: %v", err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.sys.syncFile = (*os.File).Sync

	for _, waiter := range []*Bucket{b, other} { // in this handle, and in another
		ctx, cancel := context.WithCancel(t.Context())
		err := b.Update(t.Context(), storage.Object{Path: "cell"}, func([]byte) ([]byte, error) {
			go func() { done <- storagetest.Increment(ctx, waiter, "cell") }()
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				return nil, fmt.Errorf("update waiting for another: %w", err)
			}
			return []byte("1"), nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	const bound, callers = 3, 12
	b := openBucket(t, t.TempDir(), WithParallelism(bound))
	var now atomic.Int64
	var once sync.Once
	full := make(chan struct{})
	b.sys.syncFile = func(f *os.File) error {
		n := now.Add(1)
		defer now.Add(-1)
		if n > bound {
			t.Errorf("%d are at work at once, want at most %d", n, bound)
		}
		if n == bound {
			once.Do(func() { close(full) })
		}
		<-full // until as many as may be here are here
		return f.Sync()
	}
	done := make(chan error)
	for i := range callers {
		go func() { done <- b.Create(t.Context(), storage.Object{Path: fmt.Sprint("a", i)}) }()
	}
	for range callers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkCreate(b *testing.B) {
	body := make([]byte, 8<<10)
	for _, parallel := range []int{1, 32} {
		b.Run(fmt.Sprintf("parallel=%d", parallel), func(b *testing.B) {
			bucket := openBucket(b, b.TempDir())
			b.SetBytes(int64(len(body)))
			work := make(chan int)
			done := make(chan error)
			for range parallel {
				go func() {
					var first error
					for i := range work {
						p := fmt.Sprintf("tile/data/x%03d/%03d", i/1000, i%1000)
						if err := bucket.Create(b.Context(), storage.Object{Path: p, Body: body}); err != nil {
							first = err
						}
					}
					done <- first
				}()
			}
			for i := 0; b.Loop(); i++ {
				work <- i
			}
			close(work)
			for range parallel {
				if err := <-done; err != nil {
					b.Error(err)
				}
			}
		})
	}
}
