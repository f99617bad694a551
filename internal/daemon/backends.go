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
	"kiln/internal/s3client"
	"kiln/lock"
	"kiln/lock/etcd"
	locks3 "kiln/lock/s3"
	"kiln/lock/sqlite"
	"kiln/storage"
	"kiln/storage/dir"
	"kiln/storage/s3"
)

// Bucket is where a log's objects are, in any of the backends.
type Bucket interface {
	storage.Bucket
	storage.Lister
}

// The paths to an S3 server, each with a client, and so with a bound and
// connections, of its own: what monitors ask for, which nobody can foresee, must
// never hold up a commit or a submission. They are values of the label path.
const (
	writePath = "write"
	readPath  = "read"
)

// backends opens the storage and the locks that a configuration names. Clients
// of a service are made when they are first needed, and shared by all logs. It
// is not safe for concurrent use; what it returns is.
type backends struct {
	cfg *config.Config
	log *slog.Logger
	reg prometheus.Registerer

	s3Clients map[string]*s3client.Client // by the path they are for
	failed    map[string]error            // by bucket or lock
	lacks     map[string]s3.Lacks         // by bucket, as found out by trying
	locks     map[string]lock.Store       // by where they are
	buckets   map[string]Bucket           // by path and where they are

	closers []func() error
}

func newBackends(cfg *config.Config, log *slog.Logger, reg prometheus.Registerer) *backends {
	return &backends{
		cfg: cfg, log: log, reg: reg,
		s3Clients: make(map[string]*s3client.Client), failed: make(map[string]error), lacks: make(map[string]s3.Lacks), locks: make(map[string]lock.Store), buckets: make(map[string]Bucket),
	}
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

// bucket opens the storage of a log, for all but its monitors.
func (b *backends) bucket(ctx context.Context, conf config.Log) (Bucket, error) {
	if name, prefix, onS3 := conf.StorageS3(); onS3 {
		return b.s3Bucket(ctx, writePath, conf, name, prefix)
	}
	if bucket, ok := b.buckets[conf.Storage]; ok {
		return bucket, nil
	}
	d, err := dir.Open(conf.Storage)
	if err != nil {
		return nil, err
	}
	if b.reg != nil { // a daemon's; for commands folders come and go
		b.buckets[conf.Storage] = d
	}
	b.closers = append(b.closers, d.Close)
	return d, nil
}

// forget has what could not be had be tried again.
func (b *backends) forget() { clear(b.failed) }

// readBucket returns the storage that a log's monitors read from: another way to
// what is in bucket, or on a disk bucket itself.
func (b *backends) readBucket(ctx context.Context, conf config.Log, bucket Bucket) (Bucket, error) {
	if name, prefix, onS3 := conf.StorageS3(); onS3 {
		return b.s3Bucket(ctx, readPath, conf, name, prefix)
	}
	return bucket, nil
}

func (b *backends) s3Bucket(ctx context.Context, path string, conf config.Log, name, prefix string) (Bucket, error) {
	if bucket, ok := b.buckets[path+" "+conf.Storage]; ok {
		return bucket, nil
	}
	client, err := b.s3(ctx, path)
	if err != nil {
		return nil, err
	}
	s3conf := s3.Config{Client: client, Bucket: name, Prefix: prefix, Logger: b.log.With("log", conf.Name)}
	if b.reg != nil {
		s3conf.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"log": conf.Name, "path": path}, b.reg)
	}
	if s3conf.Without, err = b.probe(ctx, s3conf); err != nil {
		return nil, err
	}
	bucket, err := s3.Open(ctx, s3conf)
	if err != nil {
		return nil, err
	}
	b.buckets[path+" "+conf.Storage] = bucket
	b.closers = append(b.closers, bucket.Close)
	return bucket, nil
}

// probe finds out once for each bucket what its server does.
func (b *backends) probe(ctx context.Context, conf s3.Config) (s3.Lacks, error) {
	if lacks, ok := b.lacks[conf.Bucket]; ok {
		return lacks, nil
	}
	if err := b.failed[conf.Bucket]; err != nil {
		return s3.Lacks{}, err
	}
	found, err := s3.Probe(ctx, conf)
	if err != nil {
		b.fail(ctx, conf.Bucket, err)
		return s3.Lacks{}, err
	}
	for _, problem := range found.Problems {
		b.log.Warn("S3 server lacks something that a log wants: "+problem, "path", "s3://"+conf.Bucket)
	}
	b.lacks[conf.Bucket] = found.Lacks()
	return found.Lacks(), nil
}

// lock opens the lock store of a log. Logs that name the same share it.
func (b *backends) lock(ctx context.Context, conf config.Log) (lock.Store, error) {
	if store, ok := b.locks[conf.Lock]; ok {
		return store, nil
	}
	if err := b.failed[conf.Lock]; err != nil {
		return nil, err
	}
	store, err := b.openLock(ctx, conf)
	if err != nil {
		b.fail(ctx, conf.Lock, err)
		return nil, err
	}
	b.locks[conf.Lock] = store
	return store, nil
}

// fail remembers that a service cannot be had, so that the next log that needs
// it is not tried in vain for as long again.
func (b *backends) fail(ctx context.Context, service string, err error) {
	if ctx.Err() == nil {
		b.failed[service] = err
	}
}

func (b *backends) openLock(ctx context.Context, conf config.Log) (lock.Store, error) {
	if bucket, prefix, ok := conf.LockS3(); ok {
		client, err := b.s3(ctx, writePath)
		if err != nil {
			return nil, err
		}
		return locks3.Open(ctx, locks3.Config{Client: client, Bucket: bucket, Prefix: prefix, Logger: b.log})
	}
	if prefix, ok := conf.LockEtcd(); ok {
		return b.etcd(ctx, prefix)
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

// s3 returns the client of the S3 server that is for a path.
func (b *backends) s3(ctx context.Context, path string) (*s3client.Client, error) {
	if client, ok := b.s3Clients[path]; ok {
		return client, nil
	}
	c := b.cfg.S3
	if c == nil {
		return nil, errors.New("the configuration has no section s3")
	}
	conf := s3client.Config{
		Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.PathStyle, CAFile: c.CAFile,
		Parallel: c.Parallel, Timeout: c.Timeout, Logger: b.log,
	}
	if b.reg != nil {
		conf.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"path": path}, b.reg)
	}
	if c.CredentialsFile != "" {
		secret, err := config.LoadCredentials(c.CredentialsFile)
		if err != nil {
			return nil, fmt.Errorf("credentials_file: %w", err)
		}
		conf.AccessKeyID, conf.SecretAccessKey, conf.SessionToken = secret.AccessKeyID, secret.SecretAccessKey, secret.SessionToken
	}
	client, err := s3client.New(ctx, conf)
	if err != nil {
		return nil, err
	}
	b.s3Clients[path] = client
	b.closers = append(b.closers, func() error {
		client.Close()
		return nil
	})
	return client, nil
}

func (b *backends) etcd(ctx context.Context, prefix string) (lock.Store, error) {
	c := b.cfg.Etcd
	if c == nil {
		return nil, errors.New("the configuration has no section etcd")
	}
	conf := etcd.Config{
		Endpoints: c.Endpoints, CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
		Username: c.Username, Prefix: prefix, Timeout: c.Timeout, Logger: b.log,
	}
	if c.PasswordFile != "" {
		var err error
		if conf.Password, err = config.LoadPassword(c.PasswordFile); err != nil {
			return nil, fmt.Errorf("password_file: %w", err)
		}
	}
	store, err := etcd.Open(ctx, conf)
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, store.Close)
	return store, nil
}
