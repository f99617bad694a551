package daemon_test

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/lifecycle"
)

// infoDoc is what a test looks at in log.v3.json.
type infoDoc struct {
	Status string `json:"status"`
	Since  string `json:"status_timestamp"`
	Final  *struct {
		Size int64 `json:"tree_size"`
	} `json:"final_tree_head"`
}

// decided opens the parts of a log beside the daemon, as a command would.
func (r *rig) decided(f func(ctx context.Context, p *daemon.Parts) error) {
	r.t.Helper()
	p, err := daemon.OpenParts(r.t.Context(), r.cfg, r.cfg.Logs[0], r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := f(r.t.Context(), p); err != nil {
		r.t.Error(err)
	}
	if err := p.Close(); err != nil {
		r.t.Error(err)
	}
}

// info reads log.v3.json of the first log, over HTTP and from its storage, which
// must be the same.
func (r *rig) document() infoDoc {
	r.t.Helper()
	_, served := r.get(r.url(0) + "log.v3.json")
	r.decided(func(ctx context.Context, p *daemon.Parts) error {
		stored, err := p.Bucket.Get(ctx, "log.v3.json")
		if string(stored) != served {
			r.t.Errorf("log.v3.json is stored as %s and served as %s", stored, served)
		}
		return err
	})
	var doc infoDoc
	if err := json.Unmarshal([]byte(served), &doc); err != nil {
		r.t.Fatal(err)
	}
	return doc
}

// TestFreeze marks a log while it is served. It takes nothing more, says so, and
// the other log does not notice.
func TestFreeze(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	r.start()
	r.submit(0, r.chain())
	if doc := r.document(); doc.Status != "active" || doc.Final != nil {
		t.Errorf("before, log.v3.json says %+v", doc)
	}
	decided := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	r.decided(func(ctx context.Context, p *daemon.Parts) error {
		_, err := lifecycle.Freeze(ctx, p.Lock, p.LockID, lifecycle.Mark{At: decided})
		return err
	})
	within(t, "freezing", r.said.said("log is frozen"))
	for range 2 {
		if _, err := r.client(0).Submit(t.Context(), r.chain()); err == nil || !strings.Contains(err.Error(), "410") {
			t.Errorf("a submission to the frozen log: %v", err)
		}
		r.submit(1, r.chain())
		if doc := r.document(); doc.Status != "readonly" || doc.Final == nil || doc.Final.Size != 1 || doc.Since != decided.Format(time.RFC3339) {
			t.Errorf("after, log.v3.json says %+v", doc)
		}
		r.stop()
		r.start() // and it stays so
	}

	r.decided(func(ctx context.Context, p *daemon.Parts) error {
		_, err := lifecycle.Retire(ctx, p.Lock, p.LockID, lifecycle.Mark{At: time.Now()})
		return err
	})
	within(t, "retiring", r.said.said("log was retired"))
	if code, body := r.admin("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz beside a retired log: %d %s", code, body)
	}
	r.submit(1, r.chain())
	if code, _ := r.get(r.url(0) + "checkpoint"); code != http.StatusNotFound {
		t.Errorf("checkpoint of a log that was retired: %d", code)
	}
	r.stop()
	r.start() // one that stands by itself is wanted: its absence is a fault
	if code, body := r.admin("/readyz"); code == http.StatusOK || !strings.Contains(body, "was retired") {
		t.Errorf("/readyz with a retired log: %d %s", code, body)
	}
	r.submit(1, r.chain())
	r.stop()
	r.cfg.Logs[0].FromSeries = true // as a shard it is left out
	r.start()
	r.submit(1, r.chain())
	if code, _ := r.get("http://" + r.d.Addr() + "/one/checkpoint"); code != http.StatusNotFound {
		t.Errorf("checkpoint of a retired shard: %d", code)
	}
}

// TestBrokenShard leaves out a shard whose right edge is damaged, red and loud,
// and serves the other.
func TestBrokenShard(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	for i := range r.cfg.Logs {
		r.cfg.Logs[i].FromSeries = true
	}
	r.start()
	r.submit(0, r.chain())
	r.stop()
	damage(t, filepath.Join(r.cfg.Logs[0].Storage, "tile/0/000.p/1"))
	r.start()
	within(t, "leaving out", r.said.said("log is not served, and the others are"))
	r.submit(1, r.chain())
	if code, body := r.admin("/readyz"); code == http.StatusOK || !strings.Contains(body, "log one could not be started") || !strings.Contains(body, "ok: log two") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if v := r.metric(`kiln_daemon_log_broken{log="one"}`); v != "1" {
		t.Errorf("kiln_daemon_log_broken is %s", v)
	}
	if code, _ := r.get("http://" + r.d.Addr() + "/one/checkpoint"); code != http.StatusServiceUnavailable {
		t.Errorf("checkpoint of a shard that is left out: %d", code)
	}
	r.stop()
	damage(t, filepath.Join(r.cfg.Logs[1].Storage, "tile/0/000.p/1"))
	if _, err := daemon.Start(t.Context(), r.cfg, r.opts); err == nil || !strings.Contains(err.Error(), "log one") || !strings.Contains(err.Error(), "log two") {
		t.Errorf("a start without any sound shard: %v", err)
	}
}

// TestShardsNotMadeYet serves those shards that there are.
func TestShardsNotMadeYet(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	next := r.cfg.Logs[1]
	for _, p := range []*string{&next.Name, &next.Origin, &next.SubmissionURL, &next.MonitoringURL, &next.KeyFile, &next.Storage, &next.Lock, &next.Dedup} {
		*p = strings.ReplaceAll(*p, "two", "three")
	}
	next.FromSeries = true
	r.cfg.Logs = append(r.cfg.Logs, next)
	r.start()
	within(t, "leaving out", r.said.said("shard is not served"))
	r.submit(1, r.chain())
	r.stop()
	r.cfg.Logs = []config.Log{next}
	if _, err := daemon.Start(t.Context(), r.cfg, r.opts); err == nil || !strings.Contains(err.Error(), "kiln shards create") {
		t.Errorf("a series without any shard was started: %v", err)
	}
}
