package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rows is a sound configuration with one series; tests alter it line by line.
const rows = `series:
  - name: example
    first: 2026h1
    ahead: 2
    submission_url: http://localhost/{shard}/
    monitoring_url: http://127.0.0.1/{half}/
    secret_file: keys/example.secret
    roots_file: roots.pem
    storage: s3://bucket/{shard}
    lock: s3://bucket/lock
    dedup: dedup/{shard}.db
    read_rate: 9
    shards:
      2026h2: {read_rate: 100, key_file: "keys/{half}.pem"}
      2027h1:
        submission_url: http://localhost/old/
        storage: logs/old
        period: 1s
s3: {endpoint: "http://127.0.0.1:7070/", path_style: true}
`

// names returns a log's name, window and places for a comparison.
func outline(l Log) string {
	return fmt.Sprintf("%s %s %s %s %s %s %s %s%s %s %s %s %v %d", l.Name, l.Shard, l.NotAfterStart.Format(time.DateOnly), l.NotAfterLimit.Format(time.DateOnly),
		l.Origin, l.SubmissionURL, l.MonitoringURL, l.KeyFile, l.SecretFile, l.Storage, l.Lock, l.Dedup, l.Period, l.ReadRate)
}

func TestSeries(t *testing.T) {
	t.Parallel()
	c, err := Parse("f", []byte(rows), "/d", july)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range c.Logs {
		if !l.FromSeries || l.Series != "example" || l.RootsFile != "/d/roots.pem" || l.Batchers != DefaultBatchers || !l.Grease {
			t.Errorf("shard is %+v", l)
		}
		got = append(got, outline(l))
	}
	want := []string{
		"example2026h1 2026h1 2026-01-01 2026-07-01 localhost/example2026h1 http://localhost/example2026h1/ http://127.0.0.1/2026h1/ " +
			"/d/keys/example.secret s3://bucket/example2026h1 s3://bucket/lock /d/dedup/example2026h1.db 500ms 9",
		"example2026h2 2026h2 2026-07-01 2027-01-01 localhost/example2026h2 http://localhost/example2026h2/ http://127.0.0.1/2026h2/ " +
			"/d/keys/2026h2.pem s3://bucket/example2026h2 s3://bucket/lock /d/dedup/example2026h2.db 500ms 100",
		"example2027h1 2027h1 2027-01-01 2027-07-01 localhost/old http://localhost/old/ http://127.0.0.1/2027h1/ " +
			"/d/keys/example.secret /d/logs/old s3://bucket/lock /d/dedup/example2027h1.db 1s 9",
		"example2027h2 2027h2 2027-07-01 2028-01-01 localhost/example2027h2 http://localhost/example2027h2/ http://127.0.0.1/2027h2/ " +
			"/d/keys/example.secret s3://bucket/example2027h2 s3://bucket/lock /d/dedup/example2027h2.db 500ms 9",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if c.S3.Endpoint != "http://127.0.0.1:7070" || c.S3.Timeout != DefaultS3Timeout || c.S3.Parallel != DefaultParallel || c.S3.Region != DefaultRegion {
		t.Errorf("s3 is %+v", c.S3)
	}
}

// TestCalendar moves the calendar: shards are added, and nothing of those that
// were there changes.
func TestCalendar(t *testing.T) {
	t.Parallel()
	var before *Config
	for n := range 40 {
		now := july.AddDate(0, 6*n, n)
		c, err := Parse("f", []byte(rows), "/d", now)
		if err != nil {
			t.Fatalf("at %v: %v", now, err)
		}
		if want := 4 + n; len(c.Logs) != want {
			t.Fatalf("at %v there are %d shards, want %d", now, len(c.Logs), want)
		}
		if last := c.Logs[len(c.Logs)-1]; last.Shard != HalfYearOf(now).Next().Next().Suffix {
			t.Fatalf("at %v the last shard is %s", now, last.Shard)
		}
		for i := 1; i < len(c.Logs); i++ {
			if !c.Logs[i].NotAfterStart.Equal(c.Logs[i-1].NotAfterLimit) {
				t.Fatalf("at %v shard %s does not abut", now, c.Logs[i].Shard)
			}
		}
		if before != nil {
			if d := cmp.Diff(before.Logs, c.Logs[:len(before.Logs)]); d != "" {
				t.Fatalf("at %v shards that were there are others:\n%s", now, d)
			}
			if d := cmp.Diff(before.Series, c.Series); d != "" {
				t.Fatalf("at %v the series is another:\n%s", now, d)
			}
		}
		before = c
	}
}

func TestAheadDefault(t *testing.T) {
	t.Parallel()
	c, err := Parse("f", []byte(strings.Replace(rows, "    ahead: 2\n", "", 1)), "/d", january.Add(-1))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Logs[len(c.Logs)-1].Shard; got != "2029h2" {
		t.Errorf("the last shard is %s, want three years ahead", got)
	}
}

// TestDocumentedExamples parses what docs/configuration.md shows.
func TestDocumentedExamples(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	var examples []string
	for _, block := range regexp.MustCompile(`(?m)(^    .*\n)+`).FindAllString(string(data), -1) {
		if text := regexp.MustCompile(`(?m)^    `).ReplaceAllString(block, ""); strings.HasPrefix(text, "listen:") {
			examples = append(examples, text)
		}
	}
	if len(examples) != 2 {
		t.Fatalf("docs/configuration.md shows %d whole configurations, want 2", len(examples))
	}
	for i, want := range []int{1, 8} {
		c, err := Parse("example", []byte(examples[i]), "/d", july)
		if err != nil {
			t.Errorf("%v\n%s", err, examples[i])
		} else if len(c.Logs) != want {
			t.Errorf("example %d has %d logs, want %d", i, len(c.Logs), want)
		}
	}
}

func TestHalfYears(t *testing.T) {
	t.Parallel()
	h, ok := ParseHalfYear("2026h2")
	if !ok || h != HalfYearOf(july) || h.Add(1) != h.Next() || h.Add(-1).Suffix != "2026h1" || h.Add(5).Suffix != "2029h1" || h.Add(-2).Suffix != "2025h2" {
		t.Errorf("half-year is %+v, %v", h, ok)
	}
	for _, bad := range []string{"", "2026", "2026h3", "2026h0", "1999h1", "2200h1", "2026H1", " 2026h1", "2026h1\n", "22026h1"} {
		if _, ok := ParseHalfYear(bad); ok {
			t.Errorf("%q was taken as a half-year", bad)
		}
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		storage, lock          string
		bucket, prefix         string
		onS3                   bool
		lockBucket, lockPrefix string
		lockOnS3               bool
		etcd                   string
		inEtcd                 bool
		period                 time.Duration
	}{
		{"/d/logs", "/d/lock.db", "", "", false, "", "", false, "/d/lock.db", false, DefaultPeriod},
		{"s3://bucket", "etcd:kiln/lock", "bucket", "", true, "", "", false, "kiln/lock", true, DefaultPeriodS3},
		{"s3://bucket/a/b", "s3://other/c", "bucket", "a/b", true, "other", "c", true, "s3://other/c", false, DefaultPeriodS3},
	} {
		l := Log{Storage: test.storage, Lock: test.lock}
		bucket, prefix, ok := l.StorageS3()
		lockBucket, lockPrefix, lockOK := l.LockS3()
		etcd, inEtcd := l.LockEtcd()
		if bucket != test.bucket || prefix != test.prefix || ok != test.onS3 || lockBucket != test.lockBucket || lockPrefix != test.lockPrefix ||
			lockOK != test.lockOnS3 || inEtcd != test.inEtcd || inEtcd && etcd != test.etcd || l.DefaultPeriod() != test.period || l.OnS3() != (ok || lockOK) {
			t.Errorf("%+v: %q %q %v, %q %q %v, %q %v, %v", l, bucket, prefix, ok, lockBucket, lockPrefix, lockOK, etcd, inEtcd, l.DefaultPeriod())
		}
	}
}

// TestKeyOfAShard gives single shards another kind of key than the series.
func TestKeyOfAShard(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ series, shard, key, secret string }{
		{"secret_file: keys/example.secret", `key_file: "keys/{half}.pem"`, "/d/keys/2026h2.pem", ""},
		{`key_file: "keys/{half}.pem"`, "secret_file: keys/example.secret", "", "/d/keys/example.secret"},
		{`key_file: "keys/{half}.pem"`, "key_file: keys/mine.pem", "/d/keys/mine.pem", ""},
	} {
		text := strings.Replace(rows, `key_file: "keys/{half}.pem"`, test.shard, 1)
		text = strings.Replace(text, "secret_file: keys/example.secret\n    roots", test.series+"\n    roots", 1)
		c, err := Parse("f", []byte(text), "/d", july)
		if err != nil {
			t.Fatal(err)
		}
		if l := c.Logs[1]; l.KeyFile != test.key || l.SecretFile != test.secret {
			t.Errorf("a shard with %s has key %q and secret %q", test.shard, l.KeyFile, l.SecretFile)
		}
	}
}

func TestTooManyShards(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("series:\n")
	for i := range 64 { // of 4 shards, which is all there may be
		one := rows[strings.Index(rows, "  - name"):strings.Index(rows, "    shards:")]
		b.WriteString(strings.NewReplacer("example", fmt.Sprintf("s%d-", i), "127.0.0.1/", fmt.Sprintf("127.0.0.1/s%d/", i)).Replace(one))
	}
	rest := "s3: {}\n"
	if c, err := Parse("f", []byte(b.String()+rest), "/d", july); err != nil || len(c.Logs) != MaxLogs {
		t.Fatalf("%v", err)
	}
	if got := faultsOf(t, strings.Replace(b.String(), "ahead: 2", "ahead: 3", 1)+rest); !strings.HasPrefix(got, "696: series[63].first: makes 4 shards, up to 2027h2, beside 253 other logs") {
		t.Errorf("one shard too many: %s", got)
	}
	_, err := Parse("f", []byte(rows), "/d", july.AddDate(127, 0, 0))
	if want := "makes 258 shards, up to 2154h2, beside 0 other logs; want 256 logs in all at most"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a clock that is wrong by a century: %v", err)
	}
}

// TestRenderOddNames has files whose names look like other places.
func TestRenderOddNames(t *testing.T) {
	t.Parallel()
	text := strings.NewReplacer("storage: logs/example2026h2", "storage: ./s3:/x", "lock: lock.db", "lock: ./etcd:x").Replace(good)
	want, err := Parse("f", []byte(text), "/d", july)
	if err != nil {
		t.Fatal(err)
	}
	if l := want.Logs[0]; l.Storage != "/d/s3:/x" || l.Lock != "/d/etcd:x" || l.OnS3() {
		t.Fatalf("log is %+v", l)
	}
	got, err := Parse("f", Render(want), "/d", july)
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
}
