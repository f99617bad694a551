package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"kiln/internal/cell"
	"kiln/internal/servers"
	"kiln/lock"
	"kiln/lock/locktest"
)

// patient is a time-out for tests in which calls are expected to get through.
const patient = 30 * time.Second

// build builds the server once for all tests.
var build = sync.OnceValues(func() (string, error) { return servers.BuildTool(context.Background(), "etcd") })

func start(t *testing.T, dir string) *servers.Etcd {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	e, err := servers.StartEtcd(t.Context(), servers.EtcdConfig{Binary: binary, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func open(t *testing.T, conf Config) *Store {
	t.Helper()
	if conf.Prefix == "" {
		conf.Prefix = "kiln"
	}
	if conf.Timeout == 0 {
		conf.Timeout = patient
	}
	s, err := Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func at(endpoints ...string) Config { return Config{Endpoints: endpoints} }

func load(t *testing.T, s lock.Store, id string) lock.Held {
	t.Helper()
	h, err := s.Load(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func create(t *testing.T, s lock.Store, id, body string) lock.Held {
	t.Helper()
	if err := s.Create(t.Context(), id, []byte(body)); err != nil {
		t.Fatal(err)
	}
	return load(t, s, id)
}

func TestSuite(t *testing.T) {
	t.Parallel()
	e := start(t, t.TempDir())
	n := make(chan int, 1)
	n <- 0
	t.Run("Suite", func(t *testing.T) {
		locktest.Test(t, func(t *testing.T) lock.Store {
			i := <-n
			n <- i + 1
			return open(t, Config{Endpoints: []string{e.Endpoint}, Prefix: fmt.Sprint("suite/", i)})
		})
	})
	t.Run("TwoHandles", func(t *testing.T) {
		conf := Config{Endpoints: []string{e.Endpoint}, Prefix: "handles"}
		locktest.Race(t, open(t, conf), open(t, conf))
	})
}

// TestKilled shows that nothing is lost and nothing done twice when the server is
// killed and started again under the writers, and that they go on by themselves.
func TestKilled(t *testing.T) {
	t.Parallel()
	e := start(t, t.TempDir())
	locktest.Ledger(t, func(await func(int)) {
		for range 3 {
			await(20)
			if err := e.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := e.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		await(20)
	}, open(t, at(e.Endpoint)), open(t, at(e.Endpoint)))
}

// TestCut shows that what calls say holds when answers are lost after the server
// has done what was asked, and when requests are.
func TestCut(t *testing.T) {
	t.Parallel()
	e := start(t, t.TempDir())
	p := newProxy(t, e.Endpoint)
	conf := at(p.endpoint)
	conf.Timeout = 2 * time.Second
	var handles []lock.Store
	for range 4 {
		handles = append(handles, open(t, conf))
	}
	locktest.Ledger(t, func(await func(int)) {
		await(10)
		p.cutEvery(5)
		await(100)
		p.cutEvery(0)
	}, handles...)
	if p.cuts() < 10 {
		t.Errorf("only %d connections were cut", p.cuts())
	}
}

// TestPaused shows that a server that says nothing at all is a time-out, and
// that an outcome that was unknown is one of the two when it is back.
func TestPaused(t *testing.T) {
	t.Parallel()
	e := start(t, t.TempDir())
	conf := at(e.Endpoint)
	conf.Timeout = 300 * time.Millisecond
	s := open(t, conf)
	held := create(t, open(t, at(e.Endpoint)), "cell", "0")
	if err := e.Pause(); err != nil {
		t.Fatal(err)
	}
	_, loadErr := s.Load(t.Context(), "cell")
	for loadErr == nil { // the last of its threads may stop a little later
		_, loadErr = s.Load(t.Context(), "cell")
	}
	_, replaceErr := s.Replace(t.Context(), held, []byte("1"))
	_, openErr := Open(t.Context(), Config{Endpoints: conf.Endpoints, Prefix: "kiln", Timeout: conf.Timeout})
	for what, err := range map[string]error{"Load": loadErr, "Replace": replaceErr, "Create": s.Create(t.Context(), "new", nil), "Open": openErr} {
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want %v", what, err, context.DeadlineExceeded)
		}
	}
	if err := e.Resume(); err != nil {
		t.Fatal(err)
	}
	now := load(t, open(t, at(e.Endpoint)), "cell")
	if body := string(now.Body); body != "0" && body != "1" {
		t.Errorf("the cell is %q", body)
	}
	if _, err := open(t, at(e.Endpoint)).Replace(t.Context(), load(t, open(t, at(e.Endpoint)), "cell"), []byte("2")); err != nil {
		t.Error(err)
	}
}

// TestMadeAnew shows that a key that was deleted and made anew is no version that
// anybody holds, and that foreign or damaged content is neither missing nor
// written over.
func TestMadeAnew(t *testing.T) {
	t.Parallel()
	e := start(t, t.TempDir())
	s := open(t, at(e.Endpoint))
	held := create(t, s, "cell", "0")
	if _, err := s.client.Delete(t.Context(), "kiln/cell"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replace(t.Context(), held, []byte("1")); !errors.Is(err, lock.ErrNotFound) {
		t.Errorf("error %v, want %v", err, lock.ErrNotFound)
	}
	create(t, s, "cell", "0")
	if _, err := s.Replace(t.Context(), held, []byte("1")); err == nil {
		t.Error("a cell that was made anew was at the version held of the old one")
	}
	other := create(t, s, "other", "x")
	for what, value := range map[string]string{"foreign": "hello", "another cell": string(s.raw(t, "kiln/cell")), "empty": ""} {
		if _, err := s.client.Put(t.Context(), "kiln/other", value); err != nil {
			t.Fatal(err)
		}
		_, loadErr := s.Load(t.Context(), "other")
		_, replaceErr := s.Replace(t.Context(), other, []byte("y"))
		for call, err := range map[string]error{"Load": loadErr, "Replace": replaceErr, "Create": s.Create(t.Context(), "other", nil)} {
			if !errors.Is(err, cell.ErrDamaged) || errors.Is(err, lock.ErrNotFound) {
				t.Errorf("%s, %s: %v, want %v", what, call, err, cell.ErrDamaged)
			}
		}
		if got := s.raw(t, "kiln/other"); string(got) != value {
			t.Errorf("%s was written over by %q", what, got)
		}
	}
}

func (s *Store) raw(t *testing.T, key string) []byte {
	t.Helper()
	resp, err := s.client.Get(t.Context(), key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatal(resp, err)
	}
	return resp.Kvs[0].Value
}

// TestRestored shows that who holds a version does not write over a cluster that
// an older copy was put in the place of, not even when that has come by the same
// revision again.
func TestRestored(t *testing.T) {
	t.Parallel()
	dir, older := t.TempDir(), t.TempDir()
	e := start(t, dir)
	create(t, open(t, at(e.Endpoint)), "cell", "0")
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(older, "data"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := e.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := open(t, at(e.Endpoint))
	held, err := s.Replace(t.Context(), load(t, s, "cell"), []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	restored := start(t, filepath.Join(older, "data"))
	s2 := open(t, at(restored.Endpoint))
	if _, err := s2.Replace(t.Context(), held, []byte("2")); err == nil || !bytes.Equal(load(t, s2, "cell").Body, []byte("0")) {
		t.Errorf("Replace in the older cluster: %v", err)
	}
	if _, err := s2.Replace(t.Context(), load(t, s2, "cell"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	if a, b := revision(t, s), revision(t, s2); a != b {
		t.Fatalf("the revisions are %d and %d, want the same", a, b)
	}
	if _, err := s2.Replace(t.Context(), held, []byte("2")); err == nil || !bytes.Equal(load(t, s2, "cell").Body, []byte("1")) {
		t.Errorf("Replace in the older cluster at the same revision and with the same body: %v", err)
	}
}

func revision(t *testing.T, s *Store) int64 {
	t.Helper()
	resp, err := s.client.Get(t.Context(), "kiln/cell")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Kvs[0].ModRevision
}

// TestOtherCluster shows that answers of two clusters are never taken for those
// of one.
func TestOtherCluster(t *testing.T) {
	t.Parallel()
	a, b := start(t, t.TempDir()), start(t, t.TempDir())
	_, err := Open(t.Context(), Config{Endpoints: []string{a.Endpoint, b.Endpoint}, Prefix: "kiln", Timeout: patient})
	if err == nil || !strings.Contains(err.Error(), "another cluster") {
		t.Errorf("Open with two clusters: %v", err)
	}
	p := newProxy(t, a.Endpoint)
	s := open(t, at(p.endpoint))
	held := create(t, s, "cell", "0")
	p.retarget(b.Endpoint)
	_, err = s.Load(t.Context(), "cell")
	if err == nil || errors.Is(err, lock.ErrNotFound) || !strings.Contains(err.Error(), "cluster") {
		t.Errorf("Load from another cluster: %v", err)
	}
	if _, err = s.Replace(t.Context(), held, []byte("1")); err == nil || errors.Is(err, lock.ErrNotFound) || errors.Is(err, lock.ErrConflict) {
		t.Errorf("Replace in another cluster: %v", err)
	}
	if err = s.Create(t.Context(), "cell", nil); err == nil {
		t.Error("Create in another cluster passed")
	}
}

// TestDeadEndpoint shows that an endpoint that is down does not keep the others
// from being used.
func TestDeadEndpoint(t *testing.T) {
	t.Parallel()
	e, dead := start(t, t.TempDir()), start(t, t.TempDir())
	if err := dead.Stop(); err != nil {
		t.Fatal(err)
	}
	conf := at(dead.Endpoint, e.Endpoint)
	conf.Timeout = 5 * time.Second
	locktest.Race(t, open(t, conf))
	conf.Endpoints = conf.Endpoints[:1]
	conf.Prefix, conf.Timeout = "kiln", time.Second
	if _, err := Open(t.Context(), conf); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), dead.Endpoint) {
		t.Errorf("Open where nobody answers: %v", err)
	}
}

// TestUsers shows that a user without rights is told so at once, and that the
// store goes on after a restart has made all tokens void.
func TestUsers(t *testing.T) {
	t.Parallel()
	e := start(t, t.TempDir())
	admin, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, err := admin.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := admin.RoleAdd(ctx, "locks"); return err },
		func() error {
			_, err := admin.RoleGrantPermission(ctx, "locks", "kiln/", "kiln0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := admin.UserAdd(ctx, "kiln", "k"); return err },
		func() error { _, err := admin.UserGrantRole(ctx, "kiln", "locks"); return err },
		func() error { _, err := admin.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	for name, conf := range map[string]Config{
		"nobody":         {Prefix: "kiln"},
		"wrong password": {Prefix: "kiln", Username: "kiln", Password: "x"},
		"other prefix":   {Prefix: "else", Username: "kiln", Password: "k"},
	} {
		conf.Endpoints, conf.Timeout = []string{e.Endpoint}, patient
		if s, err := Open(ctx, conf); err == nil {
			t.Errorf("%s: no error", name)
			s.Close()
		} else if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := open(t, Config{Endpoints: []string{e.Endpoint}, Username: "kiln", Password: "k"})
	held := create(t, s, "cell", "0")
	if err := errors.Join(e.Kill(), e.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	if held, err = s.Replace(ctx, held, []byte("1")); err != nil {
		t.Errorf("Replace after a restart: %v", err)
	}
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Endpoint}, Username: "root", Password: "r"})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := root.RoleRevokePermission(ctx, "locks", "kiln/", "kiln0"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replace(ctx, held, []byte("2")); !errors.Is(err, cell.ErrRejected) {
		t.Errorf("Replace without the right: %v, want %v", err, cell.ErrRejected)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing.pem")
	for name, conf := range map[string]Config{
		"no prefix":            {Endpoints: []string{"http://127.0.0.1:1"}, Prefix: "/"},
		"no endpoint":          {Prefix: "kiln"},
		"no URL":               {Endpoints: []string{"127.0.0.1:2379"}, Prefix: "kiln"},
		"path":                 {Endpoints: []string{"http://127.0.0.1:1/v3"}, Prefix: "kiln"},
		"mixed":                {Endpoints: []string{"http://127.0.0.1:1", "https://127.0.0.1:1"}, Prefix: "kiln"},
		"certificate in clear": {Endpoints: []string{"http://127.0.0.1:1"}, Prefix: "kiln", CAFile: missing},
		"no key":               {Endpoints: []string{"https://127.0.0.1:1"}, Prefix: "kiln", CertFile: missing},
		"no password":          {Endpoints: []string{"https://127.0.0.1:1"}, Prefix: "kiln", Username: "u"},
		"no CA":                {Endpoints: []string{"https://127.0.0.1:1"}, Prefix: "kiln", CAFile: missing},
		"no certificate":       {Endpoints: []string{"https://127.0.0.1:1"}, Prefix: "kiln", CertFile: missing, KeyFile: missing},
	} {
		if _, err := Open(t.Context(), conf); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
