package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"kiln/checkpoint"
	"kiln/internal/config"
	"kiln/internal/lifecycle"
	"kiln/internal/logkey"
	"kiln/lock"
	"kiln/storage"
)

// Parts are what a log is made of, without anything that runs: for commands
// that look after a log. They may be used beside kiln serve.
type Parts struct {
	Conf   config.Log
	Key    *logkey.Key
	Bucket Bucket
	Lock   lock.Store
	LockID string // the log's cell in Lock

	backends *backends // nil: an Opener or Daemon closes them
}

// OpenParts opens the parts of one log; see [Opener.Open]. The caller calls
// Close.
func OpenParts(ctx context.Context, cfg *config.Config, conf config.Log, opts Options) (*Parts, error) {
	o := NewOpener(cfg, opts)
	p, err := o.Open(ctx, conf)
	if err != nil {
		return nil, errors.Join(err, o.Close())
	}
	p.backends = o.backends
	return p, nil
}

// Close closes what OpenParts opened.
func (p *Parts) Close() error {
	if p.backends == nil {
		return nil
	}
	return p.backends.close()
}

// Opener opens the parts of several logs of a configuration, which share their locks.
// It is for one goroutine; the parts are not.
type Opener struct{ backends *backends }

// NewOpener makes an Opener, which opens nothing yet. The caller calls Close.
func NewOpener(cfg *config.Config, opts Options) *Opener {
	return &Opener{newBackends(cfg, opts.withDefaults().Logger, nil)}
}

// Open opens the parts of a log, and makes none: a log that was not created is
// [ErrNotCreated], one that was retired and whose folder is gone [ErrRetired].
// ctx governs the opening only.
func (o *Opener) Open(ctx context.Context, conf config.Log) (*Parts, error) {
	p, err := o.backends.parts(ctx, conf)
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", conf.Name, err)
	}
	return p, nil
}

// Close closes all that was opened.
func (o *Opener) Close() error { return o.backends.close() }

// State returns what was decided of the log for good.
func (p *Parts) State(ctx context.Context) (lifecycle.State, error) {
	return lifecycle.Load(ctx, p.Lock, p.LockID)
}

// ErrNotCreated says that a log of the configuration was not made yet: it has
// neither a lock cell nor a checkpoint.
var ErrNotCreated = errors.New("the log was not made yet")

// ErrRetired says that a log was retired, and its storage is not there.
var ErrRetired = errors.New("the log was retired")

// parts opens the parts of a log that was created. That one part is there and
// another is not is no sign of a new log, but of a loss.
func (b *backends) parts(ctx context.Context, conf config.Log) (*Parts, error) {
	p := &Parts{Conf: conf}
	var err error
	if conf.KeyFile == "" || present(conf.KeyFile) {
		if p.Key, err = LoadKey(conf); err != nil {
			return nil, lasting(err)
		}
		p.LockID = lockID(p.Key)
	}
	var published []byte
	if _, _, onS3 := conf.StorageS3(); onS3 || present(conf.Storage) {
		if p.Bucket, err = b.bucket(ctx, conf); err != nil {
			return nil, err
		}
		if published, err = readCheckpoint(ctx, p.Bucket); err != nil {
			return nil, fmt.Errorf("look for a log in %s: %w", conf.Storage, err)
		}
	}
	committed := false
	if p.Key != nil && (!onSQLite(conf) || present(conf.Lock)) {
		if p.Lock, err = b.lock(ctx, conf); err != nil {
			return nil, err
		}
		if committed, err = hasCell(ctx, p.Lock, p.LockID); err != nil {
			return nil, err
		}
	}
	if committed && p.Bucket == nil {
		state, err := p.State(ctx)
		if err == nil && state.Retired != nil {
			err = fmt.Errorf("%s does not exist: %w", conf.Storage, ErrRetired)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, lasting(p.whole(published, committed))
}

// whole says what is missing of a log, if anything is.
func (p *Parts) whole(published []byte, committed bool) error {
	conf := p.Conf
	switch {
	case p.Key == nil && published != nil:
		return lostKey(conf)
	case published != nil && !committed:
		if err := p.checkSigned(published); err != nil {
			return err
		}
		return fmt.Errorf("the lock has no cell of this log, but %s holds its entries (lock %s): the lock was lost, or is another; "+
			"do not make a new one, it could fork the log: bring back the old", conf.Storage, conf.Lock)
	case committed && p.Bucket == nil:
		return fmt.Errorf("%s does not exist, but the lock has a cell of this log: correct the path, or bring back the storage", conf.Storage)
	case committed:
		return nil
	case p.Key == nil:
		return fmt.Errorf("%s does not exist: correct the path, or make the log first (kiln shards create, kiln init): %w", conf.KeyFile, ErrNotCreated)
	case p.Bucket == nil:
		return fmt.Errorf("%s does not exist: correct the path, or make the log first (kiln shards create, kiln init): %w", conf.Storage, ErrNotCreated)
	}
	return fmt.Errorf("the lock has no cell of this log (lock %s): if it was made, the lock was lost: bring it back; "+
		"else make the log first (kiln shards create, kiln init): %w", conf.Lock, ErrNotCreated)
}

// Committed reads what the lock says of the log: the version it holds, and the
// checkpoint in it, whose signature was verified. If that does not hold, the
// version comes with the error; without one the lock could not be read.
func (p *Parts) Committed(ctx context.Context) (lock.Held, checkpoint.Checkpoint, error) {
	held, err := p.Lock.Load(ctx, p.LockID)
	if err != nil {
		return held, checkpoint.Checkpoint{}, fmt.Errorf("read lock: %w", err)
	}
	v, err := checkpoint.NewVerifier(p.Conf.Origin, p.Key.SPKI())
	if err != nil {
		return held, checkpoint.Checkpoint{}, err
	}
	head, err := v.Open(held.Body)
	if err != nil {
		return held, head, fmt.Errorf("the lock's checkpoint was not signed by this log: %w", err)
	}
	return held, head, nil
}

// checkSigned says whether a published checkpoint is one of this log's key.
func (p *Parts) checkSigned(published []byte) error {
	v, err := checkpoint.NewVerifier(p.Conf.Origin, p.Key.SPKI())
	if err == nil {
		_, err = v.Open(published)
	}
	if err != nil {
		return fmt.Errorf("the published checkpoint was not signed by this log: %w; check that key, origin and storage belong together (storage %s, %s)",
			err, p.Conf.Storage, keySource(p.Conf))
	}
	return nil
}

// keySource names where the key of a log comes from, as the configuration does.
func keySource(conf config.Log) string {
	if conf.KeyFile == "" {
		return "secret_file " + conf.SecretFile
	}
	return "key_file " + conf.KeyFile
}

func lostKey(conf config.Log) error {
	return fmt.Errorf("key file %s is missing but %s holds a log: restore its key, no other one can continue it",
		conf.KeyFile, conf.Storage)
}

// present reports whether something is at a path, or may be.
func present(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// readCheckpoint returns the published checkpoint, nil if there is none.
func readCheckpoint(ctx context.Context, bucket storage.Bucket) ([]byte, error) {
	raw, err := bucket.Get(ctx, checkpointPath)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	return raw, err
}

func hasCell(ctx context.Context, store lock.Store, id string) (bool, error) {
	_, err := store.Load(ctx, id)
	if errors.Is(err, lock.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

func onSQLite(conf config.Log) bool {
	_, _, onS3 := conf.LockS3()
	_, onEtcd := conf.LockEtcd()
	return !onS3 && !onEtcd
}

// LoadKey reads the private key of a log, or derives it from its secret.
func LoadKey(conf config.Log) (*logkey.Key, error) {
	if conf.SecretFile == "" {
		return logkey.Load(conf.KeyFile)
	}
	secret, err := logkey.LoadSecret(conf.SecretFile)
	if err != nil {
		return nil, err
	}
	return secret.LogKey(conf.Origin)
}
