package daemon

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
)

// logsAt serves logs at /0/, /1/ and so on, each within its share.
func logsAt(n int, next http.Handler) (h http.Handler, refused []int) {
	mux := http.NewServeMux()
	refused = make([]int, n)
	for i := range n {
		prefix := fmt.Sprintf("/%d", i)
		mux.Handle(prefix+"/", newShare(func() { refused[i]++ }).bounded(http.StripPrefix(prefix, next)))
	}
	return mux, refused
}

// TestShare has one log, or all but one, hang with as many requests as they can
// get, from many clients or through one proxy, and asks the other log.
func TestShare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                string
		logs, hanging, want int // want: requests that the first hanging log may hold
		clients             int
	}{
		{"two logs, many clients", 2, 1, 16, 32},
		{"two logs, one proxy", 2, 1, 8, 1},
		{"four logs, many clients", 4, 3, 16, 32},
		{"four logs, one proxy", 4, 3, 8, 1},
		{"more logs than parts", 40, 1, 16, 32},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { hang(t, c.logs, c.hanging, c.want, c.clients) })
		})
	}
}

func hang(t *testing.T, logs, hanging, want, clients int) {
	held, release := make(chan struct{}, 1000), make(chan struct{})
	h, refused := logsAt(logs, holdHandler(held, release))
	ln := serveLogs(t, 32, logs, h)
	ip := func(i int) string { return fmt.Sprintf("192.0.2.%d", i%clients) }
	var waiting []*peer
	for log := range hanging {
		for i := 0; refused[log] == 0; i++ {
			if i > want {
				t.Fatalf("log %d holds %d connections", log, i)
			}
			c := ln.dial(t, ip(len(waiting)))
			c.send(fmt.Sprintf("GET /%d/hold HTTP/1.1\r\nHost: a\r\n\r\n", log))
			synctest.Wait()
			if refused[log] > 0 {
				if got := c.status(); got != http.StatusServiceUnavailable {
					t.Errorf("status %d beyond the share, want 503", got)
				}
				break
			}
			waiting = append(waiting, c)
		}
		if log == 0 && len(waiting) != want {
			t.Errorf("the first log holds %d connections, want %d", len(waiting), want)
		}
	}
	for range 3 { // one after the other, each on a connection of its own
		if got := ln.dial(t, ip(0)).get(fmt.Sprintf("/%d/", logs-1)); got != http.StatusOK {
			t.Errorf("the good log answers %d", got)
		}
	}
	close(release)
	for _, c := range waiting {
		if got := c.status(); got != http.StatusOK {
			t.Errorf("a request that waited: %d", got)
		}
	}
	synctest.Wait()
	if got := waiting[0].get("/0/"); got != http.StatusOK {
		t.Errorf("afterwards: %d", got)
	}
}

// TestShareOfOne lets a log that is alone have all that readers may have.
func TestShareOfOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		held, release := make(chan struct{}, 100), make(chan struct{})
		h, _ := logsAt(1, holdHandler(held, release))
		ln := serveLogs(t, 8, 1, h)
		var waiting []*peer
		for i := range 7 {
			c := ln.dial(t, fmt.Sprintf("192.0.2.%d", i))
			c.send("GET /0/hold HTTP/1.1\r\nHost: a\r\n\r\n")
			waiting = append(waiting, c)
		}
		synctest.Wait()
		if len(held) != 7 {
			t.Errorf("%d requests of 7 are worked on", len(held))
		}
		close(release)
		for _, c := range waiting {
			if got := c.status(); got != http.StatusOK {
				t.Errorf("status %d", got)
			}
		}
	})
}

// TestShareSaysWhy looks at the answer beyond the share.
func TestShareSaysWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		held, release := make(chan struct{}, 100), make(chan struct{})
		h, _ := logsAt(2, holdHandler(held, release))
		ln := serveLogs(t, 4, 2, h)
		var waiting []*peer
		for i := range 2 {
			c := ln.dial(t, fmt.Sprintf("192.0.2.%d", i))
			c.send("GET /0/hold HTTP/1.1\r\nHost: a\r\n\r\n")
			synctest.Wait()
			waiting = append(waiting, c)
		}
		c := ln.dial(t, "192.0.2.9")
		c.send("GET /0/hold HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("%d %v", resp.StatusCode, resp.Header)
		}
		close(release)
		for _, c := range waiting {
			if got := c.status(); got != http.StatusOK {
				t.Errorf("status %d", got)
			}
		}
	})
}
