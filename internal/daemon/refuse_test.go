package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kiln/dedup"
	"kiln/entry"
	"kiln/internal/chain"
	"kiln/internal/daemon"
	"kiln/internal/logkey"
	"kiln/testlogs"
)

// openFiles counts the descriptors of the process.
func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// damage changes a bit in the middle of a file.
func damage(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := len(data) / 2
	if end := bytes.Index(data, []byte("\n\n")); filepath.Base(path) == "checkpoint" && end > 0 {
		at = end - 5 // in the root hash; half-way there may be a line that no key verifies
	}
	data[at] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// removeDedup removes the long-term cache of log i, with what SQLite keeps
// beside it.
func (r *rig) removeDedup(i int) {
	path := r.cfg.Logs[i].Dedup
	remove(r.t, path, path+"-wal", path+"-shm")
}

// A log that cannot be opened says which it is and what to do, keeps no other from
// being served, and leaves nothing behind; a start without any log fails. Not parallel: it counts goroutines and open files.
func TestRefusals(t *testing.T) {
	running := goleak.IgnoreCurrent()
	write := func(t *testing.T, path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := map[string]struct {
		fault func(*testing.T, *rig)
		want  []string // each in the error, or of a log that is left out in the report of its health
		all   bool     // the start fails, as the fault is of all logs, or of what they share
	}{
		"no logs":       {func(_ *testing.T, r *rig) { r.cfg.Logs = nil }, []string{"kiln.yaml", "no logs"}, true},
		"key missing":   {func(t *testing.T, r *rig) { remove(t, r.cfg.Logs[1].KeyFile) }, []string{"log two", "two.pem"}, false},
		"key is junk":   {func(t *testing.T, r *rig) { write(t, r.cfg.Logs[1].KeyFile, "junk") }, []string{"log two", "two.pem"}, false},
		"another key":   {anotherKey, []string{"log two", "two.pem", "was not signed by this log", "logs/two"}, false},
		"roots missing": {func(t *testing.T, r *rig) { remove(t, r.cfg.Logs[1].RootsFile) }, []string{"log one", "roots.pem"}, true},
		"roots empty":   {func(t *testing.T, r *rig) { write(t, r.cfg.Logs[1].RootsFile, "") }, []string{"log one", "roots.pem", "at least one"}, true},
		"roots are junk": {func(t *testing.T, r *rig) {
			write(t, r.cfg.Logs[1].RootsFile, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
		}, []string{"log one", "roots.pem"}, true},
		"storage missing": {
			func(t *testing.T, r *rig) { remove(t, r.cfg.Logs[1].Storage) },
			[]string{"log two", "logs/two", "bring back the storage"},
			false,
		},
		"checkpoint missing": {
			func(t *testing.T, r *rig) { remove(t, filepath.Join(r.cfg.Logs[1].Storage, "checkpoint")) },
			[]string{"log two", "logs/two", "checkpoint"},
			false,
		},
		"checkpoint damaged": {
			func(t *testing.T, r *rig) { damage(t, filepath.Join(r.cfg.Logs[1].Storage, "checkpoint")) },
			[]string{"log two", "logs/two", "checkpoint"},
			false,
		},
		"lock missing": {func(t *testing.T, r *rig) { remove(t, r.cfg.Logs[1].Lock) }, []string{"log one", "lock.db", "bring back"}, true},
		"lock damaged": {func(t *testing.T, r *rig) { write(t, r.cfg.Logs[1].Lock, strings.Repeat("junk", 4096)) }, []string{"log one", "lock.db"}, true},
		"hash tile damaged": {
			func(t *testing.T, r *rig) { damage(t, filepath.Join(r.cfg.Logs[1].Storage, "tile/0/000.p/1")) },
			[]string{"log two", "logs/two", "tile/0/000.p/1"},
			false,
		},
		"data tile damaged": {
			func(t *testing.T, r *rig) { damage(t, filepath.Join(r.cfg.Logs[1].Storage, "tile/data/000.p/1")) },
			[]string{"log two", "logs/two", "tile/data/000.p/1"},
			false,
		},
		"clock behind": {
			func(_ *testing.T, r *rig) { r.opts.Now = func() time.Time { return time.Now().Add(-time.Hour) } },
			[]string{"log one", "clock"},
			true,
		},
		"empty window": {
			func(_ *testing.T, r *rig) { r.cfg.Logs[1].NotAfterStart = r.cfg.Logs[1].NotAfterLimit },
			[]string{"log two", "not_after_start"},
			true,
		},
		"public port taken": {func(_ *testing.T, r *rig) { r.cfg.Listen = taken.Addr().String() }, []string{taken.Addr().String(), "listen"}, true},
		"admin port taken":  {func(_ *testing.T, r *rig) { r.cfg.Admin = taken.Addr().String() }, []string{taken.Addr().String(), "admin"}, true},
		"same URL":          {func(_ *testing.T, r *rig) { r.cfg.Logs[1].MonitoringURL = r.cfg.Logs[0].MonitoringURL }, []string{"one", "two", "URL"}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "one", "two")
			r.start()
			r.submit(0, r.chain())
			r.submit(1, r.chain())
			r.stop()
			r.removeDedup(1) // so that it is caught up from the first tile
			test.fault(t, r)
			before := openFiles(t)
			said := r.refused(t, test.all)
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("error lacks %q: %s", want, said)
				}
			}
			goleak.VerifyNone(t, running)
			if after := openFiles(t); after != before {
				t.Errorf("%d files open, %d before the start", after, before)
			}
		})
	}
}

// refused starts logs of which the second cannot be opened, and returns what is
// said of it. If all is set none can; else the first one is served, and nothing of
// the second, whose checkpoint stays as it is.
func (r *rig) refused(t *testing.T, all bool) string {
	t.Helper()
	checkpoint := filepath.Join(r.cfg.Dir, "logs", "two", "checkpoint")
	was, _ := os.ReadFile(checkpoint)
	d, err := daemon.Start(t.Context(), r.cfg, r.opts)
	if all && err == nil {
		d.Close(t.Context())
		t.Fatal("it started")
	}
	if all {
		return err.Error()
	}
	if err != nil {
		t.Fatalf("one log keeps the other from being served: %v", err)
	}
	r.d = d
	r.submit(0, r.chain())
	code, report := r.admin("/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(report, "ok: log one") || !strings.Contains(report, "log two could not be started") {
		t.Errorf("/readyz: %d %s", code, report)
	}
	if got := r.metric(`kiln_daemon_log_broken{log="two"}`); got != "1" {
		t.Errorf("log_broken is %s", got)
	}
	for _, path := range []string{"checkpoint", "ct/v1/get-roots"} {
		if code, _ := r.get("http://" + d.Addr() + "/two/" + path); code != http.StatusServiceUnavailable {
			t.Errorf("%s of a log that is left out: %d", path, code)
		}
	}
	if !strings.Contains(r.said.String(), "level=ERROR msg=\"log is not served, and the others are: repair what the error names, then restart\" log=two") {
		t.Errorf("it was not told:\n%s", r.said)
	}
	r.stop()
	if now, _ := os.ReadFile(checkpoint); !bytes.Equal(now, was) {
		t.Error("something was signed")
	}
	return report
}

func anotherKey(t *testing.T, r *rig) {
	t.Helper()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.cfg.Logs[1].KeyFile, pem, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestStartCalledOff(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := daemon.Start(ctx, r.cfg, r.opts); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want canceled", err)
	}
}

func TestCreateLog(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	conf := r.cfg.Logs[0]
	info, err := os.Stat(conf.KeyFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v; want mode 0600", info, err)
	}
	key := r.info(0).Key
	create := func() error { return daemon.CreateLog(t.Context(), r.cfg, conf, r.opts) }

	// After a crash half-way each step is found done or is done again.
	for _, undo := range []string{"", filepath.Join(conf.Storage, "checkpoint"), filepath.Dir(conf.Dedup)} {
		if undo != "" {
			remove(t, undo)
		}
		if err := create(); err != nil {
			t.Errorf("again, without %q: %v", undo, err)
		}
	}
	if !bytes.Equal(r.info(0).Key, key) {
		t.Error("the key was replaced")
	}
	leftovers, err := filepath.Glob(filepath.Join(filepath.Dir(conf.KeyFile), ".new-*"))
	if err != nil || len(leftovers) > 0 {
		t.Errorf("left behind: %v, %v", leftovers, err)
	}

	r.start()
	r.submit(0, r.chain())
	r.stop()
	if err := create(); err == nil || !strings.Contains(err.Error(), "1 entries") || !strings.Contains(err.Error(), "log one") {
		t.Errorf("over a log with entries: %v", err)
	}
	if err := os.Rename(conf.Lock, conf.Lock+".away"); err != nil {
		t.Fatal(err)
	}
	if err := create(); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("over a log that lost its lock: %v", err)
	}
	if err := os.Rename(conf.KeyFile, conf.KeyFile+".away"); err != nil {
		t.Fatal(err)
	}
	if err := create(); err == nil || !strings.Contains(err.Error(), conf.KeyFile) {
		t.Errorf("over a log that lost its key: %v", err)
	}
	if _, err := os.Stat(conf.KeyFile); err == nil {
		t.Error("a second key was made")
	}
}

// Whatever became of the long-term cache between two runs: who submits again
// gets the SCT of the entry that is in the log.
func TestDedupIsRebuilt(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*testing.T, *rig){
		"kept":      func(*testing.T, *rig) {},
		"deleted":   func(_ *testing.T, r *rig) { r.removeDedup(0) },
		"truncated": func(t *testing.T, r *rig) { replaceDedup(t, r, func(b []byte) []byte { return b[:len(b)/3] }) },
		"junk": func(t *testing.T, r *rig) {
			replaceDedup(t, r, func([]byte) []byte { return bytes.Repeat([]byte("junk"), 9999) })
		},
		"of another log": func(t *testing.T, r *rig) {
			other, err := os.ReadFile(r.cfg.Logs[1].Dedup)
			if err != nil {
				t.Fatal(err)
			}
			replaceDedup(t, r, func([]byte) []byte { return other })
		},
	}
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, "one", "two")
			r.start()
			var chains []testlogs.Chain
			var scts []*testlogs.SCT
			for range 5 {
				chains = append(chains, r.chain())
				scts = append(scts, r.submit(0, chains[len(chains)-1]))
				r.submit(1, r.chain())
			}
			r.stop()
			fault(t, r)
			r.start()
			for i, chain := range chains {
				if again := r.submit(0, chain); !bytes.Equal(again.Body, scts[i].Body) {
					t.Errorf("resubmitted: %s, before %s", again.Body, scts[i].Body)
				}
			}
			// The sequencer, too, knows its newest entries: that is not what
			// answered.
			if got := r.metric(`kiln_batcher_dedup_hits_total{log="one",tier="long"}`); got != "5" {
				t.Errorf("%s answers from the long-term cache, want 5", got)
			}
		})
	}
}

func replaceDedup(t *testing.T, r *rig, change func([]byte) []byte) {
	t.Helper()
	path := r.cfg.Logs[0].Dedup
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r.removeDedup(0)
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A cache that cannot be had costs duplicates, never a submission.
func TestLogRunsWithoutDedup(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	file := filepath.Join(r.dir, "a file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.cfg.Logs[0].Dedup = filepath.Join(file, "dedup.db")
	r.start()
	sct := r.submit(0, r.chain())
	if err := r.auditor(0).Holds(t.Context(), sct); err != nil {
		t.Error(err)
	}
	if got := r.metric(`kiln_daemon_dedup_up{log="one"}`); got != "0" {
		t.Errorf("dedup_up is %s, want 0", got)
	}
	if !strings.Contains(r.said.String(), "level=ERROR") || !strings.Contains(r.said.String(), "runs without a long-term deduplication cache") {
		t.Errorf("it was not told:\n%s", r.said)
	}
}

// A cache that holds what never was, with good MACs, must not lead to an SCT for
// what the log does not hold.
func TestLyingCache(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one")
	r.start()
	first := r.submit(0, r.chain())
	r.stop()

	validator, err := chain.New(chain.Config{})
	if err == nil {
		err = validator.SetRoots([][]byte{r.ca.Root()})
	}
	if err != nil {
		t.Fatal(err)
	}
	lies := map[string]entry.Placement{
		"place of another entry": {Index: first.Index, TimestampMillis: first.TimestampMillis},
		"place beyond the tree":  {Index: 5, TimestampMillis: first.TimestampMillis},
		"another timestamp":      {Index: first.Index, TimestampMillis: first.TimestampMillis + 1},
	}
	chains := make(map[string]testlogs.Chain)
	var keys []entry.Key
	var placements []entry.Placement
	for name, placement := range lies {
		chains[name] = r.chain()
		candidate, err := validator.Prepare(chains[name].Submitted(), entry.Precert)
		if err != nil {
			t.Fatal(err)
		}
		keys, placements = append(keys, candidate.Pending().Key()), append(placements, placement)
	}
	key, err := logkey.Load(r.cfg.Logs[0].KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := key.Derive("dedup v1")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := dedup.Open(t.Context(), dedup.Config{Path: r.cfg.Logs[0].Dedup, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(cache.Put(t.Context(), keys, placements), cache.Close()); err != nil {
		t.Fatal(err)
	}

	r.start()
	for name, c := range chains {
		sct := r.submit(0, c)
		if err := r.auditor(0).Holds(t.Context(), sct); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := r.metric(`kiln_batcher_dedup_misses_total{log="one",reason="unconfirmed",tier="long"}`); got != "3" {
		t.Errorf("%s answers of the cache were not confirmed, want 3", got)
	}
}
