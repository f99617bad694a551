package daemon

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

// pipes is a listener without a network, whose clients have the addresses they
// say.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// from is a connection with an address.
type from struct {
	net.Conn
	addr net.Addr
}

func (f from) RemoteAddr() net.Addr { return f.addr }

// peer is the client's end of a connection.
type peer struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func (p *pipes) dial(t *testing.T, ip string) *peer {
	t.Helper()
	client, server := net.Pipe()
	p.conns <- from{server, &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}}
	return &peer{client, t, bufio.NewReader(client)}
}

func (p *peer) send(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p, text); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

// status reads an answer and returns its status.
func (p *peer) status() int {
	p.t.Helper()
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		p.t.Fatalf("read answer: %v", err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		p.t.Fatalf("read answer's body: %v", err)
	}
	return resp.StatusCode
}

// get sends a request for a path and returns the status of the answer.
func (p *peer) get(path string) int {
	p.t.Helper()
	p.send("GET " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
	return p.status()
}

// wantClosed fails unless the server closes the connection without a word.
func (p *peer) wantClosed() {
	p.t.Helper()
	if _, err := p.r.ReadByte(); !errors.Is(err, io.EOF) {
		p.t.Errorf("connection is open, or closed with %v; want EOF", err)
	}
}
