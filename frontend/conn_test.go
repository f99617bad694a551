package frontend

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kiln/entry"
)

// post sends a body and reports whether its connection had been used before.
func post(t *testing.T, c *http.Client, url string, body io.Reader) (resp *http.Response, reused bool) {
	t.Helper()
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
	})
	req, err := http.NewRequestWithContext(ctx, "POST", url, body)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err = c.Do(req); err != nil {
		t.Fatal(err)
	}
	return resp, reused
}

// TestConnectionSurvives sends one bad request after the other on a connection:
// each is answered, and none costs the next its connection (SUB-06).
func TestConnectionSurvives(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	addr := r.server().Listener.Addr().String()
	good := r.v.body(t, "leaf_16", "intermediate")
	spaces := bytes.Repeat([]byte(" "), 2<<20)
	chunked := fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(spaces), spaces)
	sized := func(b []byte) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(b), b) }

	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, step := range []struct {
		name, path, rest string
		code             int
	}{
		{"good", "add-chain", sized(good), 200},
		{"not JSON", "add-chain", sized([]byte("not json")), 400},
		{"bad base64", "add-chain", sized([]byte(`{"chain":["!"]}`)), 400},
		{"2 MiB", "add-chain", sized(spaces), 413},
		{"2 MiB in chunks", "add-pre-chain", chunked, 413},
		{"wrong path", "get-sth", sized(good), 404},
		{"good again", "add-chain", sized(good), 200},
	} {
		// The request is written while the answer may already be on its way.
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := fmt.Fprintf(conn, "POST /ct/v1/%s HTTP/1.1\r\nHost: log\r\n%s", step.path, step.rest); err != nil {
				t.Errorf("%s: %v", step.name, err)
			}
		})
		resp, err := http.ReadResponse(in, &http.Request{Method: "POST"})
		wg.Wait()
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		body := readAll(t, resp)
		if resp.StatusCode != step.code || resp.Close {
			t.Errorf("%s: got %d %s, close %v; want %d", step.name, resp.StatusCode, body, resp.Close, step.code)
		}
	}
}

// TestTooLargeAtOnce shows that a body over the bound is refused by its
// announced length, before any of it arrives.
func TestTooLargeAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxBody = 1000 })
	addr := r.server().Listener.Addr().String()
	for _, test := range []struct {
		header string
		close  bool // the rest is not worth waiting for
	}{
		{"Content-Length: 1001\r\n\r\n", false},
		{"Content-Length: 9000000000\r\n\r\n", true},
		{"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n", true},
	} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /ct/v1/add-chain HTTP/1.1\r\nHost: log\r\n%s", test.header)
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(t, resp)
		if resp.StatusCode != 413 || resp.Close != test.close || !strings.Contains(string(body), "at most 1000 bytes") {
			t.Errorf("%q: got %d %s, close %v; want 413, close %v", test.header, resp.StatusCode, body, resp.Close, test.close)
		}
		checkError(t, resp.StatusCode, resp.Header, body)
		conn.Close()
	}
}

// TestOverload fills the only slot: the next submission is refused before its
// body arrives, everything else goes on, and the slot comes back (SUB-38).
func TestOverload(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxInFlight = 1 })
	entered, leave := make(chan struct{}), make(chan struct{})
	r.back.add = func(context.Context, *entry.Pending) error {
		entered <- struct{}{}
		<-leave
		return nil
	}
	s := r.server()
	body := r.v.body(t, "leaf_16", "intermediate")
	var wg sync.WaitGroup
	wg.Go(func() {
		resp, err := s.Client().Post(s.URL+"/ct/v1/add-chain", "", bytes.NewReader(body))
		if err != nil || resp.StatusCode != 200 {
			t.Errorf("first: %v, %v", resp, err)
			return
		}
		readAll(t, resp)
	})
	<-entered
	if got := r.counter("kiln_frontend_in_flight_requests"); got != 1 {
		t.Errorf("metrics count %v in flight, want 1", got)
	}

	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	fmt.Fprintf(conn, "POST /ct/v1/add-pre-chain HTTP/1.1\r\nHost: log\r\nContent-Length: %d\r\n\r\n", len(body))
	resp, err := http.ReadResponse(in, &http.Request{Method: "POST"})
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 503 {
		t.Errorf("second: got %d, want 503", resp.StatusCode)
	}
	checkError(t, resp.StatusCode, resp.Header, readAll(t, resp))
	// Its body comes late, and the connection is as good as new.
	fmt.Fprintf(conn, "%sGET /ct/v1/get-roots HTTP/1.1\r\nHost: log\r\n\r\n", body)
	if resp, err = http.ReadResponse(in, nil); err != nil || resp.StatusCode != 200 {
		t.Errorf("get-roots while full, on the same connection: %v, %v", resp, err)
	} else {
		readAll(t, resp)
	}

	close(leave)
	wg.Wait()
	r.back.add = nil
	resp, _ = post(t, s.Client(), s.URL+"/ct/v1/add-chain", bytes.NewReader(body))
	if readAll(t, resp); resp.StatusCode != 200 {
		t.Errorf("afterwards: got %d, want 200", resp.StatusCode)
	}
}

// TestKeepAlive uses net/http's client, as CAs do.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	s := r.server()
	for i, test := range []struct {
		body string
		code int
	}{{"{}", 400}, {"not json", 400}, {string(r.v.body(t, "leaf_16", "intermediate")), 200}, {"[]", 400}} {
		resp, reused := post(t, s.Client(), s.URL+"/ct/v1/add-chain", strings.NewReader(test.body))
		if readAll(t, resp); resp.StatusCode != test.code || reused != (i > 0) {
			t.Errorf("request %d: got %d, connection reused: %v; want %d", i, resp.StatusCode, reused, test.code)
		}
	}
}

// pipeListener serves connections in memory, whose deadlines follow the clock
// of a synctest bubble.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// inBubble serves a frontend inside a bubble and hands f a connection to it.
func inBubble(t *testing.T, change func(*Config), f func(t *testing.T, r *rig, conn net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, change)
		l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
		s := &http.Server{Handler: r.Frontend}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Serve(l); err != http.ErrServerClosed {
				t.Errorf("serve: %v", err)
			}
		})
		client, server := net.Pipe()
		l.conns <- server
		f(t, r, client)
		client.Close()
		s.Close()
		wg.Wait()
	})
}

// TestSlowBody sends half a body and stops: a slot is not held for longer than
// BodyTimeout.
func TestSlowBody(t *testing.T) {
	t.Parallel()
	change := func(c *Config) { c.BodyTimeout = 3 * time.Second }
	inBubble(t, change, func(t *testing.T, r *rig, conn net.Conn) {
		start := time.Now()
		fmt.Fprintf(conn, "POST /ct/v1/add-chain HTTP/1.1\r\nHost: log\r\nContent-Length: 100\r\n\r\n{\"chain\":")
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 408 || !resp.Close {
			t.Errorf("got %d, close %v; want 408 and close", resp.StatusCode, resp.Close)
		}
		checkError(t, resp.StatusCode, resp.Header, readAll(t, resp))
		if elapsed := time.Since(start); elapsed != 3*time.Second {
			t.Errorf("answered after %v, want 3s", elapsed)
		}
	})
}

// TestSlowAnswer shows that the bound on the body's time ends with the body: an
// SCT may take longer.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	change := func(c *Config) { c.BodyTimeout = time.Second }
	inBubble(t, change, func(t *testing.T, r *rig, conn net.Conn) {
		r.back.add = func(ctx context.Context, _ *entry.Pending) error {
			select {
			case <-time.After(20 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		body := r.v.body(t, "leaf_16", "intermediate")
		fmt.Fprintf(conn, "POST /ct/v1/add-chain HTTP/1.1\r\nHost: log\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: "POST"})
		if err != nil {
			t.Fatal(err)
		}
		if text := readAll(t, resp); resp.StatusCode != 200 {
			t.Errorf("got %d %s, want 200", resp.StatusCode, text)
		}
	})
}

// TestAbortedBody closes the connection in the middle of a body: nothing goes
// on to the batcher, and the slot comes back (SUB-41).
func TestAbortedBody(t *testing.T) {
	t.Parallel()
	inBubble(t, func(c *Config) { c.MaxInFlight = 1 }, func(t *testing.T, r *rig, conn net.Conn) {
		body := r.v.body(t, "leaf_16", "intermediate")
		fmt.Fprintf(conn, "POST /ct/v1/add-chain HTTP/1.1\r\nHost: log\r\nContent-Length: %d\r\n\r\n%s", len(body), body[:len(body)-1])
		conn.Close()
		synctest.Wait()
		if _, added := r.back.size(); added != 0 {
			t.Error("half a submission went to the batcher")
		}
		if w := r.do("POST", "/ct/v1/add-chain", body); w.Code != 200 {
			t.Errorf("second try: got %d %s, want 200", w.Code, w.Body)
		}
		if r.logs.String() != "" {
			t.Errorf("log says %q, want nothing", r.logs)
		}
	})
}

// TestExpectContinue shows that a refused client which waits to be told to send
// its body is not waited for in turn.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	inBubble(t, nil, func(t *testing.T, _ *rig, conn net.Conn) {
		start := time.Now()
		fmt.Fprint(conn, "POST /ct/v1/add-chain HTTP/1.1\r\nHost: log\r\nContent-Length: 2000000\r\nExpect: 100-continue\r\n\r\n")
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 413 ") {
			t.Errorf("got %q, %v; want a 413 and the end", answer, err)
		}
		if elapsed := time.Since(start); elapsed >= drainTimeout {
			t.Errorf("the connection ended after %v", elapsed)
		}
	})
}
