package shards_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/lifecycle"
	"kiln/internal/logkey"
	"kiln/internal/shards"
)

// noon is the clock of these tests.
func noon() time.Time { return time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC) }

const seriesYAML = `
listen: 127.0.0.1:6962
admin: 127.0.0.1:6963
series:
  - name: example
    first: 2026h1
    ahead: 2
    submission_url: http://127.0.0.1:6962/{shard}/
    key_file: keys/{shard}.pem
    roots_file: roots.pem
    storage: logs/{shard}
    lock: lock.db
    dedup: dedup/{shard}.db
`

// series reads a configuration of a series in a new folder.
func series(t *testing.T, yaml string) (*config.Config, daemon.Options) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "kiln.yaml")
	for path, text := range map[string]string{path: yaml, filepath.Join(dir, "roots.pem"): "# none\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load(path, noon())
	if err != nil {
		t.Fatal(err)
	}
	return cfg, daemon.Options{Now: noon, Version: "test"}
}

func lookOf(t *testing.T, cfg *config.Config, conf config.Log, opts daemon.Options) shards.Shard {
	t.Helper()
	o := daemon.NewOpener(cfg, opts)
	defer o.Close()
	return shards.Look(t.Context(), o, conf, opts)
}

// snapshot has the content of all files below a folder but locks.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(d.Name(), "lock") {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCreate(t *testing.T) {
	t.Parallel()
	cfg, opts := series(t, seriesYAML)
	conf := cfg.Logs[1]
	before := snapshot(t, cfg.Dir)
	c, err := shards.Create(t.Context(), cfg, conf, opts, true)
	if err != nil || c.There || c.Request != nil {
		t.Fatalf("dry run: %+v, %v", c, err)
	}
	if !maps.Equal(before, snapshot(t, cfg.Dir)) {
		t.Fatal("a dry run changed something")
	}

	c, err = shards.Create(t.Context(), cfg, conf, opts, false)
	if err != nil || c.There || c.Request == nil {
		t.Fatalf("create: %+v, %v", c, err)
	}
	s := lookOf(t, cfg, conf, opts)
	if s.State != shards.Active || s.Head == nil || s.Head.Tree.N != 0 || !bytes.Equal(s.LogID, c.Request.LogID) {
		t.Errorf("it is %+v", s)
	}
	made := snapshot(t, cfg.Dir)
	again, err := shards.Create(t.Context(), cfg, conf, opts, false)
	if err != nil || !again.There || !bytes.Equal(again.Request.LogID, c.Request.LogID) {
		t.Errorf("the second time: %+v, %v", again, err)
	}
	if !maps.Equal(made, snapshot(t, cfg.Dir)) {
		t.Error("the second time something was changed")
	}
}

// TestCreateCompletes takes away what a crash may have left out.
func TestCreateCompletes(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string][]string{
		"log.v3.json":    {"logs/example2026h2/log.v3.json"},
		"and checkpoint": {"logs/example2026h2/log.v3.json", "logs/example2026h2/checkpoint"},
		"all but key":    {"logs/example2026h2/log.v3.json", "logs/example2026h2/checkpoint", "lock.db", "lock.db-wal", "lock.db-shm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, opts := series(t, seriesYAML)
			conf := cfg.Logs[1]
			first, err := shards.Create(t.Context(), cfg, conf, opts, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range gone {
				if err := os.Remove(filepath.Join(cfg.Dir, path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
			if len(gone) > 1 {
				s := lookOf(t, cfg, conf, opts)
				if s.State != shards.Planned || !shards.Wanted(s, noon()) || !bytes.Equal(s.LogID, first.Request.LogID) {
					t.Errorf("half made it is %+v", s)
				}
			}
			c, err := shards.Create(t.Context(), cfg, conf, opts, true)
			if err != nil || c.There || !bytes.Equal(c.Request.LogID, first.Request.LogID) {
				t.Errorf("dry run: %+v, %v", c, err)
			}
			c, err = shards.Create(t.Context(), cfg, conf, opts, false)
			if err != nil || c.There || !bytes.Equal(c.Request.LogID, first.Request.LogID) {
				t.Errorf("completing it: %+v, %v", c, err)
			}
			if c, err = shards.Create(t.Context(), cfg, conf, opts, true); err != nil || !c.There {
				t.Errorf("then: %+v, %v", c, err)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	cfg, opts := series(t, seriesYAML)
	if _, err := shards.Create(t.Context(), cfg, cfg.Logs[0], opts, false); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(cfg.Logs[0].KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	vectors, err := os.ReadFile("../../testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var public struct {
		Log struct {
			PEM string `json:"private_key_pkcs8_pem"`
		} `json:"log"`
	}
	if err := json.Unmarshal(vectors, &public); err != nil {
		t.Fatal(err)
	}
	fresh, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	freshPEM, err := fresh.PEM()
	if err != nil {
		t.Fatal(err)
	}
	conf := cfg.Logs[1]
	for _, c := range []struct {
		name, pem string
		mode      os.FileMode
		want      string
	}{
		{"key of another shard", string(good), 0o600, "is that of example2026h1 too"},
		{"public key", public.Log.PEM, 0o600, "is public"},
		{"key for all to read", string(freshPEM), 0o644, conf.KeyFile},
		{"no key", "nonsense", 0o600, "PEM"},
	} {
		if err := errors.Join(os.WriteFile(conf.KeyFile, []byte(c.pem), 0o600), os.Chmod(conf.KeyFile, c.mode)); err != nil {
			t.Fatal(err)
		}
		for _, dry := range []bool{true, false} {
			_, err := shards.Create(t.Context(), cfg, conf, opts, dry)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), conf.Name) {
				t.Errorf("%s, dry run %v: error is %v, want %q", c.name, dry, err, c.want)
			}
		}
		if _, err := os.Stat(conf.Storage); err == nil {
			t.Errorf("%s: something was made", c.name)
		}
	}

	// A lock without its log, and a key that was lost.
	if err := os.Remove(conf.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(cfg.Logs[0].KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := shards.Create(t.Context(), cfg, cfg.Logs[0], opts, false); err == nil || !strings.Contains(err.Error(), "restore its key") {
		t.Errorf("without the key: %v", err)
	}
}

func TestCreateOfBroken(t *testing.T) {
	t.Parallel()
	cfg, opts := series(t, seriesYAML)
	conf := cfg.Logs[0]
	if _, err := shards.Create(t.Context(), cfg, conf, opts, false); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf.Storage, "checkpoint"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, cfg.Dir)
	if c, err := shards.Create(t.Context(), cfg, conf, opts, false); err == nil || !strings.Contains(err.Error(), "published checkpoint") {
		t.Errorf("it is %+v, %v", c, err)
	}
	if !maps.Equal(before, snapshot(t, cfg.Dir)) {
		t.Error("something was changed")
	}
}

// TestCreateAfterTheEnd leaves a frozen log, and one that was retired, as they are.
func TestCreateAfterTheEnd(t *testing.T) {
	t.Parallel()
	cfg, opts := series(t, seriesYAML)
	conf := cfg.Logs[0]
	opts.Now = time.Now
	if _, err := shards.Create(t.Context(), cfg, conf, opts, false); err != nil {
		t.Fatal(err)
	}
	p, err := daemon.OpenParts(t.Context(), cfg, conf, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	final, err := shards.Freeze(t.Context(), p, shards.FreezeConfig{Patience: time.Minute}, opts)
	if err != nil {
		t.Fatal(err)
	}
	want := func(state shards.State) {
		t.Helper()
		if s := lookOf(t, cfg, conf, opts); s.State != state {
			t.Errorf("it is %+v, want %s", s, state)
		}
		if c, err := shards.Create(t.Context(), cfg, conf, opts, false); err != nil || !c.There {
			t.Errorf("creating it when %s: %+v, %v", state, c, err)
		}
	}
	want(shards.Frozen)
	if _, err := lifecycle.Retire(t.Context(), p.Lock, p.LockID, lifecycle.Mark{At: noon()}); err != nil {
		t.Fatal(err)
	}
	want(shards.Retired)
	if s := lookOf(t, cfg, conf, opts); *s.Head != final.Head {
		t.Errorf("its head is %v, want the final one %v", s.Head, final.Head)
	}
	if err := os.RemoveAll(conf.Storage); err != nil { // as an operator does who has an archive
		t.Fatal(err)
	}
	want(shards.Retired)
	if _, err := os.Stat(conf.Storage); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its folder is there again: %v", err)
	}
}

// TestRequest holds the request to Chrome's schema for inclusion requests: its
// required members, their types, lengths and formats.
func TestRequest(t *testing.T) {
	t.Parallel()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	// A window in another zone is the same window.
	zone := time.FixedZone("", 3600)
	start := time.Date(2026, 7, 1, 1, 0, 0, 0, zone)
	conf := config.NewLog("example2026h2", "https://ct.example.org/example2026h2/", "/", start, start.AddDate(0, 6, 0))
	conf.MonitoringURL = "https://mon.example.org/example2026h2/"
	raw, err := shards.MakeRequest(conf, key).JSON()
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]any
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatal(err)
	}
	if got, want := slices.Sorted(maps.Keys(members)), []string{"key", "log_id", "mmd", "monitoring_url", "submission_url", "temporal_interval"}; !slices.Equal(got, want) {
		t.Errorf("members are %q, want %q", got, want) // no url: it is for RFC 6962 logs
	}
	spki, err := base64.StdEncoding.DecodeString(members["key"].(string))
	if err != nil {
		t.Fatal(err)
	}
	if pub, err := x509.ParsePKIXPublicKey(spki); err != nil || !key.Public().Equal(pub) {
		t.Errorf("key is %v, %v", pub, err)
	}
	id := members["log_id"].(string)
	if sum := sha256.Sum256(spki); len(id) != 44 || id != base64.StdEncoding.EncodeToString(sum[:]) {
		t.Errorf("log_id is %s, want the hash of the key", id)
	}
	if mmd := members["mmd"].(float64); mmd != 60 {
		t.Errorf("mmd is %v", mmd)
	}
	if got, want := fmt.Sprint(members["temporal_interval"]), "map[end_exclusive:2027-01-01T00:00:00Z start_inclusive:2026-07-01T00:00:00Z]"; got != want {
		t.Errorf("temporal_interval is %s, want %s", got, want)
	}
	for name, want := range map[string]string{"submission_url": conf.SubmissionURL, "monitoring_url": conf.MonitoringURL} {
		if u, err := url.Parse(members[name].(string)); err != nil || u.String() != want {
			t.Errorf("%s is %v, %v, want %s", name, u, err, want)
		}
	}
}
