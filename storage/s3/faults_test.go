package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/internal/s3client"
	"kiln/internal/servers"
	"kiln/storage"
	"kiln/storage/storagetest"
)

// rig is a bucket behind a proxy, and another handle past it.
type rig struct {
	*Bucket
	proxy  *servers.Proxy
	direct *Bucket
}

func newRig(t testing.TB, timeout time.Duration) *rig {
	t.Helper()
	s, err := server()
	if err != nil {
		t.Fatal(err)
	}
	p, err := servers.NewProxy(t.Context(), s.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	client := newClient(t, func(c *s3client.Config) { c.Endpoint, c.Timeout = p.Endpoint, timeout })
	return &rig{
		Bucket: openBucket(t, Config{Client: client, Prefix: prefix(t)}),
		proxy:  p,
		direct: openBucket(t, Config{Client: newClient(t), Prefix: prefix(t)}),
	}
}

func put(t testing.TB, b storage.Bucket, path, body string) {
	t.Helper()
	if err := b.Create(t.Context(), storage.Object{Path: path, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, b storage.Bucket, path, body string) {
	t.Helper()
	if got, err := b.Get(t.Context(), path); err != nil || string(got) != body {
		t.Errorf("%s holds %q (%v), want %q", path, got, err, body)
	}
}

// operations are what a log does with its storage. Each has exactly the effect
// that it tests, whatever happens to its requests.
var operations = map[string]func(t *testing.T, r *rig, fault func()){
	"Create": func(t *testing.T, r *rig, fault func()) {
		fault()
		put(t, r, "tile/0/000", "body")
		want(t, r.direct, "tile/0/000", "body")
	},
	"CreateSame": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "tile/0/000", "body")
		fault()
		put(t, r, "tile/0/000", "body")
	},
	"CreateDifferent": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "tile/0/000", "body")
		fault()
		err := r.Create(t.Context(), storage.Object{Path: "tile/0/000", Body: []byte("other")})
		if !errors.Is(err, storage.ErrDifferent) {
			t.Errorf("Create over other bytes: %v", err)
		}
		want(t, r.direct, "tile/0/000", "body")
	},
	"UpdateNew": func(t *testing.T, r *rig, fault func()) {
		fault()
		increment(t, r, "1")
	},
	"Update": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "checkpoint", "5")
		fault()
		increment(t, r, "6")
	},
	"UpdateAgain": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "checkpoint", "5")
		increment(t, r, "6")
		fault()
		increment(t, r, "7")
	},
	"UpdateOfAnother": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "checkpoint", "5")
		increment(t, r, "6")
		increment(t, &rig{Bucket: r.direct, direct: r.direct}, "7")
		fault()
		increment(t, r, "8")
	},
	"Get": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "tile/0/000", "body")
		put(t, r.direct, "checkpoint", "text")
		fault()
		want(t, r, "tile/0/000", "body")
		want(t, r, "checkpoint", "text")
	},
	"GetNothing": func(t *testing.T, r *rig, fault func()) {
		fault()
		if _, err := r.Get(t.Context(), "tile/0/000"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Get of nothing: %v", err)
		}
	},
	"Delete": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "staging/1", "body")
		fault()
		if err := r.Delete(t.Context(), "staging/1"); err != nil {
			t.Error(err)
		}
		if _, err := r.direct.Get(t.Context(), "staging/1"); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Get after Delete: %v", err)
		}
	},
	"List": func(t *testing.T, r *rig, fault func()) {
		put(t, r.direct, "tile/0/000", "body")
		fault()
		n := 0
		err := r.List(t.Context(), "tile/", func(storage.Info) error { n++; return nil })
		if err != nil || n != 1 {
			t.Errorf("%d objects are listed (%v)", n, err)
		}
	},
}

func increment(t *testing.T, r *rig, result string) {
	t.Helper()
	if err := storagetest.Increment(t.Context(), r.Bucket, "checkpoint"); err != nil {
		t.Error(err)
	}
	want(t, r.direct, "checkpoint", result)
}

// TestFaults injects each fault into each operation, once and twice.
func TestFaults(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]servers.Fault{
		"Cut":            {},
		"CutAfter":       {AfterEffect: true},
		"Hang":           {Hang: true},
		"HangAfter":      {Hang: true, AfterEffect: true},
		"Truncate":       {Truncate: true},
		"500":            {Status: 500, Code: "InternalError"},
		"500After":       {Status: 500, Code: "InternalError", AfterEffect: true},
		"503":            {Status: 503, Code: "SlowDown"},
		"503After":       {Status: 503, Code: "SlowDown", AfterEffect: true},
		"404Proxy":       {Status: 404, Code: "NoRoute"},
		"409Put":         {Status: 409, Code: "ConditionalRequestConflict", Method: http.MethodPut},
		"409PutAfter":    {Status: 409, Code: "ConditionalRequestConflict", Method: http.MethodPut, AfterEffect: true},
		"412Put":         {Status: 412, Code: "PreconditionFailed", Method: http.MethodPut},
		"412PutAfter":    {Status: 412, Code: "PreconditionFailed", Method: http.MethodPut, AfterEffect: true},
		"400PutDamaged":  {Status: 400, Code: "BadDigest", Method: http.MethodPut},
		"Cut2ndAfter":    {Skip: 1, AfterEffect: true},
		"500PutTwice":    {Status: 500, Code: "InternalError", Method: http.MethodPut, AfterEffect: true, Times: 2},
		"500GetTwice":    {Status: 500, Code: "InternalError", Method: http.MethodGet, Times: 2},
		"CutFirstThree":  {Times: 3},
		"NothingAtFirst": {Through: true, Delay: time.Millisecond},
	} {
		for op, do := range operations {
			t.Run(name+"/"+op, func(t *testing.T) {
				t.Parallel()
				// A hanging request has to end by a time-out, the others must not.
				timeout := time.Minute
				if fault.Hang {
					timeout = 250 * time.Millisecond
				}
				r := newRig(t, timeout)
				do(t, r, func() { r.proxy.Inject(fault) })
			})
		}
	}
}

// TestManyFaults counts on through a network that loses every third answer.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t, time.Minute)
	for i := range 10 {
		r.proxy.Inject(servers.Fault{Skip: 2 * i, AfterEffect: true, Method: http.MethodPut})
	}
	for i := range 40 {
		increment(t, r, fmt.Sprint(i+1))
	}
	if n := r.proxy.Heal(); n != 0 {
		t.Errorf("%d faults were not met", n)
	}
}

// TestGivesUp checks that a server that is never well is not asked for ever, and
// that what is told then is no answer.
func TestGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, status := range []int{500, 503} {
			requests := 0
			b := fakeBucket(t, func(r *http.Request) *http.Response {
				requests++
				return plain(status, "")
			})
			o := storage.Object{Path: "tile/0/000", Body: []byte("x")}
			for name, do := range map[string]func() error{
				"create": func() error { return b.Create(t.Context(), o) },
				"update": func() error { return b.Update(t.Context(), o, func([]byte) ([]byte, error) { return nil, nil }) },
				"get":    func() error { _, err := b.Get(t.Context(), o.Path); return err },
				"delete": func() error { return b.Delete(t.Context(), o.Path) },
			} {
				requests = 0
				start := time.Now()
				err := do()
				if err == nil || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDifferent) || !strings.Contains(err.Error(), name+" object tile/0/000") {
					t.Errorf("%s: error %v", name, err)
				}
				if took := time.Since(start); requests < 5 || requests > 20 || took < 3*time.Second || took > 2*time.Minute {
					t.Errorf("%s: %d requests in %v", name, requests, took)
				}
			}
		}
	})
}

// fakeBucket is a bucket on a function, which needs no network: time may be
// that of a test.
func fakeBucket(t *testing.T, answer func(*http.Request) *http.Response) *Bucket {
	t.Helper()
	client, err := s3client.New(t.Context(), s3client.Config{
		Endpoint: "http://s3.test", PathStyle: true, AccessKeyID: "a", SecretAccessKey: "b",
		Timeout: 10 * time.Second, // what the tests' late answers are measured by
		Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := answer(r)
			if err := r.Context().Err(); err != nil {
				return nil, err
			}
			resp.Request = r
			return resp, nil
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return openBucket(t, Config{Client: client})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestDamage flips a bit of a body on its way in either direction.
func TestDamage(t *testing.T) {
	t.Parallel()
	var once sync.Once
	client := newClient(t, func(c *s3client.Config) {
		connections := &http.Transport{}
		t.Cleanup(connections.CloseIdleConnections)
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPut {
				once.Do(func() {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					body[0] ^= 1
					r.Body = io.NopCloser(bytes.NewReader(body))
				})
			}
			return connections.RoundTrip(r)
		})
	})
	b := openBucket(t, Config{Client: client, Prefix: prefix(t)})
	put(t, b, "tile/0/000", "body")
	want(t, b, "tile/0/000", "body")

	fake := &fakeServer{damageReads: 2}
	b = openBucket(t, Config{Client: fake.start(t)})
	put(t, b, "tile/0/000", "body")
	want(t, b, "tile/0/000", "body")
	fake.damageReads = 1000
	if body, err := b.Get(t.Context(), "tile/0/000"); err == nil || !strings.Contains(err.Error(), "MD5") {
		t.Errorf("a damaged object was read as %q (%v)", body, err)
	}
}

// TestRestart writes while the server is killed, paused and started again:
// nothing is lost, and all goes on.
func TestRestart(t *testing.T) {
	t.Parallel()
	own, err := startServer(t.TempDir(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Kill() })
	// ticks has one for each request that ended, however, while it is waited for.
	ticks := make(chan struct{})
	atLeast := func(n int) {
		for range n {
			<-ticks
		}
	}
	connections := &http.Transport{MaxIdleConnsPerHost: 10}
	t.Cleanup(connections.CloseIdleConnections)
	b := openBucket(t, Config{Prefix: "log", Client: newClient(t, func(c *s3client.Config) {
		c.Endpoint, c.AccessKeyID, c.SecretAccessKey, c.Timeout = own.Endpoint, own.AccessKeyID, own.SecretAccessKey, time.Second
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			defer func() {
				select {
				case ticks <- struct{}{}:
				default:
				}
			}()
			return connections.RoundTrip(r)
		})
	})})
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var created [4]int
	count := 0
	for w := range created {
		wg.Go(func() {
			for ; ctx.Err() == nil; created[w]++ {
				persistently(t, func() error {
					path := fmt.Sprintf("tile/%d/%d", w, created[w])
					return b.Create(t.Context(), storage.Object{Path: path, Body: []byte(path)})
				})
			}
		})
	}
	wg.Go(func() {
		for ; ctx.Err() == nil; count++ {
			persistently(t, func() error { return storagetest.Increment(t.Context(), b, "checkpoint") })
		}
	})
	for _, disturb := range []func() error{
		own.Kill, func() error { return own.Start(t.Context()) },
		own.Pause, own.Resume,
		own.Stop, func() error { return own.Start(t.Context()) },
	} {
		atLeast(10)
		if err := disturb(); err != nil {
			t.Fatal(err)
		}
	}
	atLeast(50)
	stop()
	wg.Wait()
	for w, n := range created {
		for i := range n {
			path := fmt.Sprintf("tile/%d/%d", w, i)
			want(t, b, path, path)
		}
	}
	want(t, b, "checkpoint", fmt.Sprint(count))
}

// persistently is what a caller does after errors of which nothing is known: it
// asks again.
func persistently(t *testing.T, do func() error) {
	for range 20 {
		err := do()
		if err == nil {
			return
		}
		if errors.Is(err, storage.ErrDifferent) || errors.Is(err, storage.ErrNotFound) {
			t.Error(err)
			return
		}
	}
	t.Error("no attempt in twenty succeeded")
}
