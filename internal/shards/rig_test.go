package shards_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/logkey"
	"kiln/internal/shards"
	lockmem "kiln/lock/mem"
	"kiln/reader"
	"kiln/sequencer"
	"kiln/storage"
	"kiln/storage/mem"
	"kiln/tiles"
)

// rig is a log in memory. With folder, the locks on its data are files, so that
// it can be in use.
type rig struct {
	t      *testing.T
	bucket *mem.Bucket
	locks  *lockmem.Store
	parts  *daemon.Parts
	opts   daemon.Options

	mu      sync.Mutex
	deleted []string // guarded by mu
}

// newRig makes a log whose window ended so long ago.
func newRig(t *testing.T, ended time.Duration) *rig {
	t.Helper()
	key, err := logkey.Generate()
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().UTC().Add(-ended).Truncate(time.Second)
	conf := config.NewLog("example2024h1", "https://ct.test/example2024h1/", "/", end.AddDate(0, -6, 0), end)
	conf.Storage, conf.Lock, conf.Grease = "s3://bucket/example2024h1", "s3://bucket/locks", false
	id := key.LogID()
	r := &rig{t: t, bucket: mem.New(), locks: lockmem.New(), opts: daemon.Options{Version: "test"}}
	r.parts = &daemon.Parts{Conf: conf, Key: key, Bucket: r.bucket, Lock: r.locks, LockID: hex.EncodeToString(id[:])}
	if err := sequencer.Create(t.Context(), r.sequencerConfig()); err != nil {
		t.Fatal(err)
	}
	if err := r.parts.PublishInfo(t.Context(), r.opts); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) sequencerConfig() sequencer.Config {
	p := r.parts
	return sequencer.Config{
		Origin: p.Conf.Origin, Key: p.Key, Bucket: p.Bucket, Lock: p.Lock, LockID: p.LockID, Period: p.Conf.Period, Names: p.Conf.Names,
	}
}

// inFolder lets the log be in use by a process of this machine.
func (r *rig) inFolder() {
	dir := r.t.TempDir()
	r.parts.Conf.Storage, r.parts.Conf.Lock = dir, filepath.Join(dir, "lock.db")
}

// open starts a sequencer on the log.
func (r *rig) open() *sequencer.Sequencer {
	r.t.Helper()
	s, err := sequencer.Open(r.t.Context(), r.sequencerConfig())
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// grow adds rounds of so many entries.
func (r *rig) grow(rounds ...int) {
	r.t.Helper()
	s := r.open()
	defer s.Close()
	for round, n := range rounds {
		var batch []*entry.Pending
		for i := range n {
			seed := sha256.Sum256(fmt.Append(nil, "entry ", round, i))
			p, err := entry.NewX509(seed[:], [][32]byte{sha256.Sum256([]byte("issuer"))}, false)
			if err != nil {
				r.t.Fatal(err)
			}
			batch = append(batch, p)
		}
		if _, err := s.Sequence(r.t.Context(), batch); err != nil {
			r.t.Fatal(err)
		}
	}
}

// put makes an object.
func (r *rig) put(path, body string) {
	r.t.Helper()
	if err := r.bucket.Create(r.t.Context(), storage.Object{Path: path, Body: []byte(body)}); err != nil {
		r.t.Fatal(err)
	}
}

// paths lists the storage.
func (r *rig) paths() []string {
	r.t.Helper()
	list := map[string]bool{}
	err := r.bucket.List(r.t.Context(), "", func(i storage.Info) error {
		list[i.Path] = true
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(list))
}

// watchDeletes remembers what is deleted, in order.
func (r *rig) watchDeletes() {
	r.bucket.SetFaults(func(op mem.Op, path string) mem.Fault {
		if op == mem.OpDelete {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.deleted = append(r.deleted, path)
		}
		return mem.Fault{}
	})
}

// freeze freezes the log as the command does.
func (r *rig) freeze() shards.Final {
	r.t.Helper()
	f, err := shards.Freeze(r.t.Context(), r.parts, shards.FreezeConfig{Note: "note", Patience: time.Minute}, r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// head is the tree in the lock.
func (r *rig) head() checkpoint.Checkpoint {
	r.t.Helper()
	held, err := r.locks.Load(r.t.Context(), r.parts.LockID)
	if err != nil {
		r.t.Fatal(err)
	}
	v, err := checkpoint.NewVerifier(r.parts.Conf.Origin, r.parts.Key.SPKI())
	if err != nil {
		r.t.Fatal(err)
	}
	head, err := v.Open(held.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return head
}

// wantInfo checks that log.v3.json tells the final tree head.
func (r *rig) wantInfo(f shards.Final) {
	r.t.Helper()
	body, err := r.bucket.Get(r.t.Context(), reader.InfoPath)
	if err != nil {
		r.t.Fatal(err)
	}
	var info struct {
		Status string `json:"status"`
		Final  *struct {
			Root []byte `json:"sha256_root_hash"`
			Size int64  `json:"tree_size"`
		} `json:"final_tree_head"`
	}
	if err := json.Unmarshal(body, &info); err != nil {
		r.t.Fatal(err)
	}
	if info.Status != "readonly" || info.Final == nil || info.Final.Size != f.Head.Tree.N || !bytes.Equal(info.Final.Root, f.Head.Tree.Hash[:]) {
		r.t.Errorf("log.v3.json is %s, want the final tree %v", body, f.Head.Tree)
	}
}

// everyKind fills the storage with an object of each kind beside those of the
// log, and some that are none.
func (r *rig) everyKind() (foreign []string) {
	r.put("tile/0/000", "hashes")
	r.put("tile/data/000", "data")
	r.put("tile/names/000", "names")
	r.put("tile/data/001.p/17", "partial")
	r.put(tiles.IssuerPath(sha256.Sum256([]byte("issuer"))), "issuer")
	r.put("staging/7-"+hex.EncodeToString(make([]byte, 32)), "bundle")
	r.put("roots/latest", "roots")
	foreign = []string{
		"checkpoint.old", "example2024h2/checkpoint", "example2024h2/tile/0/000", "example2024h2/log.v3.json",
		"issuer/0123", "issuers", "robots.txt", "tile/0/000.old", "tile/9/000", "tile/data/00",
	}
	for _, path := range foreign {
		r.put(path, "foreign")
	}
	slices.Sort(foreign)
	return foreign
}
