package config

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"kiln/internal/chain"
	"kiln/internal/fuzztest"
	"kiln/internal/logkey"
	"kiln/internal/s3client"
	"kiln/storage/s3"
)

// text returns parse as a function that gives the value back as it is written.
func text[T any](parse func(string) (T, *problem)) func(string) (string, *problem) {
	return func(s string) (string, *problem) {
		v, p := parse(s)
		if t, ok := any(v).(time.Time); ok {
			return t.Format(time.RFC3339), p
		}
		if h, ok := any(v).(HalfYear); ok {
			return h.Suffix, p
		}
		if any(v) == time.Duration(0) {
			return "0", p // which is written without a unit
		}
		return fmt.Sprint(v), p
	}
}

// FuzzValues reads any text as the value of every kind of option. What is taken
// is taken again as it is written, and what is refused is quoted in one short line.
func FuzzValues(f *testing.F) {
	kinds := map[string]func(string) (string, *problem){
		"name": parseName, "series name": parseSeriesName, "time": text(parseTime), "period": text(parsePeriod), "bool": text(parseBool),
		"use": parseUse, "format": parseFormat, "address": parseAddr, "prefix": prefixText, "ACME host": parseACMEHost, "e-mail": parseEmail,
		"directory": parseDirectoryURL, "file": parseFile, "region": parseRegion, "endpoint": parseEndpoint, "etcd endpoint": parseEtcdEndpoint,
		"user": parseUsername, "refresh": text(parseRefresh), "half-year": text(parseHalf), "report": reportAt("/d"), "storage": storageAt("/d"),
		"lock": lockAt("/d"), "path": fileAt("/d"), "number": text(between(1, 9)), "duration": text(duration(time.Second, time.Hour, "1s")),
		"series path":   spelling{dir: "/d", name: "x", series: true, own: true}.alone(fileAt("/d")),
		"series prefix": spelling{dir: "/d", name: "x", series: true}.shared(prefixText),
	}
	for _, s := range []string{
		"", "a", "2026h1", "2026-07-01T00:00:00Z", "2026-07-01T00:00:00.0+00:00", "100ms", "1e3h", "true", "test", "json", "127.0.0.1:0", "[::1]:65536", "info",
		"https://log.example.org/2026h2/", "http://a@b/", "https://a/../b/", "log.example.org", "a@b", "s3://bucket/a/.b/~c", "s3://bucket", "s3:", "s3://",
		"etcd:a/b", "etcd:/", "{shard}", "{half}/{half}", "https://[::1%25eth0]:1/", "0", "00", "١", "\x00", "\x1b[31m", strings.Repeat("a", 300), "é",
	} {
		f.Add(s)
	}
	client, err := s3client.New(f.Context(), s3client.Config{Endpoint: "http://127.0.0.1:1", PathStyle: true, AccessKeyID: "a", SecretAccessKey: "b"})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(client.Close)
	f.Fuzz(func(t *testing.T, s string) {
		if l, p := parseLevel(s); p == nil && strings.ToLower(l.String()) != s {
			t.Fatalf("level %q is %v", s, l)
		}
		for kind, parse := range kinds {
			v, p := parse(s)
			if p != nil {
				if line := p.what + p.want; len(line) > 1000 || strings.ContainsAny(line, "\r\n\x1b\x00") || p.what == "" {
					t.Fatalf("%s %q: %q", kind, s, line)
				}
				continue
			}
			if again, p := parse(v); p != nil || again != v {
				t.Fatalf("%s %q is %q, which is read as %q, %v", kind, s, again, v, p)
			}
			if kind != "storage" || !strings.HasPrefix(v, s3Scheme) {
				continue
			}
			bucket, prefix, _ := splitS3(v)
			b, err := s3.Open(t.Context(), s3.Config{Client: client, Bucket: bucket, Prefix: prefix})
			if err != nil {
				t.Fatalf("storage %q was taken, and then: %v", s, err)
			}
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzHalfYear: a half-year has one name, and each moment is in one.
func FuzzHalfYear(f *testing.F) {
	for _, s := range []string{"2026h1", "2026h2", "1999h2", "2200h1", "2026h3", "2026H1", " 2026h1", "2026h10", "2026h1\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, ok := ParseHalfYear(s)
		if !ok {
			return
		}
		if h.Suffix != s || HalfYearOf(h.Start) != h || HalfYearOf(h.Limit.Add(-1)) != h || HalfYearOf(h.Limit) != h.Next() || h.Add(1).Add(-1) != h {
			t.Fatalf("%q is %+v", s, h)
		}
	})
}

// FuzzFiles puts any bytes into the files that a configuration names. What the
// log itself would take at its start is not refused before, and nothing of a
// secret is told.
func FuzzFiles(f *testing.F) {
	key, err := logkey.Generate()
	if err != nil {
		f.Fatal(err)
	}
	keyPEM, err := key.PEM()
	if err != nil {
		f.Fatal(err)
	}
	secret, err := logkey.NewSecret()
	if err != nil {
		f.Fatal(err)
	}
	root := fuzztest.File(f, "odd-roots.pem")
	f.Add(keyPEM)
	f.Add(secret.PEM())
	f.Add(append(keyPEM, keyPEM...))
	f.Add(append([]byte("text\n"), secret.PEM()...))
	f.Add(root[:bytes.Index(root, []byte("-----END"))+len("-----END CERTIFICATE-----\n")])
	f.Add([]byte("# nothing as yet\n"))
	f.Add([]byte("password\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, keyProblem := checkKey(path)
		_, passwordProblem := loadPassword(path)
		ders, rootsErr := chain.ParseRoots(data)
		_, keyErr := logkey.Parse(data)
		_, secretErr := logkey.ParseSecret(data)
		for name, c := range map[string]struct {
			p     *problem
			taken bool // by who reads it in the end
		}{
			"key": {keyProblem, keyErr == nil}, "secret": {checkSecret(path), secretErr == nil}, "roots": {checkRoots(path), rootsErr == nil || NoRoots(data)},
			"CA": {checkCA(path), false}, "password": {passwordProblem, false},
		} {
			switch {
			case c.p == nil:
			case c.taken:
				t.Fatalf("%s was refused: %s", name, c.p.what)
			case len(c.p.what) > 1000+len(path) || strings.ContainsAny(c.p.what+c.p.want, "\n\r\x1b\x00"):
				t.Fatalf("%s: %q", name, c.p.what)
			}
		}
		if rootsErr == nil && len(ders) == 0 {
			t.Fatal("roots were read, and there are none")
		}
	})
}

// FuzzShorten: what is quoted of a value is short, and no half of a character.
func FuzzShorten(f *testing.F) {
	f.Add("a")
	f.Add(strings.Repeat("é", 100))
	f.Add("\xff" + strings.Repeat("a", 100))
	f.Fuzz(func(t *testing.T, s string) {
		got := shorten(s)
		if len(got) > 200 || utf8.ValidString(s) && !utf8.ValidString(got) {
			t.Fatalf("%q is shortened to %q", s, got)
		}
		if u, err := url.Parse(s); err == nil && u.User != nil && strings.Contains(withoutUser(u, s), "@") {
			t.Fatalf("%q is shown with its user", s)
		}
	})
}
