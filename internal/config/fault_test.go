package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// good is a sound configuration of one log; tests alter it line by line.
const good = `listen: 127.0.0.1:6962
admin: 127.0.0.1:6963
logs:
  - name: example2026h2
    submission_url: http://127.0.0.1:6962/example2026h2/
    not_after_start: 2026-07-01T00:00:00Z
    not_after_limit: 2027-01-01T00:00:00Z
    key_file: keys/example2026h2.pem
    roots_file: roots.pem
    storage: logs/example2026h2
    lock: lock.db
    dedup: dedup/example2026h2.db
`

// second is another log of the same series, to follow good.
const second = `  - name: example2027h1
    submission_url: http://127.0.0.1:6962/example2027h1/
    not_after_start: 2027-01-01T00:00:00Z
    not_after_limit: 2027-07-01T00:00:00Z
    key_file: keys/example2027h1.pem
    roots_file: roots.pem
    storage: logs/example2027h1
    lock: lock.db
    dedup: dedup/example2027h1.db
`

// faultsOf parses and returns the faults, one a line, without the file name.
func faultsOf(t *testing.T, text string) string {
	t.Helper()
	_, err := Parse("f", []byte(text), "/d", july)
	if err == nil {
		return ""
	}
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("error is a %T, want Faults: %v", err, err)
	}
	lines := strings.Split(err.Error(), "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "f:")
	}
	return strings.Join(lines, "\n")
}

func TestGood(t *testing.T) {
	t.Parallel()
	c, err := Parse("f", []byte(good+second), "/d", july)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	one := NewLog("example2026h2", "http://127.0.0.1:6962/example2026h2/", "/d", start, start.AddDate(0, 6, 0))
	two := NewLog("example2027h1", "http://127.0.0.1:6962/example2027h1/", "/d", start.AddDate(0, 6, 0), start.AddDate(1, 0, 0))
	want := &Config{
		Path: "f", Dir: "/d", Listen: "127.0.0.1:6962", Admin: "127.0.0.1:6963",
		Logging: Logging{Format: "text"}, MaxConnections: 4096, Roots: Roots{Refresh: DefaultRefresh}, Logs: []Log{one, two},
	}
	if d := cmp.Diff(want, c); d != "" {
		t.Error(d)
	}
}

// TestFaults alters good and compares the whole report, so that one mistake
// does not make several faults.
func TestFaults(t *testing.T) {
	t.Parallel()
	edit := func(old, new string) string {
		text := strings.Replace(good+second, old, new, 1)
		if text == good+second {
			panic("nothing was replaced: " + old)
		}
		return text
	}
	const timeWant = "want RFC 3339 in UTC at a whole second, such as 2026-07-01T00:00:00Z"
	const periodWant = "want a duration from 10ms to 10s with its unit, such as 100ms"
	const urlWant = "want http(s)://host[:port]/path/ with a slash at its end, such as https://log.example.org/2026h2/"
	for name, test := range map[string]struct{ text, want string }{
		"unknown key":        {edit("    lock: lock.db", "    lock: lock.db\n    preiod: 1s"), "12: logs[0].preiod: unknown key; did you mean period?"},
		"dashed key":         {edit("key_file:", "key-file:"), "4: logs[0].key_file: is missing; want the PEM of the log's private key, or secret_file\n8: logs[0].key-file: unknown key; did you mean key_file?"},
		"far key":            {"nonsense: 1\n" + good, "1: nonsense: unknown key; the keys here are: listen, admin, insecure_http, max_connections, tls, logging, logs, series, s3, etcd, roots"},
		"duplicate key":      {edit("    lock: lock.db", "    lock: lock.db\n    lock: b"), "12: logs[0].lock: stands twice, first on line 11; want it once"},
		"alias":              {edit("lock.db", "&x lock.db") + "    series: *x\n", "22: logs[1].series: is an alias, which this file may not use; want text"},
		"unknown alias":      {edit("lock.db", "*x"), "11: yaml: unknown anchor 'x' referenced; nothing after this was read"},
		"wrong type":         {edit("    lock: lock.db", "    lock: [a]"), "11: logs[0].lock: is a list; want a path"},
		"number as text":     {edit("name: example2026h2", "name: 2026"), "4: logs[0].name: is the number 2026; want text: put it in quotes"},
		"empty value":        {edit("lock: lock.db", "lock:"), "11: logs[0].lock: is empty; want a path"},
		"yes as bool":        {good + "    grease: yes\n", `13: logs[0].grease: is "yes"; want true or false`},
		"unknown use":        {good + "    intended_use: fun\n", `13: logs[0].intended_use: "fun" is no intended use; want production or test`},
		"text as number":     {good + "    batchers: \"4\"\n", `13: logs[0].batchers: is "4"; want a whole number`},
		"number out":         {good + "    batchers: 65\n", "13: logs[0].batchers: 65 is out of range; want a whole number from 1 to 64"},
		"period bare":        {good + "    period: 100\n", "13: logs[0].period: is the number 100; " + periodWant},
		"period short":       {good + "    period: 9ms\n", "13: logs[0].period: 9ms is out of range; " + periodWant},
		"date":               {edit("2026-07-01T00:00:00Z", "2026-07-01"), `6: logs[0].not_after_start: "2026-07-01" is no time; ` + timeWant},
		"offset":             {edit("2026-07-01T00:00:00Z", "2026-07-01T00:00:00+00:00"), `6: logs[0].not_after_start: "2026-07-01T00:00:00+00:00" is not in UTC; ` + timeWant},
		"fraction":           {edit("2026-07-01T00:00:00Z", "2026-07-01T00:00:00.000Z"), `6: logs[0].not_after_start: "2026-07-01T00:00:00.000Z" is not at a whole second; ` + timeWant},
		"window backwards":   {edit("2026-07-01T00:00:00Z", "2027-07-01T00:00:00Z"), "7: logs[0].not_after_limit: is not after not_after_start; want a window with an end after its start"},
		"no slash":           {edit("2026h2/\n", "2026h2\n"), `5: logs[0].submission_url: "http://127.0.0.1:6962/example2026h2" has no slash at its end; ` + urlWant},
		"query":              {edit("2026h2/\n", "2026h2/?a\n"), `5: logs[0].submission_url: "http://127.0.0.1:6962/example2026h2/?a" has a query; ` + urlWant},
		"fragment":           {edit("2026h2/\n", "2026h2/#\n"), `5: logs[0].submission_url: "http://127.0.0.1:6962/example2026h2/#" has a fragment; ` + urlWant},
		"scheme":             {edit("http://", "ftp://"), `5: logs[0].submission_url: "ftp://127.0.0.1:6962/example2026h2/" is no http or https URL; ` + urlWant},
		"dots":               {edit("/example2026h2/\n", "/../2026h2/\n"), `5: logs[0].submission_url: "http://127.0.0.1:6962/../2026h2/" has a path with empty, dotted or escaped parts; ` + urlWant},
		"same port":          {edit("6963", "6962"), "2: admin: listen 127.0.0.1:6962 and admin 127.0.0.1:6962 are the same port; want another port for admin: metrics and pprof are not for the public"},
		"bad address":        {edit("127.0.0.1:6963", "127.0.0.1"), `2: admin: "127.0.0.1" is no address; want host:port, such as 127.0.0.1:6962 or :443`},
		"open plain HTTP":    {edit("127.0.0.1:6962", "0.0.0.0:6962"), "1: listen: plain HTTP on 0.0.0.0:6962 is open to other machines; want tls:, or a loopback address, or insecure_http: true if that is meant"},
		"plain public URL":   {edit("http://127.0.0.1:6962/", "http://log.example.org/"), "5: logs[0].submission_url: is plain http on a host that is not loopback; want https://, or insecure_http: true if that is meant"},
		"stated plain HTTP":  {"insecure_http: true\n" + edit("127.0.0.1:6962", ":80"), ""},
		"TLS with http URL":  {good + "tls: {cert_file: a, key_file: b}\n", "5: logs[0].submission_url: is plain http, but tls: makes the listener speak https only; want https://"},
		"TLS half":           {edit("http:", "https:") + "tls: {cert_file: a}\n", "14: logs[1].submission_url: is plain http, but tls: makes the listener speak https only; want https://\n22: tls.key_file: is missing; want the private key of cert_file"},
		"gap":                {edit("start: 2027-01-01T00:00:00Z", "start: 2027-01-01T00:00:01Z"), `15: logs[1].not_after_start: window of example2027h1, [2027-01-01T00:00:01Z, 2027-07-01T00:00:00Z), leaves a gap after that of example2026h2, [2026-07-01T00:00:00Z, 2027-01-01T00:00:00Z) (line 6); want it to start at 2027-01-01T00:00:00Z, or another series: than "example"`},
		"overlap":            {edit("start: 2027-01-01T00:00:00Z", "start: 2026-12-31T23:59:59Z"), `15: logs[1].not_after_start: window of example2027h1, [2026-12-31T23:59:59Z, 2027-07-01T00:00:00Z), overlaps that of example2026h2, [2026-07-01T00:00:00Z, 2027-01-01T00:00:00Z) (line 6); want it to start at 2027-01-01T00:00:00Z, or another series: than "example"`},
		"gap in two series":  {edit("start: 2027-01-01T00:00:00Z", "start: 2027-02-01T00:00:00Z\n    series: other"), ""},
		"same name":          {edit("name: example2027h1", "name: example2026h2"), "13: logs[1].name: example2026h2 is that of logs[0] too (line 4); want another"},
		"same origin":        {edit("/example2027h1/", "/example2026h2/"), "14: logs[1].submission_url: 127.0.0.1:6962/example2026h2 is that of logs[0] too (line 5); want another: the log's origin comes from it"},
		"nested prefix":      {edit("/example2027h1/", "/example2026h2/x/"), "14: logs[1].submission_url: http://127.0.0.1:6962/example2026h2/x/ lies in or around submission_url of logs[0] (line 5); want prefixes that are apart"},
		"other host":         {edit("127.0.0.1:6962/example2027h1/", "localhost:6962/example2026h2/"), ""},
		"same key file":      {edit("keys/example2027h1.pem", "./keys/example2026h2.pem"), "17: logs[1].key_file: /d/keys/example2026h2.pem is key_file of logs[0] too (line 8); want a path of its own"},
		"same dedup":         {edit("dedup/example2027h1.db", "dedup/example2026h2.db"), "21: logs[1].dedup: /d/dedup/example2026h2.db is dedup of logs[0] too (line 12); want a path of its own"},
		"lock is dedup":      {edit("lock.db", "dedup/example2026h2.db"), "12: logs[0].dedup: /d/dedup/example2026h2.db is lock of logs[0] too (line 11); want a path of its own"},
		"lock is roots":      {edit("roots.pem", "lock.db"), "11: logs[0].lock: /d/lock.db is roots_file of logs[0] too (line 9); want a path of its own\n20: logs[1].lock: /d/lock.db is roots_file of logs[0] too (line 9); want a path of its own"},
		"same port anywhere": {edit("127.0.0.1:6963", ":6962"), "2: admin: listen 127.0.0.1:6962 and admin :6962 are the same port; want another port for admin: metrics and pprof are not for the public"},
		"key in storage":     {edit("keys/example2026h2.pem", "logs/example2026h2/a/key.pem"), "8: logs[0].key_file: /d/logs/example2026h2/a/key.pem lies in storage of logs[0] (line 10); want it outside: a storage directory is public"},
		"storage in storage": {edit("logs/example2027h1", "logs/example2026h2/b"), "19: logs[1].storage: /d/logs/example2026h2/b lies in storage of logs[0] (line 10); want it outside: a storage directory is public"},
		"URL as path":        {edit("storage: logs", "storage: gs://logs"), `10: logs[0].storage: "gs://logs/example2026h2" is a URL; want a directory, or s3://BUCKET/PREFIX`},
		"scheme as path":     {edit("lock: lock.db", "lock: sqlite:lock.db"), `11: logs[0].lock: "sqlite:lock.db" begins with sqlite:, which is no scheme that is known here; want a SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX; a file of that name as ./sqlite:lock.db`},
		"no logs":            {"listen: :0\n", "1: logs: is missing; want a list with one log at least, or series:; kiln help config shows both\n1: listen: plain HTTP on :0 is open to other machines; want tls:, or a loopback address, or insecure_http: true if that is meant"},
		"empty list":         {"logs: []\n", "1: logs: is an empty list; want one log at least"},
		"log is text":        {"logs: [a]\n", `1: logs[0]: is "a"; want keys with values`},
		"not a mapping":      {"- a\n", "1: is a list; want keys with values"},
		"empty file":         {"", " the file is empty; want at least logs: with one log; kiln help config shows all keys"},
		"comments only":      {"# nothing\n", " the file is empty; want at least logs: with one log; kiln help config shows all keys"},
		"two documents":      {good + "---\na: b\n", "13: a second YAML document begins here; want one"},
		"no YAML":            {"a: b: c\n", "1: yaml: mapping values are not allowed in this context; nothing after this was read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d := cmp.Diff(test.want, faultsOf(t, test.text)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestWideWindow has a window that holds another: what follows has to abut the
// wide one, not the one that began last.
func TestWideWindow(t *testing.T) {
	t.Parallel()
	third := strings.NewReplacer("2027h1", "2027h2", "2027-01-01", "2027-07-01", "2027-07-01", "2028-01-01").Replace(second)
	text := strings.Replace(good, "limit: 2027-01-01", "limit: 2027-07-01", 1) + strings.Replace(second, "limit: 2027-07-01", "limit: 2027-02-01", 1)
	report := faultsOf(t, text+third)
	if !strings.HasPrefix(report, "15: logs[1].not_after_start: window of example2027h1,") || strings.Contains(report, "\n") {
		t.Errorf("want one fault, the overlap of the second log, but got:\n%s", report)
	}
}

// TestAllAtOnce has one fault of each kind and wants all of them, by line.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer(
		"admin: 127.0.0.1:6963", "admin: 127.0.0.1:6962\nlogin: {level: info}",
		"name: example2027h1", "name: Example2027h1",
		"    lock: lock.db\n", "",
		"2027-07-01T00:00:00Z", "soon",
	).Replace(good+second) + "    batchers: 0\n"
	var lines []string
	for line := range strings.Lines(faultsOf(t, text)) {
		at, _, _ := strings.Cut(line, ": ")
		lines = append(lines, at)
	}
	if got, want := fmt.Sprint(lines), "[2 3 5 13 13 16 21]"; got != want {
		t.Errorf("faults are on lines %s, want %s:\n%s", got, want, faultsOf(t, text))
	}
}

func TestFaultsAreBounded(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString(good)
	for i := range 1000 {
		fmt.Fprintf(&b, "key%d: 1\n", i)
	}
	report := faultsOf(t, b.String())
	if got := strings.Count(report, "\n") + 1; got != maxFaults+1 {
		t.Errorf("got %d lines, want %d", got, maxFaults+1)
	}
	if want := " 900 more faults are not shown; correct these first"; !strings.HasSuffix(report, want) {
		t.Errorf("report ends in %q", report[len(report)-80:])
	}
}
