package roots

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestCheckSource(t *testing.T) {
	t.Parallel()
	for source, ok := range map[string]bool{
		IncludedReport: true, InclusionReport: true,
		"https://example.org/report": true, "http://127.0.0.1:80/r": true, "http://[::1]/r": true, "http://localhost:8080/r": true,
		"file:///srv/report.csv": true, "/srv/report.csv": true, "report.csv": true, "a:b.csv": true,
		"": false, "http://example.org/report": false, "http://localhost.example.org/r": false, "ftp://example.org/r": false,
		"https:///report": false, "file:report.csv": false, "file://host/report.csv": false, "http://%zz/": false, "s3://bucket/r": false,
	} {
		if err := CheckSource(source); (err == nil) != ok {
			t.Errorf("%q: %v", source, err)
		}
	}
	if err := CheckSource("http://user:secret@example.org/"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error is %v, want one without the password", err)
	}
}

func TestReportName(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		IncludedReport:                     "RootCACertificatesIncludedByRSReportCSV",
		InclusionReport:                    "RootCACertificatesInclusionReportCSV",
		"https://user:pw@h/a/b.csv?key=1":  "b",
		"file:///srv/a%20b.csv":            "a-b",
		"reports/2026.csv":                 "2026",
		"https://example.org":              "report",
		"x/(extra file)":                   "-extra-file-",
		"a\n# source: b":                   "a---source--b",
		"/srv/.hidden":                     "hidden",
		"/srv/" + strings.Repeat("n", 300): strings.Repeat("n", maxReportName),
	} {
		if got := reportName(source); got != want || !isSource(got) {
			t.Errorf("%q is called %q, want %q", source, got, want)
		}
	}
	if _, err := names([]string{"a/report.csv", "b/report"}); err == nil {
		t.Error("two reports of one name are taken")
	}
}

// rig is a Manager on a folder of its own, with a report from a server.
type rig struct {
	t       testing.TB
	dir     string
	handler http.HandlerFunc // of the report
	server  *httptest.Server
	cfg     Config
	log     *fakeLog
}

func newRig(t testing.TB) *rig {
	r := &rig{t: t, dir: t.TempDir(), log: &fakeLog{}}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { r.handler(w, req) }))
	t.Cleanup(r.server.Close)
	r.cfg = Config{
		File: r.path("roots.pem"), Reports: []string{r.server.URL + "/ccadb/Included"},
		Logs: []Log{r.log}, Client: r.server.Client(),
	}
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// serve makes the report from now on.
func (r *rig) serve(data []byte) {
	r.handler = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/csv")
		_, _ = w.Write(data) // a client may go away
	}
}

func (r *rig) serveRoots(roots ...Root) { r.serve(reportOf(includedHeader, roots...)) }

func (r *rig) manager() *Manager {
	r.t.Helper()
	m, err := NewManager(r.cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// refresh refreshes with a new Manager, as after a restart.
func (r *rig) refresh() error {
	r.t.Helper()
	return r.manager().Refresh(r.t.Context())
}

// wantFile compares the roots file with what is wanted.
func (r *rig) wantFile(want ...Root) {
	r.t.Helper()
	set, err := ParseFile(mustRead(r.t, r.cfg.File))
	if err != nil {
		r.t.Fatal(err)
	}
	if got := fingerprints(set.All()); !slices.Equal(got, fingerprints(want)) {
		r.t.Errorf("the file has %d roots, want %d: %v, %v", len(got), len(want), got, fingerprints(want))
	}
}

// fakeLog remembers what it accepts.
type fakeLog struct {
	err error

	mu   sync.Mutex // guards sets
	sets [][][]byte
}

func (l *fakeLog) told() [][][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sets
}

func (l *fakeLog) SetRoots(ders [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	if len(ders) == 0 {
		return errors.New("there are none")
	}
	l.sets = append(l.sets, ders)
	return nil
}

func monitor(t testing.TB) Root {
	t.Helper()
	l, err := builtIn()
	if err != nil {
		t.Fatal(err)
	}
	return l.Roots[0]
}

// TestFetchFaults lets a server misbehave: no report of it is followed, the
// error says why, and no root is lost.
func TestFetchFaults(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 30)
	whole := reportOf(includedHeader, roots...)
	for _, c := range []struct {
		name    string
		handler func(r *rig) http.HandlerFunc
		want    string
	}{
		{"error status", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusInternalServerError)
				_, _ = w.Write(whole)
			}
		}, "500"},
		{"no content", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }
		}, "204"},
		{"empty", func(*rig) http.HandlerFunc { return func(http.ResponseWriter, *http.Request) {} }, "empty"},
		{"cut off, length known", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(len(whole)))
				_, _ = w.Write(whole[:len(whole)/2])
			}
		}, "unexpected EOF"},
		{"cut off, in chunks", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(whole[:len(whole)/2])
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		}, "EOF"},
		{"cut off before the server", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(whole[:len(whole)/2]) }
		}, "damaged or cut off"},
		{"cut off between rows", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(reportOf(includedHeader, roots[:10]...)) }
		}, "lists 10 roots where it listed 30"},
		{"a web page", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte("<html><body>Down for maintenance</body></html>"))
			}
		}, "no CCADB report"},
		{"huge, length known", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", fmt.Sprint(MaxReport+1))
				_ = http.NewResponseController(w).Flush()
			}
		}, "larger than"},
		{"huge, in chunks", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				chunk := make([]byte, 1<<20)
				for range MaxReport>>20 + 8 {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			}
		}, "larger than"},
		{"redirect to http elsewhere", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, "http://ct.example.org/report", http.StatusFound)
			}
		}, "is not followed"},
		{"redirect to a file", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, "file:///etc/passwd", http.StatusFound)
			}
		}, "is not followed"},
		{"redirects without end", func(r *rig) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				http.Redirect(w, req, r.server.URL+"/again", http.StatusFound)
			}
		}, "more than 5 redirects"},
		{"hangs", func(*rig) http.HandlerFunc {
			return func(w http.ResponseWriter, req *http.Request) {
				_, _ = w.Write(whole[:1000])
				_ = http.NewResponseController(w).Flush()
				<-req.Context().Done()
			}
		}, "deadline"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.serveRoots(roots...)
			if err := r.refresh(); err != nil {
				t.Fatal(err)
			}
			before := mustRead(t, r.cfg.File)
			r.handler = c.handler(r)
			if c.name == "hangs" {
				r.cfg.FetchTimeout = 200 * time.Millisecond
			}
			if err := r.refresh(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if got := mustRead(t, r.cfg.File); !slices.Equal(got, before) {
				t.Error("the roots file has changed")
			}
			if last := r.log.told()[len(r.log.told())-1]; len(last) != len(roots)+1 {
				t.Errorf("the log accepts %d roots after a restart, want %d", len(last), len(roots)+1)
			}
		})
	}
}

// TestRedirects follows a redirect within the same rules, and none from https to
// http.
func TestRedirects(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 1)
	r := newRig(t)
	r.handler = func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/moved" {
			_, _ = w.Write(reportOf(includedHeader, roots...))
			return
		}
		http.Redirect(w, req, "/moved", http.StatusMovedPermanently)
	}
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.wantFile(append(roots, monitor(t))...)

	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, r.server.URL+"/moved", http.StatusFound)
	}))
	defer secure.Close()
	r.cfg.Client = secure.Client()
	if _, err := r.manager().read(t.Context(), secure.URL+"/report"); err == nil || !strings.Contains(err.Error(), "is not followed") {
		t.Errorf("error is %v, want that the redirect is not followed", err)
	}
}

// TestFetchEnds stops when the process does, which is no failure to wake anybody.
func TestFetchEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	r.handler = func(_ http.ResponseWriter, req *http.Request) {
		cancel()
		<-req.Context().Done()
	}
	var logged bytes.Buffer
	r.cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	if err := r.manager().Refresh(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v, want the end of the context", err)
	}
	if logged.Len() > 0 {
		t.Errorf("logged: %s", logged.String())
	}
}
