package roots

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := 0
	for _, f := range families {
		series += len(f.GetMetric())
	}
	if want := 2 * (2 + 3); series != want {
		t.Errorf("there are %d series before anything has happened, want %d", series, want)
	}
}

// TestUnmanagedRestored copies a file that is the operator's alone, and brings it
// back when it is lost, and only then.
func TestUnmanagedRestored(t *testing.T) {
	t.Parallel()
	roots := testRoots(t, 2)
	file := filepath.Join(t.TempDir(), "roots.pem")
	bucket := mem.New()
	m, err := NewManager(Config{File: file, Buckets: []storage.Bucket{bucket}})
	if err != nil {
		t.Fatal(err)
	}
	if lost, from, err := m.Lost(t.Context()); !lost || from != "" || err != nil {
		t.Errorf("lost is %v, copy %q, %v", lost, from, err)
	}
	mustWrite(t, file, []byte("# secret remark\n"+pemOf(roots[0])+"\n# another\n"+pemOf(roots[1])+"\n"))
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	copied, err := Recover(t.Context(), bucket)
	if err != nil || strings.Contains(string(copied), "#") {
		t.Fatalf("the copy is %q, %v", copied, err)
	}
	if lost, _, err := m.Lost(t.Context()); lost || err != nil {
		t.Errorf("a file that is there is lost: %v, %v", lost, err)
	}
	if from, err := m.Recreate(t.Context()); from != "" || err != nil {
		t.Errorf("a file that is there was restored from %q, %v", from, err)
	}

	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if from, err := m.Restore(t.Context()); from != "" || err != nil {
		t.Errorf("at a start it was restored from %q, %v", from, err)
	}
	if lost, from, err := m.Lost(t.Context()); !lost || from != CopyPath(copied) || err != nil {
		t.Errorf("lost is %v, copy %q, %v", lost, from, err)
	}
	if from, err := m.Recreate(t.Context()); from != CopyPath(copied) || err != nil {
		t.Errorf("restored from %q, %v", from, err)
	}
	set, err := ParseFile(mustRead(t, file))
	if err != nil || set.Len() != 2 {
		t.Errorf("restored %d roots, %v", set.Len(), err)
	}
}
