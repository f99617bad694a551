package servers

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

// VersityGW is the version of the S3 server: the one that tools/versitygw pins.
const VersityGW = "v1.8.0"

// S3Config says how an S3 server is run. Binary and Dir are required.
type S3Config struct {
	Binary string // of versitygw, as BuildTool and InstallS3 return it
	// Dir keeps the objects, each bucket a folder in it; it is made if missing.
	Dir     string
	Address string   // host:port on loopback; default a free port of 127.0.0.1
	Buckets []string // made if missing
	// CertFile and KeyFile, PEM, make it speak TLS.
	CertFile, KeyFile string
	// Domain makes it take http://BUCKET.Domain:PORT/KEY as well.
	Domain string
}

// S3 is a running S3 server: region us-east-1, path style, conditional writes.
// It does not sync what it stores to the disk.
type S3 struct {
	*Server
	// Endpoint is its URL.
	Endpoint string
	// AccessKeyID and SecretAccessKey are of its only user, made for this run.
	AccessKeyID, SecretAccessKey string
}

// StartS3 starts an S3 server. The caller calls Stop.
func StartS3(ctx context.Context, conf S3Config) (*S3, error) {
	dir, err := filepath.Abs(conf.Dir)
	if err != nil {
		return nil, fmt.Errorf("start versitygw: %w", err)
	}
	for _, bucket := range append([]string{""}, conf.Buckets...) {
		if err := os.MkdirAll(filepath.Join(dir, bucket), 0o755); err != nil {
			return nil, fmt.Errorf("start versitygw: make bucket: %w", err)
		}
	}
	if conf.Address == "" {
		if conf.Address, err = FreeAddress(ctx); err != nil {
			return nil, err
		}
	}
	s := &S3{Endpoint: "http://" + conf.Address, AccessKeyID: "kiln", SecretAccessKey: rand.Text()}
	args := []string{"--quiet", "--keep-alive", "--health", "/healthz", "--port", conf.Address}
	if conf.CertFile != "" {
		s.Endpoint = "https://" + conf.Address
		args = append(args, "--cert", conf.CertFile, "--key", conf.KeyFile)
	}
	if conf.Domain != "" {
		args = append(args, "--virtual-domain", conf.Domain)
	}
	s.Server = &Server{
		name: "versitygw", binary: conf.Binary, args: append(args, "posix", dir),
		env:     []string{"ROOT_ACCESS_KEY=" + s.AccessKeyID, "ROOT_SECRET_KEY=" + s.SecretAccessKey},
		healthy: listening(conf.Address, s.Endpoint+"/healthz", conf.CertFile == ""),
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// listening returns a check that a server accepts connections and, if it speaks
// plain HTTP, that a URL answers 200.
func listening(address, url string, plain bool) func(context.Context) error {
	return func(ctx context.Context) error {
		if !plain {
			return accepts(ctx, address)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		if err := resp.Body.Close(); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", url, resp.Status)
		}
		return nil
	}
}
