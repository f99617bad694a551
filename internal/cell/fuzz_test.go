package cell

import (
	"bytes"
	"testing"

	"kiln/lock"
)

// FuzzHeld: a caller's Version is one that this package returned, with the body it
// returned, or nothing.
func FuzzHeld(f *testing.F) {
	h := sample().held("place")
	f.Add(h.ID, h.Version, h.Body)
	f.Add(h.ID, h.Version, append(bytes.Clone(h.Body), 0))
	f.Add(h.ID+"x", h.Version, h.Body)
	f.Add(h.ID, h.Version+"=", h.Body)
	h = first("cell", nil).held("")
	f.Add(h.ID, h.Version, h.Body)
	f.Add("cell", "..", []byte{})
	f.Fuzz(func(t *testing.T, id, version string, body []byte) {
		h := lock.Held{ID: id, Version: version, Body: body}
		c, place, ok := parse(h)
		if !ok {
			return
		}
		if again := c.held(place); again.ID != id || again.Version != version || !bytes.Equal(again.Body, body) {
			t.Fatalf("%+v is read as one that is written %+v", h, again)
		}
	})
}
