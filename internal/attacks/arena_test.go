package attacks_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// arena is one log, one server, and what an attacker needs to reach it.
type arena struct {
	t       *testing.T
	log     *testlogs.Log
	server  *server
	address string // host:port of the public listener
	url     string // prefix of both APIs, with a slash at its end
	evil    *pki   // below a second accepted root, whose key the attacker has
	secure  bool

	good     *testlogs.Client
	goodHTTP *http.Client
	auditor  *testlogs.Auditor

	mu      sync.Mutex
	seen    map[string]int // what the attacker saw
	clients map[int]*http.Client
}

// sources is how many addresses an attacker has unless it is one of one address.
const sources = 200

func newArena(t *testing.T, ctx context.Context, at *attack) *arena {
	t.Helper()
	evil, err := newPKI()
	if err != nil {
		t.Fatal(err)
	}
	address, admin := free(t, ctx), free(t, ctx)
	a := &arena{
		t: t, evil: evil, address: address, secure: at.secure,
		seen: make(map[string]int), clients: make(map[int]*http.Client),
	}
	scheme := "http"
	options := testlogs.Options{Listen: address, Admin: admin, Roots: evil.rootsPEM(), Configure: func(c *config.Log) {
		c.Period = config.DefaultPeriod
	}}
	if at.secure {
		scheme = "https"
		options.Configure = func(c *config.Log) {
			c.Period = config.DefaultPeriod
			c.SubmissionURL = "https://" + c.Origin + "/"
			c.MonitoringURL = c.SubmissionURL
		}
	}
	a.log = testlogs.New(t, options)
	if at.secure {
		addTLS(t, a.log.ConfigPath)
	}
	a.url = fmt.Sprintf("%s://%s/%s/", scheme, address, a.log.Conf.Name)
	a.server = startServer(t, ctx, a.log.ConfigPath, "http://"+admin+"/")
	a.goodHTTP = &http.Client{Timeout: patience, Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, ForceAttemptHTTP2: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	t.Cleanup(a.goodHTTP.CloseIdleConnections)
	if a.good, err = testlogs.NewClient(a.url, a.log.SPKI, a.goodHTTP); err != nil {
		t.Fatal(err)
	}
	a.auditor, err = testlogs.NewAuditor(testlogs.AuditorConfig{URL: a.url, Origin: a.log.Conf.Origin, SPKI: a.log.SPKI, HTTP: a.goodHTTP})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func free(t *testing.T, ctx context.Context) string {
	t.Helper()
	address, err := servers.FreeAddress(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// dialer connects from the i-th address of the attacker.
func dialer(i int) *net.Dialer {
	return &net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+i%sources))}}
}

// connect opens a connection from the i-th address, and notes it if that fails.
// It is closed when ctx ends.
func (a *arena) connect(ctx context.Context, i int) net.Conn {
	c, err := dialer(i).DialContext(ctx, "tcp", a.address)
	if err != nil {
		if ctx.Err() == nil {
			a.note("dial")
		}
		return nil
	}
	context.AfterFunc(ctx, func() { c.Close() })
	return c
}

// client is an HTTP client at the i-th address.
func (a *arena) client(i int) *http.Client {
	i %= sources
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clients[i] == nil {
		c := &http.Client{
			Timeout: 15 * time.Second,
			Transport: &http.Transport{
				DialContext: dialer(i).DialContext, MaxIdleConnsPerHost: 64, DisableCompression: true,
				ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			},
		}
		a.t.Cleanup(c.CloseIdleConnections)
		a.clients[i] = c
	}
	return a.clients[i]
}

// note counts something that the attacker saw.
func (a *arena) note(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen[what]++
}

// do sends a request from the i-th address and returns the status of the answer,
// 0 if there was none.
func (a *arena) do(ctx context.Context, i int, req *http.Request) int {
	resp, err := a.client(i).Do(req)
	if err != nil {
		if ctx.Err() == nil {
			a.note(outcome(err))
		}
		return 0
	}
	defer resp.Body.Close()
	_, _ = discard(resp.Body)
	a.note(fmt.Sprint(resp.StatusCode))
	return resp.StatusCode
}

// get asks for a path below the log's prefix.
func (a *arena) get(ctx context.Context, i int, path string, headers ...string) int {
	return a.request(ctx, i, http.MethodGet, a.url+path, nil, headers...)
}

// post sends a body to an endpoint.
func (a *arena) post(ctx context.Context, i int, endpoint string, body []byte, headers ...string) int {
	return a.request(ctx, i, http.MethodPost, a.url+"ct/v1/"+endpoint, bytes.NewReader(body), headers...)
}

func (a *arena) request(ctx context.Context, i int, method, url string, body io.Reader, headers ...string) int {
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		a.t.Error(err)
		return 0
	}
	for n := 0; n+1 < len(headers); n += 2 {
		req.Header.Set(headers[n], headers[n+1])
	}
	return a.do(ctx, i, req)
}

// body is the submission of a chain.
func body(chain [][]byte) []byte {
	b, err := json.Marshal(map[string][][]byte{"chain": chain})
	if err != nil {
		panic(err)
	}
	return b
}

// head is the head of a raw request to add-chain or another path.
func (a *arena) head(method, path string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s /%s/%s HTTP/1.1\r\nHost: %s\r\n", method, a.log.Conf.Name, path, a.address)
	for n := 0; n+1 < len(headers); n += 2 {
		fmt.Fprintf(&b, "%s: %s\r\n", headers[n], headers[n+1])
	}
	b.WriteString("\r\n")
	return b.String()
}

// workers runs f again and again, n at a time, until ctx ends. What f is given
// counts up, and differs in each call.
func workers(ctx context.Context, n int, f func(ctx context.Context, i int)) {
	var mu sync.Mutex
	next := 0
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				f(ctx, i)
			}
		})
	}
	all.Wait()
}

// pause waits, and reports false if ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func discard(r io.Reader) (int64, error) { return io.Copy(io.Discard, r) }

// summary lists counts, the largest first.
func summary(counts map[string]int) string {
	keys := slices.SortedFunc(maps.Keys(counts), func(x, y string) int { return counts[y] - counts[x] })
	var parts []string
	for _, k := range keys {
		parts = append(parts, fmt.Sprintf("%s×%d", k, counts[k]))
	}
	return strings.Join(parts, " ")
}
