package config

// What a kiln.yaml shows of the sections that it does not have.
const (
	exampleS3 = `s3:
  endpoint: https://s3.example.net # default: that of AWS for the region
  region: us-east-1
  path_style: false # the bucket in the path, as most servers but AWS want it
  ca_file: ca.pem # default: the authorities of the system
  credentials_file: s3.yaml # default: environment, shared files, instance role
  parallel: 64 # requests at a time
  timeout: 5s # of one attempt of a request
`
	exampleEtcd = `etcd:
  endpoints: ["https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"]
  ca_file: etcd/ca.pem # default: the authorities of the system
  cert_file: etcd/cert.pem # with key_file: the certificate to show
  key_file: etcd/key.pem
  username: kiln # with password_file
  password_file: etcd/password
  timeout: 5s # of one request
`
	exampleRoots = `roots:
  reports: ["https://ccadb.example/report.csv", roots/report.csv] # of CCADB; URLs or files
  extra_file: roots/extra.pem # accepted beside
  refused_file: roots/refused.pem # never accepted
  refresh: 24h # how often the reports are read; 0 for never by itself
`
	exampleSeries = `series:
  - name: open # a log for each half-year: open2026h1, open2026h2, ...
    first: 2026h1 # the half-year of the first one
    ahead: 6 # half-years after the current one
    submission_url: https://ct.example.org/{shard}/ # {half} stands for 2026h1
    monitoring_url: https://mon.example.org/{shard}/
    secret_file: keys/open.secret # or key_file: keys/{shard}.pem
    roots_file: roots.pem
    storage: s3://bucket/{shard} # or logs/{shard}
    lock: s3://bucket/lock # or lock.db, or etcd:kiln/lock
    dedup: dedup/{shard}.db # and every other option of a log
    shards: # options of one shard, instead of those above
      2026h2: {read_rate: 100}
`
)

// services writes the sections s3, etcd and roots.
func (w *renderer) services(c *Config) {
	w.note("", "The S3-compatible storage, for a storage or lock that is s3://BUCKET/PREFIX.")
	if c.S3 == nil {
		w.block(exampleS3)
	} else {
		w.s3(c.S3)
	}
	w.blank()
	w.note("", "etcd, for a lock that is etcd:PREFIX.")
	if c.Etcd == nil {
		w.block(exampleEtcd)
	} else {
		w.etcd(c.Etcd)
	}
	w.blank()
	w.note("", "Where accepted roots come from, beside the roots_file of each log.")
	if r := c.Roots; len(r.Reports) == 0 && r.ExtraFile == "" && r.RefusedFile == "" && r.Refresh == DefaultRefresh {
		w.block(exampleRoots)
	} else {
		w.roots(r)
	}
	w.blank()
}

func (w *renderer) s3(c *S3) {
	w.line("", "s3:")
	w.given("  ", "endpoint", c.Endpoint)
	w.value("  ", "region", c.Region)
	w.option("  ", "path_style", c.PathStyle, false)
	w.given("  ", "ca_file", w.path(c.CAFile))
	w.given("  ", "credentials_file", w.path(c.CredentialsFile))
	w.option("  ", "parallel", c.Parallel, DefaultParallel)
	w.option("  ", "timeout", c.Timeout, DefaultS3Timeout)
}

func (w *renderer) etcd(c *Etcd) {
	w.line("", "etcd:")
	w.list("  ", "endpoints", c.Endpoints)
	w.given("  ", "ca_file", w.path(c.CAFile))
	w.given("  ", "cert_file", w.path(c.CertFile))
	w.given("  ", "key_file", w.path(c.KeyFile))
	w.given("  ", "username", c.Username)
	w.given("  ", "password_file", w.path(c.PasswordFile))
	w.option("  ", "timeout", c.Timeout, DefaultEtcdTimeout)
}

func (w *renderer) roots(c Roots) {
	w.line("", "roots:")
	if len(c.Reports) > 0 {
		reports := make([]string, len(c.Reports))
		for i, r := range c.Reports {
			reports[i] = w.path(r)
		}
		w.list("  ", "reports", reports)
	}
	w.given("  ", "extra_file", w.path(c.ExtraFile))
	w.given("  ", "refused_file", w.path(c.RefusedFile))
	if c.Refresh == 0 {
		w.value("  ", "refresh", 0)
	} else {
		w.option("  ", "refresh", c.Refresh, DefaultRefresh)
	}
}

// series writes a series with the texts as they are in it.
func (w *renderer) series(s *Series) {
	const in = "    "
	l := &s.Log
	w.line("  - ", "name: "+scalar(s.Name))
	w.value(in, "first", s.First.Suffix)
	w.note(in, "How many half-years after the current one have a log already.")
	w.option(in, "ahead", s.Ahead, DefaultAhead)
	w.whereabouts(in, l, new(Log))
	w.options(in, l, 0)
	if len(s.Shards) == 0 {
		return
	}
	w.line(in, "shards:")
	quiet := w.quiet
	w.quiet = true
	for i := range s.Shards {
		o := &s.Shards[i]
		if o.Log == s.Log {
			w.line(in+"  ", o.Half+": {}")
			continue
		}
		w.line(in+"  ", o.Half+":")
		w.whereabouts(in+"    ", &o.Log, l)
		w.overridden(in+"    ", &o.Log, l)
	}
	w.quiet = quiet
}

// whereabouts writes the URLs and places of a log that differ from another's.
func (w *renderer) whereabouts(in string, l, from *Log) {
	for _, t := range []struct{ key, v, from string }{
		{"submission_url", l.SubmissionURL, from.SubmissionURL},
		{"monitoring_url", l.MonitoringURL, from.MonitoringURL},
		{"key_file", l.KeyFile, from.KeyFile},
		{"secret_file", l.SecretFile, from.SecretFile},
		{"roots_file", l.RootsFile, from.RootsFile},
		{"storage", l.Storage, from.Storage},
		{"lock", l.Lock, from.Lock},
		{"dedup", l.Dedup, from.Dedup},
		{"watch_url", l.WatchURL, from.WatchURL},
	} {
		if t.v != t.from {
			w.given(in, t.key, t.v)
		}
	}
}

// overridden writes the other options that differ from those of the series.
func (w *renderer) overridden(in string, l, from *Log) {
	w.option(in, "period", l.Period, from.Period)
	w.option(in, "batchers", l.Batchers, from.Batchers)
	w.option(in, "max_in_flight", l.MaxInFlight, from.MaxInFlight)
	w.option(in, "read_rate", l.ReadRate, from.ReadRate)
	w.option(in, "require_server_auth", l.RequireServerAuth, from.RequireServerAuth)
	w.option(in, "names_tiles", l.Names, from.Names)
	w.option(in, "grease", l.Grease, from.Grease)
	w.option(in, "intended_use", l.IntendedUse, from.IntendedUse)
	w.option(in, "read_only", l.ReadOnly, from.ReadOnly)
}
