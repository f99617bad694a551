package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kiln/internal/config"
	"kiln/internal/servers"
)

const (
	devBucket       = "kiln-dev"
	devS3Listen     = "127.0.0.1:7070"
	credentialsName = "s3-credentials.yaml"
)

// withS3 makes a new configuration one whose logs are on the S3 server.
func (o devOptions) withS3(cfg *config.Config) {
	cfg.S3 = &config.S3{
		Endpoint: "http://" + o.s3Listen, Region: config.DefaultRegion, PathStyle: true,
		CredentialsFile: filepath.Join(o.dir, credentialsName),
		Parallel:        config.DefaultParallel, Timeout: config.DefaultS3Timeout,
	}
}

// onS3 puts a new log on the S3 server.
func onS3(l *config.Log) {
	l.Storage, l.Lock = "s3://"+devBucket+"/"+l.Name, "s3://"+devBucket+"/lock"
	l.Period = l.DefaultPeriod()
}

// startS3 starts the folder's S3 server, if it has one or is to get one. The
// caller stops it.
func (o devOptions) startS3(ctx context.Context, e *env) (stop func() error, err error) {
	address, err := o.s3Address(e)
	if err != nil || address == "" {
		return func() error { return nil }, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = o.dir
	}
	binary, err := servers.InstallS3(ctx, filepath.Join(cache, "kiln"), func(what string) {
		fmt.Fprintf(e.stderr, "kiln: %s\n", what)
	})
	if err != nil {
		return nil, err
	}
	server, err := servers.StartS3(ctx, servers.S3Config{
		Binary: binary, Dir: filepath.Join(o.dir, "s3"), Address: address, Buckets: []string{devBucket},
	})
	if err != nil {
		return nil, fmt.Errorf("%w\nIs something else on %s? For a new folder, take another address with --s3-listen", err, address)
	}
	credentials := fmt.Sprintf("# Of the S3 server that kiln dev runs; new at each start.\naccess_key_id: %q\nsecret_access_key: %q\n",
		server.AccessKeyID, server.SecretAccessKey)
	if err := writeFileMode(filepath.Join(o.dir, credentialsName), []byte(credentials), 0o600); err != nil {
		return nil, errors.Join(err, server.Stop())
	}
	return server.Stop, nil
}

// s3Address returns where the folder's S3 server listens, "" if it has none.
func (o devOptions) s3Address(e *env) (string, error) {
	path := filepath.Join(o.dir, configName)
	found, err := exists(path)
	if err != nil {
		return "", err
	}
	if !found {
		if o.s3 {
			return o.s3Listen, nil
		}
		return "", nil
	}
	cfg, err := config.Read(path, e.now())
	if err != nil {
		return "", err
	}
	endpoint := ""
	if cfg.S3 != nil {
		endpoint = cfg.S3.Endpoint
	}
	switch {
	case endpoint == "" && o.s3:
		return "", fmt.Errorf("the logs in %s are on embedded parts: start without --s3, or take another folder with --dir", o.dir)
	case endpoint == "":
		return "", nil
	}
	address := strings.TrimPrefix(endpoint, "http://")
	if o.s3Moved && address != o.s3Listen {
		return "", fmt.Errorf("the S3 server of the logs in %s listens on %s: start without --s3-listen, or take another folder with --dir",
			o.dir, address)
	}
	return address, nil
}
