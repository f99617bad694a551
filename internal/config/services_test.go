package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestServiceFaults puts one section after good and compares the whole report.
func TestServiceFaults(t *testing.T) {
	t.Parallel()
	const endpoint = "; want http(s)://host[:port], such as https://s3.example.net, or leave the key out for AWS"
	const plain = "is plain http on a host that is not loopback; want https://, or insecure_http: true if that is meant"
	const member = "; want http(s)://host:port, such as https://10.0.0.1:2379"
	const refresh = "; want a duration from 1m to 168h with its unit, such as 24h, or 0 for never"
	for name, test := range map[string]struct{ section, want string }{
		"s3 default":           {"s3: {}", ""},
		"s3 empty":             {"s3:", "13: s3: is empty; want keys with values"},
		"s3 unknown":           {"s3: {bucket: a}", "13: s3.bucket: unknown key; the keys here are: endpoint, region, path_style, ca_file, credentials_file, parallel, timeout"},
		"s3 near":              {"s3: {path-style: true}", "13: s3.path-style: unknown key; did you mean path_style?"},
		"s3 endpoint bare":     {"s3: {endpoint: s3.example.net}", `13: s3.endpoint: "s3.example.net" is no endpoint` + endpoint},
		"s3 endpoint query":    {"s3: {endpoint: \"https://a.example/?b\"}", `13: s3.endpoint: "https://a.example/?b" is no endpoint` + endpoint},
		"s3 endpoint user":     {"s3: {endpoint: \"https://a:pass@a.example\"}", `13: s3.endpoint: "a URL with a user" is no endpoint` + endpoint},
		"s3 endpoint path":     {"s3: {endpoint: \"https://a.example/storage/s3/\"}", ""},
		"s3 endpoint dots":     {"s3: {endpoint: \"https://a.example/../s3\"}", `13: s3.endpoint: "https://a.example/../s3" has a path with empty, dotted or escaped parts` + endpoint},
		"s3 plain":             {"s3: {endpoint: \"http://a.example\"}", "13: s3.endpoint: " + plain},
		"s3 plain, meant":      {"s3: {endpoint: \"http://a.example\"}\ninsecure_http: true", ""},
		"s3 IP":                {"s3: {endpoint: \"https://10.0.0.1\"}", "13: s3.endpoint: https://10.0.0.1 is an IP address, which cannot have the bucket in its name; want path_style: true"},
		"s3 IP, stated":        {"s3:\n  endpoint: https://[::1]:1\n  path_style: false", "15: s3.path_style: https://[::1]:1 is an IP address, which cannot have the bucket in its name; want path_style: true"},
		"s3 region":            {"s3: {region: \"a b\"}", `13: s3.region: "a b" is no region; want one, such as eu-central-1`},
		"s3 parallel":          {"s3: {parallel: 0}", "13: s3.parallel: 0 is out of range; want a whole number from 1 to 1024"},
		"s3 timeout":           {"s3: {timeout: 10}", "13: s3.timeout: is the number 10; want a duration from 100ms to 10m0s with its unit, such as 5s"},
		"s3 key in storage":    {"s3: {credentials_file: logs/example2026h2/s3.yaml}", "13: s3.credentials_file: /d/logs/example2026h2/s3.yaml lies in storage of logs[0]; want it outside: a storage directory is public"},
		"s3 key is a log's":    {"s3: {credentials_file: keys/example2026h2.pem}", "13: s3.credentials_file: /d/keys/example2026h2.pem is key_file of logs[0] too; want a path of its own"},
		"etcd no endpoints":    {"etcd: {}", "13: etcd.endpoints: is missing; want the URLs of the members, such as [https://10.0.0.1:2379]"},
		"etcd empty":           {"etcd: {endpoints: []}", "13: etcd.endpoints: is missing; want the URLs of the members, such as [https://10.0.0.1:2379]"},
		"etcd text":            {"etcd: {endpoints: \"https://10.0.0.1:2379\"}", `13: etcd.endpoints: is "https://10.0.0.1:2379"; want a list, such as [a, b]`},
		"etcd host":            {"etcd: {endpoints: [\"10.0.0.1:2379\"]}", `13: etcd.endpoints[0]: "10.0.0.1:2379" is no endpoint` + member},
		"etcd no port":         {"etcd: {endpoints: [\"https://10.0.0.1\"]}", `13: etcd.endpoints[0]: "https://10.0.0.1" has no port, or a path` + member},
		"etcd twice":           {"etcd: {endpoints: [\"https://a:1\", \"https://a:1/\"]}", "13: etcd.endpoints: https://a:1 stands twice; want it once"},
		"etcd mixed":           {"etcd: {endpoints: [\"https://a:1\", \"http://localhost:1\"]}", "13: etcd.endpoints: mixes https and http; want one of them"},
		"etcd plain":           {"etcd: {endpoints: [\"http://a:1\"]}", "13: etcd.endpoints: http://a:1 " + plain},
		"etcd plain with CA":   {"etcd: {endpoints: [\"http://localhost:1\"], ca_file: a}", "13: etcd.endpoints: is plain http, but there are certificates for TLS; want https://"},
		"etcd half TLS":        {"etcd: {endpoints: [\"https://a:1\"], cert_file: a}", "13: etcd.key_file: is missing; want the private key of cert_file"},
		"etcd other half":      {"etcd: {endpoints: [\"https://a:1\"], key_file: a}", "13: etcd.cert_file: is missing; want the certificate of key_file"},
		"etcd user alone":      {"etcd: {endpoints: [\"https://a:1\"], username: a}", "13: etcd.password_file: is missing; want a file with the password of username"},
		"etcd password alone":  {"etcd: {endpoints: [\"https://a:1\"], password_file: a}", "13: etcd.username: is missing; want the user whose password is in password_file"},
		"etcd password inline": {"etcd: {endpoints: [\"https://a:1\"], password: a}", "13: etcd.password: unknown key; the keys here are: endpoints, ca_file, cert_file, key_file, username, password_file, timeout"},
		"roots":                {"roots: {reports: [\"https://a.example/x?y=z\", \"http://127.0.0.1:1/r\", r.csv], refresh: 0}", ""},
		"roots plain":          {"insecure_http: true\nroots: {reports: [\"http://a.example/\"]}", `14: roots.reports[0]: "http://a.example/" is no https URL; want an https URL or a file`},
		"roots ftp":            {"roots: {reports: [\"ftp://a.example/\"]}", `13: roots.reports[0]: "ftp://a.example/" is no https URL; want an https URL or a file`},
		"roots refresh short":  {"roots: {refresh: 59s}", "13: roots.refresh: 59s is out of range" + refresh},
		"roots refresh bare":   {"roots: {refresh: 24}", "13: roots.refresh: 24 has no unit" + refresh},
		"roots report text":    {"roots: {reports: a}", `13: roots.reports: is "a"; want a list, such as [a, b]`},
		"roots many":           {"roots: {reports: [" + strings.Repeat("a, ", 16) + "a]}", "13: roots.reports: has 17 reports; want 16 at most"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := good + test.section + "\n"
			got := strings.ReplaceAll(faultsOf(t, text), " (line 10)", "")
			got = strings.ReplaceAll(got, " (line 8)", "")
			if d := cmp.Diff(test.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestShardsNotMade loads a series of which nothing was created yet.
func TestShardsNotMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("s3://bucket/{shard}", "logs/{shard}", "s3://bucket/lock", "lock.db").Replace(rows) + "  credentials_file: s3.yaml\n"
	text = strings.Replace(text, "s3: {endpoint: \"http://127.0.0.1:7070/\", path_style: true}", "s3:", 1)
	put(t, dir, "kiln.yaml", []byte(text))
	if d := cmp.Diff("7: series[0].secret_file: DIR/keys/example.secret does not exist; want one PEM block KILN SECRET of 32 bytes, as kiln keys new makes it\n"+
		"8: series[0].roots_file: DIR/roots.pem does not exist; want PEM with the roots whose chains are accepted, or nothing but lines that begin with #\n"+
		"20: s3.credentials_file: DIR/s3.yaml does not exist; want YAML with access_key_id and secret_access_key, and session_token if there is one",
		loadReport(dir)); d != "" {
		t.Error(d)
	}
	put(t, dir, "keys/example.secret", []byte("-----BEGIN KILN SECRET-----\nMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n-----END KILN SECRET-----\n"))
	put(t, dir, "roots.pem", []byte("# none\n"))
	put(t, dir, "s3.yaml", []byte("access_key_id: a\nsecret_access_key: b\n"))
	if got := loadReport(dir); got != "" {
		t.Fatalf("shards that are not there are faults:\n%s", got)
	}
	// What is there has to be right.
	put(t, dir, "keys/2026h2.pem", nil)
	put(t, dir, "lock.db", nil)
	if err := os.Remove(filepath.Join(dir, "lock.db")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "lock.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "logs"), 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "logs/example2026h1", nil)
	if err := os.Chmod(filepath.Join(dir, "keys/example.secret"), 0o604); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "s3.yaml"), 0o604); err != nil {
		t.Fatal(err)
	}
	const logWant = "; want the path of a log that exists; kiln init makes a new one\n"
	if d := cmp.Diff("7: series[0].secret_file: DIR/keys/example.secret has mode 0604, open to other users; run: chmod 600 DIR/keys/example.secret\n"+
		"9: series[0].storage: DIR/logs/example2026h1 is no directory"+logWant+
		"10: series[0].lock: DIR/lock.db is no file"+logWant+
		"14: series[0].shards.2026h2.key_file: DIR/keys/2026h2.pem holds no private key; want one PEM block PRIVATE KEY: PKCS#8, ECDSA P-256\n"+
		"20: s3.credentials_file: DIR/s3.yaml has mode 0604, open to other users; run: chmod 600 DIR/s3.yaml", loadReport(dir)); d != "" {
		t.Error(d)
	}
}

// TestCredentials wants no error to show what is in the file.
func TestCredentials(t *testing.T) {
	t.Parallel()
	const id, secret = "access_key_id: AKIDHIDDEN\n", "secret_access_key: hidden/secret+x\n"
	for name, test := range map[string]struct{ text, want string }{
		"good":        {id + secret + "session_token: \"1\"\n", ""},
		"no secret":   {id, "secret_access_key is missing"},
		"empty":       {"", "is no YAML"},
		"ini":         {"[default]\naws_secret_access_key = hidden\n", "is no YAML"},
		"text":        {"hidden\n", "is no YAML"},
		"number":      {id + "secret_access_key: 1234567\n", "secret_access_key is no text: put it in quotes"},
		"list":        {id + "secret_access_key: [hidden]\n", "secret_access_key is no text"},
		"alias":       {"access_key_id: &x hidden\nsecret_access_key: *x\n", "secret_access_key is no text"},
		"unknown":     {id + secret + "region: x\n", "line 3: unknown key region"},
		"hidden key":  {id + secret + "Hidden+1: x\n", "line 3: unknown key"},
		"twice":       {id + id + secret, "stands twice"},
		"with spaces": {id + "secret_access_key: hidden secret\n", "without spaces"},
	} {
		path := filepath.Join(t.TempDir(), "s3.yaml")
		if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := LoadCredentials(path)
		if test.want == "" {
			if err != nil || c != (Credentials{"AKIDHIDDEN", "hidden/secret+x", "1"}) {
				t.Errorf("%s: %q, %v", name, c.SecretAccessKey, err)
			}
			var b strings.Builder
			slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "err", c)
			if shown := fmt.Sprintf("%v %+v %#v %s %s", c, c, c, c, b.String()); strings.Contains(strings.ToLower(shown), "hidden") {
				t.Errorf("credentials are shown: %s", shown)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error is %v, want %q", name, err, test.want)
		} else if strings.Contains(strings.ToLower(err.Error()), "hidden") || strings.Contains(err.Error(), "1234567") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func TestPassword(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"pass word\n": "pass word", "x\r\n": "x", "": "", "a\nb\n": "", "\n": ""} {
		path := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := LoadPassword(path); got != want || (err == nil) != (want != "") {
			t.Errorf("password of %q is %q, %v", text, got, err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPassword(path); err == nil {
			t.Error("a password that others can read was taken")
		}
	}
}

// TestRenderServices writes sections in which nothing stands at its default, and
// a series with and without options.
func TestRenderServices(t *testing.T) {
	t.Parallel()
	text := strings.Replace(rows, "    shards:\n", "    grease: false\n    period: 100ms\n    intended_use: test\n    shards:\n      2026h1: {}\n", 1)
	text = text[:strings.Index(text, "s3: {")] + strings.NewReplacer("series:\n", "", "example", "b-", "localhost/", "localhost/b/", "127.0.0.1/", "127.0.0.1/b/",
		"secret_file: keys/b-.secret", "key_file: keys/b/{shard}", "lock: s3://bucket/lock", "lock: etcd:kiln/lock",
		"logs/old", "s3://other").Replace(rows)
	text = strings.Replace(text, "keys/{half}.pem\"}\n      2027h1:\n        submission_url: http://localhost/b/old", "keys/c/{half}.pem\"}\n      2027h1:\n        secret_file: k\n        batchers: 9\n        read_only: true\n        submission_url: http://localhost/b/old", 1)
	text = strings.Replace(text, "s3: {", "s3: {region: auto, ca_file: ca, credentials_file: /x, parallel: 3, timeout: 1m, ", 1)
	text += "etcd: {endpoints: [\"https://a:1\", \"https://b:1\"], ca_file: a, cert_file: b, key_file: c, username: \"1\", password_file: d, timeout: 7s}\n"
	text += "roots: {reports: [\"https://a.example/x?y=z#a\", r.csv, /abs.csv], extra_file: e, refused_file: f, refresh: 90m}\n"
	want, err := Parse("f", []byte(text), "/d", july)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(want.Series) != 2 || len(want.Logs) != 8 || want.Roots.Refresh != 90*time.Minute {
		t.Fatalf("configuration is %+v", want)
	}
	shown := Render(want)
	got, err := Parse("f", shown, "/d", july)
	if err != nil {
		t.Fatalf("%v\n%s", err, shown)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what was read is not what was written:\n%s\n%s", d, shown)
	}
}

// FuzzCredentials: whatever the file holds, no problem shows a value of it.
func FuzzCredentials(f *testing.F) {
	f.Add("access_key_id: %\nsecret_access_key: %\n")
	f.Add("access_key_id: [%]\n%: x\n")
	f.Add("access_key_id: &a %\nsecret_access_key: *a\n")
	f.Add("%")
	f.Fuzz(func(t *testing.T, text string) {
		const value = "S3cretS3cret"
		c, p := parseCredentials("f", []byte(strings.ReplaceAll(text, "%", value)))
		if p != nil && (strings.Contains(p.what+p.want, value) || c != Credentials{}) {
			t.Fatalf("problem is %q; %q", p.what, p.want)
		}
		if p == nil && (c.AccessKeyID == "" || c.SecretAccessKey == "") {
			t.Fatal("half of the credentials were taken")
		}
	})
}
