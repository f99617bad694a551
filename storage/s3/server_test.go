package s3

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"kiln/internal/s3client"
	"kiln/internal/servers"
)

const bucketName = "logs"

// server starts the one S3 server of this test binary; TestMain ends it.
var server = sync.OnceValues(func() (*servers.S3, error) { return startServer(os.Getenv(dirVariable), "", "") })

func startServer(dir, certFile, keyFile string) (*servers.S3, error) {
	binary, err := servers.BuildTool(context.Background(), "versitygw")
	if err != nil {
		return nil, err
	}
	return servers.StartS3(context.Background(), servers.S3Config{
		Binary: binary, Dir: dir, Buckets: []string{bucketName}, CertFile: certFile, KeyFile: keyFile,
	})
}

const dirVariable = "KILN_TEST_S3_DIR"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kiln-storage-s3-")
	if err == nil {
		err = os.Setenv(dirVariable, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	defer func() {
		if s, err := server(); err == nil {
			_ = s.Kill()
		}
	}()
	return m.Run()
}

// newClient returns a client of the server, changed by the test's wishes.
func newClient(t testing.TB, changes ...func(*s3client.Config)) *s3client.Client {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	conf := s3client.Config{Endpoint: s.Endpoint, PathStyle: true, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey}
	for _, change := range changes {
		change(&conf)
	}
	c, err := s3client.New(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// prefix returns one that no other test has.
func prefix(t testing.TB) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune("#=,", r) {
			return '_'
		}
		return r
	}, t.Name())
}

func openBucket(t testing.TB, conf Config) *Bucket {
	t.Helper()
	if conf.Bucket == "" {
		conf.Bucket = bucketName
	}
	b, err := Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}
