package daemon_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/servers"

	_ "github.com/mattn/go-sqlite3" // the driver, for a process that holds a lock file
)

// onS3 has logs be on an S3 server behind a proxy, with as narrow a bound as can
// be.
func onS3(t *testing.T, timeout time.Duration, lockOnS3 bool) (proxy *servers.Proxy, change func(*config.Config, *config.Log)) {
	t.Helper()
	binary, err := servers.BuildTool(t.Context(), "versitygw")
	if err != nil {
		t.Fatal(err)
	}
	s, err := servers.StartS3(context.Background(), servers.S3Config{Binary: binary, Dir: t.TempDir(), Buckets: []string{"kiln-ct"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	if proxy, err = servers.NewProxy(context.Background(), s.Endpoint); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	secret := filepath.Join(t.TempDir(), "s3.yaml")
	text := "access_key_id: " + s.AccessKeyID + "\nsecret_access_key: " + strconv.Quote(s.SecretAccessKey) + "\n"
	if err := os.WriteFile(secret, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return proxy, func(cfg *config.Config, conf *config.Log) {
		cfg.S3 = &config.S3{Endpoint: proxy.Endpoint, Region: "us-east-1", PathStyle: true, CredentialsFile: secret, Parallel: 1, Timeout: timeout}
		conf.Storage = "s3://kiln-ct/" + conf.Name
		if lockOnS3 {
			conf.Lock = "s3://kiln-ct/lock"
		}
	}
}

// pending are submissions and requests of monitors that wait.
type pending struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	scts int // guarded by mu
	stop context.CancelFunc
}

// press sends n submissions to log i until it is ended, and n requests for objects
// that are not there, without waiting for answers.
func (r *rig) press(i, n int) *pending {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &pending{stop: cancel}
	client, at := r.client(i), r.url(i)
	for k := range n {
		chain := r.chain()
		p.wg.Go(func() {
			for ctx.Err() == nil { // again, as a CA would
				if _, err := client.Submit(ctx, chain); err == nil {
					p.mu.Lock()
					defer p.mu.Unlock()
					p.scts++
					return
				}
				time.Sleep(10 * time.Millisecond) // much sooner than it was asked to
			}
		})
		p.wg.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"issuer/"+strings.Repeat("0", 62)+strconv.Itoa(10+k), http.NoBody)
			if err != nil {
				return
			}
			if resp, err := r.http.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	r.t.Cleanup(p.end)
	return p
}

// end calls off what still waits.
func (p *pending) end() {
	p.stop()
	p.wg.Wait()
}

// until waits for what a series says.
func (r *rig) until(series string, so func(value float64) bool) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		_, page := r.admin("/metrics")
		_, rest, there := strings.Cut(page, series+" ")
		text, _, _ := strings.Cut(rest, "\n")
		v, err := strconv.ParseFloat(text, 64)
		if there && err != nil {
			r.t.Fatal(err)
		}
		if there && so(v) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s is %q after a minute", series, text)
		}
		time.Sleep(time.Millisecond) // the server has nothing that could be waited for
	}
}

// served demands SCTs of log i that are kept, and that it is read.
func (r *rig) served(i int) {
	r.t.Helper()
	for range 3 {
		if err := r.auditor(i).Holds(r.t.Context(), r.submit(i, r.chain())); err != nil {
			r.t.Error(err)
		}
	}
}

func atLeast(n float64) func(float64) bool { return func(v float64) bool { return v >= n } }

// TestHungServiceTakesNothing has what one log asks of the S3 server hang, with
// submissions and monitors waiting for it, and demands the other log, on the same
// server. Then the server answers, and the log goes on.
func TestHungServiceTakesNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		lockOnS3 bool
		path     func(r *rig) string // of what hangs
		series   string              // which says that it does
	}{
		{"storage", false, func(*rig) string { return "/kiln-ct/one/" }, `kiln_s3client_in_flight_requests{log="one",path="write"}`},
		{"lock cell", true, func(r *rig) string { return "/kiln-ct/lock/" + r.lockCell(0) }, `kiln_s3client_in_flight_requests{log="",path="lock"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			proxy, change := onS3(t, 10*time.Second, c.lockOnS3)
			r := newRigOf(t, change, "one", "two")
			r.start()
			r.served(0)
			proxy.Inject(servers.Fault{Path: c.path(r), Hang: true, Times: -1})
			waiting := r.press(0, 8)
			r.until(`kiln_frontend_in_flight_requests{log="one"}`, atLeast(1))
			r.until(c.series, atLeast(1))
			if c.lockOnS3 { // a request of a lock soon gives up, so that a narrow bound would only be slow
				r.until(`kiln_s3client_parallel_requests{log="",path="lock"}`, atLeast(8))
			}
			r.served(1)
			waiting.mu.Lock()
			if waiting.scts > 0 {
				t.Errorf("%d SCTs of the log that hangs", waiting.scts)
			}
			waiting.mu.Unlock()
			if proxy.Heal() == 0 {
				t.Error("the fault was used up")
			}
			waiting.end()
			r.untilServed(0)
		})
	}
}

// untilServed submits to log i until it has an SCT, as a CA would.
func (r *rig) untilServed(i int) {
	r.t.Helper()
	chain := r.chain()
	deadline := time.Now().Add(time.Minute)
	for {
		sct, err := r.client(i).Submit(r.t.Context(), chain)
		if err == nil {
			if err := r.auditor(i).Holds(r.t.Context(), sct); err != nil {
				r.t.Error(err)
			}
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("no SCT after a minute: %v\n%s", err, r.said)
		}
		time.Sleep(50 * time.Millisecond) // as it was asked to
	}
}

// lockCell returns the name of the lock cell of log i.
func (r *rig) lockCell(i int) (id string) {
	r.decided2(i, func(p *daemon.Parts) error {
		id = p.LockID
		return nil
	})
	return id
}

// TestHungLogKeepsNoOtherFromOpening starts while the storage of the first log
// hangs for longer than the test lasts, and the data of the third is in use. The
// second is served; the third is, as soon as it can be had, although the opening of
// the first still hangs.
func TestHungLogKeepsNoOtherFromOpening(t *testing.T) {
	t.Parallel()
	proxy, change := onS3(t, time.Hour, false)
	r := newRigOf(t, change, "one", "two", "three")
	r.opts.SetPatience(100 * time.Millisecond)
	var release func()
	r.decided2(2, func(p *daemon.Parts) (err error) {
		release, err = p.Hold()
		return err
	})
	proxy.Inject(servers.Fault{Path: "/kiln-ct/one/", Hang: true, Times: -1})
	r.start()
	r.served(1)
	code, body := r.admin("/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "log one could not be started") || !strings.Contains(body, "takes long to open") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, text := r.get(r.url(0) + "checkpoint"); code != http.StatusServiceUnavailable || !strings.Contains(text, "tried again") {
		t.Errorf("checkpoint: %d %s", code, text)
	}
	r.until(`kiln_s3client_in_flight_requests{log="one",path="write"}`, atLeast(1)) // it is tried again, and hangs again
	said := r.said.said("msg=\"log is served now\" log=three")
	release()
	within(t, "opening", said)
	r.served(2)
	if strings.Contains(r.said.String(), "log is served now\" log=one") {
		t.Error("the log that hangs is served")
	}
}

// holdVariable names the SQLite file that a process started by holdElsewhere holds.
const holdVariable = "KILN_TEST_HOLD"

// TestHoldsLockFile is that process; run by others it is none, and proves nothing.
func TestHoldsLockFile(t *testing.T) {
	path := os.Getenv(holdVariable)
	if path == "" {
		return
	}
	db, err := sql.Open("sqlite3", "file:"+(&url.URL{Path: path}).EscapedPath()+"?_txlock=exclusive&_busy_timeout=60000")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	if err = errors.Join(err, tx.Rollback()); err != nil {
		t.Fatal(err)
	}
}

// holdElsewhere has another process hold a SQLite file until release: within one
// process, any close of the file would end it.
func holdElsewhere(t *testing.T, path string) (release func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHoldsLockFile$", "-test.v")
	cmd.Env = append(os.Environ(), holdVariable+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		in.Close()
		if _, err := io.Copy(io.Discard, out); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(release)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "held" {
			return release
		}
	}
	t.Fatal("the other process could not hold the file")
	return nil
}

// TestHungLockFile has another process hold the lock file of one log, while more
// submissions wait than it works on at a time: what is beyond is refused, the other
// log takes submissions, and /readyz answers.
func TestHungLockFile(t *testing.T) {
	t.Parallel()
	r := newRigOf(t, func(_ *config.Config, conf *config.Log) {
		conf.Lock = strings.TrimSuffix(conf.Lock, ".db") + "-" + conf.Name + ".db"
		conf.MaxInFlight = 4
	}, "one", "two")
	r.start()
	r.served(0)
	release := holdElsewhere(t, r.cfg.Logs[0].Lock)
	waiting := r.press(0, 8)
	r.until(`kiln_frontend_in_flight_requests{log="one"}`, atLeast(1))
	r.until(`kiln_frontend_requests_total{code="503",endpoint="add-pre-chain",log="one"}`, atLeast(1))
	r.served(1)
	if _, body := r.admin("/readyz"); !strings.Contains(body, "ok: log two") {
		t.Errorf("/readyz: %s", body)
	}
	waiting.mu.Lock()
	if waiting.scts > 0 {
		t.Errorf("%d SCTs without the lock", waiting.scts)
	}
	waiting.mu.Unlock()
	waiting.end()
	release()
	r.untilServed(0)
}

// TestHungLogLeavesConnections has a log whose storage hangs be sent more than the
// listener takes, all from one address, as a proxy in front would.
func TestHungLogLeavesConnections(t *testing.T) {
	t.Parallel()
	proxy, change := onS3(t, 10*time.Second, false)
	r := newRigOf(t, change, "one", "two")
	r.cfg.MaxConnections = 64
	r.http.Transport.(*http.Transport).MaxIdleConnsPerHost = 1
	r.start()
	r.served(0)
	proxy.Inject(servers.Fault{Path: "/kiln-ct/one/", Hang: true, Times: -1})
	waiting := r.press(0, 80)
	r.until(`kiln_daemon_share_refused_total{log="one"}`, atLeast(1))
	r.untilServed(1) // a connection that waits may have to make room in the flood
	waiting.end()
	proxy.Heal()
	r.untilServed(0)
}
