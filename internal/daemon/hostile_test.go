package daemon_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// dialFrom connects to the public port from a loopback address.
func (r *rig) dialFrom(ip string) net.Conn {
	r.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	c, err := d.DialContext(r.t.Context(), "tcp", r.d.Addr())
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// flood keeps opening connections, each with some bytes of a request, until the
// returned function is called.
func (r *rig) flood(ip, bytes string) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		var open []net.Conn
		defer func() {
			for _, c := range open {
				c.Close()
			}
		}()
		for {
			select {
			case <-quit:
				return
			default:
			}
			c := r.dialFrom(ip)
			_, _ = io.WriteString(c, bytes) // it may be closed already
			if open = append(open, c); len(open) > 1000 {
				open[0].Close()
				open = open[1:]
			}
		}
	})
	return func() {
		close(quit)
		wg.Wait()
	}
}

func TestIdleConnectionsShutNobodyOut(t *testing.T) {
	t.Parallel()
	for name, bytes := range map[string]string{"silent": "", "slow header": "POST /one/ct/v1/add-chain HTTP/1.1\r\nA: "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "one")
			r.cfg.MaxConnections = 100
			r.start()
			// 1,000 from the good client's own address, where they have no
			// right to more than half of the connections.
			for range 1000 {
				c := r.dialFrom("127.0.0.1")
				defer c.Close()
				_, _ = io.WriteString(c, bytes)
			}
			r.submit(0, r.chain())
			// And from others, who go on while the good client works.
			defer r.flood("127.0.0.2", bytes)()
			for range 20 {
				sct := r.submit(0, r.chain())
				if err := r.auditor(0).Holds(t.Context(), sct); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestSlowBodiesShutNobodyOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.cfg.MaxConnections = 100
	r.start()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range 200 { // half of the connections are this client's share
		c := r.dialFrom("127.0.0.3")
		conns = append(conns, c)
		_, _ = io.WriteString(c, "POST /one/ct/v1/add-chain HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n{")
	}
	for range 20 {
		r.submit(0, r.chain())
	}
}

func TestHeaderBombsHarmNobody(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	for range 20 {
		c := r.dialFrom("127.0.0.1")
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = io.WriteString(c, "GET /one/checkpoint HTTP/1.1\r\nHost: a\r\nA: "+strings.Repeat("a", 1<<20)+"\r\n\r\n")
		})
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("status %d, want 431", resp.StatusCode)
		}
		var reset *net.OpError // the answer may be lost while the bomb still flies
		if err != nil && !errors.As(err, &reset) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("read answer: %v", err)
		}
		c.Close()
		wg.Wait()
	}
	r.submit(0, r.chain())
}

// What no handler has to see is answered in a way that clients understand.
func TestOddRequests(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	for request, want := range map[string]int{
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":                                     404,
		"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n":                             404,
		"GET /one HTTP/1.1\r\nHost: a\r\n\r\n":                                      404,
		"GET //one/checkpoint HTTP/1.1\r\nHost: a\r\n\r\n":                          404,
		"GET /one/../one/checkpoint HTTP/1.1\r\nHost: a\r\n\r\n":                    404,
		"GET /one/%63heckpoint HTTP/1.1\r\nHost: a\r\n\r\n":                         404,
		"GET http://b.example/one/checkpoint HTTP/1.1\r\nHost: a\r\n\r\n":           200,
		"GET /one/checkpoint?%zz HTTP/1.1\r\nHost: a\r\n\r\n":                       200,
		"GET /one/checkpoint HTTP/1.0\r\n\r\n":                                      200,
		"GET /one/checkpoint HTTP/1.1\r\n\r\n":                                      400,
		"GET /one/\x00 HTTP/1.1\r\nHost: a\r\n\r\n":                                 400,
		"GET /one/checkpoint HTTP/9.9\r\nHost: a\r\n\r\n":                           505,
		"\x16\x03\x01\x00\x05hello\r\n\r\n":                                         400,
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n":                   405,
		"DELETE /one/checkpoint HTTP/1.1\r\nHost: a\r\n\r\n":                        405,
		"GET /one/ct/v1/add-chain HTTP/1.1\r\nHost: a\r\n\r\n":                      405,
		"GET /one/ct/v1/get-sth HTTP/1.1\r\nHost: a\r\n\r\n":                        404,
		"GET /" + strings.Repeat("a", 10<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n":      404,
		"GET /" + strings.Repeat("a", 40<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n":      431,
		"GET /one/checkpoint HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x\r\n\r\n":   501,
		"GET /one/checkpoint HTTP/1.1\r\nHost: a\r\nExpect: the unexpected\r\n\r\n": 417,
	} {
		c := r.dialFrom("127.0.0.1")
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("%.60q: %v", request, err)
		} else if resp.StatusCode != want {
			t.Errorf("%.60q: status %d, want %d", request, resp.StatusCode, want)
		} else if location := resp.Header.Get("Location"); location != "" {
			t.Errorf("%.60q: redirected to %s", request, location)
		}
		c.Close()
	}
}

// Clients of one connection after another, as after a proxy, never lose one.
func TestKeepAlive(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	c := r.dialFrom("127.0.0.1")
	defer c.Close()
	in := bufio.NewReader(c)
	for i := range 50 {
		path, want := "/one/checkpoint", 200
		if i%2 == 1 {
			path, want = "/one/tile/0/000", 404
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != want {
			t.Fatalf("request %d: status %d, %v", i, resp.StatusCode, err)
		}
	}
}
