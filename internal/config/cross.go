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
		key := fmt.Sprintf("logs[%d].submission_url", i)
		if !strings.HasPrefix(l.SubmissionURL, "http://") {
			continue
		}
		switch {
		case !plain:
			r.faults.add(r.lines[key], key, "is plain http, but tls: makes the listener speak https only", "want https://")
		case !c.InsecureHTTP && !Loopback(hostOf(l.SubmissionURL)):
			r.faults.add(r.lines[key], key, "is plain http on a host that is not loopback", "want https://, or insecure_http: true if that is meant")
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
		r.fault2(i, key, j, key, fmt.Sprintf("%s is that of logs[%d] too", shorten(value), j), want)
		return
	}
	seen[value] = i
}

// fault2 reports a fault of a key of log i against a key of log j.
func (r *reader) fault2(i int, key string, j int, other, what, want string) {
	path := fmt.Sprintf("logs[%d].%s", i, key)
	if line := r.lines[fmt.Sprintf("logs[%d].%s", j, other)]; line > 0 {
		what += fmt.Sprintf(" (line %d)", line)
	}
	r.faults.add(r.lines[path], path, what, want)
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
						r.fault2(i, a.key, j, b.key, fmt.Sprintf("%s lies in or around %s of logs[%d]", shorten(a.url), b.key, j),
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
	log    int
	key    string
	path   string
	shared bool // may be named by several logs under the same key
}

func usesOf(logs []Log) []use {
	var list []use
	for i, l := range logs {
		for _, u := range []use{
			{i, "key_file", l.KeyFile, false},
			{i, "roots_file", l.RootsFile, true},
			{i, "storage", l.Storage, false},
			{i, "lock", l.Lock, true},
			{i, "dedup", l.Dedup, false},
		} {
			if u.path != "" {
				list = append(list, u)
			}
		}
	}
	return list
}

// checkPaths reports files that are used for two things, and anything that lies
// in a storage directory, whose content is for the public.
func (r *reader) checkPaths(c *Config) {
	const apart = string(filepath.Separator)
	first := make(map[string]use)
	storages := make(map[string]int)
	for _, u := range usesOf(c.Logs) {
		if u.key == "storage" {
			storages[u.path+apart] = u.log
		}
		f, ok := first[u.path]
		switch {
		case !ok:
			first[u.path] = u
		case !u.shared || f.key != u.key:
			r.fault2(u.log, u.key, f.log, f.key, fmt.Sprintf("%s is %s of logs[%d] too", shorten(u.path), f.key, f.log),
				"want a path of its own")
		}
	}
	for _, u := range usesOf(c.Logs) {
		for dir := filepath.Dir(u.path); ; dir = filepath.Dir(dir) {
			if j, ok := storages[dir+apart]; ok {
				r.fault2(u.log, u.key, j, "storage", fmt.Sprintf("%s lies in storage of logs[%d]", shorten(u.path), j),
					"want it outside: a storage directory is public")
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
