package config

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// checkListeners reports two listeners on one port.
func (r *reader) checkListeners(c *Config) {
	host, port, err := net.SplitHostPort(c.Listen)
	adminHost, adminPort, adminErr := net.SplitHostPort(c.Admin)
	if err != nil || adminErr != nil || port != adminPort || port == "0" {
		return
	}
	if host == adminHost || anyHost(host) || anyHost(adminHost) {
		key := "admin"
		if r.lines[key] == 0 {
			key = "listen"
		}
		r.faults.add(r.lines[key], key, fmt.Sprintf("listen %s and admin %s are the same port", c.Listen, c.Admin),
			"want another port for admin: metrics and pprof are not for the public")
	}
}

func anyHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// checkPlainHTTP reports plain HTTP that other machines can reach, unless it was
// asked for in so many words, and URLs that the listener does not speak.
func (r *reader) checkPlainHTTP(c *Config) {
	const want = "want tls:, or a loopback address, or insecure_http: true if that is meant"
	plain := c.TLS == nil && r.lines["tls"] == 0
	if plain && !c.InsecureHTTP && !Loopback(hostOf(c.Listen)) {
		r.faults.add(r.lines["listen"], "listen", fmt.Sprintf("plain HTTP on %s is open to other machines", c.Listen), want)
	}
	for i, l := range c.Logs {
		if !strings.HasPrefix(l.SubmissionURL, "http://") {
			continue
		}
		switch {
		case !plain:
			r.logFault(i, "submission_url", "is plain http, but tls: makes the listener speak https only", "want https://")
		case !c.InsecureHTTP && !Loopback(hostOf(l.SubmissionURL)):
			r.logFault(i, "submission_url", "is plain http on a host that is not loopback", "want https://, or insecure_http: true if that is meant")
		}
	}
}

// checkNames reports names and origins that two logs share.
func (r *reader) checkNames(logs []Log) {
	names, origins := make(map[string]int), make(map[string]int)
	for i, l := range logs {
		r.unique(names, l.Name, i, "name", "want another")
		r.unique(origins, l.Origin, i, "submission_url", "want another: the log's origin comes from it")
	}
}

// unique reports a value of a key that an earlier log has too.
func (r *reader) unique(seen map[string]int, value string, i int, key, want string) {
	if value == "" {
		return
	}
	if j, ok := seen[value]; ok {
		r.fault2(i, key, j, key, fmt.Sprintf("%s is that of %s too", shorten(value), r.who(j)), want)
		return
	}
	seen[value] = i
}

// checkPrefixes reports prefixes of two logs of which one holds the other, so
// that a request would not say which log it means. Equal submission URLs are
// reported as equal origins already.
func (r *reader) checkPrefixes(logs []Log) {
	for i, l := range logs {
		for j, m := range logs[:i] {
			for _, a := range prefixesOf(l) {
				for _, b := range prefixesOf(m) {
					same := a.url == b.url && a.key == "submission_url" && b.key == "submission_url"
					if nested(a.place, b.place) && !same {
						r.fault2(i, a.key, j, b.key, fmt.Sprintf("%s lies in or around %s of %s", shorten(a.url), b.key, r.who(j)),
							"want prefixes that are apart")
					}
				}
			}
		}
	}
}

type prefix struct{ key, url, place string }

// prefixesOf returns the distinct prefixes of a log, with host and path.
func prefixesOf(l Log) []prefix {
	var list []prefix
	for _, p := range []prefix{{key: "submission_url", url: l.SubmissionURL}, {key: "monitoring_url", url: l.MonitoringURL}} {
		u, err := url.Parse(p.url)
		if err != nil || p.url == "" || len(list) > 0 && list[0].url == p.url {
			continue
		}
		p.place = u.Host + u.Path
		list = append(list, p)
	}
	return list
}

// nested reports whether one of two slash-ended places holds the other, or is it.
func nested(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) }

// use is one mention of a path.
type use struct {
	log    int // -1 for a path of the process
	key    string
	path   string
	shared bool // may be named by several logs under the same key
}

func usesOf(c *Config) []use {
	var list []use
	add := func(i int, key, path string, shared bool) {
		if filepath.IsAbs(path) { // else there is none, or it is on S3 or in etcd
			list = append(list, use{i, key, path, shared})
		}
	}
	for i, l := range c.Logs {
		add(i, "key_file", l.KeyFile, false)
		add(i, "secret_file", l.SecretFile, true)
		add(i, "roots_file", l.RootsFile, true)
		add(i, "storage", l.Storage, false)
		add(i, "lock", l.Lock, true)
		add(i, "dedup", l.Dedup, false)
	}
	if c.TLS != nil {
		add(-1, "tls.key_file", c.TLS.KeyFile, false)
		if c.TLS.ACME != nil {
			add(-1, "tls.acme.cache_dir", c.TLS.ACME.CacheDir, false)
		}
	}
	if c.S3 != nil {
		add(-1, "s3.credentials_file", c.S3.CredentialsFile, false)
	}
	if c.Etcd != nil {
		add(-1, "etcd.key_file", c.Etcd.KeyFile, false)
		add(-1, "etcd.password_file", c.Etcd.PasswordFile, false)
	}
	return list
}

// useFault reports a use of a path against another; what has a verb for the
// other's key. Uses of the process come last.
func (r *reader) useFault(u, other use, what, want string) {
	the := other.key
	if other.log >= 0 {
		the += " of " + r.who(other.log)
	}
	what = shorten(u.path) + fmt.Sprintf(what, the)
	if u.log >= 0 {
		r.fault2(u.log, u.key, other.log, other.key, what, want)
		return
	}
	r.faults.add(r.lines[u.key], u.key, what, want)
}

// checkPaths reports files that are used for two things, and anything that lies
// in a storage directory, whose content is for the public.
func (r *reader) checkPaths(c *Config) {
	const apart = string(filepath.Separator)
	first := make(map[string]use)
	storages := make(map[string]use)
	uses := usesOf(c)
	for _, u := range uses {
		if u.key == "storage" {
			storages[u.path+apart] = u
		}
		f, ok := first[u.path]
		switch {
		case !ok:
			first[u.path] = u
		case !u.shared || f.key != u.key:
			r.useFault(u, f, " is %s too", "want a path of its own")
		}
	}
	for _, u := range uses {
		for dir := filepath.Dir(u.path); ; dir = filepath.Dir(dir) {
			if f, ok := storages[dir+apart]; ok {
				r.useFault(u, f, " lies in %s", "want it outside: a storage directory is public")
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
}

// hostOf returns the host of host:port, or of a URL.
func hostOf(addr string) string {
	if u, err := url.Parse(addr); err == nil && u.Host != "" {
		return u.Hostname()
	}
	host, _, _ := net.SplitHostPort(addr)
	return host
}
