package restore

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/storage"
	"kiln/tiles"
)

// view is the storage of a log as it will be once the round in the bundle is
// published. It is only read.
type view struct {
	storage.Bucket
	bundle map[string][]byte
}

// Get implements [storage.Bucket].
func (v view) Get(ctx context.Context, path string) ([]byte, error) {
	if body, ok := v.bundle[path]; ok {
		return body, nil
	}
	return v.Bucket.Get(ctx, path)
}

// errNoBundle says that a committed round cannot be finished.
var errNoBundle = errors.New("committed round is not published, and its staging bundle is gone")

// viewOf returns the view of a tree that may be ahead of what is published, and
// the path of the bundle that it needs, if it needs one.
func viewOf(ctx context.Context, bucket storage.Bucket, public, head tlog.Tree) (view, string, error) {
	v := view{Bucket: bucket}
	if public.N >= head.N {
		return v, "", nil
	}
	path := tiles.BundlePath(head)
	raw, err := bucket.Get(ctx, path)
	if errors.Is(err, storage.ErrNotFound) {
		// Nothing is lost if all that it held is in its place.
		err := tiles.Entries(ctx, bucket, head, public.N, head.N, func(tiles.Entry) error { return nil })
		if err != nil && damaged(err) {
			err = fmt.Errorf("%w: %w", errNoBundle, err)
		}
		return v, "", err
	}
	if err != nil {
		return v, "", fmt.Errorf("read staging bundle: %w", err)
	}
	objects, err := tiles.DecodeBundle(raw)
	if err != nil {
		return v, "", &tiles.CorruptError{Path: path, Detail: err.Error()}
	}
	v.bundle = make(map[string][]byte, len(objects))
	step := tiles.StepTiles(public.N, head.N, true)
	for _, o := range objects {
		if _, ok := step[o.Path]; !ok {
			return v, "", &tiles.CorruptError{Path: path, Detail: fmt.Sprintf("it holds %s, which is none of the tiles of the step from %d to %d entries", o.Path, public.N, head.N)}
		}
		v.bundle[o.Path] = o.Body
	}
	return v, path, nil
}

// damaged reports whether an error says that what is stored is wrong or missing;
// any other may pass.
func damaged(err error) bool {
	var corrupt *tiles.CorruptError
	return errors.As(err, &corrupt) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, tiles.ErrNotProved)
}
