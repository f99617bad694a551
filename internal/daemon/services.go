package daemon

import (
	"context"
	"errors"
	"fmt"

	"kiln/internal/config"
	"kiln/lock"
	"kiln/storage/s3"
)

// ServiceCheck is what was found out of one service that a configuration names.
type ServiceCheck struct {
	Service string `json:"service"` // such as s3://BUCKET, or the lock of logs
	// Error says why no log can be served with it; empty is good.
	Error string `json:"error,omitempty"`
	// Problems say what it lacks, and what a log loses by that, although it can
	// be served.
	Problems []string `json:"problems"`
}

// CheckServices finds out by trying what the S3 and etcd servers of a
// configuration do: on S3 it writes, races for and removes probe objects with
// random names. Logs are not touched. It returns nothing for a configuration on
// embedded parts.
func CheckServices(ctx context.Context, cfg *config.Config, opts Options) ([]ServiceCheck, error) {
	b := newBackends(cfg, opts.withDefaults().Logger, nil)
	var checks []ServiceCheck
	seen := make(map[string]bool)
	once := func(name string, check func() ([]string, error)) {
		if seen[name] {
			return
		}
		seen[name] = true
		c := ServiceCheck{Service: name, Problems: []string{}}
		problems, err := check()
		if err != nil {
			c.Error = err.Error()
		}
		c.Problems = append(c.Problems, problems...)
		checks = append(checks, c)
	}
	for _, l := range cfg.Logs {
		if name, prefix, ok := l.StorageS3(); ok {
			once("storage in s3://"+name, func() ([]string, error) { return b.tryStorage(ctx, name, prefix) })
		}
		if !onSQLite(l) {
			once("lock "+l.Lock, func() ([]string, error) { return nil, b.tryLock(ctx, l) })
		}
	}
	return checks, b.close()
}

func (b *backends) tryStorage(ctx context.Context, bucket, prefix string) ([]string, error) {
	client, err := b.s3(ctx, writePath, "")
	if err != nil {
		return nil, err
	}
	found, err := s3.Probe(ctx, s3.Config{Client: client, Bucket: bucket, Prefix: prefix, Logger: b.log})
	return found.Problems, err
}

// tryLock opens a lock store, which on S3 is a race against itself, and reads a
// cell that is not there.
func (b *backends) tryLock(ctx context.Context, conf config.Log) error {
	store, err := b.lock(ctx, conf)
	if err != nil {
		return err
	}
	if _, err := store.Load(ctx, "check"); !errors.Is(err, lock.ErrNotFound) {
		return fmt.Errorf("read a cell that is not there: %w", err)
	}
	return nil
}
