package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"kiln/checkpoint"
	"kiln/lock"
	"kiln/storage"
	"kiln/tiles"
)

// Create makes a log: its lock cell with a checkpoint of size 0, then the same
// checkpoint for readers (CKP-06). It can be repeated after a crash half-way,
// and refuses if the log has entries, or if one of the two is there without the
// other in a way that no crash of Create explains.
func Create(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	signer, err := checkpoint.NewSigner(cfg.Origin, cfg.Key, cfg.Grease)
	if err != nil {
		return err
	}
	if err := create(ctx, cfg, signer); err != nil {
		return fmt.Errorf("create log %s: %w", cfg.Origin, err)
	}
	return nil
}

func create(ctx context.Context, cfg Config, signer *checkpoint.Signer) error {
	_, err := cfg.Lock.Load(ctx, cfg.LockID)
	if errors.Is(err, lock.ErrNotFound) {
		if err := createCell(ctx, cfg, signer); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	held, err := cfg.Lock.Load(ctx, cfg.LockID)
	if err != nil {
		return err
	}
	head, err := signer.Verifier().Open(held.Body)
	if err != nil {
		return fmt.Errorf("lock cell %s is not of this log: %w", cfg.LockID, err)
	}
	if head.Tree.N != 0 {
		return fmt.Errorf("the log exists already and has %d entries", head.Tree.N)
	}
	if err := refuseTiles(ctx, cfg); err != nil {
		return err
	}
	o := storage.Object{Path: checkpointPath, ContentType: "text/plain; charset=utf-8", CacheControl: "no-store"}
	return cfg.Bucket.Update(ctx, o, func(current []byte) ([]byte, error) {
		if current != nil && !bytes.Equal(current, held.Body) {
			return nil, errors.New("the log exists already: its checkpoint is another than the lock's")
		}
		return held.Body, nil
	})
}

// createCell makes the cell, unless the storage shows that there was one.
func createCell(ctx context.Context, cfg Config, signer *checkpoint.Signer) error {
	_, err := cfg.Bucket.Get(ctx, checkpointPath)
	if err == nil {
		return errors.New("the storage has a checkpoint, but the lock has no cell: the lock was lost or is another; " +
			"a new one could fork the log")
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err := refuseTiles(ctx, cfg); err != nil {
		return err
	}
	raw, err := signer.Sign(checkpoint.EmptyTree(), cfg.Now().UnixMilli())
	if err != nil {
		return err
	}
	return cfg.Lock.Create(ctx, cfg.LockID, raw)
}

// refuseTiles refuses a storage that shows that there was a log.
func refuseTiles(ctx context.Context, cfg Config) error {
	l, ok := cfg.Bucket.(storage.Lister)
	if !ok {
		return nil
	}
	path, err := tiles.Any(ctx, l)
	if err == nil && path != "" {
		err = fmt.Errorf("the storage has %s, so that there was a log, and its lock and checkpoint were lost; "+
			"a new one could fork the log", path)
	}
	return err
}
