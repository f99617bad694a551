package daemon_test

import (
	"bytes"
	"strings"
	"testing"

	"kiln/internal/daemon"
	"kiln/internal/servers"
	"kiln/testlogs"
)

// TestRegressS3 is what has killed logs, on a real S3 server with the lock there
// and in etcd: docs/reliability.md maps each case to its test.
func TestRegressS3(t *testing.T) {
	t.Parallel()
	flip := func(path string) func(*testing.T, *s3Rig) {
		return func(t *testing.T, r *s3Rig) { testS3Running(t, r, path, func(_, _ s3Copy) { r.flip(path) }) }
	}
	newS3World(t).each(t, map[string]func(*testing.T, *s3Rig){
		"before start, bucket rolled back, lock intact": func(t *testing.T, r *s3Rig) { testS3RolledBack(t, r, true) },
		"before start, lock rolled back, bucket ahead":  func(t *testing.T, r *s3Rig) { testS3RolledBack(t, r, false) },
		"before start, flipped bit":                     testS3FlipBeforeStart,
		"running, flipped bit in a hash tile":           flip("tile/0/000.p/8"),
		"running, flipped bit in a data tile":           flip("tile/data/000.p/8"),
		"running, flipped bit in the checkpoint":        flip("checkpoint"),
		"running, bucket rolled back, lock intact": func(t *testing.T, r *s3Rig) {
			testS3Running(t, r, "staging bundle is gone", func(old, now s3Copy) { r.putBack(s3Copy{old.objects, now.cell}) })
		},
		"running, lock rolled back, bucket ahead": func(t *testing.T, r *s3Rig) {
			testS3Running(t, r, "newer than the lock's", func(old, _ s3Copy) { r.setCell(old.cell) })
		},
		"two failures, then a failing reload": testS3ReloadFails,
		"staging bundle removed":              testS3BundleRemoved,
	})
}

// testS3RolledBack puts an old copy of the bucket, or of the lock, in its place
// while nothing runs.
func testS3RolledBack(t *testing.T, r *s3Rig, bucketBack bool) {
	r.up()
	r.take(3)
	old := r.copy()
	r.take(5)
	r.stop()
	now := r.copy()
	r.removeDedup(0) // it would know as well
	if bucketBack {
		r.putBack(s3Copy{old.objects, now.cell})
		r.refuses("staging bundle is gone", "staging/")
	} else {
		r.putBack(s3Copy{now.objects, old.cell})
		r.refuses("newer than the lock's", "bring back the newest lock")
	}
	r.repaired(now)
}

// testS3FlipBeforeStart flips one bit in each object of the right edge in the
// bucket, one after the other: no start signs on it, and the reason names the
// object.
func testS3FlipBeforeStart(_ *testing.T, r *s3Rig) {
	r.up()
	r.grow(260)
	r.take(2)
	r.stop()
	now := r.copy()
	for _, path := range []string{"tile/0/001.p/6", "tile/1/000.p/1", "tile/data/001.p/6", "checkpoint"} {
		r.flip(path)
		r.refuses(path)
		r.putBack(now)
	}
	r.repaired(now)
}

// testS3Running has a fault happen to what a running log stands on. It stops for
// good without signing on it, and says why.
func testS3Running(t *testing.T, r *s3Rig, want string, fault func(old, now s3Copy)) {
	r.up()
	r.take(3)
	old := r.copy()
	r.take(5)
	now := r.copy()
	said := r.said.said("log takes no more submissions and is only read: repair what the error names, then restart\" log=one")
	fault(old, now)
	before := r.signed()
	refused := r.try(r.chain()) // work for a round
	within(t, "stop", said)
	if err := within(t, "refusal", refused); err == nil {
		t.Error("it gave an SCT")
	}
	if _, body := r.admin("/readyz"); !strings.Contains(body, want) {
		t.Errorf("/readyz lacks %q: %s", want, body)
	}
	if !r.signed().same(before) {
		t.Error("something was signed")
	}
	r.stop()
	r.repaired(now)
}

// testS3ReloadFails: the tiles of a committed round cannot be written, nor by the
// recovery, and then nothing can be read. Nothing is signed until the state was
// proved from storage; then the log goes on by itself.
func testS3ReloadFails(t *testing.T, r *s3Rig) {
	const dropped, unread = ` err="publish: create object tile/`, ` err="read published checkpoint: `
	r.up()
	r.take(3)
	r.failing("PUT", "/tile/", 403)
	waiting := r.wait()
	within(t, "two failures", r.said.saidTimes(dropped, 2))
	before := r.signed()
	r.failing("GET", "/log/", 500)
	within(t, "a failing reload", r.said.said(unread))
	if !r.signed().same(before) {
		t.Error("something was signed over a state that was not proved")
	}
	r.proxy.Heal()
	r.remember(within(t, "an SCT", waiting))
	r.take(2)
	r.audit()
}

// testS3BundleRemoved stops a log between its commit and its tiles, and removes
// what it would finish the round from.
func testS3BundleRemoved(t *testing.T, r *s3Rig) {
	r.up()
	r.take(3)
	r.failing("PUT", "/tile/", 403)
	chain := r.chain()
	refused := r.try(chain)
	within(t, "a commit without tiles", r.said.said(` err="publish: create object tile/`))
	r.stop()
	if err := within(t, "refusal", refused); err == nil {
		t.Error("it gave an SCT for what is not public")
	}
	r.proxy.Heal()
	now := r.copy()
	bundle := now.bundle(t)
	r.check(r.raw.Delete(t.Context(), s3Bucket, r.prefix+bundle))
	r.refuses("staging bundle is gone", bundle)
	r.putBack(now)
	r.up()
	r.remember(r.submit(0, chain)) // it stands where the round put it
	r.take(2)
	r.audit()
}

// bundle returns the path of the one bundle in a copy whose tiles are missing.
func (c s3Copy) bundle(t *testing.T) string {
	t.Helper()
	var found []string
	for path := range c.objects {
		if strings.HasPrefix(path, "staging/4-") {
			found = append(found, path)
		}
	}
	if len(found) != 1 {
		t.Fatalf("bundles of the committed round: %v", found)
	}
	return found[0]
}

// refuses starts the one log, which must fail for a reason that says all of wants,
// and sign nothing.
func (r *s3Rig) refuses(wants ...string) {
	r.t.Helper()
	before := r.signed()
	d, err := daemon.Start(r.t.Context(), r.cfg, r.opts)
	if err == nil {
		_ = d.Close(r.t.Context())
		r.t.Fatalf("it started: %v", wants)
	}
	for _, want := range wants {
		if !strings.Contains(err.Error(), want) {
			r.t.Errorf("the reason does not say %q: %v", want, err)
		}
	}
	if !r.signed().same(before) {
		r.t.Errorf("something was signed: %v", wants)
	}
}

// failing has the requests of a kind fail until the proxy is healed. What is
// refused, with 403, is not tried for as long as what fails with 500.
func (r *s3Rig) failing(method, path string, status int) {
	r.proxy.Inject(servers.Fault{Method: method, Path: path, Status: status, Code: map[int]string{403: "AccessDenied", 500: "InternalError"}[status], Times: -1})
}

// try submits a chain once.
func (r *s3Rig) try(chain testlogs.Chain) <-chan error {
	r.t.Helper()
	client, answered := r.client(0), make(chan error, 1)
	go func() {
		_, err := client.Submit(r.t.Context(), chain)
		answered <- err
	}()
	return answered
}

// wait submits a chain until it has its SCT.
func (r *s3Rig) wait() <-chan *testlogs.SCT {
	r.t.Helper()
	client, chain, given := r.client(0), r.chain(), make(chan *testlogs.SCT, 1)
	ctx := r.t.Context()
	go func() {
		for ctx.Err() == nil {
			if sct, err := client.Submit(ctx, chain); err == nil {
				given <- sct
				return
			}
		}
	}()
	return given
}

// repaired puts a copy in its place, after which the log goes on and still holds
// whatever it promised.
func (r *s3Rig) repaired(c s3Copy) {
	r.t.Helper()
	r.putBack(c)
	r.up()
	r.take(1)
	r.audit()
}

// same says whether the lock and what readers see are those of another look.
func (s s3Signed) same(other s3Signed) bool {
	return bytes.Equal(s.cell, other.cell) && bytes.Equal(s.public, other.public)
}
