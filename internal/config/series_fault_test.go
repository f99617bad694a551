package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSeriesFaults alters rows and compares the whole report: a mistake in a
// series is reported once, not for each shard.
func TestSeriesFaults(t *testing.T) {
	t.Parallel()
	edit := func(pairs ...string) string {
		text := rows
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(text, pairs[i]) {
				panic("nothing to replace: " + pairs[i])
			}
			text = strings.Replace(text, pairs[i], pairs[i+1], 1)
		}
		return text
	}
	// other is a second series, apart from the first.
	other := strings.NewReplacer("series:\n", "", "example", "other", "localhost/", "localhost/b/", "127.0.0.1/", "127.0.0.1/b/", "logs/old", "logs/b").
		Replace(rows[:strings.Index(rows, "s3: {")])
	other = strings.ReplaceAll(other, "keys/{half}", "keys/b{half}")
	two := func(old, new string) string {
		return strings.Replace(rows, "s3: {", strings.Replace(other, old, new, 1)+"s3: {", 1)
	}
	// before is a log of the same series.
	before := func(half, start, limit string) string {
		return strings.NewReplacer("2026h2", half, "2026-07-01", start, "2027-01-01", limit).Replace(good[strings.Index(good, "logs:"):])
	}
	const same = " is the same for every shard; want {shard} or {half} in it, which stand for example2026h1 and 2026h1"
	const braces = " has braces round another word; want {shard} or {half}"
	const etcd = "etcd: {endpoints: [\"https://10.0.0.1:2379\"]}\n"
	for name, test := range map[string]struct{ text, want string }{
		"good":               {rows, ""},
		"two":                {two("", ""), ""},
		"no list":            {"series: {}\n", "1: series: is a mapping; want a list, each series beginning with a dash"},
		"empty list":         {"series: []\n", "1: series: is an empty list; want one series at least, or leave the key out"},
		"text":               {"series: [a]\n", `1: series[0]: is "a"; want keys with values`},
		"no name":            {edit("  - name: example\n    first", "  - first"), "2: series[0].name: is missing; want a word that begins the name of each shard, such as example"},
		"bad name":           {edit("name: example", "name: Example"), `2: series[0].name: "Example" is no name; want 1 to 58 of a-z 0-9 - _, such as example`},
		"no first":           {edit("    first: 2026h1\n", ""), "2: series[0].first: is missing; want the half-year of the first shard, such as 2026h1"},
		"bad first":          {edit("first: 2026h1", "first: 2026h3"), `3: series[0].first: "2026h3" is no half-year; want the year, h and 1 or 2, such as 2026h1`},
		"first is a year":    {edit("first: 2026h1", "first: 2026"), "3: series[0].first: is the number 2026; want the year, h and 1 or 2, such as 2026h1"},
		"late first":         {edit("first: 2026h1", "first: 2028h1", "    shards:\n", "    shards: {}\n    x:\n"), "3: series[0].first: 2028h1 has no shard as yet: the last is 2027h2, by ahead; want an earlier half-year, or a larger ahead\n14: series[0].x: unknown key; the keys here are: name, first, ahead, submission_url, monitoring_url, key_file, secret_file, roots_file, storage, lock, dedup, watch_url, period, batchers, max_in_flight, read_rate, require_server_auth, names_tiles, grease, intended_use, read_only, shards"},
		"ahead out":          {edit("ahead: 2", "ahead: 21"), "4: series[0].ahead: 21 is out of range; want a whole number from 0 to 20"},
		"window":             {edit("ahead: 2", "not_after_start: 2026-01-01T00:00:00Z"), "4: series[0].not_after_start: unknown key; the keys here are: name, first, ahead, submission_url, monitoring_url, key_file, secret_file, roots_file, storage, lock, dedup, watch_url, period, batchers, max_in_flight, read_rate, require_server_auth, names_tiles, grease, intended_use, read_only, shards"},
		"near key":           {edit("    lock:", "    locks:"), "2: series[0].lock: is missing; want the SQLite file of the lock, s3://BUCKET/PREFIX or etcd:PREFIX\n10: series[0].locks: unknown key; did you mean lock?"},
		"same URL":           {edit("localhost/{shard}/", "localhost/log/"), `5: series[0].submission_url: "http://localhost/log/"` + same},
		"same monitoring":    {edit("127.0.0.1/{half}/", "127.0.0.1/log/"), `6: series[0].monitoring_url: "http://127.0.0.1/log/"` + same},
		"same storage":       {edit("s3://bucket/{shard}", "s3://bucket/log"), `9: series[0].storage: "s3://bucket/log"` + same},
		"same after all":     {edit("s3://bucket/{shard}", "logs/{shard}/../x"), `9: series[0].storage: "logs/{shard}/../x"` + same},
		"same dedup":         {edit("dedup/{shard}.db", "dedup.db"), `11: series[0].dedup: "dedup.db"` + same},
		"same key":           {edit("secret_file: keys/example.secret", "key_file: key.pem"), `7: series[0].key_file: "key.pem"` + same},
		"other braces":       {edit("dedup/{shard}.db", "dedup/{shrad}.db"), `11: series[0].dedup: "dedup/{shrad}.db"` + braces},
		"braces in URL":      {edit("localhost/{shard}/", "localhost/{shard}{}/"), `5: series[0].submission_url: "http://localhost/{shard}{}/"` + braces},
		"URL without slash":  {edit("localhost/{shard}/", "localhost/{shard}"), `5: series[0].submission_url: "http://localhost/example2026h1" has no slash at its end; want http(s)://host[:port]/path/ with a slash at its end, such as https://log.example.org/2026h2/`},
		"public plain HTTP":  {edit("http://localhost/{shard}/", "http://ct.example.org/{shard}/"), "5: series[0].submission_url: is plain http on a host that is not loopback; want https://, or insecure_http: true if that is meant"},
		"key and secret":     {edit("    roots_file", "    key_file: keys/{shard}.pem\n    roots_file"), "7: series[0].secret_file: stands beside key_file; want one of them: the key is in a file, or derived from a secret"},
		"neither":            {edit("    secret_file: keys/example.secret\n", ""), "2: series[0].key_file: is missing; want the PEM of the log's private key, or secret_file"},
		"no half-year":       {edit("2026h2: {", "2026: {"), "14: series[0].shards.2026: is no half-year; want the half-year of a shard, such as 2027h1"},
		"no shard":           {edit("2026h2: {", "2028h1: {"), "14: series[0].shards.2028h1: is no shard of the series; want one of 2026h1 to 2027h2"},
		"shard before":       {edit("2026h2: {", "2025h2: {"), "14: series[0].shards.2025h2: is no shard of the series; want one of 2026h1 to 2027h2"},
		"shards list":        {edit("read_rate: 9\n    shards:\n", "shards: []\n    x:\n"), "12: series[0].shards: is a list; want keys with values\n13: series[0].x: unknown key; the keys here are: name, first, ahead, submission_url, monitoring_url, key_file, secret_file, roots_file, storage, lock, dedup, watch_url, period, batchers, max_in_flight, read_rate, require_server_auth, names_tiles, grease, intended_use, read_only, shards"},
		"shard is text":      {edit("2026h2: {read_rate: 100, key_file: \"keys/{half}.pem\"}", "2026h2: a"), `14: series[0].shards.2026h2: is "a"; want keys with values`},
		"name of a shard":    {edit("read_rate: 100", "name: x"), "14: series[0].shards.2026h2.name: unknown key; the keys here are: submission_url, monitoring_url, key_file, secret_file, roots_file, storage, lock, dedup, watch_url, period, batchers, max_in_flight, read_rate, require_server_auth, names_tiles, grease, intended_use, read_only"},
		"option of a shard":  {edit("read_rate: 100", "read_rate: -1"), "14: series[0].shards.2026h2.read_rate: -1 is out of range; want a whole number from 0 to 1000000"},
		"shard on another":   {edit("localhost/old/", "localhost/example2026h1/"), "16: series[0].shards.2027h1.submission_url: localhost/example2026h1 is that of example2026h1 too (line 5); want another: the log's origin comes from it"},
		"same shard twice":   {edit("      2027h1:", "      2026h2:"), "15: series[0].shards.2026h2: stands twice, first on line 14; want it once"},
		"same series":        {two("name: other", "name: example"), "19: series[1].name: example is that of series[0] too (line 2); want another"},
		"series at a place":  {two("s3://bucket/{shard}", "s3://bucket/example{half}"), "26: series[1].storage: s3://bucket/example2026h1/ lies in or around storage of example2026h1 (line 9); want prefixes that are apart"},
		"locks nested":       {two("s3://bucket/lock", "s3://bucket/lock/b"), "27: series[1].lock: s3://bucket/lock/b/ lies in or around lock of example2026h1 (line 10); want prefixes that are apart"},
		"storage round lock": {edit("s3://bucket/lock", "s3://bucket/example2026h1/lock"), "10: series[0].lock: s3://bucket/example2026h1/lock/ lies in or around storage of example2026h1 (line 9); want prefixes that are apart"},
		"whole bucket":       {edit("storage: logs/old", "storage: s3://bucket/"), "9: series[0].storage: s3://bucket/example2027h2/ lies in or around storage of example2027h1 (line 17); want prefixes that are apart\n10: series[0].lock: s3://bucket/lock/ lies in or around storage of example2027h1 (line 17); want prefixes that are apart\n17: series[0].shards.2027h1.storage: s3://bucket/ lies in or around storage of example2026h1 (line 9); want prefixes that are apart\n17: series[0].shards.2027h1.storage: s3://bucket/ lies in or around lock of example2026h1 (line 10); want prefixes that are apart"},
		"lock in storage":    {edit("s3://bucket/lock", "logs/old/lock.db"), "10: series[0].lock: /d/logs/old/lock.db lies in storage of example2027h1 (line 17); want it outside: a storage directory is public"},
		"secret in storage":  {edit("keys/example.secret", "logs/old/s"), "7: series[0].secret_file: /d/logs/old/s lies in storage of example2027h1 (line 17); want it outside: a storage directory is public"},
		"secret is dedup":    {edit("keys/example.secret", "dedup/example2026h1.db"), "11: series[0].dedup: /d/dedup/example2026h1.db is secret_file of example2026h1 too (line 7); want a path of its own"},
		"bucket in capitals": {edit("s3://bucket/lock", "s3://Bucket/lock"), `10: series[0].lock: "s3://Bucket/lock" has a bucket that S3 does not allow: 3 to 63 of a-z 0-9 - . that begin and end with a letter or digit; want a SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX`},
		"bucket as IP":       {edit("s3://bucket/lock", "s3://10.0.0.1/lock"), `10: series[0].lock: "s3://10.0.0.1/lock" has a bucket that S3 does not allow: 3 to 63 of a-z 0-9 - . that begin and end with a letter or digit; want a SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX`},
		"lock sans prefix":   {edit("s3://bucket/lock", "s3://lock-bucket"), `10: series[0].lock: "s3://lock-bucket" has no prefix; want s3://BUCKET/PREFIX, such as s3://lock-bucket/lock`},
		"one slash":          {edit("s3://bucket/lock", "s3:/bucket/lock"), `10: series[0].lock: "s3:/bucket/lock" is no s3:// URL; want a SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX`},
		"dots":               {edit("s3://bucket/lock", "s3://bucket/../lock"), `10: series[0].lock: "s3://bucket/../lock" has a prefix with empty, dotted or unusual parts; want a SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX`},
		"etcd URL":           {edit("s3://bucket/lock", "etcd://a/b"), `10: series[0].lock: "etcd://a/b" has a prefix that begins with a slash; want etcd:PREFIX, such as etcd:kiln/lock; the endpoints stand under etcd`},
		"etcd bare":          {edit("s3://bucket/lock", "\"etcd:\""), `10: series[0].lock: "etcd:" has no prefix; want etcd:PREFIX, such as etcd:kiln/lock; the endpoints stand under etcd`},
		"no etcd":            {edit("s3://bucket/lock", "etcd:kiln"), "10: series[0].lock: is in etcd, but there is no etcd section; want etcd: with its endpoints"},
		"etcd":               {edit("s3://bucket/lock", "etcd:kiln") + etcd, ""},
		"no s3":              {rows[:strings.Index(rows, "s3: {")], "9: series[0].storage: is on S3, but there is no s3 section; want s3: with endpoint and region, or s3: {} for AWS in us-east-1\n10: series[0].lock: is on S3, but there is no s3 section; want s3: with endpoint and region, or s3: {} for AWS in us-east-1"},
		"beside a log":       {rows + before("2025h2", "2025-07-01", "2026-01-01"), ""},
		"gap after a log":    {rows + before("2025h1", "2025-01-01", "2025-07-01"), `3: series[0].first: window of example2026h1, [2026-01-01T00:00:00Z, 2026-07-01T00:00:00Z), leaves a gap after that of example2025h1, [2025-01-01T00:00:00Z, 2025-07-01T00:00:00Z) (line 23); want it to start at 2025-07-01T00:00:00Z, or another series: than "example"`},
		"shard and log":      {rows + before("2026h1", "2025-07-01", "2026-01-01"), "2: series[0].name: example2026h1 is that of logs[0] too (line 21); want another\n11: series[0].dedup: /d/dedup/example2026h1.db is dedup of logs[0] too (line 29); want a path of its own"},
		"marks in a log":     {strings.Replace(good, "dedup/example2026h2", "dedup/{shard}", 1), `12: logs[0].dedup: "dedup/{shard}.db" has {shard}, which means something in a series only; want it in full`},
		"no key in a log":    {strings.Replace(good, "    key_file: keys/example2026h2.pem\n", "", 1), "4: logs[0].key_file: is missing; want the PEM of the log's private key, or secret_file"},
		"secret in a log":    {strings.Replace(good, "key_file: keys/example2026h2.pem", "secret_file: s", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d := cmp.Diff(test.want, faultsOf(t, test.text)); d != "" {
				t.Error(d)
			}
		})
	}
}
