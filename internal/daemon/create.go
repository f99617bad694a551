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
	"kiln/sequencer"
	"kiln/storage"
)

// checkpointPath is where the sequencer publishes the checkpoint.
const checkpointPath = "checkpoint"

// CreateLog makes a log as the configuration has it: the folders, the private
// key (mode 0600) unless there is one, the lock cell, the checkpoint of size 0
// and log.v3.json. It may be repeated after a crash half-way, and does nothing to
// a complete log without entries. It refuses a log that has entries or was
// frozen, one that is being served, and to make a key for a log that has lost
// its own.
func CreateLog(ctx context.Context, cfg *config.Config, conf config.Log, opts Options) (err error) {
	opts = opts.withDefaults()
	b := newBackends(cfg, opts.Logger, nil)
	defer func() {
		if err = errors.Join(err, b.close()); err != nil {
			err = fmt.Errorf("create log %s: %w", conf.Name, err)
		}
	}()
	p := &Parts{Conf: conf}
	if p.Bucket, err = b.bucket(ctx, conf); err != nil {
		return err
	}
	if err := makeFolder(filepath.Dir(conf.Dedup), 0o755); err != nil {
		return err
	}
	if p.Key, err = createKey(ctx, conf, p.Bucket); err != nil {
		return err
	}
	p.LockID = lockID(p.Key)
	if onSQLite(conf) {
		if err := makeFolder(filepath.Dir(conf.Lock), 0o755); err != nil {
			return err
		}
	}
	var locks lockFiles
	defer locks.release()
	if err := locks.acquire(lockPaths(conf, p.Key)...); err != nil {
		return err
	}
	if p.Lock, err = b.lock(ctx, conf); err != nil {
		return err
	}
	if err := p.refuseRemains(ctx); err != nil {
		return err
	}
	return p.create(ctx, opts)
}

// refuseRemains refuses to make a log whose deduplication cache is there already
// although the lock knows nothing of it: the paths, or the servers behind them,
// are others than they were.
func (p *Parts) refuseRemains(ctx context.Context) error {
	committed, err := hasCell(ctx, p.Lock, p.LockID)
	if err != nil || committed || !present(p.Conf.Dedup) {
		return err
	}
	return fmt.Errorf("%s is there, so that there was a log, but neither storage nor lock know of it (storage %s, lock %s): "+
		"correct where they are, or remove that file if it is not this log's", p.Conf.Dedup, p.Conf.Storage, p.Conf.Lock)
}

// create makes the log of parts that are there.
func (p *Parts) create(ctx context.Context, opts Options) error {
	switch state, err := p.State(ctx); {
	case err != nil:
		return err
	case state.Frozen != nil:
		return fmt.Errorf("the log was frozen at %v, and its key must never be used for another", state.Frozen.At)
	}
	err := sequencer.Create(ctx, p.sequencerConfig(opts))
	if err != nil {
		return err
	}
	return p.publishInfo(ctx, opts)
}

// createKey returns the log's key, and makes one if the log is new. The key is
// the first thing a log has, so one that has a checkpoint and no key lost it.
func createKey(ctx context.Context, conf config.Log, bucket storage.Bucket) (*logkey.Key, error) {
	if conf.KeyFile == "" {
		return LoadKey(conf)
	}
	if _, err := os.Lstat(conf.KeyFile); err == nil {
		return logkey.Load(conf.KeyFile)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for log key: %w", err)
	}
	switch raw, err := readCheckpoint(ctx, bucket); {
	case err != nil:
		return nil, fmt.Errorf("look for a log in %s: %w", conf.Storage, err)
	case raw != nil:
		return nil, lostKey(conf)
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
