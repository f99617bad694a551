package daemon_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"kiln/internal/daemon"
)

// TestLeftOutIsTriedAgain starts beside a process that holds the data of one log.
// The other log is served, and the one as well once it can be had, without a
// restart.
func TestLeftOutIsTriedAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	var release func()
	r.decided2(1, func(p *daemon.Parts) (err error) {
		release, err = p.Hold()
		return err
	})
	r.start()
	r.submit(0, r.chain())
	code, body := r.admin("/readyz")
	if code != http.StatusServiceUnavailable || !strings.Contains(body, "log two could not be started") || !strings.Contains(body, "in use") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, text := r.get(r.url(1) + "checkpoint"); code != http.StatusServiceUnavailable || !strings.Contains(text, "tried again") {
		t.Errorf("checkpoint: %d %s", code, text)
	}
	if _, page := r.get("http://" + r.d.Addr() + "/"); strings.Contains(page, ">two<") {
		t.Errorf("the index has a log that is not served: %s", page)
	}
	said := r.said.said("msg=\"log is served now\" log=two")
	release()
	within(t, "opening", said)
	if err := r.auditor(1).Holds(t.Context(), r.submit(1, r.chain())); err != nil {
		t.Error(err)
	}
	if code, body := r.admin("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz afterwards: %d %s", code, body)
	}
	for series, want := range map[string]string{`kiln_daemon_log_broken{log="two"}`: "0", `kiln_daemon_log_up{log="two"}`: "1"} {
		if got := r.metric(series); got != want {
			t.Errorf("%s is %s, want %s", series, got, want)
		}
	}
	if _, page := r.get("http://" + r.d.Addr() + "/"); !strings.Contains(page, ">two<") {
		t.Errorf("the index lacks the log: %s", page)
	}
	if n := strings.Count(r.said.String(), "log=two err=\"log two: "); n != 1 {
		t.Errorf("the reason was told %d times", n)
	}
}

// decided2 opens the parts of log i beside the daemon.
func (r *rig) decided2(i int, f func(*daemon.Parts) error) {
	r.t.Helper()
	p, err := daemon.OpenParts(r.t.Context(), r.cfg, r.cfg.Logs[i], r.opts)
	if err == nil {
		err = f(p)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		r.t.Error(err)
	}
}

// TestLeftOutReleasesItsData has commands look after a log that could not be
// opened, while the others are served.
func TestLeftOutReleasesItsData(t *testing.T) {
	t.Parallel()
	r := newRig(t, "one", "two")
	r.start()
	r.submit(1, r.chain())
	r.stop()
	damage(t, filepath.Join(r.cfg.Logs[1].Storage, "tile/0/000.p/1"))
	r.start()
	r.decided2(1, func(p *daemon.Parts) error {
		release, err := p.Hold()
		if err != nil {
			return fmt.Errorf("its data is held: %w", err)
		}
		release()
		return nil
	})
	r.submit(0, r.chain())
}
