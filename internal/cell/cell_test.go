package cell

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"kiln/lock"
)

func sample() Cell {
	c := first("log.example/ä\n", []byte("example\n\nbody\x00"))
	for range ancestors + 3 {
		c = c.next(c.Body)
	}
	return c
}

func TestEnvelope(t *testing.T) {
	t.Parallel()
	c := sample()
	data := c.Encode()
	got, err := Decode(c.ID, data)
	if err != nil || !bytes.Equal(got.Body, c.Body) || got.nonce != c.nonce || got.seq != c.seq || len(got.before) != ancestors {
		t.Fatalf("decoded %+v (%v), want %+v", got, err, c)
	}
	if got := c.fate(c.next(nil)); got != won {
		t.Errorf("a version before is %v", got)
	}
	h := c.held("place")
	if got, place, ok := parse(h); !ok || place != "place" || got.nonce != c.nonce {
		t.Errorf("parsed %+v, %q, %v", got, place, ok)
	}
	largest := first(strings.Repeat("\xff", maxID), make([]byte, lock.MaxBody))
	for range ancestors {
		largest = largest.next(largest.Body)
	}
	if n := len(largest.Encode()); n > MaxSize {
		t.Errorf("the largest cell has %d bytes, more than %d", n, MaxSize)
	}
}

// TestDamage shows that no bit of an envelope can be another one, and no byte
// missing or more.
func TestDamage(t *testing.T) {
	t.Parallel()
	c := sample()
	data := c.Encode()
	refused := func(what string, id string, data []byte) {
		t.Helper()
		if _, err := Decode(id, data); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: error %v, want %v", what, err, ErrDamaged)
		}
	}
	for i := range data {
		for bit := range 8 {
			damaged := bytes.Clone(data)
			damaged[i] ^= 1 << bit
			refused("a bit is another", c.ID, damaged)
		}
		refused("cut off", c.ID, data[:i])
	}
	refused("longer", c.ID, append(bytes.Clone(data), 0))
	refused("another cell", c.ID+"x", data)
	refused("foreign", c.ID, []byte("<?xml?>\n\n"))
	refused("too large", c.ID, make([]byte, MaxSize+1))
}

func FuzzDecode(f *testing.F) {
	c := sample()
	f.Add(c.ID, c.Encode())
	f.Add("cell", first("cell", nil).Encode())
	f.Add(c.ID, append(c.Encode(), 0))
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		c, err := Decode(id, data)
		if err == nil && !bytes.Equal(c.Encode(), data) {
			t.Errorf("%q is not what it encodes to", data)
		}
	})
}
