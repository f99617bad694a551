package config

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The YAML types of the scalars. A time is written without quotes or with.
var (
	isText = []string{"!!str"}
	isTime = []string{"!!timestamp", "!!str"}
	isInt  = []string{"!!int"}
	isBool = []string{"!!bool"}
)

var (
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$`)
	pathForm = regexp.MustCompile(`^/([A-Za-z0-9._~-]+/)*$`)
	hostForm = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
)

// maxName bounds the length of a log's name, in bytes.
const maxName = 64

func parseName(s string) (string, *problem) {
	if len(s) > maxName || !nameForm.MatchString(s) {
		return "", &problem{
			fmt.Sprintf("%q is no name", shorten(s)),
			fmt.Sprintf(`want 1 to %d of a-z 0-9 - _, such as example2026h2`, maxName),
		}
	}
	return s, nil
}

// parseTime takes RFC 3339 in UTC at whole seconds, the resolution of NotAfter.
func parseTime(s string) (time.Time, *problem) {
	const want = "want RFC 3339 in UTC at a whole second, such as 2026-07-01T00:00:00Z"
	t, err := time.Parse(time.RFC3339, s)
	switch {
	case err != nil:
		return time.Time{}, &problem{fmt.Sprintf("%q is no time", shorten(s)), want}
	case !strings.HasSuffix(s, "Z"):
		return time.Time{}, &problem{fmt.Sprintf("%q is not in UTC", shorten(s)), want}
	case t.Nanosecond() != 0 || strings.ContainsAny(s, ".,"):
		return time.Time{}, &problem{fmt.Sprintf("%q is not at a whole second", shorten(s)), want}
	}
	return t, nil
}

func parsePeriod(s string) (time.Duration, *problem) {
	want := fmt.Sprintf("want a duration from %v to %v with its unit, such as 100ms", MinPeriod, MaxPeriod)
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, &problem{fmt.Sprintf("%q is no duration", shorten(s)), want}
	}
	if d < MinPeriod || d > MaxPeriod {
		return 0, &problem{fmt.Sprintf("%s is out of range", shorten(s)), want}
	}
	return d, nil
}

// between parses whole numbers in a range, inclusive.
func between(low, high int) func(string) (int, *problem) {
	want := fmt.Sprintf("want a whole number from %d to %d", low, high)
	return func(s string) (int, *problem) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return 0, &problem{fmt.Sprintf("%q is no whole number", shorten(s)), want}
		}
		if n < low || n > high {
			return 0, &problem{fmt.Sprintf("%d is out of range", n), want}
		}
		return n, nil
	}
}

func parseBool(s string) (bool, *problem) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, &problem{fmt.Sprintf("%q is neither true nor false", shorten(s)), "want true or false"}
}

func parseLevel(s string) (slog.Level, *problem) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, &problem{fmt.Sprintf("%q is no level", shorten(s)), "want debug, info, warn or error"}
}

// parseUse reads an intended use.
func parseUse(s string) (string, *problem) {
	if s != UseProduction && s != UseTest {
		return "", &problem{fmt.Sprintf("%q is no intended use", shorten(s)), "want production or test"}
	}
	return s, nil
}

func parseFormat(s string) (string, *problem) {
	if s != "text" && s != "json" {
		return "", &problem{fmt.Sprintf("%q is no format", shorten(s)), "want text or json"}
	}
	return s, nil
}

// parseAddr takes host:port of a listener. The host is empty (all interfaces),
// an IP address or a name; the port is a number, 0 for any free one.
func parseAddr(s string) (string, *problem) {
	const want = "want host:port, such as 127.0.0.1:6962 or :443"
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", &problem{fmt.Sprintf("%q is no address", shorten(s)), want}
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", &problem{fmt.Sprintf("%q has no port from 0 to 65535", shorten(s)), want}
	}
	if host != "" && net.ParseIP(host) == nil && !hostForm.MatchString(strings.ToLower(host)) {
		return "", &problem{fmt.Sprintf("%q has a host that is neither a name nor an IP address", shorten(s)), want}
	}
	return s, nil
}

// parsePrefix takes a submission or monitoring prefix. It is strict about what
// could be spelled in two ways, since the origin is made from the spelling.
func parsePrefix(s string) (*url.URL, *problem) {
	const want = "want http(s)://host[:port]/path/ with a slash at its end, such as https://log.example.org/2026h2/"
	bad := func(why string) (*url.URL, *problem) {
		return nil, &problem{fmt.Sprintf("%q %s", shorten(s), why), want}
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return bad("is no URL")
	case u.Scheme != "http" && u.Scheme != "https", u.Opaque != "", u.Host == "":
		return bad("is no http or https URL")
	case u.User != nil:
		return bad("names a user")
	case u.RawQuery != "" || u.ForceQuery:
		return bad("has a query")
	case strings.Contains(s, "#"):
		return bad("has a fragment")
	case !strings.HasSuffix(u.Path, "/"):
		return bad("has no slash at its end")
	case !pathForm.MatchString(u.Path) || u.RawPath != "" || path.Clean(u.Path)+"/" != u.Path && u.Path != "/":
		return bad("has a path with empty, dotted or escaped parts")
	case !goodHost(u):
		return bad("has a bad host or port")
	case len(s) > 200:
		return bad("is longer than 200 bytes")
	}
	return u, nil
}

func goodHost(u *url.URL) bool {
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return false
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return false
	}
	if ip := net.ParseIP(u.Hostname()); ip != nil {
		return true
	}
	return hostForm.MatchString(u.Hostname())
}

// parseACMEHost takes a name that an authority can certify.
func parseACMEHost(s string) (string, *problem) {
	if !hostForm.MatchString(s) || !strings.Contains(s, ".") || net.ParseIP(s) != nil || len(s) > 253 {
		return "", &problem{fmt.Sprintf("%q is no DNS name", shorten(s)), "want a full name in lower case, such as log.example.org"}
	}
	return s, nil
}

func parseEmail(s string) (string, *problem) {
	if local, domain, ok := strings.Cut(s, "@"); !ok || local == "" || domain == "" || strings.ContainsAny(s, " <>,") {
		return "", &problem{fmt.Sprintf("%q is no e-mail address", shorten(s)), "want one, such as ct@example.org"}
	}
	return s, nil
}

func parseDirectoryURL(s string) (string, *problem) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" {
		return "", &problem{fmt.Sprintf("%q is no https URL", shorten(s)), "want the authority's ACME directory, or leave the key out for Let's Encrypt"}
	}
	return s, nil
}

// parseFile takes the path of a file or directory.
func parseFile(s string) (string, *problem) {
	switch {
	case s == "":
		return "", &problem{"is empty", "want a path"}
	case strings.Contains(s, "://"):
		return "", &problem{fmt.Sprintf("%q is a URL", shorten(s)), "want a path in the file system"}
	case strings.ContainsRune(s, 0):
		return "", &problem{fmt.Sprintf("%q holds a zero byte", shorten(s)), "want a path"}
	}
	return s, nil
}
