package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/lock/sqlite"
	"kiln/testlogs"
)

func TestSubmitAndReadBack(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	r.start()
	for i := range r.cfg.Logs {
		sct := r.submit(i, r.chain())
		if err := r.auditor(i).Holds(t.Context(), sct); err != nil {
			t.Errorf("the moment the SCT arrived: %v", err)
		}
		report, err := r.auditor(i).Audit(t.Context())
		if err != nil || report.Checkpoint.N != 1 || report.Issuers != 2 {
			t.Errorf("audit: %+v, %v", report, err)
		}
	}
	if code, body := r.get("http://" + r.d.Addr() + "/"); code != 200 || !strings.Contains(body, "http://ct.test/two/") {
		t.Errorf("index page: %d %s", code, body)
	}
	for _, path := range []string{"/metrics", "/livez", "/readyz", "/debug/pprof/", "/debug/pprof/cmdline", "/one/metrics", "/one/.serve.lock", "/one/debug/pprof/"} {
		if code, body := r.get("http://" + r.d.Addr() + path); code != 404 {
			t.Errorf("%s on the public port: %d %s", path, code, body)
		}
	}
	if code, body := r.admin("/livez"); code != 200 {
		t.Errorf("livez: %d %s", code, body)
	}
	if code, body := r.admin("/readyz"); code != 200 || !strings.Contains(body, "one") || !strings.Contains(body, "two") {
		t.Errorf("readyz: %d %s", code, body)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap"} {
		if code, _ := r.admin(path); code != 200 {
			t.Errorf("%s on the admin port: %d", path, code)
		}
	}
	for _, series := range []string{`kiln_daemon_log_up{log="two"}`, `kiln_daemon_dedup_up{log="one"}`} {
		if got := r.metric(series); got != "1" {
			t.Errorf("%s is %s, want 1", series, got)
		}
	}
	if _, body := r.admin("/metrics"); !strings.Contains(body, `version="test"`) || !strings.Contains(body, "go_goroutines") {
		t.Error("metrics lack the build or those of Go")
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	for i, conf := range r.cfg.Logs {
		got := r.info(i)
		spki, err := x509.ParsePKIXPublicKey(got.Key)
		if err != nil || spki == nil || len(got.LogID) != 32 {
			t.Errorf("key: %v, log ID %x", err, got.LogID)
		}
		if got.Name != conf.Name || got.Origin != "ct.test/"+conf.Name || got.Storage != conf.Storage || got.Lock != conf.Lock {
			t.Errorf("%+v", got)
		}
	}
	if bytes.Equal(r.info(0).LogID, r.info(1).LogID) {
		t.Error("two logs have one key")
	}
}

func TestSecondServeOnTheSameData(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	r.start()
	// Another port and other names, but the data of one log is the same.
	other := *r.cfg
	other.Logs = []config.Log{r.cfg.Logs[1]}
	_, err := daemon.Start(t.Context(), &other, r.opts)
	if err == nil || !strings.Contains(err.Error(), r.cfg.Logs[1].Storage) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", os.Getpid())) {
		t.Errorf("second start: %v, want an error with the path and the pid", err)
	}
	// The same lock cell beside other storage is the same log too.
	other.Logs[0].Storage = t.TempDir()
	if _, err := daemon.Start(t.Context(), &other, r.opts); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second start on a copy of the storage: %v", err)
	}
	if err := daemon.CreateLog(t.Context(), r.cfg, r.cfg.Logs[1], r.opts); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("create over a running log: %v", err)
	}
	r.submit(1, r.chain()) // the first is unharmed
}

// breakLock puts into the lock what no log writes, so that the sequencer stops
// for good at its next round.
func breakLock(t *testing.T, conf config.Log, logID []byte) {
	t.Helper()
	ctx := t.Context()
	cells, err := sqlite.Open(ctx, conf.Lock)
	if err != nil {
		t.Fatal(err)
	}
	defer cells.Close()
	for {
		held, err := cells.Load(ctx, hex.EncodeToString(logID))
		if err != nil {
			t.Fatal(err)
		}
		if _, err = cells.Replace(ctx, held, []byte("not a checkpoint")); err == nil {
			return
		}
	}
}

func TestOneLogStopsTheOthersGoOn(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	r.start()
	ended := make(chan error, 1)
	go func() { ended <- r.d.Wait() }()
	sct := r.submit(0, r.chain())
	stop := func(i int) {
		t.Helper()
		breakLock(t, r.cfg.Logs[i], r.info(i).LogID)
		said := r.said.said("log takes no more submissions and is only read: repair what the error names, then restart\" log=" + r.cfg.Logs[i].Name)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		client, chain := r.client(i), r.chain()
		go func() { // makes the next round come at once
			_, err := client.Submit(ctx, chain)
			done <- err
		}()
		within(t, "stop of log "+r.cfg.Logs[i].Name, said)
		cancel()
		if err := within(t, "submission", done); err == nil {
			t.Error("a submission got an SCT from a log that stopped")
		}
	}
	stop(0)

	var status *testlogs.StatusError
	if _, err := r.client(0).Submit(t.Context(), r.chain()); !errors.As(err, &status) || status.Code != http.StatusServiceUnavailable ||
		status.RetryAfter == 0 || !strings.Contains(status.Text, "has stopped") {
		t.Errorf("submission to the stopped log: %v, want 503 with Retry-After and the reason", err)
	}
	if _, err := r.client(0).Roots(t.Context()); err != nil {
		t.Errorf("get-roots of the stopped log: %v", err)
	}
	if err := r.auditor(0).Holds(t.Context(), sct); err != nil {
		t.Errorf("reading the stopped log: %v", err)
	}
	if code, body := r.admin("/readyz"); code != 503 || !strings.Contains(body, "not ready: log one: stopped for good") || !strings.Contains(body, "ok: log two") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, _ := r.admin("/livez"); code != 200 {
		t.Errorf("livez: %d", code)
	}
	if got := r.metric(`kiln_daemon_log_up{log="one"}`); got != "0" {
		t.Errorf("log_up is %s, want 0", got)
	}
	other := r.submit(1, r.chain())
	if err := r.auditor(1).Holds(t.Context(), other); err != nil {
		t.Errorf("the other log: %v", err)
	}

	select {
	case err := <-ended:
		t.Errorf("Wait returned while a log runs: %v", err)
	default:
	}
	stop(1)
	if err := within(t, "Wait", ended); err == nil || !strings.Contains(err.Error(), "stopped for good") {
		t.Errorf("Wait: %v, want the reason", err)
	}
	if _, err := r.client(1).Roots(t.Context()); err != nil {
		t.Errorf("get-roots after all logs stopped: %v", err)
	}
}

// What was taken before Close is answered with an SCT that holds.
func TestCloseAnswersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	const n = 20
	r := newRig(t, "one")
	r.cfg.Logs[0].Period = time.Second // so that all wait when Close comes
	r.start()
	type result struct {
		chain testlogs.Chain
		sct   *testlogs.SCT
		err   error
	}
	results := make(chan result, n)
	for range n {
		client, chain := r.client(0), r.chain()
		go func() {
			sct, err := client.Submit(t.Context(), chain)
			results <- result{chain, sct, err}
		}()
	}
	for r.metric(`kiln_frontend_in_flight_requests{log="one"}`) != fmt.Sprint(n) && len(results) == 0 {
		if t.Context().Err() != nil {
			t.Fatal("submissions do not arrive")
		}
	}
	addr := r.d.Addr()
	r.stop()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the listener still accepts after Close")
	}
	r.start()
	for range n {
		got := <-results
		if got.err != nil {
			t.Errorf("submission in flight at Close: %v", got.err)
			continue
		}
		if err := r.auditor(0).Holds(t.Context(), got.sct); err != nil {
			t.Error(err)
		}
		if again := r.submit(0, got.chain); !bytes.Equal(again.Body, got.sct.Body) {
			t.Errorf("resubmitted after the restart: %s, want %s", again.Body, got.sct.Body)
		}
	}
}

// A request whose body is still coming when Close begins is in flight too.
func TestCloseWaitsForBodies(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	var chain struct {
		Chain [][]byte `json:"chain"`
	}
	submitted := r.chain()
	chain.Chain = submitted.Submitted()
	body, err := json.Marshal(chain)
	if err != nil {
		t.Fatal(err)
	}
	c := r.dialFrom("127.0.0.1")
	defer c.Close()
	fmt.Fprintf(c, "POST /one/ct/v1/%s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s",
		submitted.Endpoint(), len(body), body[:100])
	for r.metric(`kiln_frontend_in_flight_requests{log="one"}`) != "1" {
		if t.Context().Err() != nil {
			t.Fatal("the request does not arrive")
		}
	}
	client, d := r.client(0), r.d
	closed := make(chan error, 1)
	go func() { closed <- d.Close(context.Background()) }()
	within(t, "drain", r.said.said("msg=draining"))
	if code, text := r.admin("/readyz"); code != 503 || !strings.Contains(text, "draining") {
		t.Errorf("readyz while draining: %d %s", code, text)
	}
	if _, err := c.Write(body[100:]); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("status %d, %v: %s", resp.StatusCode, err, answer)
	}
	if _, err := client.Check(submitted, answer); err != nil {
		t.Error(err)
	}
	r.http.CloseIdleConnections() // to the admin listener
	if err := within(t, "Close", closed); err != nil {
		t.Error(err)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	tests := map[string]struct {
		readOnly bool
		limit    time.Time
		want     int
	}{
		"by the operator":            {true, now.AddDate(1, 0, 0), http.StatusGone},
		"a week after the window":    {false, now.AddDate(0, 0, -7).Add(-time.Minute), http.StatusGone},
		"a day after the window":     {false, now.AddDate(0, 0, -1), http.StatusBadRequest}, // the window refuses it
		"read-only and window ended": {true, now.AddDate(0, -6, 0), http.StatusGone},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "one")
			r.cfg.Logs[0].ReadOnly, r.cfg.Logs[0].NotAfterLimit = test.readOnly, test.limit
			r.start()
			var status *testlogs.StatusError
			if _, err := r.client(0).Submit(t.Context(), r.chain()); !errors.As(err, &status) || status.Code != test.want {
				t.Errorf("submission: %v, want %d", err, test.want)
			}
			if _, err := r.client(0).Roots(t.Context()); err != nil {
				t.Errorf("get-roots: %v", err)
			}
			if _, err := r.auditor(0).Audit(t.Context()); err != nil {
				t.Errorf("audit: %v", err)
			}
		})
	}
}

func TestTLSFromFiles(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	conf := daemon.WriteCertificate(t, r.dir, "ct.test")
	r.cfg.TLS = &conf
	r.start()
	pem, err := os.ReadFile(conf.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, h2 := range []bool{false, true} {
		transport := &http.Transport{
			ForceAttemptHTTP2: h2,
			TLSClientConfig:   &tls.Config{RootCAs: pool, ServerName: "ct.test"},
		}
		resp, err := (&http.Client{Transport: transport}).Get("https://" + r.d.Addr() + "/one/checkpoint")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		transport.CloseIdleConnections()
		if want := map[bool]int{false: 1, true: 2}[h2]; resp.StatusCode != 200 || resp.ProtoMajor != want {
			t.Errorf("status %d by %s, want 200 by HTTP/%d", resp.StatusCode, resp.Proto, want)
		}
	}
	old := &tls.Config{RootCAs: pool, ServerName: "ct.test", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if c, err := tls.Dial("tcp", r.d.Addr(), old); err == nil {
		c.Close()
		t.Error("TLS 1.1 was accepted")
	}
}
