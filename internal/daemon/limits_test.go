package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// holdHandler answers, on /hold only once release is closed.
func holdHandler(held chan<- struct{}, release <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, "slow body", http.StatusRequestTimeout)
			return
		}
		if r.URL.Path == "/hold" {
			held <- struct{}{}
			<-release
		}
	})
}

// serve runs the public server on pipes in a synctest bubble.
func serve(t *testing.T, maxConnections int, h http.Handler) *pipes {
	t.Helper()
	return serveLogs(t, maxConnections, 1, h)
}

// serveLogs is serve for several logs.
func serveLogs(t *testing.T, maxConnections, logs int, h http.Handler) *pipes {
	t.Helper()
	ln := newPipes()
	p := servePublic(ln, publicConfig{
		maxConnections: maxConnections, logs: logs, handler: h,
		log: slog.New(slog.DiscardHandler), metrics: newMetrics(nil, ""),
	})
	t.Cleanup(func() {
		if err := p.shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return ln
}

func TestOneClientHasItsShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serve(t, 4, holdHandler(nil, nil)) // 2 for each client
		other := ln.dial(t, "192.0.2.2")
		if got := other.get("/"); got != 200 {
			t.Fatalf("status %d", got)
		}
		first := ln.dial(t, "192.0.2.1")
		second := ln.dial(t, "192.0.2.1")
		third := ln.dial(t, "192.0.2.1")
		first.wantClosed()
		for _, c := range []*peer{second, third, other} {
			if got := c.get("/"); got != 200 {
				t.Errorf("status %d, want 200", got)
			}
		}
		// The second was asked before the third, so it has waited longer.
		fourth := ln.dial(t, "192.0.2.1")
		second.wantClosed()
		if got := fourth.get("/"); got != 200 {
			t.Errorf("status %d, want 200", got)
		}
		if got := other.get("/"); got != 200 {
			t.Errorf("status %d of the other client, want 200", got)
		}
	})
}

func TestFullListenerClosesWhatTheLargestClientHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serve(t, 4, holdHandler(nil, nil))
		small := ln.dial(t, "192.0.2.1") // has waited longest, but is one of one
		large := []*peer{ln.dial(t, "192.0.2.2"), ln.dial(t, "192.0.2.2")}
		ln.dial(t, "192.0.2.3").send("GET / HTTP/1.1\r\n") // trickles: it waits too
		late := ln.dial(t, "192.0.2.4")
		large[0].wantClosed()
		for _, c := range []*peer{small, large[1], late} {
			if got := c.get("/"); got != 200 {
				t.Errorf("status %d, want 200", got)
			}
		}
	})
}

func TestBusyConnectionsAreNotCut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		held, release := make(chan struct{}), make(chan struct{})
		ln := serve(t, 4, holdHandler(held, release))
		var busy []*peer
		for i := range 4 {
			c := ln.dial(t, fmt.Sprintf("192.0.2.%d", i/2))
			c.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
			<-held
			busy = append(busy, c)
		}
		ln.dial(t, "192.0.2.0").wantClosed() // over its share
		ln.dial(t, "192.0.2.9").wantClosed() // over the total
		close(release)
		for _, c := range busy {
			if got := c.status(); got != 200 {
				t.Errorf("status %d, want 200", got)
			}
		}
	})
}

func TestClosedConnectionsAreCountedOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := newPipes()
		l := newLimiter(ln, 4, 2, 1, newMetrics(nil, ""))
		for i := range 100 {
			go ln.dial(t, fmt.Sprintf("192.0.2.%d", i))
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			var running *request
			if i%2 == 0 {
				running = c.(*conn).begin(false)
			}
			_, _ = c.Close(), c.Close()
			if running != nil {
				running.end()
			}
		}
		if l.n != 0 || len(l.clients) != 0 {
			t.Errorf("%d connections of %d clients are counted, want none", l.n, len(l.clients))
		}
		_ = ln.Close()
	})
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	const head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
	tests := map[string]struct {
		first string // sent at once
		drip  string // sent each second
		after time.Duration
		want  string // what the server says
	}{
		"silence":     {"", "", readHeaderTimeout, ""},
		"slow header": {"GET / HTTP/1.1\r\n", "a: b\r\n", readHeaderTimeout, ""},
		"slow body":   {head, "x", readTimeout, "HTTP/1.1 408 "},
		"idle":        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "", idleTimeout, "HTTP/1.1 200 "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ln := serve(t, 10, holdHandler(nil, nil))
				c := ln.dial(t, "192.0.2.1")
				began := time.Now()
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					_, err := io.WriteString(c, test.first)
					for err == nil && test.drip != "" {
						time.Sleep(time.Second) // of the bubble: takes no time
						_, err = io.WriteString(c, test.drip)
					}
				}()
				got, err := io.ReadAll(c)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.HasPrefix(string(got), test.want) || test.want == "" && len(got) > 0 {
					t.Errorf("server said %q, want %q", got, test.want)
				}
				// net/http lingers for half a second after an error.
				if after := time.Since(began); after < test.after || after > test.after+time.Second {
					t.Errorf("closed after %v, want %v", after, test.after)
				}
				<-sent
			})
		})
	}
}

func TestHeaderBomb(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serve(t, 10, holdHandler(nil, nil))
		c := ln.dial(t, "192.0.2.1")
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nA: "+strings.Repeat("a", 1<<20))
		}()
		if got := c.status(); got != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("status %d, want 431", got)
		}
		_ = c.Close()
		<-sent
	})
}

func TestPanicIsToldAndCutsOnlyItsConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln, reg := newPipes(), prometheus.NewRegistry()
		var told bytes.Buffer
		p := servePublic(ln, publicConfig{
			maxConnections: 10, metrics: newMetrics(reg, ""),
			log: slog.New(slog.NewTextHandler(&told, nil)), // nothing below INFO
			handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/panic" {
					panic("made by the test")
				}
			}),
		})
		c := ln.dial(t, "192.0.2.1")
		c.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n")
		c.wantClosed()
		if got := ln.dial(t, "192.0.2.1").get("/"); got != 200 {
			t.Errorf("status %d, want 200", got)
		}
		if err := p.shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if line := told.String(); !strings.Contains(line, "level=ERROR") || !strings.Contains(line, "made by the test") || !strings.Contains(line, "limits_test.go") {
			t.Errorf("told %q, want an ERROR with reason and stack", line)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counted := 0.0
		for _, f := range families {
			if f.GetName() == "kiln_daemon_handler_panics_total" {
				counted = f.GetMetric()[0].GetCounter().GetValue()
			}
		}
		if counted != 1 {
			t.Errorf("%v panics counted, want 1", counted)
		}
	})
}

func TestShutdownAnswersWhatIsAtHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		held, release := make(chan struct{}), make(chan struct{})
		ln := newPipes()
		p := servePublic(ln, publicConfig{
			maxConnections: 10, handler: holdHandler(held, release),
			log: slog.New(slog.DiscardHandler), metrics: newMetrics(nil, ""),
		})
		busy, silent := ln.dial(t, "192.0.2.1"), ln.dial(t, "192.0.2.1")
		busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
		<-held
		done := make(chan error)
		began := time.Now()
		go func() { done <- p.shutdown(context.Background()) }()
		silent.wantClosed()
		if after := time.Since(began); after > time.Second {
			t.Errorf("a silent connection held the drain for %v", after)
		}
		close(release)
		if got := busy.status(); got != 200 {
			t.Errorf("status %d, want 200", got)
		}
		if err := <-done; err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
}

func TestShutdownIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		held, release := make(chan struct{}), make(chan struct{})
		ln := newPipes()
		p := servePublic(ln, publicConfig{
			maxConnections: 10, handler: holdHandler(held, release),
			log: slog.New(slog.DiscardHandler), metrics: newMetrics(nil, ""),
		})
		busy := ln.dial(t, "192.0.2.1")
		busy.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
		<-held
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := p.shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v, want deadline exceeded", err)
		}
		busy.wantClosed()
		close(release)
	})
}

func TestClientKey(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1",
		"::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8::1:2":    "2001:db8::",
		"2001:db8:0:1::2":  "2001:db8:0:1::",
	} {
		if got := clientKey(&net.TCPAddr{IP: net.ParseIP(addr), Port: 5}).String(); got != want {
			t.Errorf("%s is counted as %s, want %s", addr, got, want)
		}
	}
	if clientKey(&net.UnixAddr{Name: "a"}).IsValid() {
		t.Error("a Unix socket has an IP address")
	}
}

// With HTTP/2 one connection runs many requests: they are bounded as connections
// are, in all and for each client, and counted out even if the connection ends
// first.
func TestRequestsAreBounded(t *testing.T) {
	t.Parallel()
	l := newLimiter(newPipes(), 4, 2, 1, newMetrics(nil, ""))
	connect := func(ip string) *conn {
		server, client := net.Pipe()
		t.Cleanup(func() { client.Close() })
		c := &conn{Conn: server, limiter: l, key: netip.MustParseAddr(ip)}
		l.admit(c)
		return c
	}
	release := make(chan struct{})
	var wg sync.WaitGroup
	request := func(c *conn) int {
		entered, answered := make(chan struct{}), make(chan int, 1)
		h := countBusy(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			close(entered)
			<-release
		}))
		wg.Go(func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil).WithContext(context.WithValue(t.Context(), connKey{}, c)))
			if w.Code == 503 && (w.Body.Len() > 0 || w.Header().Get("Retry-After") == "") {
				t.Errorf("refused with %q, %v", w.Body, w.Header())
			}
			answered <- w.Code
		})
		select {
		case <-entered:
			return 0
		case code := <-answered:
			return code
		}
	}
	one, other, third := connect("192.0.2.1"), connect("192.0.2.2"), connect("192.0.2.3")
	for i, step := range []struct {
		c    *conn
		want int // 0: it runs
	}{{one, 0}, {one, 0}, {one, 503}, {other, 0}, {third, 0}, {third, 503}} {
		if got := request(step.c); got != step.want {
			t.Errorf("request %d: %d, want %d", i, got, step.want)
		}
	}
	_ = one.Close()
	close(release)
	wg.Wait()
	if len(l.running) != 0 || len(l.requests) != 0 || l.active != 0 {
		t.Errorf("%d requests are counted, of %v", len(l.running), l.requests)
	}
	_, _ = other.Close(), third.Close()
}

// Reads that are stuck leave places for submissions, which have an end of their own.
func TestReadsLeavePlacesForSubmissions(t *testing.T) {
	t.Parallel()
	l := newLimiter(newPipes(), 16, 16, 1, newMetrics(nil, ""))
	server, client := net.Pipe()
	defer client.Close()
	c := &conn{Conn: server, limiter: l, key: netip.MustParseAddr("192.0.2.1")}
	l.admit(c)
	for i, step := range []struct {
		submission bool
		n          int // how many of 20 begin
	}{{false, 14}, {true, 2}, {false, 0}} {
		n := 0
		for range 20 {
			if c.begin(step.submission) != nil {
				n++
			}
		}
		if n != step.n {
			t.Errorf("step %d: %d began, want %d", i, n, step.n)
		}
	}
}

// closes says when it is closed.
type closes struct {
	io.Reader
	closed bool
}

func (c *closes) Close() error {
	c.closed = true
	return nil
}

// With HTTP/2 the server takes bodies in beside the handlers, so those that
// nobody wants are dropped before.
func TestUnwantedBodiesAreDropped(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		method, path string
		proto        int
		want         bool
	}{
		{"GET", "/one/checkpoint", 2, true},
		{"POST", "/one/checkpoint", 2, true},
		{"PUT", "/one/ct/v1/add-chain", 2, true},
		{"POST", "/one/ct/v1/add-chain", 2, false},
		{"POST", "/one/ct/v1/add-pre-chain", 2, false},
		{"GET", "/one/checkpoint", 1, false}, // would wait for it
	} {
		body := &closes{Reader: strings.NewReader("x")}
		r := httptest.NewRequest(test.method, test.path, body)
		r.ProtoMajor = test.proto
		var got bool
		countBusy(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got = body.closed })).ServeHTTP(httptest.NewRecorder(), r)
		if got != test.want {
			t.Errorf("%s %s by HTTP/%d: dropped %v, want %v", test.method, test.path, test.proto, got, test.want)
		}
	}
}

// A client that takes no answers holds connections until others want them: then
// those that have been stuck for too long make room, of the client that has most.
func TestStuckAnswersMakeRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ln := serve(t, 4, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(make([]byte, 1<<20))
		}))
		stuck := func(ip string) *peer {
			c := ln.dial(t, ip)
			c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			synctest.Wait() // a pipe takes nothing that is not read
			return c
		}
		small := stuck("192.0.2.1")
		first, second := stuck("192.0.2.2"), stuck("192.0.2.2")
		last := stuck("192.0.2.3")
		ln.dial(t, "192.0.2.9").wantClosed() // none is stuck for long
		time.Sleep(sendPatience)
		synctest.Wait()
		if got := ln.dial(t, "192.0.2.9").get("/"); got != 200 {
			t.Errorf("status %d", got)
		}
		if _, err := io.Copy(io.Discard, first.r); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
		for name, c := range map[string]*peer{"small": small, "second": second, "last": last} {
			if got := c.status(); got != 200 {
				t.Errorf("%s: status %d", name, got)
			}
		}
	})
}

// An HTTP/2 answer counts until the client has taken it, however short it is, and
// a client that takes none makes room.
func TestStreamsThatNobodyReads(t *testing.T) {
	t.Parallel()
	l := newLimiter(newPipes(), 2, 2, 1, newMetrics(nil, ""))
	server, client := net.Pipe()
	defer client.Close()
	c := &conn{Conn: server, limiter: l, key: netip.MustParseAddr("192.0.2.1")}
	l.admit(c)
	flushing, taken := make(chan struct{}), make(chan struct{})
	h := countBusy(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "short") }))
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			r := httptest.NewRequest("GET", "/", nil).WithContext(context.WithValue(t.Context(), connKey{}, c))
			r.ProtoMajor = 2
			h.ServeHTTP(slowFlush{httptest.NewRecorder(), flushing, taken}, r)
		})
		<-flushing
	}
	if c.begin(false) != nil {
		t.Error("a third request runs beside two whose answers nobody has taken")
	}
	l.mu.Lock()
	for r := range l.running {
		r.since = time.Now().Add(-2 * sendPatience)
	}
	l.looked = time.Time{}
	l.mu.Unlock()
	r := c.begin(false)
	if r == nil {
		t.Error("a request finds no room though answers are stuck")
	} else {
		r.end()
	}
	if !c.gone {
		t.Error("the connection with stuck answers is open")
	}
	close(taken)
	wg.Wait()
}

// slowFlush is a response whose client takes nothing until it is let go.
type slowFlush struct {
	*httptest.ResponseRecorder
	flushing chan<- struct{}
	taken    <-chan struct{}
}

func (s slowFlush) FlushError() error {
	s.flushing <- struct{}{}
	<-s.taken
	return nil
}
