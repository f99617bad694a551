package servers

import (
	"bytes"
	"testing"
)

// FuzzTail keeps the end of whatever a server writes, in pieces of any length, in
// bounded memory.
func FuzzTail(f *testing.F) {
	f.Add([]byte("a line\n"), 3)
	f.Add(bytes.Repeat([]byte("x"), 3*tailSize), 1000)
	f.Add(bytes.Repeat([]byte("x"), tailSize), tailSize)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		if piece < 1 {
			return
		}
		kept := new(tail)
		for rest := data; len(rest) > 0; {
			n := min(piece, len(rest))
			if got, err := kept.Write(rest[:n]); got != n || err != nil {
				t.Fatalf("wrote %d of %d, %v", got, n, err)
			}
			rest = rest[n:]
			if len(kept.data) > tailSize || cap(kept.data) > 4*tailSize {
				t.Fatalf("%d bytes are kept", cap(kept.data))
			}
		}
		if want := bytes.TrimSpace(data[max(0, len(data)-tailSize):]); kept.String() != string(want) {
			t.Fatalf("kept %q, want %q", kept, want)
		}
	})
}

// FuzzProxyError makes S3's answer for a fault of any code.
func FuzzProxyError(f *testing.F) {
	f.Add(503, "SlowDown")
	f.Add(500, "<&>")
	f.Fuzz(func(t *testing.T, status int, code string) {
		if a := errorAnswer(status, code); a == nil || a.status != status {
			t.Fatalf("%+v", a)
		}
	})
}
