package reader

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestClientOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:2", true},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1", false},
		{"[fe80::1%eth0]:1", "[fe80::2%eth1]:1", true},
		{"@", "", true},
		{"@", "192.0.2.1:1", false},
	} {
		if got := clientOf(test.a) == clientOf(test.b); got != test.same {
			t.Errorf("%s and %s are one client: %v, want %v", test.a, test.b, got, test.same)
		}
	}
}

// from asks for a path from an address and returns the status and Retry-After.
func (r *rig) from(addr, path string) (code, retryAfter int) {
	req := httptest.NewRequest("GET", path, nil)
	req.RemoteAddr = addr + ":4000"
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	if w.Code >= 400 {
		checkError(r.t, addr+" "+path, w)
	}
	retryAfter, _ = strconv.Atoi(w.Header().Get("Retry-After"))
	return w.Code, retryAfter
}

func TestClientRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.ClientRate, c.ClientBurst, c.Now = 0.5, 4, time.Now })
		paths := []string{"/tile/0/000.p/3", "/tile/data/000.p/3", "/tile/data/001", "/issuer/" + fmt.Sprintf("%064d", 0)}
		for i, path := range paths { // 404s count as well
			if code, _ := r.from("192.0.2.1", path); code == 429 {
				t.Errorf("request %d of a burst of 4: got 429", i)
			}
		}
		for _, path := range paths {
			if code, wait := r.from("192.0.2.1", path); code != 429 || wait != 2 {
				t.Errorf("%s after the burst: got %d, Retry-After %d; want 429, 2", path, code, wait)
			}
		}
		for _, path := range []string{"/checkpoint", "/log.v3.json", "/"} {
			if code, _ := r.from("192.0.2.1", path); code != 200 {
				t.Errorf("%s is limited: got %d", path, code)
			}
		}
		if code, _ := r.from("192.0.2.2", paths[0]); code != 200 {
			t.Errorf("another client: got %d", code)
		}
		// Who waits as told is served, again and again (MON-27).
		for range 3 {
			code, wait := r.from("192.0.2.1", paths[0])
			if code != 429 {
				t.Errorf("got %d, want 429", code)
			}
			time.Sleep(time.Duration(wait) * time.Second)
			if code, _ := r.from("192.0.2.1", paths[0]); code != 200 {
				t.Errorf("after the time in Retry-After: got %d", code)
			}
		}
		// The bucket does not grow over the burst.
		time.Sleep(time.Hour)
		for i := range 5 {
			if code, _ := r.from("192.0.2.1", paths[0]); (code == 200) != (i < 4) {
				t.Errorf("request %d after an hour: got %d", i, code)
			}
		}
	})
}

// TestClientRateAndFaults shows that errors of ours are not charged to clients.
func TestClientRateAndFaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bucket := &faultyBucket{get: func(context.Context, string) ([]byte, error) { return nil, errors.New("I/O error") }}
		r := newRig(t, func(c *Config) { c.ClientRate, c.ClientBurst, c.Now, c.Bucket = 0.5, 1, time.Now, bucket })
		for range 5 {
			if code, _ := r.from("192.0.2.1", "/tile/0/000"); code != 503 {
				t.Fatalf("got %d, want 503", code)
			}
		}
		bucket.get = r.bucket.Get
		if code, _ := r.from("192.0.2.1", "/tile/0/000.p/3"); code != 200 {
			t.Errorf("got %d, want 200", code)
		}
		if code, _ := r.from("192.0.2.1", "/tile/0/000.p/3"); code != 429 {
			t.Errorf("got %d, want 429", code)
		}
	})
}

// TestLimiterTable shows that the table of clients is bounded, forgets only
// those whose bucket is full again while there is room, and keeps the others.
func TestLimiterTable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const most = 100
		l := newLimiter(1, 10, most)
		client := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
		for i := range 10 * most {
			l.take(client(i), time.Now())
			if n := len(l.young) + len(l.old); n > most {
				t.Fatalf("%d clients are held, at most %d may be", n, most)
			}
		}

		l = newLimiter(1, 10, 1000)
		for range 10 {
			l.take(client(1), time.Now())
			l.take(client(2), time.Now())
		}
		for range 30 { // a busy client stays known over generations
			time.Sleep(time.Second)
			if _, ok := l.take(client(1), time.Now()); !ok {
				t.Error("no token after a second")
			}
			if _, ok := l.take(client(1), time.Now()); ok {
				t.Error("two tokens after a second")
			}
		}
		if n := len(l.young) + len(l.old); n != 1 {
			t.Errorf("%d clients are held after half a minute, want 1", n)
		}
	})
}

func TestLimiterConcurrent(t *testing.T) {
	t.Parallel()
	l := newLimiter(0.001, 100, 10)
	now := time.Unix(1, 0)
	var wg sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if _, ok := l.take(clientOf("192.0.2.1:1"), now); ok {
					mu.Lock()
					taken++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if taken != 100 {
		t.Errorf("%d tokens were taken of 100", taken)
	}
}
