// Package storage is the contract for objects that are written once and then
// served: tiles, issuers and bundles, and the one object that is replaced, the
// checkpoint.
//
// Invariants of every backend: an object that Create made never changes; what a
// returned call wrote survives a crash of the process and of the machine, and is
// seen by every read that begins after; a reader sees an object whole or not at
// all. [kiln/storage/storagetest] is the
// suite that every backend passes.
//
// The package never knows tiles, Certificate Transparency, or who reads.
package storage

import (
	"context"
	"errors"
	"time"
)

// Errors that backends return, wrapped with the operation and the path.
var (
	// ErrNotFound says that no object is at the path.
	ErrNotFound = errors.New("object not found")

	// ErrDifferent says that Create found other bytes at the path. Nothing was
	// written.
	ErrDifferent = errors.New("object exists with different content")

	// ErrTooLarge says that Get found more bytes at the path than [MaxAt].
	ErrTooLarge = errors.New("object is too large")
)

// MaxObject is the largest object a backend has to take, in bytes.
const MaxObject = 1 << 30

// Object is a path with its content and the headers it is served with.
type Object struct {
	// Path is relative, slash-separated, without empty, "." or ".." elements;
	// its characters are A-Z a-z 0-9 . _ - and the slash.
	Path string
	// Body is the content as stored and served. Backends do not modify or
	// retain it.
	Body []byte

	// ContentType, ContentEncoding and CacheControl are kept by backends whose
	// objects are served without a reader of ours, and ignored by others.
	ContentType     string
	ContentEncoding string
	CacheControl    string
}

// Bucket stores objects. All methods are safe for concurrent use, bound their
// own parallelism, and may be retried by the caller after any error: an error
// other than those named says nothing about whether the write took place.
type Bucket interface {
	// Create durably writes an object where none is. If the path holds the same
	// bytes already it makes sure they are durable and returns nil; if it holds
	// others it returns ErrDifferent and leaves them.
	Create(ctx context.Context, o Object) error

	// Update atomically replaces the object at o.Path by what next returns for
	// its current content (nil when there is none), against all other Updates
	// of the path by any process. If next fails, nothing is written and its
	// error is returned, wrapped. next may be called more than once. o.Body is
	// ignored.
	Update(ctx context.Context, o Object, next func(current []byte) ([]byte, error)) error

	// Get returns the content at a path, or ErrNotFound. The caller owns the
	// returned bytes. It calls [Announce] before it takes memory for them.
	Get(ctx context.Context, path string) ([]byte, error)

	// Delete removes the object at a path; it is no error if there is none.
	Delete(ctx context.Context, path string) error
}

// Info describes an object without its content.
type Info struct {
	Path string
	Size int64 // of the content as stored, in bytes
	// Modified is when the content was last written, by the clock of the
	// storage, which may be another than this machine's and coarse to a second.
	// A Create that found the same bytes leaves it, or makes it later.
	Modified time.Time
}

// Lister lists objects. Every backend of ours is one; it is apart from Bucket,
// for only commands that look after a log need it, never its roles.
type Lister interface {
	// List calls each for every object whose path begins with prefix, which need
	// not end at a slash and may be empty, in no particular order and one call
	// after the other. An object that is made or deleted meanwhile may be missed
	// or not; any other is listed once. Only what has a path that [ValidPath]
	// takes is an object. An error of each ends it and is returned, wrapped.
	// each may use the bucket. Memory does not grow with the number of objects.
	List(ctx context.Context, prefix string, each func(Info) error) error
}

// ValidPath reports whether a path is one that every backend takes: at most
// 255 bytes of A-Z a-z 0-9 . _ - in elements between single slashes, none of
// them empty or starting with a dot.
func ValidPath(path string) bool {
	if path == "" || len(path) > 255 {
		return false
	}
	start := true
	for i := range len(path) {
		c := path[i]
		switch {
		case c == '/':
			if start {
				return false
			}
			start = true
			continue
		case c == '.':
			if start {
				return false
			}
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return false
		}
		start = false
	}
	return !start
}
