package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"kiln/storage"
)

// listChunk is how many names of a folder are held at a time.
const listChunk = 256

// List implements [storage.Lister]. It takes no lock, follows no symbolic link,
// and passes over what is no plain file.
func (b *Bucket) List(ctx context.Context, prefix string, each func(storage.Info) error) error {
	if err := b.list(ctx, prefix, each); err != nil {
		return fmt.Errorf("list objects %q in %s: %w", prefix, b.name, err)
	}
	return nil
}

func (b *Bucket) list(ctx context.Context, prefix string, each func(storage.Info) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	parent := "."
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		parent = prefix[:i]
		if !storage.ValidPath(parent) {
			return nil // no object begins like this
		}
	}
	// A link on the way is no part of the bucket, as it is none below.
	for i := range len(parent) + 1 {
		if (i == len(parent) || parent[i] == '/') && !b.isFolder(parent[:i]) {
			return nil
		}
	}
	return b.walk(ctx, parent, prefix, each)
}

// walk lists the objects in a folder and below it. It holds the folder open, and
// those above: a path has at most 127 of them.
func (b *Bucket) walk(ctx context.Context, folder, prefix string, each func(storage.Info) error) error {
	f, err := b.root.OpenFile(folder, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil // gone since it was seen, or never a folder
	case err != nil:
		return step("open folder "+folder, err)
	}
	defer f.Close()
	for more := true; more; {
		var found []storage.Info
		var folders []string
		if found, folders, more, err = b.names(ctx, f, folder, prefix); err != nil {
			return err
		}
		for _, info := range found {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := each(info); err != nil {
				return err
			}
		}
		for _, sub := range folders {
			if err := b.walk(ctx, sub, prefix, each); err != nil {
				return err
			}
		}
	}
	return nil
}

// names reads some more names of a folder and returns what of them begins with
// the prefix, and the folders in which such objects may be.
func (b *Bucket) names(ctx context.Context, f *os.File, folder, prefix string) (found []storage.Info, folders []string, more bool, err error) {
	if err := b.reading.acquire(ctx); err != nil {
		return nil, nil, false, err
	}
	defer b.reading.release()
	list, err := f.ReadDir(listChunk)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, false, step("read folder "+folder, err)
	}
	for _, e := range list {
		p := path.Join(folder, e.Name())
		switch {
		case !storage.ValidPath(p):
		case e.IsDir() && (strings.HasPrefix(p+"/", prefix) || strings.HasPrefix(prefix, p+"/")):
			folders = append(folders, p)
		case e.Type().IsRegular() && strings.HasPrefix(p, prefix):
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since
			}
			if err != nil {
				return nil, nil, false, step("stat "+p, err)
			}
			if info.Mode().IsRegular() {
				found = append(found, storage.Info{Path: p, Size: info.Size(), Modified: info.ModTime()})
			}
		}
	}
	return found, folders, !errors.Is(err, io.EOF), nil
}
