package attacks_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const ms = time.Millisecond

// answer notes the status of a raw answer, or how the connection ended.
func (a *arena) answer(c net.Conn) {
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		a.note(cut)
		return
	}
	defer resp.Body.Close()
	_, _ = discard(resp.Body)
	a.note(fmt.Sprint(resp.StatusCode))
}

// slowBodies sends almost all of as large bodies as may be, and then a byte a
// second, so that the server has to keep them.
func slowBodies(ctx context.Context, a *arena) {
	almost := bytes.Repeat([]byte(" "), limit-100)
	workers(ctx, 2500, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, a.head("POST", "ct/v1/add-chain", "Content-Length", fmt.Sprint(limit)))
		if _, err := c.Write(almost); err == nil {
			a.note("held")
		}
		a.trickle(ctx, c)
	})
}

// trickle sends a byte a second until the server has enough.
func (a *arena) trickle(ctx context.Context, c net.Conn) {
	for pause(ctx, time.Second) {
		if _, err := c.Write([]byte(" ")); err != nil {
			a.note(cut)
			return
		}
	}
}

// slowloris sends heads and bodies a byte a second.
func slowloris(ctx context.Context, a *arena) {
	long := a.head("GET", "checkpoint", "X-Long", strings.Repeat("x", 14000))
	workers(ctx, 3000, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		defer c.Close()
		switch i % 3 {
		case 0: // from the first byte on
		case 1: // almost all of a head as long as may be
			_, _ = io.WriteString(c, long[:len(long)-10])
		case 2: // a small body
			_, _ = io.WriteString(c, a.head("POST", "ct/v1/add-chain", "Content-Length", "1000"))
		}
		a.trickle(ctx, c)
	})
}

// idleConnections opens all it can and says nothing.
func idleConnections(ctx context.Context, a *arena) {
	workers(ctx, 6000, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 1)) // until the server closes it
		a.note("closed")
		pause(ctx, 100*ms)
	})
}

// connectStorm opens and closes connections as fast as it can.
func connectStorm(ctx context.Context, a *arena) {
	workers(ctx, 32, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		if i%2 == 0 { // with a reset
			_ = c.(*net.TCPConn).SetLinger(0)
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\n")
		}
		c.Close()
		a.note("connected")
	})
}

// pipelining sends many requests without waiting for an answer.
func pipelining(ctx context.Context, a *arena) {
	many := []byte(strings.Repeat(a.head("GET", "checkpoint"), 100))
	workers(ctx, 32, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		defer c.Close()
		go func() { _, _ = discard(c) }()
		for ctx.Err() == nil {
			if _, err := c.Write(many); err != nil {
				a.note(cut)
				return
			}
			a.note("100 requests")
		}
	})
}

// smuggling sends requests whose length can be read in two ways. None of the
// bytes that could be a second request may be taken as one.
func smuggling(ctx context.Context, a *arena) {
	second := a.head("GET", "ct/v1/get-roots")
	chunk := fmt.Sprintf("0\r\n\r\n%s", second)
	heads := []string{
		a.head("POST", "ct/v1/add-chain", "Content-Length", fmt.Sprint(len(chunk)), "Transfer-Encoding", "chunked"),
		a.head("POST", "ct/v1/add-chain", "Content-Length", "4", "Content-Length", "40"),
		a.head("POST", "ct/v1/add-chain", "Transfer-Encoding", "xchunked"),
		a.head("POST", "ct/v1/add-chain", "Transfer-Encoding", "chunked", "Transfer-Encoding", "identity"),
		a.head("POST", "ct/v1/add-chain", "Content-Length", "+4"),
		a.head("POST", "ct/v1/add-chain", "Content-Length ", "4"),
		a.head("POST", "ct/v1/add-chain", "X: y\nContent-Length", "4"),
		a.head("GET", "checkpoint", "Host", "other.example"),
		strings.Replace(a.head("GET", "checkpoint"), "\r\n", "\n", 1),
		"GET http://[::1%25]/ HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x16\x03\x01\x00\xff",
	}
	workers(ctx, 32, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, heads[i%len(heads)]+chunk)
		a.answer(c)
	})
}

// handshakes begins TLS and drops it, fast or never ending.
func handshakes(ctx context.Context, a *arena) {
	go workers(ctx, 2000, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte{0x16, 3, 1, 0x40, 0}) // a record of 16 KiB is to come
		a.trickle(ctx, c)
	})
	workers(ctx, 32, func(ctx context.Context, i int) {
		c := a.connect(ctx, i)
		if c == nil {
			return
		}
		s := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		if s.HandshakeContext(ctx) == nil {
			a.note("handshake")
		}
		c.Close()
	})
}
