package roots

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"kiln/storage"
)

// Objects of a bucket that are copies of roots files.
const (
	// latestPath is the pointer: the fingerprint of the newest copy and a
	// line break.
	latestPath = "roots/latest"

	copyType = "application/x-pem-file"
)

// CopyPath returns the path in a bucket of a copy of a roots file: each content
// has its own, and is written once.
func CopyPath(content []byte) string {
	return "roots/" + Fingerprint(sha256.Sum256(content)).String() + ".pem"
}

// Copy durably puts a copy of a roots file into a bucket, and then makes it the
// one that Recover finds. It writes nothing that is there already.
func Copy(ctx context.Context, b storage.Bucket, content []byte) error {
	path := CopyPath(content)
	if now, err := latest(ctx, b); err == nil && now == path {
		if stored, err := b.Get(ctx, path); err == nil && bytes.Equal(stored, content) {
			return nil
		}
	}
	err := b.Create(ctx, storage.Object{
		Path: path, Body: content, ContentType: copyType, CacheControl: "public, max-age=31536000, immutable",
	})
	if err != nil {
		return fmt.Errorf("copy the roots to %s: %w", path, err)
	}
	sum := Fingerprint(sha256.Sum256(content))
	err = b.Update(ctx, storage.Object{Path: latestPath, ContentType: "text/plain; charset=utf-8", CacheControl: "no-store"},
		func([]byte) ([]byte, error) { return []byte(sum.String() + "\n"), nil })
	if err != nil {
		return fmt.Errorf("point %s at the new copy of the roots: %w", latestPath, err)
	}
	return nil
}

// latest returns the path of the newest copy.
func latest(ctx context.Context, b storage.Bucket) (string, error) {
	pointer, err := b.Get(ctx, latestPath)
	if err != nil {
		return "", err
	}
	f, err := ParseFingerprint(string(bytes.TrimSpace(pointer)))
	if err != nil {
		return "", fmt.Errorf("%s: %w", latestPath, err)
	}
	return "roots/" + f.String() + ".pem", nil
}

// Recover returns the newest roots file that was copied to a bucket, proved
// against its name; storage.ErrNotFound if none was.
func Recover(ctx context.Context, b storage.Bucket) ([]byte, error) {
	path, err := latest(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("find the copy of the roots: %w", err)
	}
	content, err := b.Get(ctx, path)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, fmt.Errorf("%s names %s, which is not there", latestPath, path) // not that there is no copy
	}
	if err != nil {
		return nil, fmt.Errorf("read the copy of the roots: %w", err)
	}
	if CopyPath(content) != path {
		return nil, fmt.Errorf("the copy of the roots %s is damaged: its SHA-256 is not its name", path)
	}
	if _, err := ParseFile(content); err != nil {
		return nil, fmt.Errorf("the copy of the roots %s: %w", path, err)
	}
	return content, nil
}
