package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/internal/config"
	"kiln/lock"
	"kiln/lock/sqlite"
	"kiln/storage"
	"kiln/storage/dir"
)

// Bucket is where a log's objects are, in any of the backends.
type Bucket interface {
	storage.Bucket
	storage.Lister
}

// backends opens the storage and the locks that a configuration names. Clients
// of a service are made when they are first needed, and shared by all logs. It
// is not safe for concurrent use; what it returns is.
type backends struct {
	cfg *config.Config
	log *slog.Logger
	reg prometheus.Registerer

	locks map[string]lock.Store // by where they are

	closers []func() error
}

func newBackends(cfg *config.Config, log *slog.Logger, reg prometheus.Registerer) *backends {
	return &backends{cfg: cfg, log: log, reg: reg, locks: make(map[string]lock.Store)}
}

// close closes all that was opened, in reverse.
func (b *backends) close() error {
	var errs []error
	for _, f := range slices.Backward(b.closers) {
		errs = append(errs, f())
	}
	b.closers = nil
	return errors.Join(errs...)
}

// bucket opens the storage of a log.
func (b *backends) bucket(ctx context.Context, conf config.Log) (Bucket, error) {
	name, prefix, onS3 := conf.StorageS3()
	if !onS3 {
		d, err := dir.Open(conf.Storage)
		if err != nil {
			return nil, err
		}
		b.closers = append(b.closers, d.Close)
		return d, nil
	}
	return nil, fmt.Errorf("storage s3://%s/%s: not yet", name, prefix)
}

// lock opens the lock store of a log. Logs that name the same share it.
func (b *backends) lock(ctx context.Context, conf config.Log) (lock.Store, error) {
	if store, ok := b.locks[conf.Lock]; ok {
		return store, nil
	}
	store, err := b.openLock(ctx, conf)
	if err != nil {
		return nil, err
	}
	b.locks[conf.Lock] = store
	return store, nil
}

func (b *backends) openLock(ctx context.Context, conf config.Log) (lock.Store, error) {
	if !onSQLite(conf) {
		return nil, fmt.Errorf("lock %s: not yet", conf.Lock)
	}
	if err := makeFolder(filepath.Dir(conf.Lock), 0o755); err != nil {
		return nil, err
	}
	cells, err := sqlite.Open(ctx, conf.Lock)
	if err != nil {
		return nil, fmt.Errorf("open lock %s: %w", conf.Lock, err)
	}
	b.closers = append(b.closers, cells.Close)
	return cells, nil
}
