package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"kiln/internal/config"
	"kiln/internal/logkey"
	"kiln/lock/sqlite"
	"kiln/sequencer"
	"kiln/storage"
	"kiln/storage/dir"
)

// checkpointPath is where the sequencer publishes the checkpoint.
const checkpointPath = "checkpoint"

// CreateLog makes a log as the configuration has it: the folders, the private
// key (mode 0600) unless the file is there, the lock cell and the checkpoint of
// size 0. It may be repeated after a crash half-way, and does nothing to a
// complete log without entries. It refuses a log that has entries, one that is
// being served, and to make a key for a log that has lost its own.
func CreateLog(ctx context.Context, conf config.Log, opts Options) (err error) {
	opts = opts.withDefaults()
	defer func() {
		if err != nil {
			err = fmt.Errorf("create log %s: %w", conf.Name, err)
		}
	}()
	for _, path := range []string{conf.Lock, conf.Dedup} {
		if err := makeFolder(filepath.Dir(path), 0o755); err != nil {
			return err
		}
	}
	bucket, err := dir.Open(conf.Storage)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bucket.Close()) }()
	key, err := createKey(ctx, conf, bucket)
	if err != nil {
		return err
	}
	var locks lockFiles
	defer locks.release()
	if err := locks.acquire(lockPaths(conf, key)...); err != nil {
		return err
	}
	cells, err := sqlite.Open(ctx, conf.Lock)
	if err != nil {
		return fmt.Errorf("open lock %s: %w", conf.Lock, err)
	}
	defer func() { err = errors.Join(err, cells.Close()) }()
	return sequencer.Create(ctx, sequencer.Config{
		Origin: conf.Origin, Key: key, Grease: conf.Grease, Bucket: bucket, Lock: cells, LockID: lockID(key),
		Period: conf.Period, Names: conf.Names, Now: opts.Now, Logger: opts.Logger.With("log", conf.Name),
	})
}

// createKey returns the log's key, and makes one if the log is new. The key is
// the first thing a log has, so one that has a checkpoint and no key lost it.
func createKey(ctx context.Context, conf config.Log, bucket storage.Bucket) (*logkey.Key, error) {
	if _, err := os.Lstat(conf.KeyFile); err == nil {
		return logkey.Load(conf.KeyFile)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for log key: %w", err)
	}
	switch _, err := bucket.Get(ctx, checkpointPath); {
	case err == nil:
		return nil, fmt.Errorf("key file %s is missing but %s holds a log: restore its key, no other one can continue it",
			conf.KeyFile, conf.Storage)
	case !errors.Is(err, storage.ErrNotFound):
		return nil, fmt.Errorf("look for a log in %s: %w", conf.Storage, err)
	}
	key, err := logkey.Generate()
	if err != nil {
		return nil, err
	}
	data, err := key.PEM()
	if err != nil {
		return nil, err
	}
	if err := makeFolder(filepath.Dir(conf.KeyFile), 0o700); err != nil {
		return nil, err
	}
	if err := writeNew(conf.KeyFile, data); err != nil {
		return nil, fmt.Errorf("write log key: %w", err)
	}
	return key, nil
}

// writeNew durably makes a file of mode 0600 that nobody sees unfinished, and
// fails if the path is taken.
func writeNew(path string, data []byte) (err error) {
	folder := filepath.Dir(path)
	temp := filepath.Join(folder, ".new-"+rand.Text())
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temp)) }()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(temp, path); err != nil { // unlike rename, never over another
		return err
	}
	return syncFolder(folder)
}

// makeFolder durably makes a folder and its parents.
func makeFolder(path string, mode fs.FileMode) error {
	switch info, err := os.Stat(path); {
	case err == nil && !info.IsDir():
		return fmt.Errorf("make folder %s: a file is in its place", path)
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("make folder: %w", err)
	}
	parent := filepath.Dir(path)
	if err := makeFolder(parent, mode); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder: %w", err)
	}
	return syncFolder(parent)
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", path, err)
	}
	return nil
}
