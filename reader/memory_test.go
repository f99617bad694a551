package reader

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"
)

func client(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

// TestMemoryTable takes and gives back, in steps.
func TestMemoryTable(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	m := newMemory(16*mib, newMetrics(nil)) // 8 MiB of each kind, 4 for one client
	holds := map[string]*hold{}
	for i, step := range []struct {
		name   string
		client byte
		bytes  int64
		ok     bool
	}{
		{"a", 1, mib, true},
		{"b", 1, mib, true},
		{"c", 1, mib, true},
		{"d", 1, mib, true},
		{"e", 1, 1, false}, // half is the most for one client
		{"f", 2, mib, true},
		{"g", 3, 100 * mib, true}, // a large one may always be there
		{"h", 4, 2 * mib, false},  // but not another beside it
		{"i", 4, mib, true},       // those in use do not wait for it
		{"j", 5, mib, true},
		{"k", 6, mib, true},
		{"l", 7, 1, false}, // all is taken
		{"k", 6, 0, true},
		{"l", 7, mib, true},
		{"l", 7, 2 * mib, false}, // decoded it would be large: it keeps what it has
		{"g", 3, 3 * mib, true},
		{"l", 7, 2 * mib, true}, // to the other kind
		{"k", 6, mib, true},     // whose place is free then
	} {
		h := holds[step.name]
		if h == nil {
			h = m.hold(client(step.client))
			holds[step.name] = h
		}
		if err := h.resize(step.bytes); (err == nil) != step.ok {
			t.Errorf("step %d: %s to %d: %v, want success %v", i, step.name, step.bytes, err, step.ok)
		}
	}
	for _, h := range holds {
		h.release()
		h.release() // harmless
	}
	for _, b := range []*budget{&m.usual, &m.large} {
		if b.total != 0 || len(b.byClient) != 0 {
			t.Errorf("%d bytes of %v were not given back", b.total, b.byClient)
		}
	}
}

// TestSlowAnswersMakeRoom: whoever wants memory that is not there has those cut
// off who are sent to for too long, those of the largest client first, and no
// more than it takes.
func TestSlowAnswersMakeRoom(t *testing.T) {
	t.Parallel()
	m := newMemory(1600, newMetrics(nil)) // 800 of the usual kind
	cut := map[string]bool{}
	sending := func(name string, by byte, bytes int64, since time.Duration) *hold {
		h := m.hold(client(by))
		if err := h.resize(bytes); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		h.send(httptest.NewRecorder())
		h.cut = func() { cut[name] = true }
		h.since = time.Now().Add(-since)
		return h
	}
	sending("new", 1, 300, 0)
	sending("long", 2, 100, 20*time.Second)
	sending("longer, of a larger client", 3, 100, 30*time.Second)
	sending("long, of a larger client", 3, 200, 10*time.Second)
	ended := sending("ended", 4, 50, time.Minute)
	ended.release()
	reading := m.hold(client(5)) // is not sent yet
	if err := reading.resize(100); err != nil {
		t.Fatal(err)
	}
	if err := m.hold(client(6)).resize(50); err == nil {
		t.Error("there is more than all")
	}
	if len(cut) != 1 || !cut["longer, of a larger client"] {
		t.Errorf("cut off: %v", cut)
	}
	if err := m.hold(client(6)).resize(50); err == nil || len(cut) != 1 {
		t.Errorf("at once again: %v, %v cut off; want one look in a while", err, cut)
	}
	m.swept = time.Time{}
	if err := m.hold(client(6)).resize(300); err == nil || len(cut) != 2 || !cut["long, of a larger client"] {
		t.Errorf("later: %v, %v cut off", err, cut)
	}
}

// stuck is a client that takes nothing until it is let go.
type stuck struct {
	*httptest.ResponseRecorder
	writing chan<- struct{}
	leave   <-chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	s.writing <- struct{}{}
	<-s.leave
	return s.ResponseRecorder.Write(b)
}

// TestSlowReadersHoldBoundedMemory: answers that nobody takes fill the memory
// that is for their kind, then others get 503 before an object is in memory.
func TestSlowReadersHoldBoundedMemory(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	bucket := new(faultyBucket)
	r := newRig(t, func(c *Config) { c.Bucket, c.MaxBytes = bucket, 4*size })
	r.put("tile/data/x001/000", bytes.Repeat([]byte{7}, size))
	read := 0
	var mu sync.Mutex
	bucket.get = func(ctx context.Context, path string) ([]byte, error) {
		body, err := r.bucket.Get(ctx, path)
		if path == "tile/data/x001/000" && err == nil {
			mu.Lock()
			read++
			mu.Unlock()
		}
		return body, err
	}
	request := func(from string, w http.ResponseWriter) {
		req := httptest.NewRequest("GET", "/tile/data/x001/000", nil)
		req.RemoteAddr = from
		r.ServeHTTP(w, req)
	}
	writing, leave := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	for _, from := range []string{"192.0.2.1:1", "192.0.2.2:1"} {
		all.Go(func() { request(from, stuck{httptest.NewRecorder(), writing, leave}) })
		<-writing
	}
	for range 3 {
		w := httptest.NewRecorder()
		request("192.0.2.3:1", w)
		if w.Code != 503 || w.Header().Get("Retry-After") == "" {
			t.Errorf("one more: %d, want 503 with Retry-After", w.Code)
		}
	}
	if read != 2 {
		t.Errorf("the object was read %d times, want 2", read)
	}
	if w := r.do("GET", "/tile/0/x001/000"); w.Code != 200 {
		t.Errorf("a usual tile meanwhile: %d", w.Code)
	}
	close(leave)
	all.Wait()
	w := httptest.NewRecorder()
	request("192.0.2.3:1", w)
	if w.Code != 200 || r.memory.large.total != 0 {
		t.Errorf("afterwards: %d, and %d bytes are held", w.Code, r.memory.large.total)
	}
}

// TestDecodedAnswersAreBounded: what a tile decodes to counts before it is there.
func TestDecodedAnswersAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.MaxBytes = 8 << 20 })
	r.put("tile/data/x001/000", zip(t, make([]byte, 3<<20)))
	busy := r.memory.hold(client(9))
	if err := busy.resize(2 << 20); err != nil {
		t.Fatal(err)
	}
	if w := r.do("GET", "/tile/data/x001/000", "Accept-Encoding", "gzip"); w.Code != 200 {
		t.Errorf("as it is: %d, want 200", w.Code)
	}
	if w := r.do("GET", "/tile/data/x001/000", "Accept-Encoding", "identity"); w.Code != 503 {
		t.Errorf("decoded: %d, want 503", w.Code)
	}
	busy.release()
	if w := r.do("GET", "/tile/data/x001/000", "Accept-Encoding", "identity"); w.Code != 200 || w.Body.Len() != 3<<20 {
		t.Errorf("decoded, with room: %d, %d bytes", w.Code, w.Body.Len())
	}
}

// TestSlowReaderIsCutOff: the connection of an answer that is cut off ends.
func TestSlowReaderIsCutOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	const size = 64 << 20 // more than sockets take
	r.put("tile/data/x001/000", make([]byte, size))
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		defer close(done)
		r.ServeHTTP(w, req)
	}))
	defer server.Close()
	resp, err := http.Get(server.URL + "/tile/data/x001/000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r.memory.mu.Lock()
	for h := range r.memory.sending {
		h.since = time.Now().Add(-time.Minute)
	}
	r.memory.mu.Unlock()
	if err := r.memory.hold(client(9)).resize(2 << 20); err == nil {
		t.Error("there is room beside an object that has all")
	}
	<-done // the deadline of the test fails this if the handler goes on writing
	if n, err := new(bytes.Buffer).ReadFrom(resp.Body); err == nil {
		t.Errorf("an answer of %d bytes was cut off and seems whole", n)
	}
}
