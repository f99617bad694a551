package frontend

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"
)

// A body that stops half-way after the answer: the connection is closed, and
// nothing waits for the rest.
func TestStalledBodyIsCutOff(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		configure func(*Config)
		head      string
		code      int
	}{
		"read-only": {func(c *Config) { c.ReadOnly = func() bool { return true } }, "Content-Length: 1000\r\n\r\n{", 410},
		"too large": {nil, fmt.Sprintf("Content-Length: %d\r\n\r\n%s", DefaultMaxBody+12, bytes.Repeat([]byte(" "), 400_000)), 413},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newRig(t, test.configure).server()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if _, err := fmt.Fprintf(conn, "POST /ct/v1/add-chain HTTP/1.1\r\nHost: log\r\n%s", test.head); err != nil {
				t.Fatal(err)
			}
			in := bufio.NewReader(conn)
			resp, err := http.ReadResponse(in, &http.Request{Method: "POST"})
			if err != nil {
				t.Fatal(err)
			}
			readAll(t, resp)
			if resp.StatusCode != test.code {
				t.Errorf("status is %d, want %d", resp.StatusCode, test.code)
			}
			// The deadline above fails this if the server waits on.
			if _, err := in.ReadByte(); err == nil || isTimeout(err) {
				t.Errorf("connection was not closed: %v", err)
			}
		})
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// However many slow bodies one address sends, another one is served.
func TestSlowBodiesOfOneClient(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxInFlight = 4 })
	request := func(from string, body io.Reader) *http.Request {
		req := httptest.NewRequest("POST", "/ct/v1/add-chain", body)
		req.RemoteAddr = from
		return req
	}
	var wg sync.WaitGroup
	var slow []*io.PipeWriter
	for range 4 {
		in, out := io.Pipe()
		slow = append(slow, out)
		wg.Go(func() { r.Frontend.ServeHTTP(httptest.NewRecorder(), request("192.0.2.5:1000", in)) })
		if _, err := out.Write([]byte("{")); err != nil { // returns when it is being read
			t.Fatal(err)
		}
	}
	w := httptest.NewRecorder()
	r.Frontend.ServeHTTP(w, request("192.0.2.5:2000", bytes.NewReader(r.v.body(t, "leaf_16", "intermediate"))))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("one more of the slow client: %d", w.Code)
	}
	w = httptest.NewRecorder()
	r.Frontend.ServeHTTP(w, request("192.0.2.9:1000", bytes.NewReader(r.v.body(t, "leaf_16", "intermediate"))))
	if w.Code != 200 {
		t.Errorf("another client: %d %s", w.Code, w.Body)
	}
	for _, out := range slow {
		out.Close()
	}
	wg.Wait()
	r.reading.empty(t, "reading")
}

func TestClientOf(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1",
		"[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::/64", "pipe": "pipe",
	} {
		if got := clientOf(remote); got != want {
			t.Errorf("clientOf(%s) = %s, want %s", remote, got, want)
		}
	}
}
