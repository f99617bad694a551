package restore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/config"
	"kiln/internal/daemon"
	"kiln/internal/restore"
	"kiln/lock"
	"kiln/storage"
	"kiln/testlogs"
	"kiln/tiles"
)

// rig is a log with what tests do to it behind its back.
type rig struct {
	*testing.T
	*testlogs.Log
	dir string
}

func newRig(t *testing.T, opts testlogs.Options) *rig {
	t.Helper()
	l := testlogs.New(t, opts)
	return &rig{t, l, filepath.Dir(l.ConfigPath)}
}

func (r *rig) check(err error) {
	r.T.Helper()
	if err != nil {
		r.T.Fatal(err)
	}
}

// parts calls do with the parts of the log, which must not run on SQLite then.
func (r *rig) parts(do func(ctx context.Context, p *daemon.Parts)) {
	r.T.Helper()
	cfg, err := config.Read(r.ConfigPath, time.Now())
	r.check(err)
	p, err := daemon.OpenParts(r.Context(), cfg, cfg.Logs[0], daemon.Options{})
	r.check(err)
	defer func() { r.check(p.Close()) }()
	do(r.Context(), p)
}

// edit replaces a text in kiln.yaml.
func (r *rig) edit(old, next string) {
	r.T.Helper()
	data, err := os.ReadFile(r.ConfigPath)
	r.check(err)
	if !bytes.Contains(data, []byte(old)) {
		r.Fatalf("kiln.yaml lacks %q:\n%s", old, data)
	}
	r.check(os.WriteFile(r.ConfigPath, bytes.Replace(data, []byte(old), []byte(next), 1), 0o600))
}

// loseMachine deletes all that is on the machine but what a restore needs.
func (r *rig) loseMachine() {
	r.T.Helper()
	keep := []string{"kiln.yaml", "keys", "s3.yaml", "s3", "etcd"} // the last two are other machines
	if r.S3 == nil {
		keep = append(keep, filepath.Base(r.Conf.Storage), filepath.Base(r.Conf.Lock))
	}
	all, err := os.ReadDir(r.dir)
	r.check(err)
	for _, f := range all {
		if !slices.Contains(keep, f.Name()) {
			r.check(os.RemoveAll(filepath.Join(r.dir, f.Name())))
		}
	}
	if _, err := os.Stat(r.Conf.Dedup); err == nil {
		r.Fatal("the cache is still there")
	}
}

// look makes a plan.
func (r *rig) look(opts restore.Options) (*restore.Plan, error) {
	r.T.Helper()
	cfg, err := config.Read(r.ConfigPath, time.Now())
	r.check(err)
	p, err := restore.Look(r.Context(), cfg, opts)
	if p != nil {
		r.Cleanup(func() { _ = p.Close() })
	}
	return p, err
}

// restore restores the log as one that will be served.
func (r *rig) restore() (*restore.Plan, error) {
	r.T.Helper()
	p, err := r.look(restore.Options{Serve: true})
	if err != nil {
		return nil, err
	}
	err = p.Run(r.Context())
	r.check(p.Close())
	return p, err
}

// wantRefused fails unless the log is refused with these texts, and nothing was
// written.
func (r *rig) wantRefused(texts ...string) {
	r.T.Helper()
	before := r.state()
	p, err := r.look(restore.Options{})
	r.check(err)
	if p.Logs[0].State != restore.Refused {
		r.Fatalf("state is %q (%s), want refused", p.Logs[0].State, p.Logs[0].Problem)
	}
	err = p.Run(r.Context())
	r.check(p.Close())
	if err == nil {
		r.Fatal("a plan with a refused log was run")
	}
	r.wantText(err, texts...)
	if after := r.state(); after != before {
		r.Errorf("something was written:\n%s\nbefore:\n%s", after, before)
	}
	if _, err := os.Stat(r.Conf.Dedup); err == nil {
		r.Error("a cache was made for a log that was refused")
	}
}

func (r *rig) wantText(err error, texts ...string) {
	r.T.Helper()
	for _, text := range texts {
		if err == nil || !strings.Contains(err.Error(), text) {
			r.Errorf("error is %q, want %q in it", err, text)
		}
	}
}

// state is all objects and the lock cell, but for what the key is not there for.
func (r *rig) state() string {
	r.T.Helper()
	cfg, err := config.Read(r.ConfigPath, time.Now())
	r.check(err)
	o := daemon.NewOpener(cfg, daemon.Options{})
	defer o.Close()
	p, err := o.Find(r.Context(), cfg.Logs[0])
	r.check(err)
	var lines []string
	if p.Bucket != nil {
		r.check(p.Bucket.List(r.Context(), "", func(i storage.Info) error {
			body, err := p.Bucket.Get(r.Context(), i.Path)
			lines = append(lines, fmt.Sprintf("%s %x", i.Path, sha256.Sum256(body)))
			return err
		}))
	}
	if p.Lock != nil {
		held, err := p.Lock.Load(r.Context(), p.LockID)
		lines = append(lines, fmt.Sprintf("lock %q %v", held.Body, err))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// issuerDER stands for the issuer that the entries of grow name.
var issuerDER = []byte("an issuer")

// tree grows a log past its front door: entries by the hundred, in one round each.
type tree struct {
	*rig
	edge  *tiles.Edge
	clock int64
	added map[string]storage.Object // by the last round
	raw   []byte                    // its checkpoint
}

func (r *rig) tree() *tree {
	return &tree{rig: r, edge: tiles.NewEdge(false), clock: time.Now().Add(-time.Hour).UnixMilli()}
}

// grow adds a round of n entries. How far it gets is up to the caller: the lock
// is moved in any case.
func (g *tree) grow(n int, published bool) {
	g.T.Helper()
	g.parts(func(ctx context.Context, p *daemon.Parts) {
		g.check(p.Bucket.Create(ctx, tiles.IssuerObject(issuerDER)))
		var entries []*entry.Pending
		for i := range n {
			der := binary.BigEndian.AppendUint64([]byte("not a certificate"), uint64(g.edge.Size()+int64(i)))
			e, err := entry.NewX509(der, [][32]byte{sha256.Sum256(issuerDER)}, false)
			g.check(err)
			entries = append(entries, e)
		}
		g.clock += 1000
		edge, objects, err := g.edge.Append(entries, g.clock)
		g.check(err)
		bundle, err := tiles.EncodeBundle(objects)
		g.check(err)
		path := tiles.BundlePath(edge.Tree())
		g.check(p.Bucket.Create(ctx, storage.Object{Path: path, Body: bundle}))
		signer, err := checkpoint.NewSigner(p.Conf.Origin, p.Key, false)
		g.check(err)
		g.raw, err = signer.Sign(edge.Tree(), g.clock)
		g.check(err)
		held, err := p.Lock.Load(ctx, p.LockID)
		g.check(err)
		_, err = p.Lock.Replace(ctx, held, g.raw)
		g.check(err)
		g.edge, g.added = edge, make(map[string]storage.Object)
		for _, o := range objects {
			g.added[o.Path] = o
			if published {
				g.check(p.Bucket.Create(ctx, o))
			}
		}
		if published {
			g.check(p.Bucket.Delete(ctx, path))
			g.check(publish(ctx, p.Bucket, g.raw))
		}
	})
}

func publish(ctx context.Context, b storage.Bucket, raw []byte) error {
	return b.Update(ctx, storage.Object{Path: "checkpoint"}, func([]byte) ([]byte, error) { return raw, nil })
}

// setLock puts something into the lock cell.
func (r *rig) setLock(raw []byte) {
	r.T.Helper()
	r.parts(func(ctx context.Context, p *daemon.Parts) {
		held, err := p.Lock.Load(ctx, p.LockID)
		r.check(err)
		_, err = p.Lock.Replace(ctx, held, raw)
		r.check(err)
	})
}

// lockBody returns the content of the lock cell.
func (r *rig) lockBody() (raw []byte) {
	r.parts(func(ctx context.Context, p *daemon.Parts) {
		var held lock.Held
		held, err := p.Lock.Load(ctx, p.LockID)
		r.check(err)
		raw = held.Body
	})
	return raw
}

// change replaces an object by what f makes of it; nil deletes it.
func (r *rig) change(path string, f func([]byte) []byte) {
	r.T.Helper()
	r.parts(func(ctx context.Context, p *daemon.Parts) {
		body, err := p.Bucket.Get(ctx, path)
		r.check(err)
		r.check(p.Bucket.Delete(ctx, path))
		if body = f(bytes.Clone(body)); body != nil {
			r.check(p.Bucket.Create(ctx, storage.Object{Path: path, Body: body}))
		}
	})
}

func flip(b []byte) []byte {
	b[len(b)/2] ^= 1
	return b
}

func remove([]byte) []byte { return nil }

// submit sends n chains of some CAs, leaves and precertificates, at once.
func (r *rig) submit(n int, cas ...*testlogs.CA) ([]testlogs.Chain, []*testlogs.SCT) {
	r.T.Helper()
	client := r.Client()
	chains, scts := make([]testlogs.Chain, n), make([]*testlogs.SCT, n)
	errs := make([]error, n)
	places := make(chan struct{}, 64)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			ca := cas[i%len(cas)]
			issue := ca.Leaf
			if i/len(cas)%2 == 1 {
				issue = ca.Precert
			}
			if chains[i], errs[i] = issue(testlogs.LeafOptions{}); errs[i] == nil {
				scts[i], errs[i] = client.Submit(r.Context(), chains[i])
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		r.check(err)
	}
	r.Auditor().Remember(scts...)
	return chains, scts
}
