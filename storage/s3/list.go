package s3

import (
	"context"
	"fmt"
	"strings"

	"kiln/internal/s3client"
	"kiln/storage"
)

// List implements [storage.Lister]. Objects come in the order of their keys, on
// servers that keep to S3's.
func (b *Bucket) List(ctx context.Context, prefix string, each func(storage.Info) error) error {
	if err := b.list(ctx, prefix, each); err != nil {
		return fmt.Errorf("list objects %q in s3://%s/%s: %w", prefix, b.bucket, b.prefix, err)
	}
	return nil
}

func (b *Bucket) list(ctx context.Context, prefix string, each func(storage.Info) error) error {
	if prefix != "" && !storage.ValidPath(prefix) && !storage.ValidPath(prefix+"x") {
		return ctx.Err() // no object begins like this
	}
	for from := ""; ; {
		var page s3client.Page
		err := b.persist(ctx, "list", func() (err error) {
			page, err = b.client.ListPage(ctx, b.bucket, b.prefix+prefix, from)
			return err
		})
		if err != nil {
			return err
		}
		for _, o := range page.Items {
			path, ours := strings.CutPrefix(o.Key, b.prefix)
			if !ours || !strings.HasPrefix(path, prefix) || !storage.ValidPath(path) {
				continue // of others, or the mark of a folder
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := each(storage.Info{Path: path, Size: o.Size, Modified: o.Modified}); err != nil {
				return err
			}
		}
		if from = page.Next; from == "" {
			return nil
		}
	}
}
