package config

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Defaults of the sections s3, etcd and roots.
const (
	DefaultRegion      = "us-east-1"
	DefaultParallel    = 64
	DefaultS3Timeout   = 5 * time.Second
	DefaultEtcdTimeout = 5 * time.Second
	DefaultRefresh     = 24 * time.Hour
)

// Bounds of the options of the sections s3, etcd and roots, inclusive.
const (
	MinParallel, MaxParallel = 1, 1024
	MinTimeout, MaxTimeout   = 100 * time.Millisecond, 10 * time.Minute
	MinRefresh, MaxRefresh   = time.Minute, 168 * time.Hour
	MaxEndpoints             = 16 // of etcd
	MaxReports               = 16 // of roots
)

// S3 is how the S3-compatible storage is reached.
type S3 struct {
	// Endpoint is the URL of the service, without a slash at its end. Empty means
	// AWS, in the region.
	Endpoint string
	// Region is what requests are signed for. Default DefaultRegion.
	Region string
	// PathStyle names the bucket in the path rather than in the host.
	PathStyle bool
	// CAFile is the PEM of the authorities to trust instead of the system's; it
	// may be empty.
	CAFile string
	// CredentialsFile is for [LoadCredentials]. Empty means AWS's own chain:
	// environment, shared files, instance role.
	CredentialsFile string
	// Parallel bounds the requests at a time, MinParallel to MaxParallel: those
	// of each log and, apart from them, those for its monitors.
	// Default DefaultParallel.
	Parallel int
	// Timeout is that of one attempt of a request, MinTimeout to MaxTimeout.
	// Default DefaultS3Timeout.
	Timeout time.Duration
}

// Etcd is how etcd is reached.
type Etcd struct {
	// Endpoints are URLs with host and port, at least one, all https or all http.
	Endpoints []string
	// CAFile is the PEM of the authorities to trust instead of the system's; it
	// may be empty.
	CAFile string
	// CertFile and KeyFile are the client's certificate and key; both or neither.
	CertFile, KeyFile string
	// Username and PasswordFile, which is for [LoadPassword], are both there or
	// neither.
	Username, PasswordFile string
	// Timeout is that of one request, MinTimeout to MaxTimeout. Default
	// DefaultEtcdTimeout.
	Timeout time.Duration
}

// Roots is where accepted roots come from, beside each log's RootsFile.
type Roots struct {
	// Reports are CCADB reports: https URLs or absolute paths. A path need not
	// be there when the configuration is loaded: what was read last stays good.
	Reports []string
	// ExtraFile is the PEM of roots to accept beside; it may be empty.
	ExtraFile string
	// RefusedFile names roots never to accept; it may be empty.
	RefusedFile string
	// Refresh is how often the reports are read again, MinRefresh to MaxRefresh;
	// 0 is never by itself. Default DefaultRefresh.
	Refresh time.Duration
}

func (r *reader) s3(n *yaml.Node, dir string) *S3 {
	s := r.section(n, "s3")
	if s == nil {
		return nil
	}
	c := &S3{Region: DefaultRegion, Parallel: DefaultParallel, Timeout: DefaultS3Timeout}
	read(s, "endpoint", &c.Endpoint, parseEndpoint, isText...)
	read(s, "region", &c.Region, parseRegion, isText...)
	read(s, "path_style", &c.PathStyle, parseBool, isBool...)
	s.file("ca_file", dir, &c.CAFile, "")
	s.file("credentials_file", dir, &c.CredentialsFile, "")
	read(s, "parallel", &c.Parallel, between(MinParallel, MaxParallel), isInt...)
	read(s, "timeout", &c.Timeout, duration(MinTimeout, MaxTimeout, "5s"), isText...)
	s.done()
	if !c.PathStyle && net.ParseIP(hostOf(c.Endpoint)) != nil {
		key := "path_style"
		if _, ok := s.values[key]; !ok {
			key = "endpoint"
		}
		s.fault(key, &problem{fmt.Sprintf("%s is an IP address, which cannot have the bucket in its name", c.Endpoint), "want path_style: true"})
	}
	return c
}

func (r *reader) etcd(n *yaml.Node, dir string) *Etcd {
	s := r.section(n, "etcd")
	if s == nil {
		return nil
	}
	c := &Etcd{Timeout: DefaultEtcdTimeout}
	c.Endpoints = s.strings("endpoints", parseEtcdEndpoint)
	switch n := s.values["endpoints"]; {
	case n == nil || n.Kind == yaml.SequenceNode && len(n.Content) == 0:
		s.missing("endpoints", "want the URLs of the members, such as [https://10.0.0.1:2379]")
	case len(n.Content) > MaxEndpoints:
		s.fault("endpoints", &problem{fmt.Sprintf("has %d URLs", len(n.Content)), fmt.Sprintf("want %d at most", MaxEndpoints)})
	}
	s.file("ca_file", dir, &c.CAFile, "")
	cert := s.file("cert_file", dir, &c.CertFile, "")
	key := s.file("key_file", dir, &c.KeyFile, "")
	user := read(s, "username", &c.Username, parseUsername, isText...)
	password := s.file("password_file", dir, &c.PasswordFile, "")
	read(s, "timeout", &c.Timeout, duration(MinTimeout, MaxTimeout, "5s"), isText...)
	s.done()
	_, userThere := s.values["username"]
	switch {
	case cert && !key:
		s.missing("key_file", "want the private key of cert_file")
	case key && !cert:
		s.missing("cert_file", "want the certificate of key_file")
	}
	switch {
	case user && !password:
		s.missing("password_file", "want a file with the password of username")
	case password && !userThere:
		s.missing("username", "want the user whose password is in password_file")
	}
	r.checkEndpoints(s, c)
	return c
}

// checkEndpoints reports URLs of etcd that do not go together.
func (r *reader) checkEndpoints(s *section, c *Etcd) {
	seen := make(map[string]bool)
	secure := 0
	for _, e := range c.Endpoints {
		if seen[e] {
			s.fault("endpoints", &problem{e + " stands twice", "want it once"})
		}
		seen[e] = true
		if strings.HasPrefix(e, "https:") {
			secure++
		}
	}
	switch tls := c.CAFile != "" || c.CertFile != "" || c.KeyFile != ""; {
	case secure > 0 && secure < len(c.Endpoints):
		s.fault("endpoints", &problem{"mixes https and http", "want one of them"})
	case secure == 0 && len(c.Endpoints) > 0 && tls:
		s.fault("endpoints", &problem{"is plain http, but there are certificates for TLS", "want https://"})
	}
}

func (r *reader) roots(n *yaml.Node, dir string, c *Roots) {
	s := r.section(n, "roots")
	if s == nil {
		return
	}
	c.Reports = s.strings("reports", reportAt(dir))
	if len(c.Reports) > MaxReports {
		s.fault("reports", &problem{fmt.Sprintf("has %d reports", len(c.Reports)), fmt.Sprintf("want %d at most", MaxReports)})
	}
	s.file("extra_file", dir, &c.ExtraFile, "")
	s.file("refused_file", dir, &c.RefusedFile, "")
	read(s, "refresh", &c.Refresh, parseRefresh, "!!str", "!!int")
	s.done()
}

// checkServices reports services whose traffic other machines could read.
func (r *reader) checkServices(c *Config) {
	open := func(u string) bool {
		return strings.HasPrefix(u, "http://") && !Loopback(hostOf(u)) && !c.InsecureHTTP
	}
	const want = "want https://, or insecure_http: true if that is meant"
	if c.S3 != nil && open(c.S3.Endpoint) {
		r.faults.add(r.lines["s3.endpoint"], "s3.endpoint", "is plain http on a host that is not loopback", want)
	}
	if c.Etcd == nil {
		return
	}
	for _, e := range c.Etcd.Endpoints {
		if open(e) {
			r.faults.add(r.lines["etcd.endpoints"], "etcd.endpoints", e+" is plain http on a host that is not loopback", want)
		}
	}
}

var regionForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]{0,62}[A-Za-z0-9])?$`)

func parseRegion(s string) (string, *problem) {
	if !regionForm.MatchString(s) {
		return "", &problem{fmt.Sprintf("%q is no region", shorten(s)), "want one, such as eu-central-1"}
	}
	return s, nil
}

// parseEndpoint takes the URL of an S3 service. One slash at its end is taken
// off.
func parseEndpoint(s string) (string, *problem) {
	const want = "want http(s)://host[:port], such as https://s3.example.net, or leave the key out for AWS"
	u, err := url.Parse(s)
	bad := err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Opaque != "" || u.Host == "" || u.User != nil ||
		u.RawQuery != "" || u.ForceQuery || strings.Contains(s, "#") || !goodHost(u) || len(s) > 200
	if bad {
		return "", &problem{fmt.Sprintf("%q is no endpoint", withoutUser(u, s)), want}
	}
	p := strings.TrimSuffix(u.Path, "/")
	if p != "" && (u.RawPath != "" || !pathForm.MatchString(p+"/") || path.Clean(p) != p) {
		return "", &problem{fmt.Sprintf("%q has a path with empty, dotted or escaped parts", shorten(s)), want}
	}
	return u.Scheme + "://" + u.Host + p, nil
}

// withoutUser returns a URL for a message, without a password.
func withoutUser(u *url.URL, s string) string {
	if u != nil && u.User != nil {
		return "a URL with a user"
	}
	return shorten(s)
}

func parseEtcdEndpoint(s string) (string, *problem) {
	const want = "want http(s)://host:port, such as https://10.0.0.1:2379"
	v, p := parseEndpoint(s)
	if p != nil {
		p.want = want
		return "", p
	}
	if u, err := url.Parse(v); err != nil || u.Port() == "" || u.Path != "" {
		return "", &problem{fmt.Sprintf("%q has no port, or a path", shorten(s)), want}
	}
	return v, nil
}

func parseUsername(s string) (string, *problem) {
	if s == "" || len(s) > maxName || shorten(s) != s {
		return "", &problem{fmt.Sprintf("%q is no user", shorten(s)), "want the name of a user of etcd"}
	}
	return s, nil
}

// duration parses durations in a range, inclusive.
func duration(low, high time.Duration, such string) func(string) (time.Duration, *problem) {
	want := fmt.Sprintf("want a duration from %v to %v with its unit, such as %s", low, high, such)
	return func(s string) (time.Duration, *problem) {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, &problem{fmt.Sprintf("%q is no duration", shorten(s)), want}
		}
		if d < low || d > high {
			return 0, &problem{fmt.Sprintf("%s is out of range", shorten(s)), want}
		}
		return d, nil
	}
}

func parseRefresh(s string) (time.Duration, *problem) {
	if s == "0" {
		return 0, nil
	}
	d, p := duration(MinRefresh, MaxRefresh, "24h")(s)
	if p != nil {
		p.want = "want a duration from 1m to 168h with its unit, such as 24h, or 0 for never"
		if _, err := strconv.Atoi(s); err == nil {
			p.what = fmt.Sprintf("%s has no unit", shorten(s))
		}
	}
	return d, p
}

// reportAt takes a CCADB report: a URL or a file. Who can change it on its way
// could add roots, so plain http is for this machine alone.
func reportAt(dir string) func(string) (string, *problem) {
	const want = "want an https URL or a file"
	return func(s string) (string, *problem) {
		if !strings.Contains(s, "://") {
			return absolute(dir, s, want)
		}
		u, err := url.Parse(s)
		switch {
		case err != nil, u.Host == "", u.User != nil, !goodHost(u), len(s) > 2000, strings.ContainsAny(s, " \t\r\n"):
			return "", &problem{fmt.Sprintf("%q is no URL that can be read", withoutUser(u, s)), want}
		case u.Scheme == "https", u.Scheme == "http" && Loopback(u.Hostname()):
			return s, nil
		}
		return "", &problem{fmt.Sprintf("%q is no https URL", shorten(s)), want}
	}
}
