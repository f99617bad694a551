package restore_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kiln/checkpoint"
	"kiln/internal/daemon"
	"kiln/internal/lifecycle"
	"kiln/internal/logkey"
	"kiln/internal/restore"
	"kiln/storage"
	"kiln/testlogs"
	"kiln/tiles"
)

// TestRefused breaks a log of 300 + 20 entries in one way each. Nothing may be
// written then.
func TestRefused(t *testing.T) {
	t.Parallel()
	const meaning, remedy = "signs a second history", "Bring back the newest copy of the lock"
	tests := map[string]struct {
		fault func(*rig, *tree)
		want  []string
	}{
		"published checkpoint of another key": {func(r *rig, g *tree) {
			r.parts(func(ctx context.Context, p *daemon.Parts) { r.check(publish(ctx, p.Bucket, r.foreign(g))) })
		}, []string{"the published checkpoint was not signed by this log", "storage"}},
		"lock of another key": {func(r *rig, g *tree) { r.setLock(r.foreign(g)) }, []string{"the lock's checkpoint was not signed by this log"}},
		"another origin": {
			func(r *rig, _ *tree) {
				r.edit("submission_url: http://kiln.localhost/test/", "submission_url: http://kiln.localhost/tset/")
			},
			[]string{"not signed by this log", "submission_url"},
		},
		"forked": {func(r *rig, g *tree) {
			r.setLock(r.sign(func(c *checkpoint.Checkpoint) { c.Tree.Hash[0] ^= 1; c.TimestampMillis++ }))
		}, []string{"320 entries each", "forked"}},
		"lock behind in time": {
			func(r *rig, g *tree) { r.setLock(r.sign(func(c *checkpoint.Checkpoint) { c.TimestampMillis-- })) },
			[]string{"the lock is behind", meaning, remedy},
		},
		"checkpoint gone": {func(r *rig, _ *tree) { r.change("checkpoint", remove) }, []string{"has no checkpoint", "bring back the storage"}},
		"bundle gone": {func(r *rig, g *tree) {
			g.grow(5, false)
			r.change(tiles.BundlePath(g.edge.Tree()), remove)
		}, []string{"ahead of what is published", "from 320 to 325 entries", "bring back staging/325-"}},
		"bundle damaged": {func(r *rig, g *tree) {
			g.grow(5, false)
			r.change(tiles.BundlePath(g.edge.Tree()), flip)
		}, []string{"staging/325-", "checksum"}},
		"bundle of another round": {func(r *rig, g *tree) {
			g.grow(5, false)
			bundle, err := tiles.EncodeBundle(nil)
			r.check(err)
			r.change(tiles.BundlePath(g.edge.Tree()), func([]byte) []byte { return bundle })
		}, []string{"tile/0/001.p/69"}},
		"right edge damaged": {func(r *rig, _ *tree) { r.change("tile/0/001.p/64", flip) }, []string{"tile/0/001.p/64", "bring the object back"}},
		"right edge gone":    {func(r *rig, _ *tree) { r.change("tile/data/001.p/64", remove) }, []string{"tile/data/001.p/64"}},
		"storage gone":       {func(r *rig, _ *tree) { r.check(os.Rename(r.Conf.Storage, r.Conf.Storage+".away")) }, []string{"does not exist", "bring back the storage"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testlogs.Options{})
			g := r.tree()
			g.grow(300, true)
			g.grow(20, true)
			test.fault(r, g)
			r.wantRefused(test.want...)
		})
	}
}

// sign returns the log's newest checkpoint with something changed.
func (r *rig) sign(change func(*checkpoint.Checkpoint)) (raw []byte) {
	r.T.Helper()
	r.parts(func(ctx context.Context, p *daemon.Parts) {
		signer, err := checkpoint.NewSigner(p.Conf.Origin, p.Key, false)
		r.check(err)
		old, err := p.Bucket.Get(ctx, "checkpoint")
		r.check(err)
		c, err := signer.Verifier().Open(old)
		r.check(err)
		change(&c)
		raw, err = signer.Sign(c.Tree, c.TimestampMillis)
		r.check(err)
	})
	return raw
}

// foreign returns a checkpoint of the tree by another key.
func (r *rig) foreign(g *tree) []byte {
	r.T.Helper()
	key, err := logkey.Generate()
	r.check(err)
	signer, err := checkpoint.NewSigner(r.Conf.Origin, key, false)
	r.check(err)
	raw, err := signer.Sign(g.edge.Tree(), g.clock)
	r.check(err)
	return raw
}

// TestLostLock loses the lock, or finds an older one, on every backend.
func TestLostLock(t *testing.T) {
	t.Parallel()
	for _, backend := range []testlogs.Backend{testlogs.Embedded, testlogs.S3, testlogs.S3Etcd} {
		t.Run(backend.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testlogs.Options{Backend: backend})
			r.Start()
			r.submit(10, r.CA)
			r.Stop()
			old, oldFile := r.lockBody(), r.lockFile()
			oldCheckpoint := r.published()
			r.Start()
			r.submit(10, r.CA)
			r.Stop()
			newest := r.lockBody()
			r.loseMachine()

			if backend == testlogs.Embedded {
				r.check(os.WriteFile(r.Conf.Lock, oldFile, 0o644))
			} else {
				r.setLock(old)
			}
			r.wantRefused("the lock is behind: it says 10 entries at 2", "shows 20 entries at 2", "signs a second history", "Bring back the newest copy")
			if err := r.TryStart(); err == nil {
				t.Error("and yet it starts")
			}

			// The checkpoint was set back as well: only the tiles know.
			r.parts(func(ctx context.Context, p *daemon.Parts) {
				r.check(publish(ctx, p.Bucket, oldCheckpoint))
			})
			r.wantRefused("the lock is behind", "tile/0/000.p/", "only a larger tree has", "signs a second history")

			r.setLock(newest)
			r.lose(backend)
			r.wantRefused("the lock has no cell of this log", "entries at 2", "a new lock", "signs a second history", "the log is over", "make a new shard")
		})
	}
}

// lose makes the lock one that has no cell.
func (r *rig) lose(backend testlogs.Backend) {
	r.T.Helper()
	switch backend {
	case testlogs.Embedded:
		r.check(os.Remove(r.Conf.Lock))
	case testlogs.S3:
		r.edit("\n    lock: s3://kiln-test/lock", "\n    lock: s3://kiln-test/another")
	default:
		r.edit("\n    lock: etcd:kiln/lock", "\n    lock: etcd:kiln/another")
	}
}

func (r *rig) lockFile() []byte {
	data, _ := os.ReadFile(r.Conf.Lock) // if it is a file
	return data
}

func (r *rig) published() (raw []byte) {
	r.parts(func(ctx context.Context, p *daemon.Parts) {
		var err error
		raw, err = p.Bucket.Get(ctx, "checkpoint")
		r.check(err)
	})
	return raw
}

// TestUnfinished restores a log whose last round was committed and no more.
func TestUnfinished(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		prepare func(*rig, *tree)
		bundle  bool
	}{
		"nothing published": {func(*rig, *tree) {}, true},
		"half published": {func(r *rig, g *tree) {
			r.parts(func(ctx context.Context, p *daemon.Parts) { r.check(p.Bucket.Create(ctx, g.added["tile/data/001"])) })
		}, true},
		"all but the checkpoint, bundle gone": {func(r *rig, g *tree) {
			r.parts(func(ctx context.Context, p *daemon.Parts) {
				for _, o := range g.added {
					r.check(p.Bucket.Create(ctx, o))
				}
			})
			r.change(tiles.BundlePath(g.edge.Tree()), remove)
		}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testlogs.Options{})
			g := r.tree()
			g.grow(300, true)
			g.grow(300, false)
			test.prepare(r, g)
			r.loseRootsButOne()
			before := r.state()
			p, err := r.restore()
			r.check(err)
			if l := p.Logs[0]; l.State != restore.Restored || l.Verified != 600 || (l.Bundle != "") != test.bundle {
				t.Errorf("result is %+v", l)
			}
			if r.state() != before {
				t.Error("restore has written into storage or lock")
			}
			r.Start()
			r.submit(1, r.CA)
			c, err := r.Auditor().Observe(t.Context())
			r.check(err)
			if c.N != 601 {
				t.Errorf("the log has %d entries", c.N)
			}
			r.Stop()
		})
	}
}

// TestDamaged finds what is wrong in the middle of the log.
func TestDamaged(t *testing.T) {
	t.Parallel()
	issuer := tiles.IssuerObject(issuerDER).Path
	tests := map[string]struct {
		path string
		how  func([]byte) []byte
		want []string
	}{
		"entry":          {"tile/data/001", entryByte, []string{"tile/data/001", "entry 10 (index 266)", "from index 256 on"}},
		"data tile":      {"tile/data/001", flip, []string{"tile/data/001", "from index 256 on"}},
		"data tile gone": {"tile/data/001", remove, []string{"tile/data/001", "from index 256 on"}},
		"hash tile":      {"tile/0/001", flip, []string{"tile/0/001", "from index 256 on", "index 384"}},
		"hash tile gone": {"tile/0/001", remove, []string{"tile/0/001", "from index 256 on"}},
		"issuer":         {issuer, flip, []string{issuer, "SHA-256", "index 0"}},
		"issuer gone":    {issuer, remove, []string{issuer, "missing", "index 0"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testlogs.Options{})
			r.tree().grow(1000, true)
			r.change(test.path, test.how)
			r.loseRootsButOne()
			before := r.state()
			p, err := r.restore()
			r.wantText(err, append(test.want, "log test: refused", "bring the object back")...)
			if p.Logs[0].State != restore.Failed {
				t.Errorf("state is %q", p.Logs[0].State)
			}
			if r.state() != before {
				t.Error("something was written")
			}
		})
	}
}

// entryByte changes a byte of the certificate of the eleventh entry.
func entryByte(b []byte) []byte {
	plain, err := tiles.Gunzip(b)
	if err != nil {
		panic(err)
	}
	want := binary.BigEndian.AppendUint64([]byte("not a certificate"), 256+10)
	i := strings.Index(string(plain), string(want))
	plain[i] ^= 1
	var again bytes.Buffer
	w := gzip.NewWriter(&again)
	if _, err := w.Write(plain); err != nil || w.Close() != nil {
		panic(err)
	}
	return again.Bytes()
}

// TestMarks passes over a log that was retired, and one that was never made.
func TestMarks(t *testing.T) {
	t.Parallel()
	r := newRig(t, testlogs.Options{})
	r.tree().grow(10, true)
	r.parts(func(ctx context.Context, p *daemon.Parts) {
		_, err := lifecycle.Freeze(ctx, p.Lock, p.LockID, lifecycle.Mark{At: time.Now()})
		r.check(err)
		_, err = lifecycle.Finalize(ctx, p.Lock, p.LockID, []byte("a checkpoint"))
		r.check(err)
		_, err = lifecycle.Retire(ctx, p.Lock, p.LockID, lifecycle.Mark{At: time.Now()})
		r.check(err)
	})
	p, err := r.look(restore.Options{})
	r.check(err)
	if p.Logs[0].State != restore.Retired || p.Err() == nil {
		t.Errorf("state is %q, plan %v", p.Logs[0].State, p.Err())
	}

	fresh := newRig(t, testlogs.Options{})
	r.check(os.RemoveAll(fresh.Conf.Storage))
	r.check(os.Remove(fresh.Conf.Lock))
	if p, err = fresh.look(restore.Options{}); err != nil || p.Logs[0].State != restore.NotMade || p.Err() == nil {
		t.Errorf("%v, state is %q", err, p.Logs[0].State)
	}
	// Tiles alone show that there was a log.
	r.check(os.MkdirAll(filepath.Join(fresh.Conf.Storage, "tile", "0"), 0o755))
	r.check(os.WriteFile(filepath.Join(fresh.Conf.Storage, "tile", "0", "001"), nil, 0o644))
	fresh.wantRefused("tile/0/001", "a log was here", "second history")
}

// TestMissingFiles says all that is missing at once.
func TestMissingFiles(t *testing.T) {
	t.Parallel()
	r := newRig(t, testlogs.Options{Backend: testlogs.S3})
	r.edit("\nlogs:", "\nroots:\n  refused_file: refused.txt\nlogs:")
	r.check(os.Remove(r.Conf.KeyFile))
	r.check(os.Remove(filepath.Join(r.dir, "s3.yaml")))
	_, err := r.look(restore.Options{Serve: true})
	r.wantText(err, "key_file: ", "no other one can continue it", "credentials_file: ", "write it again", "refused_file: ", "that were refused")
	if err != nil && strings.Contains(err.Error(), "roots_file") {
		t.Errorf("the roots file is asked for: %v", err)
	}
}

// TestMissingKey tells a lost key from a log that was never made.
func TestMissingKey(t *testing.T) {
	t.Parallel()
	r := newRig(t, testlogs.Options{})
	r.tree().grow(10, true)
	r.check(os.Remove(r.Conf.KeyFile))
	r.wantRefused("log.pem is missing", "holds a log", "no other one can continue it")
}

// TestNoRoots stops before the work if no roots can be had, and only then if the
// log is to be served.
func TestNoRoots(t *testing.T) {
	t.Parallel()
	r := newRig(t, testlogs.Options{})
	r.tree().grow(10, true)
	r.loseMachine()
	_, err := r.restore()
	r.wantText(err, "roots.pem is not there", "no copy", "--no-serve")
	p, err := r.look(restore.Options{})
	r.check(err)
	r.check(p.Run(t.Context()))
	if !p.Roots[0].Missing || p.Logs[0].State != restore.Restored {
		t.Errorf("roots are %+v, log %+v", p.Roots[0], p.Logs[0])
	}
}

// TestHeld does not touch the cache of a log that is being served.
func TestHeld(t *testing.T) {
	t.Parallel()
	r := newRig(t, testlogs.Options{})
	r.Start()
	_, err := r.restore()
	r.wantText(err, "in use by another kiln process")
	r.Stop()
}

// TestLive looks at a log that another process goes on writing: what that adds
// meanwhile is no sign of a lock that was set back.
func TestLive(t *testing.T) {
	t.Parallel()
	r := newRig(t, testlogs.Options{})
	r.Start()
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		client := r.Client()
		for ctx.Err() == nil {
			chain, err := r.CA.Leaf(testlogs.LeafOptions{})
			if err == nil {
				_, err = client.Submit(ctx, chain)
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	for range 20 {
		p, err := r.look(restore.Options{})
		if err != nil || p.Logs[0].State != restore.Ready {
			t.Errorf("%v, log is %+v", err, p.Logs[0])
		}
		r.check(p.Close())
	}
	cancel()
	writer.Wait()
	r.Stop()
}

// growing is a bucket whose log goes on before it is listed.
type growing struct {
	daemon.Bucket
	grow func()
}

func (b growing) List(ctx context.Context, prefix string, each func(storage.Info) error) error {
	b.grow()
	return b.Bucket.List(ctx, prefix, each)
}

// TestMoved tells tiles of a log that has just moved on from those of one whose
// lock was set back.
func TestMoved(t *testing.T) {
	t.Parallel()
	for name, moved := range map[string]bool{"moved": true, "set back": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, testlogs.Options{})
			g := r.tree()
			g.grow(10, true)
			old := g.raw
			r.parts(func(ctx context.Context, p *daemon.Parts) {
				p.Bucket = growing{p.Bucket, func() {
					g.grow(10, true)
					if !moved {
						r.setLock(old)
					}
				}}
				done, err := restore.Compare(ctx, p)
				if moved && (!done || err != nil) {
					t.Errorf("a log that moves is judged %v, %v", done, err)
				}
				if !moved {
					r.wantText(err, "the lock is behind", "tile/0/000.p/20")
				}
			})
		})
	}
}
