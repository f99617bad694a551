package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"kiln/storage"
)

// chunk is how much is written or compared between two looks at the context.
const chunk = 4 << 20

var errFolder = errors.New("a folder is where an object is wanted")

// Create implements [storage.Bucket].
func (b *Bucket) Create(ctx context.Context, o storage.Object) error {
	if err := b.create(ctx, o); err != nil {
		return fmt.Errorf("create object %s: %w", b.full(o.Path), err)
	}
	return nil
}

func (b *Bucket) create(ctx context.Context, o storage.Object) error {
	if err := check(o.Path, o.Body); err != nil {
		return err
	}
	err := b.createNew(ctx, o)
	if errors.Is(err, fs.ErrExist) {
		return b.renew(ctx, o)
	}
	return err
}

// createNew puts an object where nothing is. Its error is [fs.ErrExist] if o is
// there.
func (b *Bucket) createNew(ctx context.Context, o storage.Object) error {
	if err := b.writing.acquire(ctx); err != nil {
		return err
	}
	defer b.writing.release()
	// Most often nothing is there; but recovery creates again what is, and a
	// look is cheaper than a temporary file. The rename decides all the same.
	switch err := b.compare(ctx, o); {
	case err == nil:
		return fs.ErrExist
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, unix.ENOTDIR): // put will say which folder is a file
	default:
		return err
	}
	return b.put(ctx, o.Path, o.Body, b.sys.renameNew)
}

// renew makes sure that the object at o.Path is o and is durable. What is seen
// need not be: a sync that failed, in this process or in one that is gone, has
// lost what it was to write, and a second one has nothing to write and succeeds.
// So the object is put there once more, byte for byte. Nobody can tell but by the
// time of the file, and Updates wait meanwhile; but only for one, however many
// there are, as after a start, when no issuer is known to be there.
func (b *Bucket) renew(ctx context.Context, o storage.Object) error {
	if err := b.renewing.acquire(ctx); err != nil {
		return err
	}
	defer b.renewing.release()
	return b.exclusively(ctx, func() error {
		if err := b.writing.acquire(ctx); err != nil {
			return err
		}
		defer b.writing.release()
		if err := b.compare(ctx, o); err != nil {
			return err
		}
		return b.put(ctx, o.Path, o.Body, b.sys.renameOver)
	})
}

// compare reports whether the object at o.Path is o. Its error is
// [fs.ErrNotExist] if nothing is there.
func (b *Bucket) compare(ctx context.Context, o storage.Object) error {
	f, size, err := b.openObject(o.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if size != int64(len(o.Body)) {
		return storage.ErrDifferent
	}
	buf := make([]byte, min(len(o.Body), chunk))
	for rest := o.Body; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(len(rest), len(buf))
		if _, err := io.ReadFull(f, buf[:n]); err != nil {
			return step("read", err)
		}
		if !bytes.Equal(buf[:n], rest[:n]) {
			return storage.ErrDifferent
		}
		rest = rest[n:]
	}
	return nil
}

// put durably makes body the object at p, by a temporary file and the given
// rename.
//
// Each writer syncs the folder itself. Sharing one sync among the writers of a
// folder is not worth its code: on ext4, 32 writers were no faster even with the
// folder's syncs left out, because the journal commits them together anyway.
func (b *Bucket) put(ctx context.Context, p string, body []byte,
	rename func(from *os.File, temp string, to *os.File, name string) error,
) (err error) {
	folder, err := b.folder(ctx, path.Dir(p))
	if err != nil {
		return err
	}
	defer folder.Close()
	temp := b.prefix + "-" + strconv.FormatInt(b.serial.Add(1), 10)
	defer func() {
		// After a rename the name is gone already; after a link it is one more
		// name of the object; else it is half an object. What cannot be removed
		// now is removed by a later Open.
		if e := b.temps.Remove(temp); err == nil && e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = step("remove temporary file", e)
		}
	}()
	if err := b.writeTemp(ctx, temp, body); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = rename(b.tempsDir, temp, folder, path.Base(p))
	switch {
	case errors.Is(err, unix.EISDIR):
		return errFolder
	case err != nil:
		return step("rename", err)
	}
	// From here on the object is seen, so the context is not asked again:
	// finishing is what makes the outcome known.
	if err := b.sys.syncFolder(folder); err != nil {
		return step("sync folder", err)
	}
	return nil
}

// writeTemp makes a temporary file whose bytes are on disk.
func (b *Bucket) writeTemp(ctx context.Context, temp string, body []byte) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := b.sys.createTemp(b.temps, temp)
	if err != nil {
		return step("make temporary file", err)
	}
	defer func() {
		if e := f.Close(); err == nil && e != nil {
			err = step("close temporary file", e)
		}
	}()
	for len(body) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(len(body), chunk)
		if err := b.sys.write(f, body[:n]); err != nil {
			return step("write temporary file", err)
		}
		body = body[n:]
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.sys.syncFile(f); err != nil {
		return step("sync file", err)
	}
	return nil
}

// Update implements [storage.Bucket]. Updates of a bucket run one at a time, so
// next must not call Update of the same directory.
func (b *Bucket) Update(ctx context.Context, o storage.Object, next func(current []byte) ([]byte, error)) error {
	if err := b.replace(ctx, o.Path, next); err != nil {
		return fmt.Errorf("update object %s: %w", b.full(o.Path), err)
	}
	return nil
}

func (b *Bucket) replace(ctx context.Context, p string, next func([]byte) ([]byte, error)) error {
	if err := check(p, nil); err != nil {
		return err
	}
	return b.exclusively(ctx, func() error {
		current, err := b.get(ctx, p)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		body, err := next(current)
		if err != nil {
			return err
		}
		if err := check(p, body); err != nil {
			return err
		}
		if err := b.writing.acquire(ctx); err != nil {
			return err
		}
		defer b.writing.release()
		return b.put(ctx, p, body, b.sys.renameOver)
	})
}

// exclusively runs f while no other one that is run like this runs on the
// directory, in any process.
func (b *Bucket) exclusively(ctx context.Context, f func() error) error {
	if err := b.updating.acquire(ctx); err != nil {
		return err
	}
	defer b.updating.release()
	if err := lockFile(ctx, b.update); err != nil {
		return step("lock "+updateLock, err)
	}
	// Unlocking cannot fail on an open file, and Close would do it too.
	defer func() { _ = flock(b.update, unix.LOCK_UN) }()
	return f()
}

// Get implements [storage.Bucket]. A folder is not found either.
func (b *Bucket) Get(ctx context.Context, p string) ([]byte, error) {
	body, err := b.get(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("get object %s: %w", b.full(p), err)
	}
	return body, nil
}

// get returns nil only with an error: an empty object is not nil.
func (b *Bucket) get(ctx context.Context, p string) ([]byte, error) {
	if err := check(p, nil); err != nil {
		return nil, err
	}
	if err := b.reading.acquire(ctx); err != nil {
		return nil, err
	}
	defer b.reading.release()
	f, size, err := b.openObject(p)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, errFolder):
		return nil, storage.ErrNotFound
	case err != nil:
		return nil, err
	}
	defer f.Close()
	if most := storage.MaxAt(p); size > most {
		return nil, fmt.Errorf("%w: object has %d bytes, more than %d", storage.ErrTooLarge, size, most)
	}
	if err := storage.Announce(ctx, size); err != nil {
		return nil, err
	}
	body := make([]byte, size)
	for rest := body; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n := min(len(rest), chunk)
		if _, err := io.ReadFull(f, rest[:n]); err != nil {
			return nil, step("read", err)
		}
		rest = rest[n:]
	}
	return body, nil
}

// openObject opens the file at a path. O_NONBLOCK keeps a named pipe that
// somebody put there from stopping the caller.
func (b *Bucket) openObject(p string) (*os.File, int64, error) {
	f, err := b.root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, step("open", err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = step("stat", err)
	case info.IsDir():
		err = errFolder
	case !info.Mode().IsRegular():
		err = fmt.Errorf("is not a file but %v", info.Mode().Type())
	default:
		return f, info.Size(), nil
	}
	f.Close() // the error at hand says more
	return nil, 0, err
}

// Delete implements [storage.Bucket]. Folders stay, empty or not.
func (b *Bucket) Delete(ctx context.Context, p string) error {
	if err := b.remove(ctx, p); err != nil {
		return fmt.Errorf("delete object %s: %w", b.full(p), err)
	}
	return nil
}

func (b *Bucket) remove(ctx context.Context, p string) error {
	if err := check(p, nil); err != nil {
		return err
	}
	if err := b.writing.acquire(ctx); err != nil {
		return err
	}
	defer b.writing.release()
	folder, err := b.openFolder(path.Dir(p))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil // no folder, no object
	}
	if err != nil {
		return err
	}
	defer folder.Close()
	err = b.sys.unlink(folder, path.Base(p))
	switch {
	case errors.Is(err, unix.EISDIR), errors.Is(err, unix.EPERM) && b.isFolder(p):
		return errFolder
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return step("unlink", err)
	}
	// Also if nothing was there: an earlier call may have removed it and failed.
	if err := b.sys.syncFolder(folder); err != nil {
		return step("sync folder", err)
	}
	return nil
}

// isFolder tells the EPERM of unlinking a folder (POSIX) from others.
func (b *Bucket) isFolder(p string) bool {
	info, err := b.root.Lstat(p)
	return err == nil && info.IsDir()
}

func check(p string, body []byte) error {
	if !storage.ValidPath(p) {
		return errInvalid
	}
	if len(body) > storage.MaxObject {
		return fmt.Errorf("object has %d bytes, more than %d", len(body), storage.MaxObject)
	}
	return nil
}
