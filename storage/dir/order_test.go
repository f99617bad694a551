package dir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"kiln/storage"
	"kiln/storage/storagetest"
)

// recorder stands between a bucket and the system: it writes down every call
// that had its effect, and makes the one named in fail return an error.
type recorder struct {
	mu    sync.Mutex
	calls []string
	fail  string // prefix of a call
	err   error
}

func (r *recorder) call(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := fmt.Sprintf(format, args...)
	if r.fail != "" && strings.HasPrefix(c, r.fail) {
		return r.err
	}
	r.calls = append(r.calls, c)
	return nil
}

func (r *recorder) take() []string {
	calls := r.calls
	r.calls = nil
	return calls
}

// nameOf names a file relative to the root; a temporary one is "temp".
func nameOf(b *Bucket, f *os.File) string {
	if filepath.Base(filepath.Dir(f.Name())) == "tmp" {
		return "temp"
	}
	rel, err := filepath.Rel(b.name, f.Name())
	if err != nil {
		return f.Name()
	}
	return rel
}

type renameFunc = func(from *os.File, temp string, to *os.File, name string) error

func (r *recorder) rename(b *Bucket, what string, do renameFunc) renameFunc {
	return func(from *os.File, temp string, to *os.File, name string) error {
		if err := r.call("%s %s", what, filepath.Join(nameOf(b, to), name)); err != nil {
			return err
		}
		return do(from, temp, to, name)
	}
}

// record puts a recorder into a bucket.
func record(b *Bucket) *recorder {
	r, real := &recorder{}, b.sys
	name := func(f *os.File) string { return nameOf(b, f) }
	b.sys = system{
		createTemp: func(temps *os.Root, temp string) (*os.File, error) {
			if err := r.call("create temp"); err != nil {
				return nil, err
			}
			return real.createTemp(temps, temp)
		},
		write: func(f *os.File, p []byte) error {
			if err := r.call("write %s", name(f)); err != nil {
				_ = real.write(f, p[:len(p)/2]) // a full disk takes a part
				return err
			}
			return real.write(f, p)
		},
		syncFile: func(f *os.File) error {
			if err := r.call("sync file %s", name(f)); err != nil {
				return err
			}
			return real.syncFile(f)
		},
		renameNew:  r.rename(b, "rename new", real.renameNew),
		renameOver: r.rename(b, "rename over", real.renameOver),
		mkdir: func(root *os.Root, p string) error {
			if err := r.call("mkdir %s", p); err != nil {
				return err
			}
			return real.mkdir(root, p)
		},
		rmdir: func(root *os.Root, p string) error {
			if err := r.call("rmdir %s", p); err != nil {
				return err
			}
			return real.rmdir(root, p)
		},
		unlink: func(folder *os.File, n string) error {
			if err := r.call("unlink %s", filepath.Join(name(folder), n)); err != nil {
				return err
			}
			return real.unlink(folder, n)
		},
		syncFolder: func(f *os.File) error {
			if err := r.call("sync folder %s", name(f)); err != nil {
				return err
			}
			return real.syncFolder(f)
		},
	}
	return r
}

func TestOrder(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b := openBucket(t, root)
	r := record(b)
	ctx := t.Context()
	next := func([]byte) ([]byte, error) { return []byte("next"), nil }
	steps := []struct {
		what string
		do   func() error
		want []string
	}{
		{"Create in new folders", func() error { return b.Create(ctx, storage.Object{Path: "x/y/a", Body: []byte("a")}) }, []string{
			"mkdir x", "sync folder .", "mkdir x/y", "sync folder x",
			"create temp", "write temp", "sync file temp", "rename new x/y/a", "sync folder x/y",
		}},
		{"Create in a known folder", func() error { return b.Create(ctx, storage.Object{Path: "x/y/b", Body: []byte("b")}) }, []string{
			"create temp", "write temp", "sync file temp", "rename new x/y/b", "sync folder x/y",
		}},
		{"Create of what is there", func() error { return b.Create(ctx, storage.Object{Path: "x/y/b", Body: []byte("b")}) }, []string{
			"create temp", "write temp", "sync file temp", "rename over x/y/b", "sync folder x/y",
		}},
		{"Update", func() error { return b.Update(ctx, storage.Object{Path: "x/c"}, next) }, []string{
			"create temp", "write temp", "sync file temp", "rename over x/c", "sync folder x",
		}},
		{"Delete", func() error { return b.Delete(ctx, "x/c") }, []string{"unlink x/c", "sync folder x"}},
		{"Delete of what is not there", func() error { return b.Delete(ctx, "x/c") }, []string{"unlink x/c", "sync folder x"}},
		{"Get", func() error { _, err := b.Get(ctx, "x/y/a"); return err }, nil},
		{"Create of another body", func() error {
			if err := b.Create(ctx, storage.Object{Path: "x/y/a", Body: []byte("?")}); !errors.Is(err, storage.ErrDifferent) {
				return fmt.Errorf("error %w, want %w", err, storage.ErrDifferent)
			}
			return nil
		}, nil},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.what, err)
		}
		if got := r.take(); !slices.Equal(got, s.want) {
			t.Errorf("%s:\n got %q\nwant %q", s.what, got, s.want)
		}
	}

	// A folder that another handle made need not be durable yet: its parent is
	// synced by whoever uses it first.
	other := openBucket(t, root)
	r = record(other)
	if err := other.Create(ctx, storage.Object{Path: "x/y/b", Body: []byte("b")}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"mkdir x", "sync folder .", "mkdir x/y", "sync folder x",
		"create temp", "write temp", "sync file temp", "rename over x/y/b", "sync folder x/y",
	}
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("Create in folders of another handle:\n got %q\nwant %q", got, want)
	}
}

// TestFailures makes each system call fail in turn, at the disk-full and the
// broken-disk error. Only a failure after the rename leaves the object, whole,
// and then a second call makes it durable.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, errno := range []error{unix.ENOSPC, unix.EIO} {
		for _, c := range []struct {
			fail  string
			stays bool
		}{
			{"mkdir d", false},
			{"mkdir d/e", false},
			{"sync folder .", false},
			{"sync folder d", false},
			{"create temp", false},
			{"write temp", false},
			{"sync file temp", false},
			{"rename", false},
			{"sync folder d/e", true},
		} {
			for _, op := range []string{"Create", "Update"} {
				t.Run(fmt.Sprintf("%s/%s/%v", op, c.fail, errno), func(t *testing.T) {
					t.Parallel()
					testFailure(t, op, c.fail, errno, c.stays)
				})
			}
		}
	}
}

func testFailure(t *testing.T, op, fail string, errno error, stays bool) {
	root := t.TempDir()
	b := openBucket(t, root)
	r := record(b)
	write := func() error {
		if op == "Create" {
			return b.Create(t.Context(), storage.Object{Path: "d/e/f", Body: []byte("1")})
		}
		return storagetest.Increment(t.Context(), b, "d/e/f")
	}
	r.fail, r.err = fail, errno
	err := write()
	switch {
	case err == nil:
		t.Fatal("no error")
	case !errors.Is(err, errno) || errors.Is(err, storage.ErrDifferent) || errors.Is(err, storage.ErrNotFound):
		t.Errorf("error %v, want %v", err, errno)
	case !strings.Contains(err.Error(), filepath.Join(root, "d/e/f")):
		t.Errorf("error %q does not name the object", err)
	}
	want := ""
	if stays {
		want = "map[d/e/f:1]"
	} else {
		want = "map[]"
	}
	if got := fmt.Sprint(objects(t, root)); got != want {
		t.Errorf("after %v there is %s, want %s", err, got, want)
	}
	wantNoTemps(t, root)

	r.fail = ""
	if err := write(); err != nil {
		t.Fatalf("second try: %v", err)
	}
	calls := r.take()
	if last := calls[len(calls)-1]; last != "sync folder d/e" {
		t.Errorf("the second try ended with %q, want the folder synced", last)
	}
	if !slices.Contains(calls, "sync folder .") || !slices.Contains(calls, "sync folder d") {
		t.Errorf("the folders above were not synced: %q", calls)
	}
	if len(objects(t, root)) != 1 {
		t.Errorf("after the second try there is %v", objects(t, root))
	}
}

// TestFailedReplacement shows that a failing Update leaves the old content.
func TestFailedReplacement(t *testing.T) {
	t.Parallel()
	for _, fail := range []string{"create temp", "write temp", "sync file temp", "rename over"} {
		root := t.TempDir()
		b := openBucket(t, root)
		create(t, b, "cell", "7")
		r := record(b)
		r.fail, r.err = fail, unix.ENOSPC
		if err := storagetest.Increment(t.Context(), b, "cell"); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%s: error %v", fail, err)
		}
		if got := fmt.Sprint(objects(t, root)); got != "map[cell:7]" {
			t.Errorf("%s: there is %s", fail, got)
		}
		wantNoTemps(t, root)
	}
}

// TestFolderRemoved shows that a folder remembered as durable, but removed by
// somebody, is made again.
func TestFolderRemoved(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	b := openBucket(t, root)
	create(t, b, "d/e/f", "1")
	if err := os.RemoveAll(filepath.Join(root, "d")); err != nil {
		t.Fatal(err)
	}
	r := record(b)
	create(t, b, "d/e/f", "2")
	want := []string{
		"mkdir d", "sync folder .", "mkdir d/e", "sync folder d",
		"create temp", "write temp", "sync file temp", "rename new d/e/f", "sync folder d/e",
	}
	if got := r.take(); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestFailedSync shows that what a failed sync was to make durable is made anew:
// what was to be written is gone then, although it goes on being seen, and the
// next sync, which has nothing to write, says nothing of it.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	object := []string{"create temp", "write temp", "sync file temp"}
	for fail, want := range map[string][]string{
		"sync folder .":   append([]string{"mkdir d", "sync folder .", "mkdir d/e", "sync folder d"}, append(object, "rename new d/e/f", "sync folder d/e")...),
		"sync folder d":   append([]string{"mkdir d/e", "sync folder d"}, append(object, "rename new d/e/f", "sync folder d/e")...),
		"sync file temp":  append(object, "rename new d/e/f", "sync folder d/e"),
		"sync folder d/e": append(object, "rename over d/e/f", "sync folder d/e"),
	} {
		t.Run(fail, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			b := openBucket(t, root)
			r := record(b)
			r.fail, r.err = fail, unix.EIO
			o := storage.Object{Path: "d/e/f", Body: []byte("1")}
			if err := b.Create(t.Context(), o); !errors.Is(err, unix.EIO) {
				t.Fatalf("error %v, want %v", err, unix.EIO)
			}
			if folder, ok := strings.CutPrefix(fail, "sync folder "); ok && folder != "d/e" {
				if list, err := os.ReadDir(filepath.Join(root, folder)); err != nil || len(list) > 0 && list[len(list)-1].Name() != Reserved {
					t.Errorf("in %s there is %v (%v), want nothing new", folder, list, err)
				}
			}
			r.fail = ""
			r.take()
			create(t, b, o.Path, string(o.Body))
			if got := r.take(); !slices.Equal(got, want) {
				t.Errorf("the second try was\n %q, want\n %q", got, want)
			}
		})
	}
}

// TestCreateBesideUpdate shows that a Create of what is there puts nothing back
// that an Update has replaced meanwhile.
func TestCreateBesideUpdate(t *testing.T) {
	t.Parallel()
	b := openBucket(t, t.TempDir())
	create(t, b, "cell", "0")
	var g sync.WaitGroup
	g.Go(func() {
		for range 50 {
			err := b.Create(t.Context(), storage.Object{Path: "cell", Body: []byte("0")})
			if err != nil && !errors.Is(err, storage.ErrDifferent) {
				t.Error(err)
			}
		}
	})
	for range 20 {
		if err := storagetest.Increment(t.Context(), b, "cell"); err != nil {
			t.Error(err)
		}
	}
	g.Wait()
	if got, err := b.Get(t.Context(), "cell"); string(got) != "20" {
		t.Errorf("the cell is %q (%v), want 20", got, err)
	}
}

// An Update waits for one Create of what is there already, and not for all that
// are queued: a checkpoint must not wait for every issuer that is seen again after
// a start.
func TestUpdatePassesRenewals(t *testing.T) {
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b, err := Open(root)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		object := func(i int) storage.Object {
			return storage.Object{Path: fmt.Sprintf("issuer/%d", i), Body: []byte("issuer")}
		}
		const renewals = 8
		for i := range renewals {
			if err := b.Create(t.Context(), object(i)); err != nil {
				t.Fatal(err)
			}
		}
		held, begun := make(chan struct{}), false
		var order []string
		rename := b.sys.renameOver // called by one at a time
		b.sys.renameOver = func(from *os.File, temp string, to *os.File, name string) error {
			if !begun {
				begun = true
				<-held
			}
			order = append(order, name)
			return rename(from, temp, to, name)
		}
		var all sync.WaitGroup
		for i := range renewals {
			all.Go(func() {
				if err := b.Create(t.Context(), object(i)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		all.Go(func() {
			next := func([]byte) ([]byte, error) { return []byte("new"), nil }
			if err := b.Update(t.Context(), storage.Object{Path: "checkpoint"}, next); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		close(held)
		all.Wait()
		if at := slices.Index(order, "checkpoint"); at != 1 {
			t.Errorf("the checkpoint was written after %d renewals of %v, want 1", at, order)
		}
	})
}
