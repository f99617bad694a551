package daemon

import (
	"cmp"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// submissionBelow is what the paths of the submission API have in common below
// a log's prefix.
const submissionBelow = "ct/v1/"

// site is where a log is reached and what answers there.
type site struct {
	name                         string
	submissionURL, monitoringURL string
	submission, monitoring       http.Handler // get the path below the prefix, with its slash
}

// route is one prefix of one log.
type route struct {
	host   string // of the URL, with port if it has one, lower case
	prefix string // begins and ends with a slash
	site   *site

	// A log whose two URLs differ has two routes with one handler each.
	submission, monitoring http.Handler
}

// router finds the log of a request by its path, and by its Host only where
// logs share a path, so that a proxy or a test may reach it under any name. It
// is no http.ServeMux, since that answers unclean paths with redirects, which
// readers of logs do not follow (SUB-03, MON-20).
type router struct {
	routes []route // longest prefix first, equal prefixes together
	index  http.Handler
}

// newRouter serves the sites, and index at "/" if no site has it.
func newRouter(sites []site, index http.Handler) (*router, error) {
	rt := &router{index: index}
	for i := range sites {
		if err := rt.add(&sites[i]); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(rt.routes, func(a, b route) int {
		return cmp.Or(cmp.Compare(len(b.prefix), len(a.prefix)), strings.Compare(a.prefix, b.prefix))
	})
	return rt, nil
}

func (rt *router) add(s *site) error {
	sub, err := newRoute(s, s.submissionURL)
	if err != nil {
		return err
	}
	mon, err := newRoute(s, s.monitoringURL)
	if err != nil {
		return err
	}
	sub.submission, mon.monitoring = s.submission, s.monitoring
	add := []route{sub, mon}
	if sub.host == mon.host && sub.prefix == mon.prefix {
		sub.monitoring = s.monitoring
		add = []route{sub}
	}
	for _, r := range add {
		for _, old := range rt.routes {
			if old.host == r.host && old.prefix == r.prefix {
				return fmt.Errorf("logs %s and %s are both at %s%s: give each its own URL", old.site.name, s.name, r.host, r.prefix)
			}
		}
	}
	rt.routes = append(rt.routes, add...)
	return nil
}

func newRoute(s *site, rawURL string) (route, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return route{}, fmt.Errorf("log %s: parse URL: %w", s.name, err)
	}
	if !strings.HasSuffix(u.Path, "/") || u.RawPath != "" || u.Host == "" {
		return route{}, fmt.Errorf("log %s: URL %q: want a host and a plain path that ends in a slash", s.name, rawURL)
	}
	return route{host: strings.ToLower(u.Host), prefix: u.Path, site: s}, nil
}

// ServeHTTP implements http.Handler.
func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// No path of a log has a percent sign in it, so an escaped one is not
	// canonical. RawPath alone would not tell: it is empty for %41.
	path := r.URL.Path
	if escaped, _, _ := strings.Cut(r.RequestURI, "?"); strings.ContainsRune(escaped, '%') || !strings.HasPrefix(path, "/") {
		notFound(w, "no log has this path")
		return
	}
	handler, below := rt.find(path, strings.ToLower(r.Host))
	switch {
	case handler != nil:
		r2 := *r
		u := *r.URL
		u.Path = below
		r2.URL = &u
		handler.ServeHTTP(w, &r2)
	case path == "/":
		rt.index.ServeHTTP(w, r)
	default:
		notFound(w, "no log has this path")
	}
}

// find returns the handler for a path and the rest of the path.
func (rt *router) find(path, host string) (handler http.Handler, below string) {
	for start := 0; start < len(rt.routes); {
		prefix := rt.routes[start].prefix
		end := start + 1
		for end < len(rt.routes) && rt.routes[end].prefix == prefix {
			end++
		}
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			if h := choose(rt.routes[start:end], rest, host); h != nil {
				return h, "/" + rest
			}
		}
		start = end
	}
	return nil, ""
}

// choose picks among the routes with one prefix: the only one that serves what
// is asked, or the one whose host is asked.
func choose(routes []route, rest, host string) http.Handler {
	var found []http.Handler
	for _, r := range routes {
		h := r.handler(rest)
		if h == nil {
			continue
		}
		if r.host == host {
			return h
		}
		found = append(found, h)
	}
	if len(found) == 1 {
		return found[0]
	}
	// A client that names another port still names the host.
	var match http.Handler
	for _, r := range routes {
		if h := r.handler(rest); h != nil && hostname(r.host) == hostname(host) {
			if match != nil {
				return nil
			}
			match = h
		}
	}
	return match
}

// handler returns what serves a path below the route's prefix, or nil.
func (r *route) handler(rest string) http.Handler {
	switch {
	case strings.HasPrefix(rest, submissionBelow):
		return r.submission
	case rest == "log.v3.json" && r.monitoring == nil:
		return r.site.monitoring // the metadata is under both prefixes (MON-25)
	default:
		return r.monitoring
	}
}

func hostname(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return hostport
}

// notFound writes the plain 404 of the public port.
func notFound(w http.ResponseWriter, why string) { plainError(w, http.StatusNotFound, why) }

// plainError writes an error body as the HTTP matrix of the specification has
// them: one sentence, readable by scripts of any page, never cached.
func plainError(w http.ResponseWriter, status int, why string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, why)
}
