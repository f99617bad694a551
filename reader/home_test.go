package reader

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"html"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

// home asks for the home page, checks its form, and returns its text.
func (r *rig) homeText() string {
	r.t.Helper()
	w := r.do("GET", "/")
	if w.Code != 200 {
		r.t.Fatalf("got %d %s", w.Code, w.Body)
	}
	page := w.Body.String()

	// The style is the only thing the policy lets in, and it is let in.
	_, rest, _ := strings.Cut(page, "<style>")
	style, _, ok := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(style))
	policy := w.Header().Get("Content-Security-Policy")
	if !ok || !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
		r.t.Errorf("policy %q does not let in the style of the page", policy)
	}
	if found := regexp.MustCompile(`(?i)<script|<img|<link|\ssrc=|\sstyle=|@import|url\(|\son[a-z]+=`).FindString(page); found != "" {
		r.t.Errorf("page has %q, which the policy forbids", found)
	}
	if strings.Contains(page, "ZgotmplZ") {
		r.t.Error("the template refused a value")
	}
	// Every element is closed: the page happens to be XML but for its doctype.
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict = false
	d.AutoClose, d.Entity = xml.HTMLAutoClose, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			r.t.Errorf("page is malformed: %v", err)
			break
		}
	}
	return html.UnescapeString(page)
}

func TestHome(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Info.FriendlyName, c.Info.Version = "Example <2026h2> & more", "v1.2.3" })
	page := r.homeText()
	info := r.cfg.Info
	for _, want := range []string{
		"Example <2026h2> & more", "2026-07-01T00:00:00Z", "2027-01-01T00:00:00Z", info.Origin, info.SubmissionURL, info.MonitoringURL,
		base64.StdEncoding.EncodeToString(info.SPKI), "-----BEGIN PUBLIC KEY-----", base64.StdEncoding.EncodeToString(info.LogID[:]),
		"<b>3</b>", "<b>1.5 s ago</b>", r.signedAt().UTC().Format("2006-01-02 15:04:05 UTC"), ">active</span>", "kiln v1.2.3",
		`href="https://log.example.net/2026h2/ct/v1/get-roots"`, `href="https://mon.example.net/2026h2/checkpoint"`,
		`href="https://mon.example.net/2026h2/log.v3.json"`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("page does not say %q:\n%s", want, page)
		}
	}
	if raw := r.do("GET", "/").Body.String(); strings.Contains(raw, "<2026h2>") {
		t.Error("the name is not escaped")
	}
}

func TestHomeInTrouble(t *testing.T) {
	t.Parallel()
	var now time.Time
	r := newRig(t, func(c *Config) {
		c.Now = func() time.Time { return now }
		c.Info.ReadOnlyAfter = time.Date(2027, 1, 8, 0, 0, 0, 0, time.UTC)
	})
	now = r.signedAt().Add(61 * time.Second)
	if page := r.homeText(); !strings.Contains(page, ">late</span>") || !strings.Contains(page, "61 s ago") {
		t.Errorf("page does not say that the log is late:\n%s", page)
	}
	now = r.cfg.Info.ReadOnlyAfter.Add(time.Second)
	r.publish(r.sign(1_234_567, now.UnixMilli()))
	if page := r.homeText(); !strings.Contains(page, ">readonly</span>") || !strings.Contains(page, "<b>1,234,567</b>") {
		t.Errorf("page does not say that the log is read-only:\n%s", page)
	}
	r.publish([]byte("broken"))
	if page := r.homeText(); !strings.Contains(page, ">unreadable</span>") || !strings.Contains(page, "not readable") {
		t.Errorf("page does not say that the checkpoint is unreadable:\n%s", page)
	}
}

func TestAgo(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0.0 s ago", 1234 * time.Millisecond: "1.2 s ago", 59 * time.Second: "59 s ago", 3 * time.Minute: "3 min ago",
		5 * time.Hour: "5 h ago", 100 * time.Hour: "4 days ago",
	} {
		if got := ago(d); got != want {
			t.Errorf("ago(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", 100000: "100,000"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
}
