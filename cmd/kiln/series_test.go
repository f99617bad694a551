package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/sunlight"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// operator runs commands of this program in a folder, at a time of its choosing.
type operator struct {
	t   *testing.T
	dir string
	s3  *servers.S3
	ca  *testlogs.CA

	mu   sync.Mutex
	skew time.Duration // of the clock of all commands
}

func (o *operator) now() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Now().Add(o.skew)
}

func (o *operator) setClock(at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.skew = time.Until(at)
}

func (o *operator) path(name string) string { return filepath.Join(o.dir, name) }

// run runs a command, which has to end with a status, and returns what it wrote
// to standard output.
func (o *operator) run(want int, args ...string) string {
	o.t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(o.t.Context(), &env{stdout: &stdout, stderr: &stderr, now: o.now}, args)
	if status != want {
		o.t.Fatalf("kiln %s: status %d, want %d\n%s%s", strings.Join(args, " "), status, want, &stdout, &stderr)
	}
	return stdout.String()
}

// conf is run of a command with -c.
func (o *operator) conf(command string, args ...string) string {
	o.t.Helper()
	return o.run(0, append(append(strings.Fields(command), "-c", o.path("kiln.yaml")), args...)...)
}

// said tells when a text was written to it.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
	want string
	c    chan struct{}
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(b)
	if s.want != "" && strings.Contains(s.text.String(), s.want) {
		s.want = ""
		close(s.c)
	}
	return len(b), nil
}

// serve runs a command that serves until stop is called, which drains.
func (o *operator) serve(command ...string) (stop func()) {
	o.t.Helper()
	ctx, cancel := context.WithCancel(o.t.Context())
	out := &said{want: "serving on", c: make(chan struct{})}
	status := make(chan int, 1)
	go func() {
		status <- run(ctx, &env{stdout: out, stderr: out, now: o.now}, append(command, "-c", o.path("kiln.yaml")))
	}()
	select {
	case <-out.c:
	case code := <-status:
		o.t.Fatalf("kiln %s ended with status %d\n%s", strings.Join(command, " "), code, &out.text)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if code := <-status; code != 0 {
				o.t.Errorf("kiln %s ended with status %d\n%s", strings.Join(command, " "), code, &out.text)
			}
		})
	}
	o.t.Cleanup(stop)
	return stop
}

func (o *operator) write(name, text string, mode os.FileMode) {
	o.t.Helper()
	if err := os.WriteFile(o.path(name), []byte(text), mode); err != nil {
		o.t.Fatal(err)
	}
}

// shardOf is one shard as a test sees it from outside.
type shardOf struct {
	o       *operator
	name    string
	info    daemon.LogInfo
	auditor *testlogs.Auditor
	client  *testlogs.Client
	size    int
}

// shards returns the shards that the configuration has.
func (o *operator) shards() map[string]*shardOf {
	o.t.Helper()
	cfg, err := config.Read(o.path("kiln.yaml"), o.now())
	if err != nil {
		o.t.Fatal(err)
	}
	infos, err := daemon.Metadata(cfg)
	if err != nil {
		o.t.Fatal(err)
	}
	list := make(map[string]*shardOf)
	for _, i := range infos {
		s := &shardOf{o: o, name: i.Name, info: i}
		if s.client, err = testlogs.NewClient(i.SubmissionURL, i.Key, nil); err != nil {
			o.t.Fatal(err)
		}
		if s.auditor, err = testlogs.NewAuditor(testlogs.AuditorConfig{URL: i.MonitoringURL, Origin: i.Origin, SPKI: i.Key}); err != nil {
			o.t.Fatal(err)
		}
		list[i.Name] = s
	}
	return list
}

// chain makes a new chain that the shard accepts.
func (s *shardOf) chain() testlogs.Chain {
	s.o.t.Helper()
	chain, err := sample(s.o.ca, s.size, testlogs.LeafOptions{NotBefore: s.o.now().Add(-time.Hour), NotAfter: s.info.NotAfterLimit.Add(-time.Hour)})
	if err != nil {
		s.o.t.Fatal(err)
	}
	return chain
}

// submit submits so many new chains and returns the last, with its SCT.
func (s *shardOf) submit(n int) (chain testlogs.Chain, sct *testlogs.SCT) {
	s.o.t.Helper()
	for range n {
		var err error
		chain = s.chain()
		if sct, err = s.client.Submit(s.o.t.Context(), chain); err != nil {
			s.o.t.Fatal(err)
		}
		s.auditor.Remember(sct)
		s.size++
	}
	return chain, sct
}

// audit reads all of the shard back, by the auditor and by filippo.io/sunlight's
// client, which shares nothing with it.
func (s *shardOf) audit() {
	t, ctx := s.o.t, s.o.t.Context()
	t.Helper()
	report, err := s.auditor.Audit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report.Checkpoint.N != int64(s.size) || report.SCTs != s.size {
		t.Errorf("%s: %d submissions gave %d entries and %d SCTs", s.name, s.size, report.Checkpoint.N, report.SCTs)
	}
	key, err := x509.ParsePKIXPublicKey(s.info.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sunlight.NewClient(&sunlight.ClientConfig{
		MonitoringPrefix: s.info.MonitoringURL, PublicKey: key, UserAgent: "kiln-test (+https://kiln.example)",
	})
	if err != nil {
		t.Fatal(err)
	}
	checkpoint, _, err := c.Checkpoint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for i := range c.Entries(ctx, checkpoint.Tree, 0) {
		if i != n {
			t.Errorf("%s: sunlight's client reads entry %d, want %d", s.name, i, n)
		}
		n++
	}
	if err := c.Err(); err != nil || n != report.Checkpoint.N {
		t.Errorf("%s: sunlight's client has read %d of %d entries: %v", s.name, n, report.Checkpoint.N, err)
	}
}

// get returns a page of the shard.
func (s *shardOf) get(path string) (code int, body []byte) {
	s.o.t.Helper()
	resp, err := http.Get(s.info.MonitoringURL + path)
	if err != nil {
		s.o.t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		s.o.t.Fatal(err)
	}
	return resp.StatusCode, b.Bytes()
}

// stored lists what a shard has in the bucket: versitygw keeps objects as files.
func (s *shardOf) stored() (n int) {
	s.o.t.Helper()
	err := filepath.WalkDir(s.o.path("s3/kiln-ct/"+s.name), func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		s.o.t.Fatal(err)
	}
	return n
}

const seriesYAML = `listen: %[1]s
admin: %[2]s
logging: {level: warn}
s3: {endpoint: %[3]s, path_style: true, credentials_file: s3.yaml}
roots: {extra_file: extra.pem, refresh: 24h}
series:
  - name: series
    first: %[4]s
    ahead: 1
    submission_url: http://%[1]s/{shard}/
    secret_file: keys/series.secret
    roots_file: roots.pem
    storage: s3://kiln-ct/{shard}
    lock: s3://kiln-ct/lock
    dedup: dedup/{shard}.db
    period: 50ms
    shards:
      %[4]s: {names_tiles: true}
`

// newOperator prepares a machine with an S3 server beside it.
func newOperator(t *testing.T, half config.HalfYear) *operator {
	t.Helper()
	o := &operator{t: t, dir: t.TempDir()}
	binary, err := servers.BuildTool(t.Context(), "versitygw")
	if err != nil {
		t.Fatal(err)
	}
	if o.s3, err = servers.StartS3(t.Context(), servers.S3Config{Binary: binary, Dir: o.path("s3"), Buckets: []string{"kiln-ct"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.s3.Stop(); err != nil {
			t.Error(err)
		}
	})
	o.setClock(half.Start.AddDate(0, 3, 0))
	if o.ca, err = testlogs.NewCA(testlogs.CAOptions{Now: o.now()}); err != nil {
		t.Fatal(err)
	}
	var addresses [2]string
	for i := range addresses {
		if addresses[i], err = servers.FreeAddress(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	o.write("kiln.yaml", fmt.Sprintf(seriesYAML, addresses[0], addresses[1], o.s3.Endpoint, half.Suffix), 0o644)
	o.write("s3.yaml", fmt.Sprintf("access_key_id: %q\nsecret_access_key: %q\n", o.s3.AccessKeyID, o.s3.SecretAccessKey), 0o600)
	o.write("extra.pem", string(o.ca.RootPEM()), 0o644)
	return o
}

// TestSeries lives with a series of two shards on S3 for a year: makes it, serves
// it, loses the machine, brings it back, freezes and retires the older shard.
func TestSeries(t *testing.T) {
	t.Parallel()
	half := config.HalfYearOf(time.Now().AddDate(-1, 0, 0))
	o := newOperator(t, half)

	o.run(0, "keys", "new", o.path("keys/series.secret"))
	o.conf("roots apply")
	o.conf("check")
	o.conf("keys check")
	if plan := o.conf("shards plan"); strings.Count(plan, "series20") < 2 {
		t.Errorf("the plan is %s", plan)
	}
	var made []struct {
		Name    string `json:"name"`
		Request struct {
			Key, SubmissionURL string
			MMD                int
		} `json:"inclusion_request"`
	}
	if err := json.Unmarshal([]byte(o.conf("shards create", "--all", "--json")), &made); err != nil || len(made) != 2 || made[0].Request.MMD != 60 {
		t.Fatalf("shards create made %+v: %v", made, err)
	}
	all := o.shards()
	old, next := all[made[0].Name], all[made[1].Name]

	stop := o.serve("serve")
	old.submit(20)
	next.submit(10)
	chain, sct := old.submit(1)
	stop()

	// The machine is lost; key, bucket and lock are not.
	for _, lost := range []string{"dedup", "roots.pem", "roots.pem.last-good"} {
		if err := os.RemoveAll(o.path(lost)); err != nil {
			t.Fatal(err)
		}
	}
	stop = o.serve("restore")
	again, err := old.client.Submit(t.Context(), chain)
	if err != nil || again.Index != sct.Index || again.TimestampMillis != sct.TimestampMillis {
		t.Errorf("after the restore the SCT of entry %d is %+v, %v", sct.Index, again, err)
	}
	old.submit(3)
	old.audit()
	next.audit()
	o.newRoot(next)

	o.freeze(old, next)
	stop()

	// A year later.
	o.setClock(time.Now())
	o.run(1, "shards", "retire", "-c", o.path("kiln.yaml"), next.name, "--yes") // it grows
	stop = o.serve("serve")
	if n := old.stored(); n == 0 {
		t.Fatal("nothing is stored of the older shard")
	}
	if shown := o.conf("shards retire", old.name); !strings.Contains(shown, "tile") || old.stored() == 0 {
		t.Errorf("what may be deleted: %s", shown)
	}
	o.conf("shards retire", old.name, "--yes")
	if n := old.stored(); n != len(rootCopies(t, o, old)) {
		t.Errorf("%d objects are left of the retired shard", n)
	}
	if code, _ := old.get("checkpoint"); code == http.StatusOK {
		t.Error("a retired shard has a checkpoint")
	}
	stop()
	defer o.serve("serve")() // the others go on, without it
	next.audit()
	o.run(0, "fsck", next.info.MonitoringURL, "--state", o.path("fsck.state"))
	o.conf("gc", "--yes") // passes over what was retired
	o.conf("dedup stat")
	if list := o.conf("shards list"); !regexp.MustCompile(old.name + ` .*retired`).MatchString(list) {
		t.Errorf("shards are listed as %s", list)
	}
}

// newRoot has the process that serves accept one more root, by a signal.
func (o *operator) newRoot(s *shardOf) {
	o.t.Helper()
	other, err := testlogs.NewCA(testlogs.CAOptions{Now: o.now()})
	if err != nil {
		o.t.Fatal(err)
	}
	o.write("extra.pem", string(o.ca.RootPEM())+string(other.RootPEM()), 0o644)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		o.t.Fatal(err)
	}
	o.ca, other = other, o.ca
	chain := s.chain()
	o.ca = other
	for deadline := time.Now().Add(patience); ; {
		sct, err := s.client.Submit(o.t.Context(), chain)
		if err == nil {
			s.auditor.Remember(sct)
			s.size++
			return
		}
		if time.Now().After(deadline) {
			o.t.Fatalf("a root that was added is not accepted: %v", err)
		}
	}
}

// freeze freezes one of two shards that are served.
func (o *operator) freeze(old, next *shardOf) {
	t := o.t
	t.Helper()
	o.conf("shards freeze", old.name) // only says what it would do
	old.submit(1)
	o.conf("shards freeze", old.name, "--yes")
	if _, err := old.client.Submit(t.Context(), old.chain()); err == nil || !strings.Contains(err.Error(), "410") {
		t.Errorf("a submission to a frozen shard: %v", err)
	}
	next.submit(1)
	old.audit()
	next.audit()
	_, page := old.get("log.v3.json")
	for deadline := time.Now().Add(patience); !bytes.Contains(page, []byte(`"status": "readonly"`)) && time.Now().Before(deadline); {
		_, page = old.get("log.v3.json") // the process that serves looks every 5 s
	}
	stored, err := os.ReadFile(o.path("s3/kiln-ct/" + old.name + "/log.v3.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range [][]byte{page, stored} {
		var info struct {
			Status string `json:"status"`
			Final  struct {
				Size int `json:"tree_size"`
			} `json:"final_tree_head"`
		}
		if err := json.Unmarshal(doc, &info); err != nil || info.Status != "readonly" || info.Final.Size != old.size {
			t.Errorf("log.v3.json of the frozen shard is %s", doc)
		}
	}
}

// rootCopies are the copies of the roots in the storage of a shard, which are
// not of the log and stay.
func rootCopies(t *testing.T, o *operator, s *shardOf) []string {
	t.Helper()
	list, err := filepath.Glob(o.path("s3/kiln-ct/" + s.name + "/roots/*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}
