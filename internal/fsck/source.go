package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"kiln/storage"
)

// Source is where a log is read from. All methods are safe for concurrent use.
type Source interface {
	// Open opens the object at a path, once: it does not retry. The error wraps
	// [storage.ErrNotFound] if there is none; it is a *[BusyError] if the source
	// asks for patience and a *[Fault] if the answer itself breaks the rules of
	// the Static CT API. Any other error says nothing about the log.
	Open(ctx context.Context, path string) (*Object, error)
	// String names the source, for reports and the state file.
	String() string
}

// Lister is a [Source] that knows which objects it has.
type Lister interface {
	// List calls each for every path that begins with a prefix, those in one
	// folder best together, and returns the first error, which may be of each.
	List(ctx context.Context, prefix string, each func(path string) error) error
}

// Encoding says how the bytes of an object are to be decoded.
type Encoding int

// The encodings. Of stored objects without headers it is in their first bytes:
// a TileLeaf or a names tile cannot begin like gzip.
const (
	EncodingPlain Encoding = iota
	EncodingGzip
	EncodingUnknown
)

// Object is an open object. The caller closes Body.
type Object struct {
	Body     io.ReadCloser
	Encoding Encoding
	Notes    []string // about its headers
}

// BusyError says that a source asks to be asked later.
type BusyError struct {
	After time.Duration // 0 if it did not say
	Err   error
}

// Error implements error.
func (e *BusyError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *BusyError) Unwrap() error { return e.Err }

// ErrRefused says that a source would not tell whether it has an object, as
// object storage does that may not be listed. It is no proof that there is none.
var ErrRefused = errors.New("access refused")

// absent reports whether an object is not to be had here, so that a wider tile
// or none may stand in for it.
func absent(err error) bool {
	if errors.As(err, new(*UnknownError)) {
		return false // that some other object is not to be had was settled before
	}
	return errors.Is(err, storage.ErrNotFound) || errors.Is(err, ErrRefused)
}

// Bucket returns the source of a log in a bucket. If the bucket is a
// [storage.Lister] so is the source. The name is for reports.
func Bucket(b storage.Bucket, name string) Source {
	s := bucketSource{b, name, make(chan struct{}, 1)}
	if l, ok := b.(storage.Lister); ok {
		return listedBucket{s, l}
	}
	return s
}

type bucketSource struct {
	bucket storage.Bucket
	name   string
	large  chan struct{} // has an element while an object over largeObject is open
}

// largeObject is more than tiles of usual certificates have. An object of a
// bucket is held in memory, so that of larger ones only one is open at a time.
const largeObject = 8 << 20

var errLarge = errors.New("object is large")

type listedBucket struct {
	bucketSource
	lister storage.Lister
}

var (
	_ Lister = listedBucket{}
	_ Lister = (*Directory)(nil)
)

// String implements [Source].
func (s bucketSource) String() string { return s.name }

// Open implements [Source].
func (s bucketSource) Open(ctx context.Context, path string) (*Object, error) {
	body, err := s.bucket.Get(storage.WithSize(ctx, func(size int64) error {
		if size > largeObject {
			return errLarge
		}
		return nil
	}), path)
	if errors.Is(err, errLarge) {
		return s.openLarge(ctx, path)
	}
	if err != nil {
		return nil, unknownIfTooLarge(path, err)
	}
	return &Object{Body: io.NopCloser(bytes.NewReader(body)), Encoding: EncodingUnknown}, nil
}

// openLarge opens an object when no other large one is open. Nobody opens
// another while it has one, so this ends.
func (s bucketSource) openLarge(ctx context.Context, path string) (*Object, error) {
	select {
	case s.large <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	body, err := s.bucket.Get(ctx, path)
	if err != nil {
		<-s.large
		return nil, unknownIfTooLarge(path, err)
	}
	return &Object{Body: &largeBody{bytes.NewReader(body), sync.OnceFunc(func() { <-s.large })}, Encoding: EncodingUnknown}, nil
}

// unknownIfTooLarge keeps what is too large from being read again and again.
func unknownIfTooLarge(path string, err error) error {
	if errors.Is(err, storage.ErrTooLarge) {
		return &UnknownError{Path: path, Err: err}
	}
	return err
}

// largeBody makes way for the next when it is closed.
type largeBody struct {
	*bytes.Reader
	done func()
}

// Close implements [io.Closer].
func (b *largeBody) Close() error {
	b.Reset(nil)
	b.done()
	return nil
}

// List implements [Lister].
func (s listedBucket) List(ctx context.Context, prefix string, each func(path string) error) error {
	return s.lister.List(ctx, prefix, func(i storage.Info) error { return each(i.Path) })
}

// Directory is a log in a directory, one plain file for each object. It only
// reads, takes no lock and leaves no trace, so it may look at a running log.
type Directory struct{ root *os.Root }

// OpenDirectory opens a directory. The caller closes it.
func OpenDirectory(name string) (*Directory, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", name, err)
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", name, err)
	}
	return &Directory{root}, nil
}

// Close releases the directory.
func (d *Directory) Close() error { return d.root.Close() }

// String implements [Source].
func (d *Directory) String() string { return d.root.Name() }

// Open implements [Source].
func (d *Directory) Open(_ context.Context, name string) (*Object, error) {
	// Not to hang on a pipe that has no writer.
	f, err := d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%w: %w", storage.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: %s is no regular file", storage.ErrNotFound, name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Object{Body: f, Encoding: EncodingUnknown}, nil
}

// List implements [Lister].
func (d *Directory) List(ctx context.Context, prefix string, each func(path string) error) error {
	start := path.Dir(prefix + "x") // the folder that the prefix ends in
	err := fs.WalkDir(d.root.FS(), start, func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone meanwhile, or never there
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case !e.Type().IsRegular() || !strings.HasPrefix(name, prefix):
			return nil
		}
		return each(name)
	})
	if err != nil {
		return fmt.Errorf("list %s in %s: %w", prefix, d, err)
	}
	return nil
}
