package roots

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/entry"
	"kiln/internal/chain"
	"kiln/storage"
	"kiln/storage/mem"
)

const monitorFingerprint = "86d8219c7e2b6009e37eb14356268489b81379e076e8f372e3dde8c162a34134" // OPS-06

// TestAdditive follows two reports through years: what they drop stays.
func TestAdditive(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 40)
	r := newRig(t)
	second := r.path("applicants.csv")
	r.cfg.Reports = append(r.cfg.Reports, second)
	steps := []struct {
		included, applicants []Root
		all                  int // accepted afterwards, of the first
		gone                 int
	}{
		{roots[:20], roots[20:24], 24, 0},
		{roots[:22], roots[22:26], 26, 0},  // two applicants were included
		{roots[5:22], roots[22:26], 26, 5}, // five left
		{roots[5:30], roots[26:28], 30, 5},
		{roots[:30], roots[26:28], 30, 0}, // they are back
	}
	for i, s := range steps {
		r.serveRoots(s.included...)
		mustWrite(t, second, reportOf(inclusionHeader, s.applicants...))
		m := r.manager()
		state, err := m.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := m.Plan(state, m.Fetch(t.Context(), state))
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Gone) != s.gone || len(p.Remove) > 0 || !p.Changed() {
			t.Errorf("step %d: %d gone, %d removed, changed %v; want %d gone", i, len(p.Gone), len(p.Remove), p.Changed(), s.gone)
		}
		if err := m.Apply(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		r.wantFile(append(slices.Clone(roots[:s.all]), monitor(t))...)
	}
	set, err := ParseFile(mustRead(t, r.cfg.File))
	if err != nil {
		t.Fatal(err)
	}
	got, _ := set.Get(roots[22].Fingerprint)
	if !slices.Equal(got.Sources, []string{"Included"}) || !slices.Equal(got.Formerly, []string{"applicants"}) {
		t.Errorf("a former applicant is from %q, formerly %q", got.Sources, got.Formerly)
	}
}

// TestIdempotent refreshes twice: the second time nothing is written.
func TestIdempotent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serveRoots(testRoots(t, 20)...)
	bucket := mem.New()
	r.cfg.Buckets = []storage.Bucket{bucket}
	m := r.manager()
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(r.cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	bucket.SetFaults(func(op mem.Op, path string) mem.Fault {
		if op != mem.OpGet {
			t.Errorf("%s of %s", op, path)
		}
		return mem.Fault{}
	})
	for range 2 {
		if err := m.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after, err := os.Stat(r.cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("the roots file was written again")
	}
	if _, err := os.Stat(r.cfg.File + LastGoodSuffix); err == nil {
		t.Error("there is a copy of a file that never changed")
	}
	if len(r.log.told()) != 1 {
		t.Errorf("the log was told %d times, want once", len(r.log.told()))
	}
}

// TestRefused takes roots out by the one way there is, and keeps them out.
func TestRefused(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 4)
	r := newRig(t)
	r.serveRoots(roots[:3]...)
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.cfg.RefusedFile, r.cfg.ExtraFile = r.path("refused.txt"), r.path("extra.pem")
	mustWrite(t, r.cfg.RefusedFile, []byte(roots[0].Fingerprint.String()+" # distrusted\n"+pemOf(roots[3])+"\n"+monitorFingerprint))
	mustWrite(t, r.cfg.ExtraFile, []byte(pemOf(roots[3])))
	m := r.manager()
	state, err := m.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Plan(state, m.Fetch(t.Context(), state))
	if err != nil {
		t.Fatal(err)
	}
	if got := fingerprints(p.Remove); !slices.Equal(got, fingerprints([]Root{roots[0], monitor(t)})) {
		t.Errorf("%v are to be removed", got)
	}
	if got := fingerprints(p.Refused); !slices.Equal(got, fingerprints(roots[3:])) {
		t.Errorf("%v are refused", got)
	}
	if err := m.Apply(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	r.wantFile(roots[1:3]...)
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantFile(roots[1:3]...)

	// Refusing everything would stop the log.
	mustWrite(t, r.cfg.RefusedFile, []byte(strings.Join(append(fingerprints(roots), monitorFingerprint), "\n")))
	if err := m.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "no root would be accepted") {
		t.Errorf("error is %v", err)
	}
	r.wantFile(roots[1:3]...)
}

// TestOperatorFiles does nothing when a file of the operator cannot be read.
func TestOperatorFiles(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 3)
	for _, c := range []struct {
		name  string
		spoil func(r *rig)
		want  string
	}{
		{"no extra file", func(r *rig) { r.cfg.ExtraFile = r.path("none") }, "extra roots"},
		{"damaged extra file", func(r *rig) {
			r.cfg.ExtraFile = r.path("extra")
			mustWrite(r.t, r.cfg.ExtraFile, []byte(pemOf(roots[1])+"\n"+pemOf(roots[2])[:100]))
		}, "extra roots"},
		{"no refused file", func(r *rig) { r.cfg.RefusedFile = r.path("none") }, "refused roots"},
		{"damaged refused file", func(r *rig) {
			r.cfg.RefusedFile = r.path("refused")
			mustWrite(r.t, r.cfg.RefusedFile, []byte("CN=Root\n"))
		}, "refused roots"},
		{"damaged roots file", func(r *rig) {
			mustWrite(r.t, r.cfg.File, []byte(pemOf(roots[1])+"\n"+pemOf(roots[2])[:100]))
		}, LastGoodSuffix},
		{"empty roots file", func(r *rig) { mustWrite(r.t, r.cfg.File, nil) }, "no PEM block"},
		{"a folder for a roots file", func(r *rig) {
			if err := errors.Join(os.Remove(r.cfg.File), os.Mkdir(r.cfg.File, 0o755)); err != nil {
				r.t.Fatal(err)
			}
		}, "no regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			mustWrite(t, r.cfg.File, []byte(pemOf(roots[2])))
			r.serveRoots(roots[0])
			c.spoil(r)
			var before []byte
			if info, err := os.Stat(r.cfg.File); err == nil && info.Mode().IsRegular() {
				before = mustRead(t, r.cfg.File)
			}
			if err := r.refresh(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if before != nil && !bytes.Equal(mustRead(t, r.cfg.File), before) {
				t.Error("the roots file has changed")
			}
			if len(r.log.told()) > 0 {
				t.Error("the log was told")
			}
		})
	}
}

// TestOneReportFails follows the other, and does not take for gone what only the
// failed one listed.
func TestOneReportFails(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 10)
	r := newRig(t)
	second := r.path("applicants.csv")
	r.cfg.Reports = append(r.cfg.Reports, second)
	r.serveRoots(roots[:4]...)
	mustWrite(t, second, reportOf(inclusionHeader, roots[4:6]...))
	reg := prometheus.NewRegistry()
	r.cfg.Registerer, r.cfg.Now = reg, func() time.Time { return time.UnixMilli(1e12 + 500) }
	m := r.manager()
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.serve([]byte("<html>"))
	mustWrite(t, second, reportOf(inclusionHeader, roots[6:7]...))
	if err := m.Refresh(t.Context()); err == nil || !strings.Contains(err.Error(), "no CCADB report") {
		t.Errorf("error is %v", err)
	}
	r.wantFile(append(slices.Clone(roots[:7]), monitor(t))...)
	set, err := ParseFile(mustRead(t, r.cfg.File))
	if err != nil {
		t.Fatal(err)
	}
	if n := set.listedBy("Included"); n != 4 {
		t.Errorf("the failed report lists %d, want the 4 it listed", n)
	}
	for metric, want := range map[string]float64{"kiln_roots_failures_total": 1, "kiln_roots_accepted_count": 8, "kiln_roots_last_success_timestamp_seconds": 1e9 + 0.5} {
		if got := sum(t, reg, metric); got != want {
			t.Errorf("%s is %v, want %v", metric, got, want)
		}
	}
}

// sum adds up the values of a metric.
func sum(t *testing.T, reg *prometheus.Registry, name string) (total float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				total += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return total
}

// TestCopies keeps copies in a bucket, and gets the newest back on a machine
// that has lost its disk.
func TestCopies(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 5)
	bucket := mem.New()
	r := newRig(t)
	r.cfg.Buckets = []storage.Bucket{bucket}
	if _, err := Recover(t.Context(), bucket); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("an empty bucket: %v", err)
	}
	r.serveRoots(roots[:3]...)
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.serveRoots(roots[2:4]...) // two are gone, and stay
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	want := mustRead(t, r.cfg.File)
	if got, err := Recover(t.Context(), bucket); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("recovered %d bytes, %v; want the file", len(got), err)
	}
	if v := bucket.Violations(); len(v) > 0 || len(bucket.Paths()) != 3 {
		t.Errorf("the bucket has %q, violations %q", bucket.Paths(), v)
	}

	// A new machine, whose reports are out of reach.
	n := newRig(t)
	n.cfg.Buckets = []storage.Bucket{bucket.CrashClone()}
	n.serve([]byte("<html>"))
	if from, err := n.manager().Restore(t.Context()); err != nil || from != CopyPath(want) {
		t.Fatalf("restored from %q, %v", from, err)
	}
	if got := mustRead(t, n.cfg.File); !bytes.Equal(got, want) {
		t.Error("what was restored differs")
	}
	if from, err := n.manager().Restore(t.Context()); err != nil || from != "" {
		t.Errorf("restored again from %q, %v", from, err)
	}

	// A new machine with its reports: what had left them is there again.
	n = newRig(t)
	n.cfg.Buckets = []storage.Bucket{bucket.CrashClone()}
	n.serveRoots(roots[2:5]...)
	if err := n.refresh(); err != nil {
		t.Fatal(err)
	}
	n.wantFile(append(slices.Clone(roots), monitor(t))...)
}

// TestDamagedCopies believes no copy that is not what its name says.
func TestDamagedCopies(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	for _, c := range []struct {
		name    string
		corrupt func(b *mem.Bucket, path string) error
		want    string
	}{
		{"copy", func(b *mem.Bucket, path string) error {
			return b.Corrupt(path, func(body []byte) []byte { return body[:len(body)/2] })
		}, "is damaged"},
		{"pointer", func(b *mem.Bucket, _ string) error {
			return b.Corrupt(latestPath, func([]byte) []byte { return []byte("../checkpoint") })
		}, "no SHA-256 fingerprint"},
		{"lost copy", func(b *mem.Bucket, path string) error { return b.Delete(context.Background(), path) }, "is not there"},
		{"out of reach", func(b *mem.Bucket, path string) error {
			b.SetFaults(func(mem.Op, string) mem.Fault { return mem.Fault{Before: errors.New("no route to host")} })
			return nil
		}, "no route to host"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bucket := mem.New()
			r := newRig(t)
			r.cfg.Buckets = []storage.Bucket{bucket}
			r.serveRoots(roots...)
			if err := r.refresh(); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(c.corrupt(bucket, CopyPath(mustRead(t, r.cfg.File))), os.Remove(r.cfg.File)); err != nil {
				t.Fatal(err)
			}
			// The copy may have held more than the reports do now.
			if err := r.refresh(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q", err, c.want)
			}
			if _, err := os.Stat(r.cfg.File); err == nil {
				t.Error("a roots file was written")
			}
		})
	}
}

// TestCopyFails applies the roots nevertheless, and copies them the next time.
func TestCopyFails(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	for _, failed := range []mem.Op{mem.OpCreate, mem.OpUpdate} {
		for _, persisted := range []bool{false, true} {
			bucket := mem.New()
			r := newRig(t)
			r.cfg.Buckets = []storage.Bucket{bucket}
			r.serveRoots(roots...)
			bucket.SetFaults(func(op mem.Op, _ string) mem.Fault {
				switch {
				case op != failed:
					return mem.Fault{}
				case persisted:
					return mem.Fault{After: errors.New("lost answer")}
				}
				return mem.Fault{Before: errors.New("out of order")}
			})
			m := r.manager()
			if err := m.Refresh(t.Context()); !errors.Is(err, ErrCopy) {
				t.Errorf("%s: error is %v", failed, err)
			}
			r.wantFile(append(slices.Clone(roots), monitor(t))...)
			if len(r.log.told()) != 1 {
				t.Errorf("%s: the log was told %d times", failed, len(r.log.told()))
			}
			bucket.SetFaults(nil)
			if err := m.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got, err := Recover(t.Context(), bucket); err != nil || !bytes.Equal(got, mustRead(t, r.cfg.File)) {
				t.Errorf("%s: recovered %d bytes, %v", failed, len(got), err)
			}
		}
	}
}

// TestLostFile falls back to the copy beside the file.
func TestLostFile(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 5)
	r := newRig(t)
	mustWrite(t, r.cfg.File+LastGoodSuffix, []byte(pemOf(roots[0])))
	r.serveRoots(roots[1])
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.wantFile(roots[0], roots[1], monitor(t))

	// The log remembers more than a file that was put back by hand.
	m := r.manager()
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, r.cfg.File, []byte(pemOf(roots[2])))
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.wantFile(roots[0], roots[1], roots[2], monitor(t))
}

// TestCrashes stops an apply between any two of its steps, and goes on after a
// restart: the file is readable at every moment, and nothing is lost.
func TestCrashes(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 4)
	old, next := NewSet(roots[:2]...).Render(), NewSet(roots[:3]...).Render()
	for _, c := range []struct {
		name  string
		files map[string][]byte
	}{
		{"nothing written", map[string][]byte{"roots.pem": old}},
		{"half a copy", map[string][]byte{"roots.pem": old, unfinished + "1": old[:len(old)/2]}},
		{"copy, no file", map[string][]byte{"roots.pem": old, "roots.pem" + LastGoodSuffix: old}},
		{"copy, half a file", map[string][]byte{"roots.pem": old, "roots.pem" + LastGoodSuffix: old, unfinished + "1": next[:len(next)/2]}},
		{"all, but no bucket", map[string][]byte{"roots.pem": next, "roots.pem" + LastGoodSuffix: old}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			for name, data := range c.files {
				mustWrite(t, r.path(name), data)
			}
			r.serveRoots(roots[2], roots[3])
			bucket := mem.New()
			r.cfg.Buckets = []storage.Bucket{bucket}
			if err := r.refresh(); err != nil {
				t.Fatal(err)
			}
			r.wantFile(append(slices.Clone(roots), monitor(t))...)
			if got, err := Recover(t.Context(), bucket); err != nil || !bytes.Equal(got, mustRead(t, r.cfg.File)) {
				t.Errorf("recovered %d bytes, %v", len(got), err)
			}
		})
	}
}

// TestChangedMeanwhile plans for one file and finds another.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 3)
	r := newRig(t)
	mustWrite(t, r.cfg.File, []byte(pemOf(roots[0])))
	r.serveRoots(roots[1])
	m := r.manager()
	state, err := m.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Plan(state, m.Fetch(t.Context(), state))
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, r.cfg.File, []byte(pemOf(roots[2])))
	if err := m.Apply(t.Context(), p); !errors.Is(err, ErrChanged) || len(r.log.told()) > 0 {
		t.Errorf("error is %v, the log was told %d times", err, len(r.log.told()))
	}
	// A refresh whose file changes while it reads the reports starts again.
	changed := false
	serve := r.handler
	r.cfg.Reports = append(r.cfg.Reports, r.server.URL+"/second")
	r.handler = func(w http.ResponseWriter, req *http.Request) {
		if !changed {
			changed = true
			mustWrite(t, r.cfg.File, []byte(pemOf(roots[0])))
		}
		serve(w, req)
	}
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.wantFile(roots[0], roots[1], monitor(t))
}

// TestUnmanaged follows a file that is the operator's alone, and never writes.
func TestUnmanaged(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	dir := t.TempDir()
	file := filepath.Join(dir, "roots.pem")
	log := &fakeLog{}
	m, err := NewManager(Config{File: file, Logs: []Log{log}, Buckets: []storage.Bucket{mem.New()}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Refresh(t.Context()); err == nil {
		t.Error("a missing file is no error")
	}
	for _, c := range []struct {
		content string
		ok      bool
		accepts int
	}{
		{"# none as yet\n", true, 0},
		{pemOf(roots[0]), true, 1},
		{pemOf(roots[0]) + "\n" + pemOf(roots[1]), true, 2},
		{"", false, 2},
		{"# none any more\n", false, 2},
		{pemOf(roots[1]), true, 1}, // an operator's hand
	} {
		mustWrite(t, file, []byte(c.content))
		if err := m.Refresh(t.Context()); (err == nil) != c.ok {
			t.Errorf("%.20q: %v", c.content, err)
		}
		if string(mustRead(t, file)) != c.content {
			t.Errorf("%.20q: the file has changed", c.content)
		}
		accepts := 0
		if n := len(log.told()); n > 0 {
			accepts = len(log.told()[n-1])
		}
		if accepts != c.accepts {
			t.Errorf("%.20q: the log accepts %d, want %d", c.content, accepts, c.accepts)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 1 {
		t.Errorf("there are %q", left)
	}
}

// TestRun refreshes at the start, by the clock, sooner after a failure, and when
// it is told to.
func TestRun(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 8)
	dir := t.TempDir()
	report := filepath.Join(dir, "report.csv")
	synctest.Test(t, func(t *testing.T) {
		log := &fakeLog{}
		m, err := NewManager(Config{File: filepath.Join(dir, "roots.pem"), Reports: []string{report}, Logs: []Log{log}, Refresh: 24 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		lists := func(n int) { mustWrite(t, report, reportOf(includedHeader, roots[:n]...)) }
		accepts := func(when string, n int) {
			t.Helper()
			synctest.Wait()
			if got := len(log.told()[len(log.told())-1]); got != n+1 {
				t.Errorf("%s: the log accepts %d, want %d", when, got, n+1)
			}
		}
		lists(1)
		go func() {
			defer close(done)
			m.Run(ctx)
		}()
		accepts("at the start", 1)
		lists(2)
		time.Sleep(24*time.Hour - 1)
		accepts("just before the time", 1)
		time.Sleep(time.Nanosecond)
		accepts("at the time", 2)
		lists(3)
		m.Reload()
		accepts("when told to", 3)
		lists(4)
		m.Reload()
		m.Reload()
		accepts("when told twice", 4)
		mustWrite(t, report, []byte("<html>"))
		time.Sleep(24 * time.Hour)
		accepts("after a failure", 4)
		lists(5)
		time.Sleep(retryAfter - 1)
		accepts("before the next attempt", 4)
		time.Sleep(time.Nanosecond)
		accepts("at the next attempt", 5)
		lists(6)
		time.Sleep(24*time.Hour - 1)
		accepts("back to the usual time", 5)
		cancel()
		<-done
	})
}

// TestLogFails keeps the file, and tells the log again the next time.
func TestLogFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serveRoots(testRoots(t, 1)...)
	r.log.err = errors.New("busy")
	m := r.manager()
	if err := m.Refresh(t.Context()); err == nil {
		t.Error("no error")
	}
	r.log.err = nil
	if err := m.Refresh(t.Context()); err != nil || len(r.log.told()) != 1 {
		t.Errorf("%v, told %d times", err, len(r.log.told()))
	}
}

// TestMonitorRoot accepts real chains below Google's Merge Delay Monitor Root,
// which is signed with SHA-1 as its intermediate is, in a log that follows a
// report without it (OPS-06, SUB-23).
func TestMonitorRoot(t *testing.T) {
	t.Parallel()
	if got := monitor(t); got.Fingerprint.String() != monitorFingerprint {
		t.Fatalf("%v is built in", got)
	}
	v, err := chain.New(chain.Config{RequireServerAuth: true})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t)
	r.cfg.Logs = []Log{v}
	r.serveRoots(negativeSerial(t, testRoots(t, 1)[0]))
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	if len(v.Roots()) != 2 {
		t.Fatalf("the log accepts %d roots, want the reported one and the monitor's", len(v.Roots()))
	}
	for typ, c := range monitorChains(t) {
		cand, err := v.Prepare(c, typ)
		if err == nil {
			err = cand.VerifyLeaf()
		}
		if err != nil {
			t.Errorf("endpoint %v: %v", typ, err)
		}
	}
}

// monitorChains returns a certificate and a precertificate of the monitor.
func monitorChains(t *testing.T) map[entry.Type][][]byte {
	t.Helper()
	f, err := os.Open(filepath.Join("..", "..", "testdata", "real-chains.jsonl.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	chains := make(map[entry.Type][][]byte)
	for dec := json.NewDecoder(z); dec.More(); {
		var line struct {
			Endpoint, Root string
			Chain          [][]byte
			RootSHA256     string `json:"root_sha256"`
		}
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if line.RootSHA256 != monitorFingerprint {
			continue
		}
		typ := entry.X509
		if line.Endpoint == "add-pre-chain" {
			typ = entry.Precert
		}
		chains[typ] = line.Chain
	}
	if len(chains) != 2 {
		t.Fatalf("there are chains for %d endpoints, want 2", len(chains))
	}
	return chains
}

// TestKeepReports reads reports again as they were kept.
func TestKeepReports(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 20)
	r := newRig(t)
	r.serveRoots(roots...)
	m := r.manager()
	state, err := m.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	paths, err := m.KeepReports(m.Fetch(t.Context(), state))
	if err != nil || !slices.Equal(paths, []string{filepath.Join(r.cfg.File+CacheSuffix, "Included.csv")}) {
		t.Fatalf("kept %q, %v", paths, err)
	}
	// A report that is not to be followed does not take the place of one that was.
	r.serve([]byte("<html>"))
	if paths, err := m.KeepReports(m.Fetch(t.Context(), state)); err != nil || len(paths) > 0 {
		t.Errorf("kept %q, %v", paths, err)
	}
	r.server.Close()
	r.cfg.Cached = true
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.wantFile(append(slices.Clone(roots), monitor(t))...)

	// A report that has shrunk is followed if it is said to be right.
	mustWrite(t, paths[0], reportOf(includedHeader, roots[:5]...))
	if err := r.refresh(); err == nil || !strings.Contains(err.Error(), "--accept-shrunk") {
		t.Errorf("error is %v", err)
	}
	r.cfg.AcceptShrunk = true
	if err := r.refresh(); err != nil {
		t.Fatal(err)
	}
	r.cfg.AcceptShrunk = false
	if err := r.refresh(); err != nil {
		t.Errorf("once said, it is known: %v", err)
	}
	r.wantFile(append(slices.Clone(roots), monitor(t))...)
}

func TestNewManager(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		cfg  Config
	}{
		{"no file", Config{}},
		{"http", Config{File: "f", Reports: []string{"http://example.org/r"}}},
		{"two of one name", Config{File: "f", Reports: []string{"https://a.example/r", "https://b.example/r"}}},
	} {
		if _, err := NewManager(c.cfg); err == nil {
			t.Errorf("%s is taken", c.name)
		}
	}
	reg := prometheus.NewRegistry()
	for _, file := range []string{"a", "b"} { // two managers in one process
		if _, err := NewManager(Config{File: file, Registerer: reg}); err != nil {
			t.Error(err)
		}
	}
}
