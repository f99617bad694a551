package daemon

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// echo answers with its name and the path it was given.
func echo(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", name, r.URL.Path)
	})
}

func testSite(name, submissionURL, monitoringURL string) site {
	return site{
		name: name, submissionURL: submissionURL, monitoringURL: monitoringURL,
		submission: echo(name + " submission"), monitoring: echo(name + " monitoring"),
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	rt, err := newRouter([]site{
		testSite("one", "https://ct.example/2026h2/", "https://ct.example/2026h2/"),
		testSite("two", "https://ct.example/2027h1/", "https://mon.example/tiles/2027h1/"),
		testSite("three", "https://a.example:8443/shared/", "https://b.example/shared/"),
		testSite("four", "https://b.example:8443/shared/", "https://a.example/shared/"),
		testSite("five", "https://p.example:1/q/", "https://p.example:1/q/"),
		testSite("six", "https://p.example:2/q/", "https://p.example:2/q/"),
		testSite("deep", "https://ct.example/2026h2/deep/", "https://ct.example/2026h2/deep/"),
	}, echo("index"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ target, host, want string }{
		{"/", "ct.example", "index /"},
		{"/2026h2/", "ct.example", "one monitoring /"},
		{"/2026h2/checkpoint", "anything", "one monitoring /checkpoint"},
		{"/2026h2/ct/v1/add-chain", "anything", "one submission /ct/v1/add-chain"},
		{"/2026h2/ct/v1/add-chain?x=%41", "anything", "one submission /ct/v1/add-chain"},
		{"/2026h2/deep/checkpoint", "ct.example", "deep monitoring /checkpoint"},
		{"/2027h1/ct/v1/get-roots", "ct.example", "two submission /ct/v1/get-roots"},
		{"/2027h1/log.v3.json", "ct.example", "two monitoring /log.v3.json"},
		{"/2027h1/checkpoint", "ct.example", "404"}, // monitoring is elsewhere
		{"/tiles/2027h1/checkpoint", "ct.example", "two monitoring /checkpoint"},
		{"/tiles/2027h1/ct/v1/get-roots", "ct.example", "404"},

		// Where logs share a path, the host decides, with or without the port.
		{"/shared/ct/v1/get-roots", "a.example:8443", "three submission /ct/v1/get-roots"},
		{"/shared/ct/v1/get-roots", "B.example:8443", "four submission /ct/v1/get-roots"},
		{"/shared/ct/v1/get-roots", "b.example", "four submission /ct/v1/get-roots"},
		{"/shared/checkpoint", "a.example", "four monitoring /checkpoint"},
		{"/shared/checkpoint", "b.example:443", "three monitoring /checkpoint"},
		{"/shared/checkpoint", "c.example", "404"},
		{"/q/checkpoint", "p.example:1", "five monitoring /checkpoint"},
		{"/q/checkpoint", "p.example:2", "six monitoring /checkpoint"},
		{"/q/checkpoint", "p.example:3", "404"}, // either could be meant

		// Nothing that is not canonical is cleaned, guessed or redirected.
		{"/2026h2", "ct.example", "404"},
		{"//2026h2/checkpoint", "ct.example", "404"},
		{"/2026H2/checkpoint", "ct.example", "404"},
		{"/2026h2/%63heckpoint", "ct.example", "404"},
		{"/2026h2%2fcheckpoint", "ct.example", "404"},
		{"/2026h2/../2026h2/checkpoint", "ct.example", "one monitoring /../2026h2/checkpoint"},
		{"/x/../2026h2/checkpoint", "ct.example", "404"},
		{"/metrics", "ct.example", "404"},
		{"/readyz", "ct.example", "404"},
		{"/debug/pprof/", "ct.example", "404"},
		{"*", "ct.example", "404"},
	}
	for _, test := range tests {
		method := http.MethodGet
		if test.target == "*" {
			method = http.MethodOptions
		}
		r := httptest.NewRequest(method, test.target, nil)
		r.Host = test.host
		path := r.URL.Path
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, r)
		got := w.Body.String()
		if w.Code != 200 {
			got = fmt.Sprint(w.Code)
			if ct := w.Header().Get("Content-Type"); ct != "text/plain; charset=utf-8" {
				t.Errorf("%s: error body is %q", test.target, ct)
			}
		}
		if got != test.want {
			t.Errorf("%s at %s: %q, want %q", test.target, test.host, got, test.want)
		}
		if r.URL.Path != path {
			t.Errorf("%s: the request's own path became %q", test.target, r.URL.Path)
		}
	}
}

func TestRouterRefusesAmbiguousSites(t *testing.T) {
	t.Parallel()
	for name, sites := range map[string][]site{
		"twice the same": {testSite("one", "http://a/x/", "http://a/x/"), testSite("two", "http://a/x/", "http://a/y/")},
		"no slash":       {testSite("one", "http://a/x", "http://a/x/")},
		"escaped":        {testSite("one", "http://a/x%2fy/", "http://a/x/")},
		"no host":        {testSite("one", "/x/", "/x/")},
	} {
		if _, err := newRouter(sites, nil); err == nil || !strings.Contains(err.Error(), "one") {
			t.Errorf("%s: %v, want an error that names the log", name, err)
		}
	}
}

func TestIndex(t *testing.T) {
	t.Parallel()
	index, err := newIndex(func() []LogInfo { return []LogInfo{{Name: "<one>", MonitoringURL: "https://ct.example/one/"}} })
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	index.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if body := w.Body.String(); w.Code != 200 || !strings.Contains(body, `href="https://ct.example/one/"`) || strings.Contains(body, "<one>") {
		t.Errorf("%d %s", w.Code, body)
	}
	w = httptest.NewRecorder()
	index.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}
