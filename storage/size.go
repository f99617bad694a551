package storage

import "context"

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
