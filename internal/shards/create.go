package shards

import (
	"context"
	"errors"
	"fmt"
	"os"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/logkey"
	"kiln/reader"
	"kiln/storage"
)

// Creation is what [Create] did about a log.
type Creation struct {
	Conf config.Log
	// There says that the log was complete before. Else it was made, or completed,
	// or would have been.
	There bool
	// Request is nil where there is no key yet, in a dry run.
	Request *Request
}

// Create makes a log, or completes one that was made by half; a complete one is
// left as it is. With dryRun it changes nothing.
func Create(ctx context.Context, cfg *config.Config, conf config.Log, opts daemon.Options, dryRun bool) (Creation, error) {
	c := Creation{Conf: conf}
	key, err := loadKey(conf)
	if err != nil {
		return c, fmt.Errorf("log %s: %w", conf.Name, err)
	}
	if err := ownKey(cfg, conf, key); err != nil {
		return c, fmt.Errorf("log %s: %w", conf.Name, err)
	}
	if c.There, err = complete(ctx, cfg, conf, opts); err != nil {
		return c, err
	}
	if !c.There { // else it is too late for another key: kiln keys check tells
		if err := goodKey(conf, key); err != nil {
			return c, fmt.Errorf("log %s: %w", conf.Name, err)
		}
	}
	if !c.There && !dryRun {
		if err := daemon.CreateLog(ctx, cfg, conf, opts); err != nil {
			return c, fmt.Errorf("%w; once the cause is gone, the same command completes what is half made", err)
		}
		if key, err = daemon.LoadKey(conf); err != nil {
			return c, fmt.Errorf("log %s: %w", conf.Name, err)
		}
	}
	if key != nil {
		r := MakeRequest(conf, key)
		c.Request = &r
	}
	return c, nil
}

// loadKey returns the key of a log, nil if it was not made yet.
func loadKey(conf config.Log) (*logkey.Key, error) {
	if conf.KeyFile != "" {
		if _, err := os.Lstat(conf.KeyFile); errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
	}
	return daemon.LoadKey(conf)
}

// ownKey refuses a key that another log of the configuration has (CKP-18). key
// may be nil.
func ownKey(cfg *config.Config, conf config.Log, key *logkey.Key) error {
	if key == nil {
		return nil
	}
	for _, l := range cfg.Logs {
		if l.Name == conf.Name {
			continue
		}
		// The key of another log that cannot be read is that log's trouble.
		other, err := loadKey(l)
		if err == nil && other != nil && other.LogID() == key.LogID() {
			return fmt.Errorf("its key is that of %s too: give each log a key of its own", l.Name)
		}
	}
	return nil
}

// goodKey refuses a key that is weak, or that others can read. key may be nil.
func goodKey(conf config.Log, key *logkey.Key) error {
	if key == nil {
		return nil
	}
	if err := key.Weak(); err != nil {
		return err
	}
	if conf.KeyFile != "" {
		return logkey.CheckMode(conf.KeyFile)
	}
	return nil
}

// complete reports whether a log has all that a new one gets.
func complete(ctx context.Context, cfg *config.Config, conf config.Log, opts daemon.Options) (done bool, err error) {
	p, err := daemon.OpenParts(ctx, cfg, conf, opts)
	switch {
	case errors.Is(err, daemon.ErrNotCreated):
		return false, nil
	case errors.Is(err, daemon.ErrRetired):
		return true, nil
	case err != nil:
		return false, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	s := look(ctx, p, now(opts))
	switch {
	case s.State == Broken:
		return false, fmt.Errorf("log %s: %w", conf.Name, s.Err)
	case s.State == Planned:
		return false, nil
	case s.Marks.Frozen != nil || s.Head.Tree.N > 0:
		return true, nil // its time of being made is long over
	}
	_, err = p.Bucket.Get(ctx, reader.InfoPath)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("log %s: read %s: %w", conf.Name, reader.InfoPath, err)
	}
	return true, nil
}
