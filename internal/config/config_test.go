package config

import (
	"errors"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	july    = time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	january = july.AddDate(0, 6, 0)
)

// TestTemplate uncomments every option of the template: each must be known, and
// shown with its default.
func TestTemplate(t *testing.T) {
	t.Parallel()
	shown := string(Template(july))
	want, err := Parse("template", []byte(shown), "/", july)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]Log{NewLog("example2026h2", "http://127.0.0.1:6962/example2026h2/", "/", july, january)}, want.Logs); d != "" {
		t.Error(d)
	}
	option := regexp.MustCompile(`(?m)^( *)# ([a-z_]+: [^ ]+|logging: .*)$`)
	opened := option.ReplaceAllString(shown, "$1$2")
	if n := len(option.FindAllString(shown, -1)); n != 14 {
		t.Errorf("template shows %d options as comments, want 14:\n%s", n, opened)
	}
	got, err := Parse("template", []byte(opened), "/", july)
	if err != nil {
		t.Fatalf("%v\n%s", err, opened)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("an option is shown with another value than its default:\n%s", d)
	}
	blocks := regexp.MustCompile(`(?m)^# [a-z0-9]+:\n(#   .*\n)+`).FindAllString(shown, -1)
	if len(blocks) != 4 {
		t.Errorf("template shows %d sections as comments, want s3, etcd, roots and series", len(blocks))
	}
	whole := shown
	for _, block := range blocks {
		opened := regexp.MustCompile(`(?m)^# `).ReplaceAllString(block, "")
		whole = strings.Replace(whole, block, opened, 1)
		if strings.HasPrefix(opened, "series:") {
			break // last; it needs s3
		}
		if _, err := Parse("template", []byte(strings.Replace(shown, block, opened, 1)), "/", july); err != nil {
			t.Errorf("%v\n%s", err, opened)
		}
	}
	all, err := Parse("template", []byte(whole), "/", july)
	if err != nil {
		t.Fatalf("%v\n%s", err, whole)
	}
	if all.S3 == nil || all.Etcd == nil || len(all.Roots.Reports) == 0 || len(all.Series) != 1 || len(all.Logs) != 9 {
		t.Errorf("template with all sections is %+v", all)
	}
	for _, line := range regexp.MustCompile(`(?m)^# (tls: .*)$`).FindAllStringSubmatch(shown, -1) {
		text := strings.ReplaceAll(shown, "http:", "https:") + line[1] + "\n"
		if _, err := Parse("template", []byte(text), "/", july); err != nil {
			t.Errorf("%s: %v", line[1], err)
		}
	}
}

// TestRenderAll writes a Config in which nothing stands at its default.
func TestRenderAll(t *testing.T) {
	t.Parallel()
	l := Log{
		Name: "a2026h2", Series: "b", Origin: "a.example:444/x", SubmissionURL: "https://a.example:444/x/", MonitoringURL: "https://b.example/", WatchURL: "off",
		NotAfterStart: july, NotAfterLimit: january,
		KeyFile: "/elsewhere/key: 1", RootsFile: "/d/it's \"ours\"", Storage: "/d/true", Lock: "/d/1", Dedup: "/d/ü #x",
		Period: 1500 * time.Millisecond, Batchers: 7, MaxInFlight: 8, ReadRate: 9,
		RequireServerAuth: true, Names: true, Grease: false, ReadOnly: true, IntendedUse: UseTest,
	}
	quiet := l
	quiet.Name, quiet.Series, quiet.SubmissionURL, quiet.Origin = "c3", "7", "https://c.example/", "c.example"
	quiet.MonitoringURL, quiet.KeyFile, quiet.Storage, quiet.Dedup = quiet.SubmissionURL, "/d/k", "/d/../s", "/d/~"
	quiet.WatchURL = "https://watched.example/"
	quiet.Storage = "/s"
	for name, sec := range map[string]*TLS{
		"none": nil, "files": {CertFile: "/d/c", KeyFile: "/k"},
		"ACME": {ACME: &ACME{Hosts: []string{"a.example", "b.example"}, Email: "x@a.example", CacheDir: "/d/acme", DirectoryURL: "https://acme.example/dir?x=1"}},
	} {
		want := &Config{
			Path: "f", Dir: "/d", Listen: "[::]:1", Admin: ":0", InsecureHTTP: true, TLS: sec, MaxConnections: 77,
			Logging: Logging{Level: slog.LevelWarn, Format: "json"}, Roots: Roots{Refresh: 0}, Logs: []Log{l, quiet},
		}
		text := Render(want)
		got, err := Parse("f", text, "/d", july)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: what was read is not what was written:\n%s\n%s", name, d, text)
		}
	}
}

func TestACMEFaults(t *testing.T) {
	t.Parallel()
	base := strings.ReplaceAll(good, "http:", "https:")
	for tls, want := range map[string]string{
		"{}":         "13: tls: names no certificate; want cert_file and key_file, or acme",
		"[]":         "13: tls: is a list; want keys with values",
		"{acme: {}}": "13: tls.acme.hosts: is missing; want the DNS names to obtain certificates for, such as [log.example.org]\n13: tls.acme.cache_dir: is missing; want a directory that keeps account key and certificates",
		"{acme: {hosts: [\"*.a.b\", 10.0.0.1], cache_dir: c}}":                         "13: tls.acme.hosts[0]: \"*.a.b\" is no DNS name; want a full name in lower case, such as log.example.org\n13: tls.acme.hosts[1]: \"10.0.0.1\" is no DNS name; want a full name in lower case, such as log.example.org",
		"{cert_file: a, key_file: b, acme: {hosts: [a.b], cache_dir: c}}":              "13: tls.acme: stands beside cert_file or key_file; want either acme, or cert_file and key_file",
		"{acme: {hosts: [a.b], cache_dir: c, email: me, directory_url: \"http://a\"}}": "13: tls.acme.email: \"me\" is no e-mail address; want one, such as ct@example.org\n13: tls.acme.directory_url: \"http://a\" is no https URL; want the authority's ACME directory, or leave the key out for Let's Encrypt",
	} {
		if d := cmp.Diff(want, faultsOf(t, base+"tls: "+tls+"\n")); d != "" {
			t.Errorf("%s: %s", tls, d)
		}
	}
}

func TestStem(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"example2026h2": "example", "example-2027h1": "example-", "2026h2": "", "shard12": "shard", "log12026h2": "log1",
		"alpha": "alpha", "2026h3x": "2026h3x",
	} {
		if got := Stem(name); got != want {
			t.Errorf("Stem(%q) is %q, want %q", name, got, want)
		}
	}
}

func TestHalfYearOf(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		at     time.Time
		suffix string
	}{
		{july, "2026h2"},
		{july.Add(-1), "2026h1"},
		{january.Add(-1), "2026h2"},
		{january, "2027h1"},
		{january.In(time.FixedZone("", -3600)), "2027h1"},
	} {
		h := HalfYearOf(test.at)
		if h.Suffix != test.suffix || test.at.Before(h.Start) || !test.at.Before(h.Limit) {
			t.Errorf("half-year of %v is %+v, want %s", test.at, h, test.suffix)
		}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]bool{
		"localhost": true, "kiln.localhost": true, "127.0.0.1": true, "127.8.8.8": true, "::1": true,
		"": false, "0.0.0.0": false, "::": false, "10.0.0.1": false, "notlocalhost": false, "log.example.org": false,
	} {
		if Loopback(host) != want {
			t.Errorf("Loopback(%q) is %v", host, !want)
		}
	}
}

// FuzzLoad: whatever the file holds, reading it ends in a sound Config or in a
// bounded report; a sound Config survives being written and read again.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(good + second))
	f.Add(Template(july))
	f.Add([]byte(rows))
	f.Add([]byte(rows + "etcd: {endpoints: [\"https://a:1\"]}\nroots: {reports: [\"https://a.example/\", r], refresh: 0}\n"))
	f.Add([]byte("series: [{name: a-, first: 2026h2, ahead: 0, submission_url: \"http://localhost/{shard}/\", key_file: \"{half}\", roots_file: r, storage: \"s3://abc/{half}\", lock: \"etcd:a\", dedup: \"{shard}\", shards: {2026h2: {}}}]\ns3: {}\netcd: {endpoints: [\"https://a:1\"]}\n"))
	f.Add([]byte("series: [{first: 2026h1, ahead: 20, shards: {2026h1: {storage: \"{\"}}}]\n"))
	f.Add([]byte("a: &a [*a, *a]\nlogs: [{<<: *a}]\n"))
	f.Add([]byte("logs: [{name: a, name: b, ? {} : 1}]\n---\n"))
	f.Add([]byte("tls: {acme: {hosts: [a.b]}}\nlogging: {level: info}\nlisten: \"[::1]:0\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data, "/d", july)
		if err != nil {
			var faults Faults
			if c != nil || !errors.As(err, &faults) || len(faults) == 0 || len(faults) > maxFaults+1 {
				t.Fatalf("Parse returned %v and %v", c, err)
			}
			if !slices.IsSortedFunc(faults[:min(len(faults), maxFaults)], func(a, b Fault) int { return a.Line - b.Line }) {
				t.Fatalf("faults are not in order:\n%v", err)
			}
			for _, fault := range faults {
				if len(fault.Error()) > 4096 || strings.ContainsAny(fault.Error(), "\n\r\x1b") {
					t.Fatalf("fault is long or breaks its line: %q", fault.Error())
				}
			}
			return
		}
		again, err := Parse("f", Render(c), "/d", july)
		if err != nil {
			t.Fatalf("what was rendered has faults: %v\n%s", err, Render(c))
		}
		if d := cmp.Diff(c, again); d != "" {
			t.Fatalf("rendered otherwise:\n%s", d)
		}
	})
}
