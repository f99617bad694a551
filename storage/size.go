package storage

import (
	"context"
	"strings"
)

// MaxAt is the largest object, in bytes, that a Get has to return from a path:
// more than a log ever has there, so that what somebody else put in its place
// takes no memory. It is never more than [MaxObject].
func MaxAt(path string) int64 {
	const (
		small  = 1 << 20   // checkpoint, log.v3.json
		hashes = 64 << 10  // tiles of the tree have 8 KiB
		issuer = 1<<24 - 1 // the longest certificate there can be
		tile   = 264 << 20 // 256 of the longest entries, compressed in vain
	)
	switch folder, rest, _ := strings.Cut(path, "/"); {
	case path == "checkpoint", path == "log.v3.json":
		return small
	case folder == "issuer":
		return issuer
	case folder == "tile" && (strings.HasPrefix(rest, "data/") || strings.HasPrefix(rest, "names/")):
		return tile
	case folder == "tile":
		return hashes
	}
	return MaxObject
}

type sizeKey struct{}

// WithSize returns a context with which a Get calls size with the number of
// bytes of the object before it takes memory for them. Its error ends the Get,
// which returns it wrapped. It may be called more than once in one Get, and from
// several goroutines, if that tries again or in two ways; the last call counts.
func WithSize(ctx context.Context, size func(bytes int64) error) context.Context {
	return context.WithValue(ctx, sizeKey{}, size)
}

// Announce is how a backend tells the size of an object to whom it may concern.
// It must be called in every Get that finds the object, and its error returned.
func Announce(ctx context.Context, bytes int64) error {
	if size, ok := ctx.Value(sizeKey{}).(func(int64) error); ok {
		return size(bytes)
	}
	return nil
}
