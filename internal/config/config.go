// Package config reads kiln.yaml: what the operator wants, checked to the last
// field before anything starts.
//
// Invariants: a [Config] that [Load] returned has every default filled in and
// every path absolute; an unknown key, a doubtful value or an unusable file is
// a [Fault] with its line, and all faults are reported together; secrets are
// named by path and never stand in the file.
//
// The package never knows what the options do: it imports nothing of ours.
package config

import (
	"cmp"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"
)

// The intended uses of a log.
const (
	UseProduction = "production"
	UseTest       = "test"
)

// Defaults of the options that may be left out.
const (
	DefaultListen         = "127.0.0.1:6962"
	DefaultAdmin          = "127.0.0.1:6963"
	DefaultMaxConnections = 4096
	DefaultPeriod         = 100 * time.Millisecond
	DefaultPeriodS3       = 500 * time.Millisecond // of a log whose storage is on S3
	DefaultBatchers       = 4
	DefaultMaxInFlight    = 1024
)

// Bounds of the numeric options, inclusive.
const (
	MinMaxConnections, MaxMaxConnections = 16, 1_000_000
	MinPeriod, MaxPeriod                 = 10 * time.Millisecond, 10 * time.Second
	MinBatchers, MaxBatchers             = 1, 64
	MinMaxInFlight, MaxMaxInFlight       = 1, 65536
	MinReadRate, MaxReadRate             = 0, 1_000_000
	MaxLogs                              = 256
)

// Config is one kiln.yaml.
type Config struct {
	// Path is the file it was read from, as it was given to Load.
	Path string
	// Dir is the absolute directory that relative paths start from: the one
	// that holds the file.
	Dir string

	// Listen is the host:port of the public listener, submission and
	// monitoring. Default DefaultListen.
	Listen string
	// Admin is the host:port of the listener for metrics, health and pprof,
	// never equal to Listen. Default DefaultAdmin.
	Admin string
	// InsecureHTTP is the operator's statement that plain HTTP may be reached
	// from other machines. Without it, plain HTTP is for loopback alone.
	InsecureHTTP bool
	// TLS is nil where the public listener speaks plain HTTP.
	TLS *TLS
	// Logging says what goes to standard error.
	Logging Logging
	// MaxConnections bounds the open connections of the public listener.
	// Default DefaultMaxConnections.
	MaxConnections int
	// Logs has at least one log: those of the list logs in the order of the
	// file, then the shards of each series in the order of their half-years.
	Logs []Log
	// Series are the series of which shards in Logs come. It may be empty.
	Series []Series
	// S3 is how S3 is reached; nil where the file has no such section. It is
	// there if a storage or a lock is on S3.
	S3 *S3
	// Etcd is how etcd is reached; nil where the file has no such section. It is
	// there if a lock is in etcd.
	Etcd *Etcd
	// Roots is where accepted roots come from beside each log's roots file.
	Roots Roots
}

// TLS is where the public listener's certificate comes from: either CertFile
// and KeyFile, or ACME.
type TLS struct {
	// CertFile is the PEM chain, the server's certificate first.
	CertFile string
	// KeyFile is the PEM private key of the first certificate.
	KeyFile string
	// ACME is nil where files are used.
	ACME *ACME
}

// ACME is how certificates are obtained and renewed. Having an ACME section
// states agreement with the authority's terms of service.
type ACME struct {
	// Hosts are the DNS names to obtain certificates for, at least one.
	Hosts []string
	// Email is the contact of the account; it may be empty.
	Email string
	// CacheDir keeps account key and certificates between starts.
	CacheDir string
	// DirectoryURL is the authority's directory; empty means Let's Encrypt.
	DirectoryURL string
}

// Logging is the shape of the program's own log.
type Logging struct {
	// Level is the least level written. Default INFO.
	Level slog.Level
	// Format is "text" (default) or "json".
	Format string
}

// Log is one log: one NotAfter window, one key, one tree.
type Log struct {
	// Name names the log in output, metrics and faults: lower-case letters,
	// digits, "-" and "_", unique.
	Name string
	// Series groups the shards whose windows must abut (OPS-10). Default:
	// [Stem] of the name.
	Series string
	// FromSeries says that the log is a shard of one of Config.Series. It may be
	// one that was not created yet: then its files are not there.
	FromSeries bool
	// Shard is the half-year of a shard of a series, such as "2026h2"; else it is
	// empty.
	Shard string
	// Origin is the submission prefix without scheme and trailing slash
	// (CKP-02). It is derived, unique, and may never change once the log runs.
	Origin string

	// SubmissionURL is the submission prefix, with trailing slash; RFC 6962's
	// ct/v1/ is below it.
	SubmissionURL string
	// MonitoringURL is the monitoring prefix, with trailing slash; checkpoint
	// and tile/ are below it. Default SubmissionURL.
	MonitoringURL string

	// NotAfterStart (inclusive) and NotAfterLimit (exclusive) are the window
	// of leaf expiry that is accepted (SUB-21), whole seconds, UTC.
	NotAfterStart, NotAfterLimit time.Time

	// KeyFile is the log's private key: PEM, PKCS#8, ECDSA P-256 (SUB-09). It is
	// empty where there is a SecretFile.
	KeyFile string
	// SecretFile is the secret that the log's private key is derived from, with
	// the origin. It may be shared. It is empty where there is a KeyFile.
	SecretFile string
	// RootsFile is the PEM of the accepted roots. It may be shared.
	RootsFile string
	// Storage is the directory of tiles, issuers and checkpoint, or
	// s3://BUCKET/PREFIX, see [Log.StorageS3].
	Storage string
	// Lock is where the lock cell is: a SQLite file, s3://BUCKET/PREFIX or
	// etcd:PREFIX, see [Log.LockS3] and [Log.LockEtcd]. It may be shared: the
	// cells in it are named by origin.
	Lock string
	// Dedup is the SQLite file of the long-term deduplication cache.
	Dedup string
	// WatchURL is the monitoring prefix at which the process watches the log
	// itself, [WatchOff] for none. Default MonitoringURL.
	WatchURL string

	// Period is the least time between the starts of two rounds, MinPeriod
	// to MaxPeriod. Default: [Log.DefaultPeriod].
	Period time.Duration
	// Batchers is how many batchers share the log's keys, MinBatchers to
	// MaxBatchers. Default DefaultBatchers.
	Batchers int
	// MaxInFlight bounds the submissions that are being worked on,
	// MinMaxInFlight to MaxMaxInFlight. Default DefaultMaxInFlight.
	MaxInFlight int
	// ReadRate is how many monitoring requests a second one client may make,
	// MinReadRate to MaxReadRate; 0 (default) is no limit.
	ReadRate int

	// RequireServerAuth refuses leaves without the serverAuth extended key
	// usage (SUB-25). Default false.
	RequireServerAuth bool
	// Names keeps names tiles too (MON-24). Default false.
	Names bool
	// Grease adds signature lines that no key verifies to each checkpoint (CKP-17).
	// Default true.
	Grease bool
	// IntendedUse is what log.v3.json says of the log: UseProduction (default)
	// or UseTest.
	IntendedUse string
	// ReadOnly refuses submissions with 410 and goes on serving the tree
	// (SUB-39). Default false.
	ReadOnly bool
}

// Loopback reports whether a URL's or address's host can be reached from this
// machine only: localhost or a loopback IP address. An empty host is every
// interface, which is not.
func Loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// originOf returns the prefix without scheme and trailing slashes.
func originOf(u *url.URL) string {
	return u.Host + strings.TrimRight(u.Path, "/")
}

// WatchOff is the WatchURL of a log that is not watched.
const WatchOff = "off"

// Watched returns the prefix at which the log is watched, "" if it is not.
func (l *Log) Watched() string {
	if l.WatchURL == WatchOff {
		return ""
	}
	return cmp.Or(l.WatchURL, l.MonitoringURL)
}

// Host returns the host of the submission URL, without port.
func (l *Log) Host() string { return hostOf(l.SubmissionURL) }
