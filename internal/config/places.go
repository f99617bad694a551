package config

import (
	"fmt"
	"net"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// How a storage or a lock that is no path begins.
const (
	s3Scheme   = "s3://"
	etcdScheme = "etcd:"
)

// maxPrefix bounds the length of a prefix in a bucket or in etcd, in bytes.
const maxPrefix = 200

// StorageS3 returns the bucket and prefix of a storage on S3. The prefix has no
// slash at either end, and is empty where the log has the bucket to itself. It
// reports false for a directory.
func (l *Log) StorageS3() (bucket, prefix string, ok bool) { return splitS3(l.Storage) }

// LockS3 returns the bucket and prefix of a lock on S3, as [Log.StorageS3]; the
// prefix is never empty. Logs may share both: each has a cell, by its origin.
func (l *Log) LockS3() (bucket, prefix string, ok bool) { return splitS3(l.Lock) }

// LockEtcd returns the prefix of a lock in etcd, which is not empty and does not
// end in a slash. Logs may share it. It reports false for another lock.
func (l *Log) LockEtcd() (prefix string, ok bool) { return strings.CutPrefix(l.Lock, etcdScheme) }

// OnS3 reports whether the log needs the s3 section.
func (l *Log) OnS3() bool {
	return strings.HasPrefix(l.Storage, s3Scheme) || strings.HasPrefix(l.Lock, s3Scheme)
}

// DefaultPeriod returns the period of a log that names none: DefaultPeriodS3 if
// its storage is on S3, else DefaultPeriod.
func (l *Log) DefaultPeriod() time.Duration {
	if strings.HasPrefix(l.Storage, s3Scheme) {
		return DefaultPeriodS3
	}
	return DefaultPeriod
}

func splitS3(s string) (bucket, prefix string, ok bool) {
	rest, ok := strings.CutPrefix(s, s3Scheme)
	if !ok {
		return "", "", false
	}
	bucket, prefix, _ = strings.Cut(rest, "/")
	return bucket, prefix, true
}

var (
	bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*[a-z0-9](\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
	// pathsForm is what storage takes for the elements of a path.
	pathsForm = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)
	partsForm = regexp.MustCompile(`^[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*$`)
)

// parseS3 takes s3://BUCKET/PREFIX. One slash at the end is taken off.
func parseS3(s, want string) (string, *problem) {
	bad := func(why string) (string, *problem) {
		return "", &problem{fmt.Sprintf("%q %s", shorten(s), why), want}
	}
	rest, ok := strings.CutPrefix(s, s3Scheme)
	if !ok {
		return bad("is no s3:// URL")
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	prefix = strings.TrimSuffix(prefix, "/")
	switch {
	case bucket == "":
		return bad("names no bucket")
	case len(bucket) < 3 || len(bucket) > 63 || !bucketForm.MatchString(bucket) || net.ParseIP(bucket) != nil || strings.HasPrefix(bucket, "xn--"):
		return bad("has a bucket that S3 does not allow: 3 to 63 of a-z 0-9 - . that begin and end with a letter or digit")
	case prefix == "":
		return s3Scheme + bucket, nil
	}
	if why := badPrefix(prefix); why != "" {
		return bad(why)
	}
	if !pathsForm.MatchString(prefix) {
		return bad("has a prefix with a tilde, or with a part that begins with a dot")
	}
	return s3Scheme + bucket + "/" + prefix, nil
}

func badPrefix(prefix string) string {
	switch {
	case !partsForm.MatchString(prefix) || path.Clean("/"+prefix) != "/"+prefix:
		return "has a prefix with empty, dotted or unusual parts"
	case len(prefix) > maxPrefix:
		return fmt.Sprintf("has a prefix longer than %d bytes", maxPrefix)
	}
	return ""
}

// storageAt takes the storage of a log: a directory, or a place on S3.
func storageAt(dir string) func(string) (string, *problem) {
	const want = "want a directory, or s3://BUCKET/PREFIX"
	return func(s string) (string, *problem) {
		if strings.HasPrefix(s, "s3:") {
			return parseS3(s, want)
		}
		return absolute(dir, s, want)
	}
}

// lockAt takes the lock of a log: a file, or a place on S3 or in etcd.
func lockAt(dir string) func(string) (string, *problem) {
	const want = "want a SQLite file, s3://BUCKET/PREFIX or etcd:PREFIX"
	return func(s string) (string, *problem) {
		switch {
		case strings.HasPrefix(s, "s3:"):
			v, p := parseS3(s, want)
			if _, prefix, _ := splitS3(v); p == nil && prefix == "" {
				return "", &problem{fmt.Sprintf("%q has no prefix", shorten(s)), "want s3://BUCKET/PREFIX, such as s3://" + shorten(s[len(s3Scheme):]) + "/lock"}
			}
			return v, p
		case strings.HasPrefix(s, etcdScheme):
			prefix := s[len(etcdScheme):]
			why := badPrefix(prefix)
			switch {
			case prefix == "":
				why = "has no prefix"
			case strings.HasPrefix(prefix, "/"):
				why = "has a prefix that begins with a slash"
			}
			if why != "" {
				return "", &problem{fmt.Sprintf("%q %s", shorten(s), why), "want etcd:PREFIX, such as etcd:kiln/lock; the endpoints stand under etcd"}
			}
			return s, nil
		}
		return absolute(dir, s, want)
	}
}

// fileAt takes the path of a file or directory.
func fileAt(dir string) func(string) (string, *problem) {
	return func(s string) (string, *problem) { return absolute(dir, s, "want a path in the file system") }
}

// schemeLike is what a mistyped s3:// or etcd: looks like.
var schemeLike = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*:`)

// absolute takes a path that starts from dir.
func absolute(dir, s, want string) (string, *problem) {
	p, fault := parseFile(s)
	if fault != nil {
		if strings.Contains(s, "://") {
			fault.want = want
		}
		return "", fault
	}
	if scheme := schemeLike.FindString(s); scheme != "" {
		return "", &problem{fmt.Sprintf("%q begins with %s, which is no scheme that is known here", shorten(s), scheme), want + "; a file of that name as ./" + shorten(s)}
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(dir, p)
	}
	return filepath.Clean(p), nil
}

// remote is a place of a log outside of this machine.
type remote struct {
	log   int
	key   string
	place string // with the scheme, and a slash at the end
}

// checkRemote reports places on S3 or in etcd that hold each other. Only locks
// may be shared: their cells are named by origin.
func (r *reader) checkRemote(c *Config) {
	var list []remote
	for i := range c.Logs {
		for _, p := range []remote{{i, "storage", c.Logs[i].Storage}, {i, "lock", c.Logs[i].Lock}} {
			if strings.HasPrefix(p.place, s3Scheme) || strings.HasPrefix(p.place, etcdScheme) {
				p.place += "/"
				list = append(list, p)
			}
		}
	}
	for n, p := range list {
		for _, q := range list[:n] {
			if !nested(p.place, q.place) || p.key == "lock" && q.key == "lock" && p.place == q.place {
				continue
			}
			r.fault2(p.log, p.key, q.log, q.key, fmt.Sprintf("%s lies in or around %s of %s", shorten(p.place), q.key, r.who(q.log)),
				"want prefixes that are apart")
		}
	}
	for i := range c.Logs {
		l := &c.Logs[i]
		for _, p := range []struct{ key, place string }{{"storage", l.Storage}, {"lock", l.Lock}} {
			if strings.HasPrefix(p.place, s3Scheme) && c.S3 == nil && r.lines["s3"] == 0 {
				r.logFault(i, p.key, "is on S3, but there is no s3 section", "want s3: with endpoint and region, or s3: {} for AWS in "+DefaultRegion)
			}
			if strings.HasPrefix(p.place, etcdScheme) && c.Etcd == nil && r.lines["etcd"] == 0 {
				r.logFault(i, p.key, "is in etcd, but there is no etcd section", "want etcd: with its endpoints")
			}
		}
	}
}
