package tiles

import (
	"bytes"
	stdgzip "compress/gzip"
	"strings"
	"testing"
)

func zip(t testing.TB, data []byte) []byte {
	t.Helper()
	body, err := new(compressor).compress(data)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestCompress(t *testing.T) {
	t.Parallel()
	c := new(compressor)
	for _, data := range [][]byte{nil, []byte("a"), bytes.Repeat([]byte("kiln "), 10000)} {
		first, err := c.compress(data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(first, []byte(memberHeader)) {
			t.Errorf("%d bytes: header is %x, want %x", len(data), first[:10], memberHeader)
		}
		if got, err := Gunzip(first); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes do not come back: %v", len(data), err)
		}
		if again, err := c.compress(data); err != nil || !bytes.Equal(again, first) {
			t.Errorf("%d bytes: compressing again gives other bytes (%v)", len(data), err)
		}
	}
}

func TestGunzipRefuses(t *testing.T) {
	t.Parallel()
	good := zip(t, []byte("a tile"))
	flip := func(i int, mask byte) []byte {
		b := bytes.Clone(good)
		b[i] ^= mask
		return b
	}
	for name, c := range map[string]struct {
		body []byte
		want string
	}{
		"empty":             {nil, "decompress tile"},
		"not gzip":          {[]byte("a tile, as it is"), "header"},
		"two members":       {append(bytes.Clone(good), good...), "after the gzip member"},
		"trailing byte":     {append(bytes.Clone(good), 0), "after the gzip member"},
		"reserved flag":     {flip(3, 0x80), "reserved flags"},
		"wrong checksum":    {flip(len(good)-8, 1), "checksum"},
		"wrong length":      {flip(len(good)-4, 1), "checksum"},
		"no deflate method": {flip(2, 1), "header"},
	} {
		if got, err := Gunzip(c.body); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v, want an error with %q", name, got, err, c.want)
		}
	}
	for n := range good {
		if got, err := Gunzip(good[:n]); err == nil {
			t.Errorf("first %d of %d bytes: %q, want an error", n, len(good), got)
		}
	}
}

// TestGunzipBound shows on a small bound what keeps a bomb from filling memory.
func TestGunzipBound(t *testing.T) {
	t.Parallel()
	const bound = 1000
	for size, ok := range map[int]bool{bound - 1: true, bound: true, bound + 1: false, 10 << 20: false} {
		body := zip(t, make([]byte, size))
		got, err := gunzip(body, bound)
		if (err == nil) != ok || ok && len(got) != size || !ok && !strings.Contains(err.Error(), "more than 1000 bytes") {
			t.Errorf("%d bytes with a bound of %d: %d bytes, %v", size, bound, len(got), err)
		}
	}
	// It stops reading at the bound: it never comes to where this one breaks off.
	bomb := zip(t, make([]byte, 16<<20))
	if _, err := gunzip(bomb[:len(bomb)/2], bound); err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
		t.Errorf("half a bomb: %v, want an error about the bound", err)
	}
}

func TestGunzipTakesOtherWriters(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	w := stdgzip.NewWriter(&buf)
	w.Name = "tile"
	if _, err := w.Write([]byte("a tile")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := Gunzip(buf.Bytes()); err != nil || string(got) != "a tile" {
		t.Errorf("%q, %v", got, err)
	}
}
