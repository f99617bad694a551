// Package dir is a [storage.Bucket] in a directory of a local POSIX file system.
//
// Invariants: an object appears by one rename of a file whose bytes are already
// on disk, so a reader sees it whole or not at all; Create renames over nothing
// but the very same bytes; a call that returned nil has synced the file, its
// folder and every folder above it up to the root, and what a failed sync was to
// make durable it has made anew. Any number of buckets, in any number of
// processes of one machine, may be open on one directory.
//
// An object is a plain file at its own path below the root, mode 0644 in folders
// of mode 0755 (less the umask), so that any web server can serve the directory.
// Everything that is not an object lives in the folder [Reserved], whose name no
// valid path can take: temporary files, and the files that are locked.
//
// The package never knows what the objects are.
package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"kiln/storage"
)

// Reserved is the folder below the root that holds what is not an object. It is
// no part of a backup, and may be removed when no bucket is open.
const Reserved = ".kiln"

// DefaultParallelism is the number of writing calls, and again of reading calls,
// that a bucket has at work at a time. Others wait.
const DefaultParallelism = 32

const (
	tempFolder = Reserved + "/tmp"         // temporary files
	openLock   = Reserved + "/open.lock"   // shared while a bucket is open
	updateLock = Reserved + "/update.lock" // exclusive during Update

	fileMode   = 0o644
	folderMode = 0o755

	// maxFolders bounds the folders remembered as durable. A folder forgotten
	// costs one more fsync of its parent.
	maxFolders = 1 << 16
)

// Bucket is a directory of objects. It is safe for concurrent use.
type Bucket struct {
	name string   // absolute path of the root
	root *os.Root // every path is resolved below it, symbolic links included

	temps    *os.Root // tempFolder, to make and remove files
	tempsDir *os.File // tempFolder, to rename from
	prefix   string   // of temporary names: no other bucket has it
	serial   atomic.Int64

	open     *os.File // openLock, held shared
	update   *os.File // updateLock, locked by the holder of updating
	updating semaphore
	renewing semaphore // held by the one renew that may wait for updating

	reading semaphore
	writing semaphore

	mu      sync.Mutex
	folders map[string]bool // guarded by mu; their names are durable in their parents

	sys system
}

var (
	_ storage.Bucket = (*Bucket)(nil)
	_ storage.Lister = (*Bucket)(nil)
)

// Option changes a default of [Open].
type Option func(*Bucket)

// WithParallelism sets the number of writing calls, and again of reading calls,
// at work at a time. Below 1 it stays at [DefaultParallelism].
func WithParallelism(n int) Option {
	return func(b *Bucket) {
		if n >= 1 {
			b.reading, b.writing = make(semaphore, n), make(semaphore, n)
		}
	}
}

// Open opens the directory root, and makes it durably, with its parents, if it
// is missing. Temporary files of crashed runs are removed unless another bucket
// is open on the directory.
func Open(root string, options ...Option) (*Bucket, error) {
	name, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", root, err)
	}
	b := &Bucket{
		name:     name,
		prefix:   rand.Text(),
		updating: make(semaphore, 1),
		renewing: make(semaphore, 1),
		reading:  make(semaphore, DefaultParallelism),
		writing:  make(semaphore, DefaultParallelism),
		folders:  map[string]bool{".": true},
		sys:      realSystem(),
	}
	for _, o := range options {
		o(b)
	}
	if err := b.openAll(); err != nil {
		return nil, errors.Join(fmt.Errorf("open bucket %s: %w", name, err), b.Close())
	}
	return b, nil
}

func (b *Bucket) openAll() error {
	err := makeRoot(b.name)
	if err != nil {
		return err
	}
	if b.root, err = os.OpenRoot(b.name); err != nil {
		return err
	}
	for _, f := range []string{Reserved, tempFolder} {
		if err := b.root.Mkdir(f, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	if b.temps, err = b.root.OpenRoot(tempFolder); err != nil {
		return err
	}
	if b.tempsDir, err = b.temps.Open("."); err != nil {
		return err
	}
	if b.update, err = b.root.OpenFile(updateLock, os.O_RDWR|os.O_CREATE, fileMode); err != nil {
		return err
	}
	if b.open, err = b.root.OpenFile(openLock, os.O_RDWR|os.O_CREATE, fileMode); err != nil {
		return err
	}
	return b.join()
}

// join takes the shared lock that says that this bucket is open, and removes
// what crashed runs left. Whoever has the lock alone knows that no temporary
// file is in use, for a bucket makes one only while it holds the lock.
func (b *Bucket) join() error {
	switch err := flock(b.open, unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		if err := b.removeTemps(); err != nil {
			return fmt.Errorf("remove temporary files: %w", err)
		}
	case !errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("lock %s: %w", openLock, err)
	}
	// This waits at most for another Open to remove its temporary files.
	if err := flock(b.open, unix.LOCK_SH); err != nil {
		return fmt.Errorf("lock %s: %w", openLock, err)
	}
	return nil
}

func (b *Bucket) removeTemps() error {
	list, err := fs.ReadDir(b.temps.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := b.temps.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// Close releases the directory. No call may be running or follow.
func (b *Bucket) Close() error {
	var errs []error
	for _, f := range []*os.File{b.open, b.update, b.tempsDir} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	for _, r := range []*os.Root{b.temps, b.root} {
		if r != nil {
			errs = append(errs, r.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close bucket %s: %w", b.name, err)
	}
	return nil
}

// Name returns the absolute path of the directory.
func (b *Bucket) Name() string { return b.name }

// full is the object's path in the file system, for errors.
func (b *Bucket) full(p string) string {
	if storage.ValidPath(p) {
		return filepath.Join(b.name, filepath.FromSlash(p))
	}
	return fmt.Sprintf("%q in %s", p, b.name)
}

// errInvalid keeps what is no valid path away from the file system.
var errInvalid = errors.New("invalid path: want at most 255 bytes of A-Z a-z 0-9 . _ - in elements between single slashes, none starting with a dot")

// folder opens the folder at a path below the root, and makes it if it is
// missing. When it returns, the folder's name and those of all above are durable.
//
// That a folder exists does not say that it is durable: another writer may have
// made it a moment ago and not have synced its parent yet. So the parent is
// synced on the first use of each folder, and not only by the one who made it.
func (b *Bucket) folder(ctx context.Context, dir string) (*os.File, error) {
	if b.known(dir) {
		f, err := b.openFolder(dir)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	if dir == "." {
		return nil, step("open folder "+b.name, fs.ErrNotExist)
	}
	parent, err := b.folder(ctx, path.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	made := b.sys.mkdir(b.root, dir)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return nil, step("make folder "+b.full(dir), made)
	}
	f, err := b.openFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := b.sys.syncFolder(parent); err != nil {
		if made == nil {
			// Its name may be lost, and a second sync would have nothing to write
			// and succeed. So it has to be made anew; unless it has been used
			// meanwhile, by somebody whose sync has succeeded.
			_ = b.sys.rmdir(b.root, dir)
		}
		return nil, errors.Join(step("sync folder "+parent.Name(), err), f.Close())
	}
	b.learn(dir)
	return f, nil
}

func (b *Bucket) openFolder(dir string) (*os.File, error) {
	f, err := b.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%s is a file where a folder is wanted: %w", b.full(dir), unix.ENOTDIR)
	case err != nil:
		return nil, step("open folder "+b.full(dir), err)
	}
	return f, nil
}

func (b *Bucket) known(dir string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.folders[dir]
}

func (b *Bucket) learn(dir string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.folders) >= maxFolders {
		b.folders = map[string]bool{".": true}
	}
	b.folders[dir] = true
}
