package daemon_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"kiln/internal/config"
	"kiln/internal/s3client"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// s3Bucket is the one bucket on the S3 server of a test.
const s3Bucket = "kiln-test"

// s3World is one S3 server and one etcd, for any number of logs.
type s3World struct {
	s3          *servers.S3
	etcd        *servers.Etcd
	credentials string
	raw         *s3client.Client // straight to the server
	cells       *clientv3.Client
}

func newS3World(t *testing.T) *s3World {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	// The context of a test ends before its clean-ups do.
	ctx, dir, w := context.Background(), t.TempDir(), new(s3World)
	binary, err := servers.BuildTool(ctx, "versitygw")
	must(err)
	w.s3, err = servers.StartS3(ctx, servers.S3Config{Binary: binary, Dir: filepath.Join(dir, "s3"), Buckets: []string{s3Bucket}})
	must(err)
	t.Cleanup(func() { _ = w.s3.Kill() })
	binary, err = servers.BuildTool(ctx, "etcd")
	must(err)
	w.etcd, err = servers.StartEtcd(ctx, servers.EtcdConfig{Binary: binary, Dir: filepath.Join(dir, "etcd")})
	must(err)
	t.Cleanup(func() { _ = w.etcd.Kill() })
	w.credentials = filepath.Join(dir, "s3.yaml")
	must(os.WriteFile(w.credentials, fmt.Appendf(nil, "access_key_id: %q\nsecret_access_key: %q\n", w.s3.AccessKeyID, w.s3.SecretAccessKey), 0o600))
	w.raw, err = s3client.New(ctx, s3client.Config{
		Endpoint: w.s3.Endpoint, Region: config.DefaultRegion, PathStyle: true, AccessKeyID: w.s3.AccessKeyID, SecretAccessKey: w.s3.SecretAccessKey,
	})
	must(err)
	t.Cleanup(w.raw.Close)
	w.cells, err = clientv3.New(clientv3.Config{Endpoints: []string{w.etcd.Endpoint}, DialTimeout: time.Minute, Logger: zap.NewNop()})
	must(err)
	t.Cleanup(func() { _ = w.cells.Close() })
	return w
}

// each runs cases, each on a log of its own, with the lock on S3 and in etcd. They
// wait most of the time, so that more run at once than there are processors.
func (w *s3World) each(t *testing.T, cases map[string]func(*testing.T, *s3Rig)) {
	t.Helper()
	var g errgroup.Group
	g.SetLimit(8)
	n := 0
	for name, test := range cases {
		for _, lock := range []string{"s3", "etcd"} {
			n++
			prefix := fmt.Sprintf("%d/", n)
			g.Go(func() error {
				t.Run(name+"/lock in "+lock, func(t *testing.T) { test(t, w.rig(t, prefix, lock == "etcd")) })
				return nil
			})
		}
	}
	_ = g.Wait() // none fails
}

// s3Rig is a log on S3 behind a proxy of its own, and the way around that.
type s3Rig struct {
	*rig
	*s3World
	proxy   *servers.Proxy
	prefix  string // of the log's objects, with a slash at its end
	onEtcd  bool
	cellKey string // where the lock is, in the bucket or in etcd
	audited *testlogs.Auditor
	scts    int
}

func (w *s3World) rig(t *testing.T, prefix string, onEtcd bool) *s3Rig {
	t.Helper()
	proxy, err := servers.NewProxy(t.Context(), w.s3.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Close() })
	r := &s3Rig{s3World: w, proxy: proxy, prefix: prefix + "log/", onEtcd: onEtcd}
	r.rig = newRigOf(t, func(c *config.Config, conf *config.Log) {
		c.S3 = &config.S3{
			Endpoint: proxy.Endpoint, Region: config.DefaultRegion, PathStyle: true, CredentialsFile: w.credentials,
			Parallel: config.DefaultParallel, Timeout: config.DefaultS3Timeout,
		}
		conf.Storage = "s3://" + s3Bucket + "/" + strings.TrimSuffix(r.prefix, "/")
		conf.Lock = "s3://" + s3Bucket + "/" + prefix + "lock"
		if onEtcd {
			c.Etcd = &config.Etcd{Endpoints: []string{w.etcd.Endpoint}, Timeout: 5 * time.Second}
			conf.Lock = "etcd:" + prefix + "lock"
		}
	}, "one")
	info := r.info(0)
	r.cellKey = prefix + "lock/" + hex.EncodeToString(info.LogID)
	if !onEtcd {
		r.cellKey += ".lock"
	}
	r.audited, err = testlogs.NewAuditor(testlogs.AuditorConfig{Origin: info.Origin, SPKI: info.Key, HTTP: r.http})
	r.check(err)
	return r
}

func (r *s3Rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// up starts the log, and tells the auditor.
func (r *s3Rig) up() {
	r.t.Helper()
	r.start()
	r.audited.SetURL(r.url(0))
}

// take submits n chains, one after the other.
func (r *s3Rig) take(n int) {
	r.t.Helper()
	for range n {
		r.remember(r.submit(0, r.chain()))
	}
}

func (r *s3Rig) remember(sct *testlogs.SCT) {
	r.scts++
	r.audited.Remember(sct)
}

// audit holds the log against all that it ever promised.
func (r *s3Rig) audit() {
	r.t.Helper()
	report, err := r.audited.Audit(r.t.Context())
	switch {
	case err != nil:
		r.t.Error(err)
	case report.SCTs != r.scts || len(report.Repeated) > 0:
		r.t.Errorf("%d of %d SCTs hold, and entries %v are there twice", report.SCTs, r.scts, report.Repeated)
	}
}

// s3Copy is a copy of a log's objects, by their paths, and of its cell.
type s3Copy struct {
	objects map[string]s3client.Content
	cell    []byte
}

func (r *s3Rig) copy() s3Copy {
	r.t.Helper()
	c := s3Copy{make(map[string]s3client.Content), r.cell()}
	for _, key := range r.keys() {
		o, err := r.raw.Get(r.t.Context(), s3Bucket, key)
		if errors.Is(err, s3client.ErrNotFound) {
			continue // an old bundle that the running log has removed
		}
		r.check(err)
		c.objects[strings.TrimPrefix(key, r.prefix)] = o.Content
	}
	return c
}

func (r *s3Rig) keys() []string {
	r.t.Helper()
	var keys []string
	for from := ""; ; {
		page, err := r.raw.ListPage(r.t.Context(), s3Bucket, r.prefix, from)
		r.check(err)
		for _, item := range page.Items {
			keys = append(keys, item.Key)
		}
		if from = page.Next; from == "" {
			return keys
		}
	}
}

// putBack makes bucket and lock what they were. The checkpoint is first: readers
// of a bucket that is restored while it is in use see it at once.
func (r *s3Rig) putBack(c s3Copy) {
	r.t.Helper()
	for _, path := range append([]string{"checkpoint"}, slices.Sorted(maps.Keys(c.objects))...) {
		_, err := r.raw.Put(r.t.Context(), s3Bucket, r.prefix+path, c.objects[path])
		r.check(err)
	}
	for _, key := range r.keys() {
		if _, ok := c.objects[strings.TrimPrefix(key, r.prefix)]; !ok {
			r.check(r.raw.Delete(r.t.Context(), s3Bucket, key))
		}
	}
	if string(c.cell) != string(r.cell()) {
		r.setCell(c.cell)
	}
}

// flip flips a bit of an object in the bucket.
func (r *s3Rig) flip(path string) {
	r.t.Helper()
	o, err := r.raw.Get(r.t.Context(), s3Bucket, r.prefix+path)
	r.check(err)
	at := len(o.Body) / 2
	if path == "checkpoint" {
		at = strings.Index(string(o.Body), "\n\n") - 5 // in the root hash
	}
	o.Body[at] ^= 1
	_, err = r.raw.Put(r.t.Context(), s3Bucket, r.prefix+path, o.Content)
	r.check(err)
}

// cell reads the lock as it is kept, straight from the server.
func (r *s3Rig) cell() []byte {
	r.t.Helper()
	if !r.onEtcd {
		o, err := r.raw.Get(r.t.Context(), s3Bucket, r.cellKey)
		r.check(err)
		return o.Body
	}
	got, err := r.cells.Get(r.t.Context(), r.cellKey)
	r.check(err)
	if len(got.Kvs) != 1 {
		r.t.Fatalf("%d values at %s", len(got.Kvs), r.cellKey)
	}
	return got.Kvs[0].Value
}

// setCell overwrites it.
func (r *s3Rig) setCell(body []byte) {
	r.t.Helper()
	var err error
	if r.onEtcd {
		_, err = r.cells.Put(r.t.Context(), r.cellKey, string(body))
	} else {
		_, err = r.raw.Put(r.t.Context(), s3Bucket, r.cellKey, s3client.Content{Body: body, ContentType: "application/octet-stream", CacheControl: "no-store"})
	}
	r.check(err)
}

// s3Signed is what the log has signed, as the lock and readers know it.
type s3Signed struct{ cell, public []byte }

func (r *s3Rig) signed() s3Signed {
	r.t.Helper()
	o, err := r.raw.Get(r.t.Context(), s3Bucket, r.prefix+"checkpoint")
	r.check(err)
	return s3Signed{r.cell(), o.Body}
}
