package fsck_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/fsck"
	"kiln/testlogs"
)

// serve answers as a static-ct log has to, but for what wrong does first: it
// returns whether it has answered.
func (l *log) serve(t *testing.T, wrong func(w http.ResponseWriter, r *http.Request, path string) bool) *fsck.URL {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/log/")
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cache-Control", "public, max-age=604800, immutable")
		switch {
		case path == "checkpoint":
			h.Set("Content-Type", "text/plain; charset=utf-8")
			h.Set("Cache-Control", "no-store")
		case strings.HasPrefix(path, "issuer/"):
			h.Set("Content-Type", "application/pkix-cert")
		case strings.HasPrefix(path, "tile/names/"):
			h.Set("Content-Type", "application/jsonl; charset=utf-8")
			h.Set("Content-Encoding", "gzip")
		default:
			h.Set("Content-Type", "application/octet-stream")
			if strings.HasPrefix(path, "tile/data/") {
				h.Set("Content-Encoding", "gzip")
			}
		}
		if wrong != nil && wrong(w, r, path) {
			return
		}
		body, ok := l.objects[path]
		if !ok {
			h.Del("Content-Encoding")
			h.Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(srv.Close)
	u, err := fsck.OpenURL(srv.URL+"/log/", "kiln-fsck (https://example.org)", 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close() })
	return u
}

// header sets a header on paths that begin with a prefix, or deletes it.
func header(prefix, name, value string) func(http.ResponseWriter, *http.Request, string) bool {
	return func(w http.ResponseWriter, _ *http.Request, path string) bool {
		if strings.HasPrefix(path, prefix) {
			w.Header().Set(name, value)
			if value == "" {
				w.Header()[name] = nil
			}
		}
		return false
	}
}

func TestURL(t *testing.T) {
	t.Parallel()
	l := small()
	r, err := check(t, l.serve(t, nil), l.options())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Notes) != 0 || r.Entries != 556 || r.NamesTiles != 3 || r.Issuers != 3 {
		t.Errorf("report is %+v", r)
	}
}

// What the rules demand of headers is a fault, what they recommend a note.
func TestHeaders(t *testing.T) {
	t.Parallel()
	l := small()
	for _, c := range []struct {
		path, name, value string
		fault, note       string
	}{
		{"checkpoint", "Content-Type", "text/plain", "wrong Content-Type: got text/plain, want text/plain; charset=utf-8", ""},
		{"checkpoint", "Content-Type", "text/plain; charset=UTF-8", "", ""},
		{"checkpoint", "Content-Type", "application/octet-stream", "wrong Content-Type", ""},
		{"checkpoint", "Cache-Control", "max-age=3600", "", "should keep the checkpoint from being cached"},
		{"checkpoint", "Cache-Control", "", "", "should keep the checkpoint from being cached"},
		{"checkpoint", "Cache-Control", "max-age=2", "", ""},
		{"tile/0/", "Content-Type", "text/html", "wrong Content-Type", ""},
		{"tile/0/", "Content-Type", "", "wrong Content-Type", ""},
		{"tile/0/", "Cache-Control", "no-cache", "", "should have a max-age of 604800"},
		{"tile/0/", "Cache-Control", "max-age=garbage", "", "should have a max-age of 604800"},
		{"tile/0/", "Content-Encoding", "br", "Content-Encoding is br", ""},
		{"tile/data/", "Content-Encoding", "zstd", "Content-Encoding is zstd", ""},
		{"tile/data/", "Content-Encoding", "gzip, gzip", "Content-Encoding is gzip, gzip", ""},
		{"tile/data/", "Content-Encoding", "", "is malformed", ""}, // as it is gzip all the same
		{"tile/data/", "Content-Type", "application/x-gzip", "wrong Content-Type", ""},
		{"tile/names/", "Content-Type", "application/json", "", `Content-Type is "application/json"`},
		{"issuer/", "Content-Type", "application/x-x509-ca-cert", "wrong Content-Type", ""},
		{"issuer/", "Access-Control-Allow-Origin", "", "", "browsers cannot read the log"},
	} {
		t.Run(strings.Join([]string{c.path, c.name, c.value}, " "), func(t *testing.T) {
			t.Parallel()
			r, err := check(t, l.serve(t, header(c.path, c.name, c.value)), l.options())
			if c.fault == "" {
				if err != nil {
					t.Fatal(err)
				}
			} else if f := fault(t, err); !strings.HasPrefix(f.Path, c.path) || !strings.Contains(f.Detail, c.fault) {
				t.Errorf("fault is %v, want %q", f, c.fault)
			}
			notes := fmt.Sprintf("%+v", r.Notes)
			if c.note != "" && (len(r.Notes) != 1 || !strings.Contains(notes, c.note) || !strings.HasPrefix(r.Notes[0].First, c.path)) {
				t.Errorf("notes are %s, want %q", notes, c.note)
			}
			if c.note == "" && c.fault == "" && len(r.Notes) != 0 {
				t.Errorf("notes are %s", notes)
			}
		})
	}
}

// Data tiles may be sent as they are.
func TestPlainDataTiles(t *testing.T) {
	t.Parallel()
	l := small()
	r, err := check(t, l.serve(t, func(w http.ResponseWriter, _ *http.Request, path string) bool {
		body, ok := l.objects[path]
		if !ok || !strings.HasPrefix(path, "tile/data/") {
			return false
		}
		w.Header()["Content-Encoding"] = nil
		_, _ = w.Write(gunzip(body))
		return true
	}), l.options())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].What, "gzip should be") {
		t.Errorf("notes are %v", r.Notes)
	}
}

// status answers paths that begin with a prefix with a status.
func status(prefix string, code int, h map[string]string) func(http.ResponseWriter, *http.Request, string) bool {
	return func(w http.ResponseWriter, _ *http.Request, path string) bool {
		if !strings.HasPrefix(path, prefix) {
			return false
		}
		for name, value := range h {
			w.Header().Set(name, value)
		}
		w.WriteHeader(code)
		return true
	}
}

// Some answers prove a fault, some do not.
func TestStatus(t *testing.T) {
	t.Parallel()
	l := small()
	for _, c := range []struct {
		path  string
		code  int
		fault string // or unknown
		says  string
	}{
		{"checkpoint", 404, "checkpoint", "is missing"},
		{"checkpoint", 410, "checkpoint", "is missing"},
		{"tile/0/001", 404, "tile/0/001", "is missing"},
		{"tile/0/001", 403, "", "access refused"},
		{"tile/0/001", 401, "", "access refused"},
		{"tile/0/001", 418, "", "418"},
		{"tile/0/001", 206, "", "206"},
		{"tile/data/001", 301, "tile/data/001", "redirects (301 to https://example.org/)"},
		{"tile/data/001", 307, "tile/data/001", "redirects"},
		{"issuer/", 403, "", "access refused"},
	} {
		t.Run(fmt.Sprint(c.path, c.code), func(t *testing.T) {
			t.Parallel()
			_, err := check(t, l.serve(t, status(c.path, c.code, map[string]string{"Location": "https://example.org/"})), l.options())
			if c.fault == "" {
				if u := unknown(t, err); !strings.HasPrefix(u.Path, c.path) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("error is %v, want %q", err, c.says)
				}
				return
			}
			if f := fault(t, err); f.Path != c.fault || !strings.Contains(f.Detail, c.says) {
				t.Errorf("fault is %v, want %q", f, c.says)
			}
		})
	}
}

// For a partial tile that is gone, or that may not be listed, the full one does.
func TestFullTileForPartial(t *testing.T) {
	t.Parallel()
	old := small().at(300)
	for _, code := range []int{404, 403} {
		_, err := check(t, old.serve(t, func(w http.ResponseWriter, r *http.Request, path string) bool {
			if !strings.HasPrefix(path, "tile/0/001.p/") && !strings.HasPrefix(path, "tile/data/001.p/") && !strings.HasPrefix(path, "tile/names/001.p/") {
				return false
			}
			w.WriteHeader(code)
			return true
		}), old.options())
		if err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
	broken := old.clone()
	delete(broken.objects, "tile/data/001.p/44")
	broken.objects.edit("tile/data/001", flip(40))
	if f := fault(t, second(check(t, broken.serve(t, nil), broken.options()))); f.Path != "tile/data/001" || f.Index != 256 {
		t.Errorf("fault is %v", f)
	}
}

// That there is none is only certain if the source says so of both.
func TestRefusedIsNotMissing(t *testing.T) {
	t.Parallel()
	l := small()
	for _, codes := range [][2]int{{403, 404}, {404, 403}, {403, 403}, {404, 404}} {
		_, err := check(t, l.serve(t, func(w http.ResponseWriter, _ *http.Request, path string) bool {
			switch path {
			case "tile/0/002.p/44":
				w.WriteHeader(codes[0])
			case "tile/0/002":
				w.WriteHeader(codes[1])
			default:
				return false
			}
			return true
		}), l.options())
		if codes == [2]int{404, 404} {
			if f := fault(t, err); f.Path != "tile/0/002.p/44" {
				t.Errorf("fault is %v", f)
			}
			continue
		}
		if u := unknown(t, err); u.Path != "tile/0/002.p/44" || !errors.Is(u, fsck.ErrRefused) {
			t.Errorf("%v: error is %v", codes, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// once fails the first request of each path.
func once(fail func(w http.ResponseWriter, path string)) func(http.ResponseWriter, *http.Request, string) bool {
	var seen sync.Map
	return func(w http.ResponseWriter, _ *http.Request, path string) bool {
		if _, again := seen.LoadOrStore(path, true); again {
			return false
		}
		fail(w, path)
		return true
	}
}

// Trouble on the way is not the log's fault, and passes.
func TestTroubleOnTheWay(t *testing.T) {
	t.Parallel()
	p := pki()
	l := grow(small().key, repeat, true, 90) // few objects: each is waited for
	for path, body := range p.issuers {
		l.objects[path] = body
	}
	for name, fail := range map[string]func(w http.ResponseWriter, path string){
		"500": func(w http.ResponseWriter, _ string) { w.WriteHeader(500) },
		"503": func(w http.ResponseWriter, _ string) { w.WriteHeader(503) },
		"429 with a date": func(w http.ResponseWriter, _ string) {
			w.Header().Set("Retry-After", time.Now().UTC().Format(http.TimeFormat))
			w.WriteHeader(429)
		},
		"connection closed": func(http.ResponseWriter, string) { panic(http.ErrAbortHandler) },
		"broken off": func(w http.ResponseWriter, path string) {
			body := l.objects[path]
			w.Header().Set("Content-Length", fmt.Sprint(max(len(body), 2)))
			_, _ = w.Write(body[:len(body)/2])
			panic(http.ErrAbortHandler)
		},
		"broken off in chunks": func(w http.ResponseWriter, path string) {
			body := l.objects[path]
			_, _ = w.Write(body[:len(body)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"bad bytes": func(w http.ResponseWriter, path string) {
			_, _ = w.Write(flip(len(l.objects[path]) / 2)(bytes.Clone(l.objects[path])))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrong := once(fail)
			_, err := check(t, l.serve(t, func(w http.ResponseWriter, r *http.Request, path string) bool {
				if path == "checkpoint" && name == "bad bytes" || strings.HasPrefix(path, "issuer/") && name == "bad bytes" || strings.HasPrefix(path, "tile/0") && name == "bad bytes" {
					return false // one look decides
				}
				return wrong(w, r, path)
			}), l.options())
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	l := small()
	var busy, early atomic.Int64
	var until atomic.Int64
	_, err := check(t, l.serve(t, func(w http.ResponseWriter, _ *http.Request, path string) bool {
		if at := until.Load(); at != 0 && time.Now().UnixMilli() < at {
			early.Add(1)
		}
		if path != "tile/data/000" || busy.Add(1) > 1 {
			return false
		}
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(429)
		until.Store(time.Now().Add(900 * time.Millisecond).UnixMilli())
		return true
	}), l.options())
	if err != nil {
		t.Fatal(err)
	}
	if n := early.Load(); n > 16 { // those that were on their way already
		t.Errorf("%d requests came before the time", n)
	}

	_, err = check(t, l.serve(t, status("tile/0/", 503, map[string]string{"Retry-After": "3600"})), l.options())
	if u := unknown(t, err); !strings.Contains(u.Error(), "503") {
		t.Errorf("error is %v", err)
	}
}

// Nothing a server does makes a check last forever.
func TestNeverHangs(t *testing.T) {
	t.Parallel()
	l := small()
	block := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	for name, c := range map[string]struct {
		stall, timeout time.Duration
		wrong          func(http.ResponseWriter, *http.Request, string) bool
		says           string
	}{
		"no answer": {time.Minute, 50 * time.Millisecond, func(w http.ResponseWriter, r *http.Request, path string) bool {
			if path == "tile/data/001" {
				<-r.Context().Done()
			}
			return false
		}, "no answer within 50ms"},
		"no body": {time.Minute, 50 * time.Millisecond, func(w http.ResponseWriter, r *http.Request, path string) bool {
			if path == "tile/data/001" {
				block(w, r)
			}
			return false
		}, "no answer within 50ms"},
		"a byte now and then": {300 * time.Millisecond, time.Minute, func(w http.ResponseWriter, r *http.Request, path string) bool {
			if path != "tile/data/001" {
				return false
			}
			for _, b := range l.objects[path] {
				_, _ = w.Write([]byte{b})
				_ = http.NewResponseController(w).Flush()
				select {
				case <-time.After(20 * time.Millisecond):
				case <-r.Context().Done():
					return true
				}
			}
			return true
		}, "stalled: not one object was read within 300ms"},
		"always busy": {300 * time.Millisecond, time.Minute, status("tile/", 429, nil), "stalled"},
		"an endless body": {time.Minute, time.Minute, func(w http.ResponseWriter, r *http.Request, path string) bool {
			for path == "checkpoint" && r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 1<<16))
			}
			return false
		}, "decodes to more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := l.options()
			opts.Stall, opts.Timeout = c.stall, c.timeout
			_, err := check(t, l.serve(t, c.wrong), opts)
			if u := unknown(t, err); !strings.Contains(u.Error(), c.says) {
				t.Errorf("error is %v, want %q", err, c.says)
			}
		})
	}
}

// A bomb is left at the first byte that does not belong, or at its limit.
func TestBombs(t *testing.T) {
	t.Parallel()
	l := small()
	bomb := zip(make([]byte, 60<<20))
	for path, want := range map[string]string{
		"tile/data/001":  "no leaf_index",
		"tile/names/001": "missing or has no end",
	} {
		b := l.clone()
		b.objects[path] = bomb
		if f := fault(t, second(check(t, b.objects, b.options()))); f.Path != path || !strings.Contains(f.Detail, want) {
			t.Errorf("%s: fault is %v", path, f)
		}
	}
	b := l.clone()
	b.objects["checkpoint"] = bomb
	if u := unknown(t, second(check(t, b.objects, b.options()))); !strings.Contains(u.Error(), "decodes to more than 1048576 bytes") {
		t.Errorf("error is %v", u)
	}
}

func TestOpenURL(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "example.org", "ftp://example.org/", "https://", "https://example.org/?a", "https://example.org/#a", "http://a b/"} {
		if _, err := fsck.OpenURL(bad, "", 1); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// A log of kiln has no faults and leaves nothing to be noted, running, by its URL
// and in its folder.
func TestRunningLog(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	l := testlogs.Start(t, testlogs.Options{Name: "checked"})
	submit := func(n int) {
		issue := []func(testlogs.LeafOptions) (testlogs.Chain, error){l.CA.Leaf, l.CA.Precert, l.CA.PrecertBySigner}
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				c, err := issue[i%3](testlogs.LeafOptions{})
				if err == nil {
					_, err = l.Client().Submit(ctx, c)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	u, err := fsck.OpenURL(l.URL(), "kiln-fsck (https://example.org)", 4)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	file := t.TempDir() + "/state"
	size := int64(0)
	for _, n := range []int{0, 5, 100, 200} {
		submit(n)
		size += int64(n)
		for _, opts := range []fsck.Options{{State: file}, {Signatures: true, SPKI: l.SPKI}} {
			r, err := check(t, u, opts)
			if err != nil {
				t.Fatal(err)
			}
			if r.TreeSize != size || r.Entries != size {
				t.Errorf("report is %+v, want %d entries", r, size)
			}
			for _, note := range r.Notes {
				if !strings.Contains(note.What, "key was taken from the log itself") {
					t.Errorf("note: %+v", note)
				}
			}
		}
	}
	d, err := fsck.OpenDirectory(l.Conf.Storage)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	r, err := check(t, d, fsck.Options{SPKI: l.SPKI, Origin: l.Conf.Origin, Signatures: true})
	if err != nil {
		t.Fatal(err)
	}
	if r.Entries != size || r.Partials == 0 || len(r.Notes) != 0 {
		t.Errorf("report is %+v", r)
	}
	if _, err := check(t, d, fsck.Options{SPKI: l.SPKI, Origin: "other"}); err == nil || !errors.As(err, new(*fsck.Fault)) {
		t.Errorf("with another origin: %v", err)
	}
}
