package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/internal/config"
	"kiln/internal/contain"
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

// The paths to an S3 server: what monitors ask for, which nobody can foresee, must
// never hold up a commit or a submission. They are values of the label path. Each
// log has a client, and so a bound and connections, of its own for writePath and
// for readPath: one whose requests hang takes nothing from the others. Locks are
// shared by logs; see [lockRequests].
const (
	writePath = "write"
	readPath  = "read"
	lockPath  = "lock"
)

// lockRequests is how many requests of its lock cell a log has under way at most:
// those of a commit, and of a look at what was decided of the log. The bound of
// the path has room for that many of every log, so that those whose cells hang do
// not take it from the others.
const lockRequests = 4

// backends opens the storage and the locks that a configuration names. Clients
// of a service are made when they are first needed. It is safe for concurrent use.
type backends struct {
	cfg *config.Config
	log *slog.Logger
	reg prometheus.Registerer // nil unless it is a daemon's

	mu        sync.Mutex                  // guards all below; nothing is opened under it
	opening   map[string]*opening         // what is being opened for one, and waited for by others
	failed    map[string]error            // by bucket or lock; not of a daemon, which tries again
	s3Clients map[string]*s3client.Client // by path and log
	lacks     map[string]s3.Lacks         // by bucket, as found out by trying
	locks     map[string]lock.Store       // by where they are
	buckets   map[string]Bucket           // by path and where they are
	closers   []func() error
}

// opening is one call that opens something.
type opening struct {
	done chan struct{}
	err  error // set before done is closed
}

// once returns what is in have, or opens it. Whoever asks meanwhile waits, and
// has the same outcome.
func once[T any](ctx context.Context, b *backends, have map[string]T, key string, open func() (T, error)) (value T, err error) {
	b.mu.Lock()
	if value, ok := have[key]; ok {
		b.mu.Unlock()
		return value, nil
	}
	if o, ok := b.opening[key]; ok {
		b.mu.Unlock()
		select {
		case <-o.done:
		case <-ctx.Done():
			return value, ctx.Err()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		return have[key], o.err
	}
	o := &opening{done: make(chan struct{})}
	b.opening[key] = o
	b.mu.Unlock()

	err = contain.Run(func() (err error) {
		value, err = open()
		return err
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		have[key] = value
	}
	o.err = err
	delete(b.opening, key)
	close(o.done)
	return value, err
}

func newBackends(cfg *config.Config, log *slog.Logger, reg prometheus.Registerer) *backends {
	return &backends{
		cfg: cfg, log: log, reg: reg,
		opening: make(map[string]*opening), failed: make(map[string]error), s3Clients: make(map[string]*s3client.Client),
		lacks: make(map[string]s3.Lacks), locks: make(map[string]lock.Store), buckets: make(map[string]Bucket),
	}
}

// close closes all that was opened, in reverse.
func (b *backends) close() error {
	b.mu.Lock()
	closers := b.closers
	b.closers = nil
	b.mu.Unlock()
	var errs []error
	for _, f := range slices.Backward(closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// onClose has close call f.
func (b *backends) onClose(f func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closers = append(b.closers, f)
}

// bucket opens the storage of a log, for all but its monitors.
func (b *backends) bucket(ctx context.Context, conf config.Log) (Bucket, error) {
	if name, prefix, onS3 := conf.StorageS3(); onS3 {
		return b.s3Bucket(ctx, writePath, conf, name, prefix)
	}
	open := func() (Bucket, error) {
		d, err := dir.Open(conf.Storage)
		if err != nil {
			return nil, err
		}
		b.onClose(d.Close)
		return d, nil
	}
	if b.reg == nil { // for commands folders come and go
		return open()
	}
	return once(ctx, b, b.buckets, conf.Storage, open)
}

// readBucket returns the storage that a log's monitors read from: another way to
// what is in bucket, or on a disk bucket itself.
func (b *backends) readBucket(ctx context.Context, conf config.Log, bucket Bucket) (Bucket, error) {
	if name, prefix, onS3 := conf.StorageS3(); onS3 {
		return b.s3Bucket(ctx, readPath, conf, name, prefix)
	}
	return bucket, nil
}

func (b *backends) s3Bucket(ctx context.Context, path string, conf config.Log, name, prefix string) (Bucket, error) {
	return once(ctx, b, b.buckets, path+" "+conf.Storage, func() (Bucket, error) {
		client, err := b.s3(ctx, path, conf.Name)
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
		b.onClose(bucket.Close)
		return bucket, nil
	})
}

// probe finds out what the server of a bucket does, unless that is known. Nobody
// waits for another's probe, which is below a prefix of its own and may hang there.
func (b *backends) probe(ctx context.Context, conf s3.Config) (s3.Lacks, error) {
	b.mu.Lock()
	lacks, ok := b.lacks[conf.Bucket]
	err := b.failed[conf.Bucket]
	b.mu.Unlock()
	if ok || err != nil {
		return lacks, err
	}
	found, err := s3.Probe(ctx, conf)
	if err != nil {
		b.fail(ctx, conf.Bucket, err)
		return s3.Lacks{}, err
	}
	b.mu.Lock()
	_, told := b.lacks[conf.Bucket]
	b.lacks[conf.Bucket] = found.Lacks()
	b.mu.Unlock()
	if !told {
		for _, problem := range found.Problems {
			b.log.Warn("S3 server lacks something that a log wants: "+problem, "path", "s3://"+conf.Bucket)
		}
	}
	return found.Lacks(), nil
}

// lock opens the lock store of a log. Logs that name the same share it.
func (b *backends) lock(ctx context.Context, conf config.Log) (lock.Store, error) {
	b.mu.Lock()
	err := b.failed[conf.Lock]
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	store, err := once(ctx, b, b.locks, conf.Lock, func() (lock.Store, error) { return b.openLock(ctx, conf) })
	if err != nil {
		b.fail(ctx, conf.Lock, err)
	}
	return store, err
}

// fail remembers that a service cannot be had, so that a command does not try it
// in vain for as long with the next log. A daemon tries all logs at once.
func (b *backends) fail(ctx context.Context, service string, err error) {
	if ctx.Err() == nil && b.reg == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.failed[service] = err
	}
}

func (b *backends) openLock(ctx context.Context, conf config.Log) (lock.Store, error) {
	if bucket, prefix, ok := conf.LockS3(); ok {
		client, err := b.s3(ctx, lockPath, "")
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
	b.onClose(cells.Close)
	return cells, nil
}

// s3 returns the client of the S3 server that is for a path of a log.
func (b *backends) s3(ctx context.Context, path, log string) (*s3client.Client, error) {
	return once(ctx, b, b.s3Clients, path+" "+log, func() (*s3client.Client, error) { return b.openS3(ctx, path, log) })
}

func (b *backends) openS3(ctx context.Context, path, log string) (*s3client.Client, error) {
	c := b.cfg.S3
	if c == nil {
		return nil, errors.New("the configuration has no section s3")
	}
	conf := s3client.Config{
		Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.PathStyle, CAFile: c.CAFile,
		Parallel: c.Parallel, Timeout: c.Timeout, Logger: b.log,
	}
	if path == lockPath {
		conf.Parallel = max(cmp.Or(c.Parallel, s3client.DefaultParallel), lockRequests*len(b.cfg.Logs))
	}
	if b.reg != nil {
		conf.Registerer = prometheus.WrapRegistererWith(prometheus.Labels{"path": path, "log": log}, b.reg)
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
	b.onClose(func() error {
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
	b.onClose(store.Close)
	return store, nil
}
