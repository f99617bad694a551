package servers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kiln/internal/servers"
)

func TestProxy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		fault   servers.Fault
		method  string
		path    string
		want    string // status and body, or error
		reached int64  // requests that the server got
	}{
		{"None", servers.Fault{Path: "/other"}, http.MethodPut, "/a/b?c=d", "200 PUT /a/b?c=d of example.net: body", 1},
		{"OtherMethod", servers.Fault{Method: http.MethodGet}, http.MethodPut, "/a", "200 PUT /a of example.net: body", 1},
		{"Unconditional", servers.Fault{Conditional: true}, http.MethodPut, "/a", "200 PUT /a of example.net: body", 1},
		{"Skipped", servers.Fault{Skip: 1}, http.MethodPut, "/a", "200 PUT /a of example.net: body", 1},
		{"Cut", servers.Fault{}, http.MethodPut, "/a", "EOF", 0},
		{"CutAfter", servers.Fault{AfterEffect: true}, http.MethodPut, "/a", "EOF", 1},
		{"Status", servers.Fault{Path: "a", Status: 503, Code: "SlowDown"}, http.MethodPut, "/a", "503 <Code>SlowDown</Code>", 0},
		{"StatusAfter", servers.Fault{Status: 500, Code: "InternalError", AfterEffect: true}, http.MethodPut, "/a", "500 <Code>InternalError</Code>", 1},
		{"Truncate", servers.Fault{Truncate: true}, http.MethodPut, "/a", "unexpected EOF", 1},
		{"Hang", servers.Fault{Hang: true}, http.MethodPut, "/a", "context canceled", 0},
		{"Through", servers.Fault{Through: true, Delay: time.Millisecond}, http.MethodPut, "/a", "200 PUT /a of example.net: body", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var reached atomic.Int64
			upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				reached.Add(1)
				body, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s of %s: %s", r.Method, r.RequestURI, r.Host, body)
			}))
			defer upstream.Close()
			p := newProxy(t, upstream.URL)
			p.Inject(c.fault)
			got := ask(t, p, c.method, c.path, c.fault.Hang)
			if wantStatus, wantBody, _ := strings.Cut(c.want, " "); !strings.Contains(got, wantBody) || !strings.HasPrefix(got, wantStatus) && !strings.Contains(got, c.want) {
				t.Errorf("the answer is %q, want %q", got, c.want)
			}
			if n := reached.Load(); n != c.reached {
				t.Errorf("%d requests reached the server, want %d", n, c.reached)
			}
			if got := ask(t, p, c.method, "/second", false); c.fault.Times == 0 && c.fault.Skip == 0 && !strings.HasPrefix(got, "200 ") {
				t.Errorf("the second answer is %q", got)
			}
			p.Heal()
			if got := ask(t, p, c.method, "/third", false); !strings.HasPrefix(got, "200 ") {
				t.Errorf("after Heal the answer is %q", got)
			}
			if trips := p.Trips(); len(trips) < 2 || len(trips) > 3 || !c.fault.Hang && servers.LongestChain(trips) != len(trips) {
				t.Errorf("trips: %+v", trips)
			}
		})
	}
}

// TestHold keeps a request, or its answer, while others go through, and lets it go
// on after its client has left.
func TestHold(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("AfterEffect=%v", after), func(t *testing.T) {
			t.Parallel()
			paths := make(chan string, 10)
			upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { paths <- r.URL.Path }))
			defer upstream.Close()
			p := newProxy(t, upstream.URL)
			held := p.Hold(servers.Fault{Path: "/held", AfterEffect: after})
			defer held.Release()
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, p.Endpoint+"/held", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			left := make(chan error)
			go func() {
				_, err := new(http.Transport).RoundTrip(req)
				left <- err
			}()
			<-held.Reached
			leave()
			if err := <-left; !errors.Is(err, context.Canceled) {
				t.Errorf("a client that left was told: %v", err)
			}
			if got := ask(t, p, http.MethodPut, "/other", false); got != "200 " {
				t.Errorf("meanwhile another request was answered %q", got)
			}
			held.Release()
			held.Release()
			want := []string{"/other", "/held"}
			if after {
				want = []string{"/held", "/other"}
			}
			if got := []string{<-paths, <-paths}; !slices.Equal(got, want) {
				t.Errorf("the server got %q, want %q", got, want)
			}
			if got := ask(t, p, http.MethodPut, "/held", false); got != "200 " {
				t.Errorf("the next request was answered %q", got)
			}
		})
	}
}

func newProxy(t *testing.T, target string) *servers.Proxy {
	t.Helper()
	p, err := servers.NewProxy(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// ask makes a request and returns its answer, or error, as one text.
func ask(t *testing.T, p *servers.Proxy, method, path string, leave bool) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if leave {
		time.AfterFunc(10*time.Millisecond, cancel)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.Endpoint+path, strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "example.net"
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", resp.StatusCode, body)
}

func TestLongestChain(t *testing.T) {
	t.Parallel()
	at := func(begin, end int) servers.Trip {
		epoch := time.Unix(0, 0)
		return servers.Trip{Begin: epoch.Add(time.Duration(begin)), End: epoch.Add(time.Duration(end))}
	}
	for _, c := range []struct {
		name  string
		trips []servers.Trip
		want  int
	}{
		{"None", nil, 0},
		{"One", []servers.Trip{at(1, 2)}, 1},
		{"Serial", []servers.Trip{at(4, 6), at(1, 2), at(2, 4)}, 3},
		{"AtOnce", []servers.Trip{at(1, 5), at(2, 6), at(3, 7)}, 1},
		{"Fan", []servers.Trip{at(1, 2), at(3, 5), at(3, 6), at(3, 4), at(7, 8), at(1, 8)}, 3},
	} {
		if got := servers.LongestChain(c.trips); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
