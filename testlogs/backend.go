package testlogs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"kiln/internal/config"
	"kiln/internal/servers"
)

// Backend says where a log of [New] keeps what it is. The servers are real ones,
// of its own, and end with the test.
type Backend int

// The backends.
const (
	Embedded Backend = iota // a directory and SQLite
	S3                      // storage and lock on S3
	S3Etcd                  // storage on S3, lock in etcd
)

// String names the backend, for subtests.
func (b Backend) String() string {
	return [...]string{"embedded", "s3", "s3+etcd"}[b]
}

// Backends are all there are, for a test that runs on each.
func Backends() []Backend { return []Backend{Embedded, S3, S3Etcd} }

// bucketName is the one bucket on the S3 server.
const bucketName = "kiln-test"

// serve starts the servers that the log's backend needs, and has the
// configuration name them.
func (l *Log) serve(dir string, cfg *config.Config) error {
	if l.opts.Backend == Embedded {
		return nil
	}
	ctx := context.Background()
	if err := l.serveS3(ctx, dir); err != nil {
		return err
	}
	endpoint := l.S3.Endpoint
	if l.opts.Through != nil {
		endpoint = l.opts.Through(endpoint)
	}
	credentials := filepath.Join(dir, "s3.yaml")
	text := fmt.Sprintf("access_key_id: %q\nsecret_access_key: %q\n", l.S3.AccessKeyID, l.S3.SecretAccessKey)
	if err := os.WriteFile(credentials, []byte(text), 0o600); err != nil {
		return err
	}
	cfg.S3 = &config.S3{
		Endpoint: endpoint, Region: config.DefaultRegion, PathStyle: true, CredentialsFile: credentials,
		Parallel: config.DefaultParallel, Timeout: config.DefaultS3Timeout,
	}
	conf := &cfg.Logs[0]
	if !strings.Contains(conf.Storage, "://") {
		conf.Storage = "s3://" + bucketName + "/" + conf.Name
	}
	if l.opts.Backend == S3 {
		conf.Lock = "s3://" + bucketName + "/lock"
		return nil
	}
	binary, err := servers.BuildTool(ctx, "etcd")
	if err != nil {
		return err
	}
	if l.Etcd, err = servers.StartEtcd(ctx, servers.EtcdConfig{Binary: binary, Dir: filepath.Join(dir, "etcd")}); err != nil {
		return err
	}
	l.stopAtEnd(l.Etcd.Server)
	cfg.Etcd = &config.Etcd{Endpoints: []string{l.Etcd.Endpoint}, Timeout: 2 * time.Second}
	conf.Lock = "etcd:kiln/lock"
	return nil
}

func (l *Log) serveS3(ctx context.Context, dir string) error {
	binary, err := servers.BuildTool(ctx, "versitygw")
	if err != nil {
		return err
	}
	l.S3, err = servers.StartS3(ctx, servers.S3Config{Binary: binary, Dir: filepath.Join(dir, "s3"), Buckets: []string{bucketName}})
	if err != nil {
		return err
	}
	l.stopAtEnd(l.S3.Server)
	return nil
}

func (l *Log) stopAtEnd(s *servers.Server) {
	l.tb.Cleanup(func() {
		if err := s.Kill(); err != nil {
			l.tb.Logf("testlogs: %v", err)
		}
	})
}
