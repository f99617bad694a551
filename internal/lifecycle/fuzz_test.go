package lifecycle

import (
	"testing"

	"kiln/internal/fuzztest"
	"kiln/lock"
	"kiln/lock/mem"
)

// FuzzMark: what is taken for a mark is what this package writes for it, byte for
// byte. A cell that holds anything else is damaged, never a mark of the year 1970.
func FuzzMark(f *testing.F) {
	for _, body := range []string{
		`{"at_millis":1780000000000}`, `{"at_millis":1780000000000,"note":"why"}`, `{}`, `null`, `{"at_millis":0}`, `{"at_millis":-1}`,
		`{"note":"why"}`, `{"at_millis":1780000000000,"note":""}`, `{"AT_MILLIS":1780000000000}`, ` {"at_millis":1}`, `{"at_millis":1,"at_millis":2}`,
		`{"at_millis":1,"note":"\ud800"}`, `[]`, "", "\x00",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > lock.MaxBody {
			return
		}
		m, err := parseMark("log.frozen", body)
		if err != nil {
			fuzztest.Sentence(t, err, "log.frozen")
			return
		}
		store := mem.New()
		if _, err := makeMark(t.Context(), store, "log.frozen", m); err != nil {
			t.Fatal(err)
		}
		held, err := store.Load(t.Context(), "log.frozen")
		if err != nil || string(held.Body) != string(body) {
			t.Fatalf("%s is %+v, which is written %s (%v)", body, m, held.Body, err)
		}
	})
}
