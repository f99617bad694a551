package restore_test

import (
	"bytes"
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"kiln/internal/daemon"
	"kiln/internal/restore"
	"kiln/testlogs"
)

// TestDrill loses the machine and brings the log back, on every backend.
func TestDrill(t *testing.T) {
	t.Parallel()
	for _, backend := range []testlogs.Backend{testlogs.Embedded, testlogs.S3, testlogs.S3Etcd} {
		for name, section := range map[string]string{
			"roots by hand":      "",
			"roots kept by kiln": "roots:\n  reports: [gone.csv]\n",
		} {
			t.Run(backend.String()+", "+name, func(t *testing.T) {
				t.Parallel()
				drill(t, backend, section)
			})
		}
	}
}

func drill(t *testing.T, backend testlogs.Backend, section string) {
	other, err := testlogs.NewCA(testlogs.CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, testlogs.Options{Backend: backend, Roots: other.RootPEM()})
	if section != "" {
		r.edit("\nlogs:", "\n"+section+"logs:")
	}
	r.Start()
	chains, scts := r.submit(300, r.CA, other)
	r.awaitRoots()
	roots := rootsOf(t, r)
	if _, err := r.Auditor().Audit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Stop()
	r.loseMachine()

	plan, err := r.restore()
	r.check(err)
	l := plan.Logs[0]
	if l.State != restore.Restored || l.Verified != 300 || l.ResumedAt != 0 || l.Issuers == 0 || l.Bundle != "" {
		t.Errorf("result is %+v", l)
	}
	if plan.Roots[0].From == "" || plan.Roots[0].Missing {
		t.Errorf("roots are %+v", plan.Roots[0])
	}

	r.Start()
	if got := rootsOf(t, r); !slices.EqualFunc(got, roots, bytes.Equal) {
		t.Errorf("%d roots are accepted, want the %d from before", len(got), len(roots))
	}
	for i, chain := range chains {
		again, err := r.Client().Submit(t.Context(), chain)
		r.check(err)
		if !bytes.Equal(again.Body, scts[i].Body) {
			t.Fatalf("chain %d: SCT is %s, was %s", i, again.Body, scts[i].Body)
		}
	}
	_, fresh := r.submit(5, r.CA, other)
	for _, sct := range fresh {
		if sct.Index < 300 {
			t.Errorf("a new entry has index %d", sct.Index)
		}
	}
	report, err := r.Auditor().Audit(t.Context())
	r.check(err)
	if report.Checkpoint.N != 305 || len(report.Repeated) > 0 {
		t.Errorf("the log has %d entries, %d of them twice", report.Checkpoint.N, len(report.Repeated))
	}
	r.Stop()
}

// awaitRoots waits for the copy of the roots, which the start of the log does not
// wait for.
func (r *rig) awaitRoots() {
	r.T.Helper()
	r.parts(func(ctx context.Context, p *daemon.Parts) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for {
			_, err := p.Bucket.Get(ctx, "roots/latest")
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				r.Fatalf("the roots were not copied: %v", err)
			}
		}
	})
}

func rootsOf(t *testing.T, r *rig) [][]byte {
	t.Helper()
	roots, err := r.Client().Roots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(roots, bytes.Compare)
	return roots
}

// interrupted is a log of 9000 entries whose restore was cut off after 8192.
func interrupted(t *testing.T) *rig {
	r := newRig(t, testlogs.Options{})
	r.tree().grow(9000, true)
	r.loseRootsButOne()
	ctx, cancel := context.WithCancel(t.Context())
	p, err := r.look(restore.Options{Progress: func(_ string, done, _ int64) {
		if done >= 8500 {
			cancel()
		}
	}})
	r.check(err)
	err = p.Run(ctx)
	r.check(p.Close())
	r.wantText(err, "interrupted after 8192 of 9000 entries", "goes on from there")
	if l := p.Logs[0]; l.State != restore.Failed || l.Verified != 8192 {
		t.Errorf("result is %+v", l)
	}
	return r
}

// TestInterrupted cuts a restore off, and another goes on.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	r := interrupted(t)
	p, err := r.restore()
	r.check(err)
	if l := p.Logs[0]; l.State != restore.Restored || l.ResumedAt != 8192 || l.Verified != 9000 {
		t.Errorf("result is %+v", l)
	}
	// A cache that is complete says nothing of the storage: a new restore reads all.
	p, err = r.restore()
	r.check(err)
	if l := p.Logs[0]; l.ResumedAt != 0 || l.Verified != 9000 {
		t.Errorf("result is %+v", l)
	}
	r.Start()
	r.submit(3, r.CA)
	r.Stop()
}

// TestResumedAt believes what an earlier run has verified, and nothing else.
func TestResumedAt(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		meanwhile func(*rig)
		want      int64
	}{
		"served":     {func(r *rig) { r.Start(); r.Stop() }, 8192}, // which covers all, without issuers
		"cache lost": {func(r *rig) { r.ForgetDedup() }, 0},
		"other storage": {func(r *rig) {
			r.check(os.Rename(r.Conf.Storage, r.Conf.Storage+".moved"))
			r.edit("\n    storage: log", "\n    storage: log.moved")
		}, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := interrupted(t)
			test.meanwhile(r)
			p, err := r.restore()
			r.check(err)
			if l := p.Logs[0]; l.ResumedAt != test.want || l.Verified != 9000 {
				t.Errorf("result is %+v, want it resumed at %d", l, test.want)
			}
		})
	}
}

// loseRootsButOne leaves the machine without a cache, but with its roots file.
func (r *rig) loseRootsButOne() {
	r.T.Helper()
	roots, err := os.ReadFile(r.Conf.RootsFile)
	r.check(err)
	r.loseMachine()
	r.check(os.WriteFile(r.Conf.RootsFile, roots, 0o600))
}
