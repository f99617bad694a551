package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"kiln/internal/cell"
	"kiln/internal/s3client"
	"kiln/internal/servers"
	"kiln/lock"
	"kiln/lock/locktest"
)

// patient is a time-out for tests in which calls are expected to get through.
const patient = 30 * time.Second

const bucket = "logs"

// build builds the server once for all tests.
var build = sync.OnceValues(func() (string, error) { return servers.BuildTool(context.Background(), "versitygw") })

func start(t *testing.T) *servers.S3 {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	s, err := servers.StartS3(t.Context(), servers.S3Config{Binary: binary, Dir: t.TempDir(), Buckets: []string{bucket}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func client(t *testing.T, s *servers.S3, transport http.RoundTripper) *s3client.Client {
	t.Helper()
	conf := s3client.Config{Endpoint: s.Endpoint, PathStyle: true, AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretAccessKey, Transport: transport}
	c, err := s3client.New(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func open(t *testing.T, conf Config) *Store {
	t.Helper()
	conf.Bucket = bucket
	if conf.Timeout == 0 {
		conf.Timeout = patient
	}
	s, err := Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

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
	s := start(t)
	var n atomic.Int64
	t.Run("Suite", func(t *testing.T) {
		locktest.Test(t, func(t *testing.T) lock.Store {
			return open(t, Config{Client: client(t, s, nil), Prefix: fmt.Sprint("suite/", n.Add(1))})
		})
	})
	t.Run("TwoHandles", func(t *testing.T) {
		locktest.Race(t, open(t, Config{Client: client(t, s, nil)}), open(t, Config{Client: client(t, s, nil)}))
	})
}

// TestKilled shows that nothing is lost and nothing done twice when the server is
// killed and started again under the writers, and that they go on by themselves.
func TestKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	locktest.Ledger(t, func(await func(int)) {
		for range 3 {
			await(20)
			if err := errors.Join(s.Kill(), s.Start(t.Context())); err != nil {
				t.Fatal(err)
			}
		}
		await(20)
	}, open(t, Config{Client: client(t, s, nil)}), open(t, Config{Client: client(t, s, nil)}))
}

// TestPaused shows that a server that says nothing at all is a time-out, and
// that the store goes on when it is back.
func TestPaused(t *testing.T) {
	t.Parallel()
	srv := start(t)
	calm := open(t, Config{Client: client(t, srv, nil)})
	s := open(t, Config{Client: client(t, srv, nil)})
	s.Store = cell.NewStore(s.r, "S3", 300*time.Millisecond, nil)
	held := create(t, calm, "cell", "0")
	if err := srv.Pause(); err != nil {
		t.Fatal(err)
	}
	_, loadErr := s.Load(t.Context(), "cell")
	for loadErr == nil { // the last of its threads may stop a little later
		_, loadErr = s.Load(t.Context(), "cell")
	}
	_, replaceErr := s.Replace(t.Context(), held, []byte("1"))
	_, openErr := Open(t.Context(), Config{Client: s.r.client, Bucket: bucket, Timeout: 300 * time.Millisecond})
	for what, err := range map[string]error{"Load": loadErr, "Replace": replaceErr, "Create": s.Create(t.Context(), "new", nil), "Open": openErr} {
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: %v, want %v", what, err, context.DeadlineExceeded)
		}
	}
	if err := srv.Resume(); err != nil {
		t.Fatal(err)
	}
	if body := string(load(t, calm, "cell").Body); body != "0" && body != "1" {
		t.Errorf("the cell is %q", body)
	}
	if err := locktest.Increment(t.Context(), calm, "cell"); err != nil {
		t.Error(err)
	}
}

// TestFaults shows that what calls say holds under answers that are lost or
// another's, before and after the server has done what was asked.
func TestFaults(t *testing.T) {
	t.Parallel()
	srv := start(t)
	var all []trouble
	for _, status := range []int{500, 503, 409, 412, -1} {
		for _, after := range []bool{false, true} {
			all = append(all, trouble{status: status, after: after})
		}
	}
	all = append(all, trouble{twice: true})
	cases := map[string][]trouble{"all": all}
	for _, tr := range all {
		cases[fmt.Sprintf("%+v", tr)] = []trouble{tr}
	}
	for name, troubles := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &lossy{RoundTripper: &http.Transport{MaxIdleConnsPerHost: 20}}
			conf := Config{Client: client(t, srv, l), Prefix: strings.NewReplacer(" ", "", "{", "", "}", "", ":", "").Replace(name)}
			s := open(t, conf)
			locktest.Ledger(t, func(await func(int)) {
				await(5)
				l.set(func(n int64) trouble {
					tr := troubles[int(n/5)%len(troubles)]
					if n%5 != 0 || tr.status == 503 && n%20 != 0 { // which holds all requests back
						return trouble{}
					}
					return tr
				})
				await(20)
				l.set(func(int64) trouble { return trouble{} })
			}, s)
			if l.did.Load() < 3 {
				t.Errorf("there were only %d faults", l.did.Load())
			}
			// A server that has its troubles is not one that keeps no conditions.
			l.set(func(n int64) trouble {
				if n%9 != 0 {
					return trouble{}
				}
				return troubles[int(n/9)%len(troubles)]
			})
			if _, err := Open(t.Context(), conf); errors.Is(err, ErrUnsafe) && !strings.Contains(name, "412") && name != "all" {
				t.Errorf("Open with faults: %v", err)
			}
		})
	}
}

// TestProxy shows the same for answers that are cut in their middle or never
// come, on a network that is slow besides.
func TestProxy(t *testing.T) {
	t.Parallel()
	srv := start(t)
	p, err := servers.NewProxy(t.Context(), srv.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	through := *srv
	through.Endpoint = p.Endpoint
	p.SetLatency(3 * time.Millisecond)
	s := open(t, Config{Client: client(t, &through, nil)})
	s.Store = cell.NewStore(s.r, "S3", 2*time.Second, nil)
	locktest.Ledger(t, func(await func(int)) {
		for range 2 {
			await(5)
			for _, f := range []servers.Fault{
				{Method: http.MethodPut, Truncate: true, AfterEffect: true, Skip: 7},
				{Method: http.MethodPut, AfterEffect: true, Skip: 7},
				{Method: http.MethodPut, Hang: true, AfterEffect: true, Skip: 11},
				{Method: http.MethodPut, Status: 412, Code: "PreconditionFailed", AfterEffect: true, Skip: 3},
				{Method: http.MethodPut, Through: true, Delay: 1200 * time.Millisecond, Skip: 5},
				{Method: http.MethodGet, Truncate: true, Skip: 5},
				{Method: http.MethodGet, Hang: true, Skip: 9},
				{Status: 500, Code: "InternalError", AfterEffect: true, Skip: 5, Times: 20},
			} {
				p.Inject(f)
			}
			await(20)
		}
		p.Heal()
	}, s)
}

// TestServers shows which servers are refused.
func TestServers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		fake *fake
		want string // in the error; empty is none
	}{
		{"as S3", &fake{}, ""},
		{"matches only without quotes", &fake{unquoted: true}, ""},
		{"losers get 500", &fake{losers: 500}, ""},
		{"losers get 409", &fake{losers: 409}, ""},
		{"ETags are counted", &fake{etag: func(_ []byte, n int64) string { return fmt.Sprintf(`"%d"`, n) }}, ""},
		{"ETags are not quoted", &fake{etag: func(b []byte, _ int64) string { return fmt.Sprintf("%x", b[len(b)-20:]) }}, ""},
		{"ignores all conditions", &fake{ignoreAbsent: true, ignoreMatch: true}, "If-None-Match 16 succeeded"},
		{"ignores If-Match", &fake{ignoreMatch: true}, "If-Match of an old ETag succeeded"},
		{"ignores If-None-Match", &fake{ignoreAbsent: true}, "If-None-Match 16 succeeded"},
		{"looks, then writes", &fake{racy: true}, "where one may"},
		{"never matches", &fake{etag: func(_ []byte, n int64) string { return fmt.Sprintf(` W/"%d" `, n) }}, "refuses a write with If-Match of the ETag that it gave"},
		{"ETags are the size", &fake{etag: func(b []byte, _ int64) string { return fmt.Sprintf(`"%d"`, len(b)) }}, "the same ETag"},
		{"knows no conditions", &fake{unknown: true}, "does not know conditional writes"},
		{"ETags are missing", &fake{etag: func([]byte, int64) string { return "" }}, "gives no ETag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := Open(t.Context(), Config{Client: fakeClient(t, c.fake), Bucket: bucket, Prefix: "prefix", Timeout: patient})
			if len(c.fake.objects) > 0 {
				t.Errorf("the proof left %v", c.fake.objects)
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Open: %v, want %q", err, c.want)
				} else if unsafe := !strings.Contains(c.want, "no ETag"); unsafe != errors.Is(err, ErrUnsafe) || unsafe && !strings.Contains(err.Error(), "etcd") {
					t.Errorf("Open: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			locktest.Race(t, s)
		})
	}
}

func fakeClient(t *testing.T, f *fake) *s3client.Client {
	return client(t, &servers.S3{Endpoint: "http://127.0.0.1:1", AccessKeyID: "a", SecretAccessKey: "b"}, f)
}

// TestCost bounds what the proof takes on a server that is 30 ms away.
func TestCost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &fake{latency: 30 * time.Millisecond}
		c := fakeClient(t, f)
		begun := time.Now()
		open(t, Config{Client: c})
		if took, n := time.Since(begun), f.requests.Load(); took > time.Second || n > 150 {
			t.Errorf("the proof took %v and %d requests", took, n)
		} else {
			t.Logf("the proof took %v and %d requests", took, n)
		}
	})
}

// TestForeign shows that what kiln did not write in the place of a cell is
// neither missing nor written over, and neither is a bucket that is missing.
func TestForeign(t *testing.T) {
	t.Parallel()
	srv := start(t)
	c := client(t, srv, nil)
	s := open(t, Config{Client: c, Prefix: "p"})
	if page, err := c.ListPage(t.Context(), bucket, "", ""); err != nil || len(page.Items) != 0 {
		t.Errorf("the proof left %+v (%v)", page, err)
	}
	create(t, s, "cell", "0")
	other := create(t, s, "other", "0")
	o, err := c.Get(t.Context(), bucket, "p/cell.lock")
	if err != nil {
		t.Fatal(err)
	}
	for what, value := range map[string]string{"foreign": "hello", "another cell": string(o.Body), "damaged": strings.Replace(string(o.Body), "1", "2", 1), "empty": ""} {
		if _, err := c.Put(t.Context(), bucket, "p/other.lock", s3client.Content{Body: []byte(value)}); err != nil {
			t.Fatal(err)
		}
		_, loadErr := s.Load(t.Context(), "other")
		_, replaceErr := s.Replace(t.Context(), other, []byte("y"))
		for call, err := range map[string]error{"Load": loadErr, "Replace": replaceErr, "Create": s.Create(t.Context(), "other", nil)} {
			if !errors.Is(err, cell.ErrDamaged) || errors.Is(err, lock.ErrNotFound) {
				t.Errorf("%s, %s: %v, want %v", what, call, err, cell.ErrDamaged)
			}
		}
		if o, err := c.Get(t.Context(), bucket, "p/other.lock"); err != nil || string(o.Body) != value {
			t.Errorf("%s was written over by %q (%v)", what, o.Body, err)
		}
	}
	s.r.bucket = "missing"
	_, loadErr := s.Load(t.Context(), "cell")
	_, replaceErr := s.Replace(t.Context(), other, nil)
	for what, err := range map[string]error{"Load": loadErr, "Replace": replaceErr, "Create": s.Create(t.Context(), "cell", nil)} {
		if !errors.Is(err, cell.ErrRejected) || errors.Is(err, lock.ErrNotFound) {
			t.Errorf("%s without a bucket: %v, want %v", what, err, cell.ErrRejected)
		}
	}
	for name, conf := range map[string]Config{"no bucket": {Client: c, Bucket: "missing"}, "nothing": {}} {
		if _, err := Open(t.Context(), conf); err == nil || errors.Is(err, ErrUnsafe) {
			t.Errorf("Open with %s: %v", name, err)
		}
	}
}

// TestRestored shows that who holds a version does not write over a bucket that
// was set back, not even when the same bytes have been written again since.
func TestRestored(t *testing.T) {
	t.Parallel()
	f := &fake{}
	s := open(t, Config{Client: fakeClient(t, f)})
	old := create(t, s, "cell", "0")
	backup := f.objects["/logs/cell.lock"]
	held, err := s.Replace(t.Context(), old, []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	f.objects["/logs/cell.lock"] = backup
	if _, err := s.Replace(t.Context(), held, []byte("2")); err == nil {
		t.Error("the older cell was at the held version")
	}
	if _, err := s.Replace(t.Context(), load(t, s, "cell"), []byte("1")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Replace(t.Context(), held, []byte("2")); err == nil || !bytes.Equal(load(t, s, "cell").Body, []byte("1")) {
		t.Errorf("the same bytes, written again, were the held version: %v", err)
	}
}

// TestKeys shows that names that are not the same have keys that are not the
// same on any server, and that no key is the folder of another.
func TestKeys(t *testing.T) {
	t.Parallel()
	r := &register{prefix: "p/"}
	for id, want := range map[string]string{
		"0123abcdef":         "p/0123abcdef.lock",
		"log.example/2026h2": "p/log.example_2f2026h2.lock",
		"A_a":                "p/_41_5fa.lock",
		"..":                 "p/...lock",
	} {
		if got := r.key(id); got != want {
			t.Errorf("the key of %q is %q, want %q", id, got, want)
		}
	}
	seen := make(map[string]string)
	for _, id := range []string{"a", "A", "a/b", "a_2fb", "a.lock", ".", "..", "ä", "\xff", strings.Repeat("x", 200), strings.Repeat("x", 201), strings.Repeat("ä", 500)} {
		key := strings.ToLower(r.key(id))
		if other, ok := seen[key]; ok || len(key) > 220 || strings.Count(key, "/") != 1 {
			t.Errorf("%q and %q have the key %q", id, other, key)
		}
		seen[key] = id
	}
}

// TestLeftovers shows that a trial that cannot be removed is told.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	f := &fake{}
	var out syncBuffer
	l := &lossy{RoundTripper: noDelete{f}}
	c := client(t, &servers.S3{Endpoint: "http://127.0.0.1:1", AccessKeyID: "a", SecretAccessKey: "b"}, l)
	open(t, Config{Client: c, Logger: slog.New(slog.NewTextHandler(&out, nil))})
	if !strings.Contains(out.String(), "PROOF-") {
		t.Errorf("the log is %q", out.String())
	}
}

type noDelete struct{ http.RoundTripper }

func (n noDelete) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Method == http.MethodDelete {
		return nil, os.ErrDeadlineExceeded
	}
	return n.RoundTripper.RoundTrip(req)
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
