package roots

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Bounds of one report.
const (
	// MaxReport bounds a report, in bytes; those of CCADB have about 1 MB.
	MaxReport = 32 << 20

	// DefaultFetchTimeout bounds the reading of one report, whatever goes wrong.
	DefaultFetchTimeout = time.Minute

	maxRedirects  = 5
	maxReportName = 100 // bytes
)

// CheckSource returns an error if a report cannot be read from there: want an
// https URL, http on loopback, file:, or the path of a file.
func CheckSource(source string) error {
	if source == "" {
		return errors.New("a report has an empty name: want an https URL or the path of a file")
	}
	u, ok := asURL(source)
	if !ok {
		return nil
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && u.Path != "":
		return nil
	case u.Host != "" && (u.Scheme == "https" || u.Scheme == "http" && isLoopback(u)):
		return nil
	}
	return fmt.Errorf("no report is read from %s: want https (http only on loopback), or the path of a file", u.Redacted())
}

// asURL tells URLs from paths.
func asURL(source string) (*url.URL, bool) {
	scheme, _, found := strings.Cut(source, ":")
	if !found || scheme != "file" && !strings.Contains(source, "://") {
		return nil, false
	}
	u, err := url.Parse(source)
	if err != nil {
		return &url.URL{Scheme: scheme, Path: "(unreadable)"}, true
	}
	return u, true
}

func isLoopback(u *url.URL) bool {
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// reportName is what a report is called in the roots file: the last element of
// its path, without .csv, in letters, digits and - . _ so that it can stand in a
// comment and be the name of a file.
func reportName(source string) string {
	name := source
	if u, ok := asURL(source); ok {
		name = u.Path
	}
	name = strings.TrimSuffix(path.Base(name), ".csv")
	name = strings.Map(func(r rune) rune {
		if !inReportName(r) {
			return '-'
		}
		return r
	}, name)
	if name = strings.TrimLeft(name, "."); name == "" {
		return "report"
	}
	return name[:min(len(name), maxReportName)]
}

func inReportName(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.'
}

// read returns the bytes of a report, all of them or an error.
func (m *Manager) read(ctx context.Context, source string) ([]byte, error) {
	if err := CheckSource(source); err != nil {
		return nil, err
	}
	u, ok := asURL(source)
	if !ok {
		return readFile(source, MaxReport)
	}
	if u.Scheme == "file" {
		return readFile(u.Path, MaxReport)
	}
	return m.download(ctx, u)
}

func (m *Manager) download(ctx context.Context, u *url.URL) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "kiln")
	req.Header.Set("Accept", "text/csv, */*;q=0.5")
	resp, err := strict(m.cfg.Client).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answers %s", resp.Status)
	}
	if resp.ContentLength > MaxReport {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxReport)
	}
	data, err := readAll(watched{resp.Body, m.cfg.Progress}, MaxReport)
	if err != nil {
		return nil, fmt.Errorf("read the body: %w", err)
	}
	return data, nil
}

// watched tells how many bytes have come.
type watched struct {
	io.Reader
	came func(n int)
}

func (w watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.came != nil {
		w.came(n)
	}
	return n, err
}

// strict returns a client that follows redirects only to where a report may come
// from, and never from https to http.
func strict(client *http.Client) *http.Client {
	if client == nil {
		client = http.DefaultClient
	}
	c := *client
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		switch {
		case len(via) > maxRedirects:
			return fmt.Errorf("more than %d redirects", maxRedirects)
		case req.URL.Scheme == "https":
			return nil
		case req.URL.Scheme == "http" && isLoopback(req.URL) && via[0].URL.Scheme == "http":
			return nil
		}
		return fmt.Errorf("a redirect to %s is not followed: want https", req.URL.Redacted())
	}
	return &c
}

// Fetch reads all reports, and holds each to what it listed before. A report
// that is not to be followed has an error in its place.
func (m *Manager) Fetch(ctx context.Context, s *State) []Fetched {
	all := make([]Fetched, len(m.cfg.Reports))
	for i, source := range m.cfg.Reports {
		all[i] = m.fetch(ctx, s, m.names[i], source)
	}
	return all
}

// Fetched is a report as it was read.
type Fetched struct {
	Name   string  // what it is called in the roots file
	From   string  // URL or path
	Data   []byte  // as read, nil if it was not
	Report *Report // nil if it is none
	Err    error   // why it is not followed
}

func (m *Manager) fetch(ctx context.Context, s *State, name, source string) Fetched {
	f := Fetched{Name: name, From: source}
	if m.cfg.Cached {
		f.From = m.cachePath(name)
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.FetchTimeout)
	defer cancel()
	if f.Data, f.Err = m.read(ctx, f.From); f.Err != nil {
		f.Err = fmt.Errorf("read report %s: %w", f.From, f.Err)
		return f
	}
	var err error
	f.Report, err = ParseReport(f.Data)
	if err == nil && !m.cfg.AcceptShrunk {
		err = f.Report.shrunk(name, s.Set)
	}
	if err != nil {
		f.Err = fmt.Errorf("report %s: %w", f.From, err)
	}
	return f
}

func (m *Manager) cachePath(name string) string {
	return filepath.Join(m.cfg.File+CacheSuffix, name+".csv")
}

// KeepReports writes the reports that are to be followed into the folder beside
// the roots file that Cached reads from, and returns their paths. What is there
// of others stays.
func (m *Manager) KeepReports(fetched []Fetched) (paths []string, err error) {
	if err := makeFolder(m.cfg.File + CacheSuffix); err != nil {
		return nil, fmt.Errorf("keep reports: %w", err)
	}
	for _, f := range fetched {
		if f.Err != nil {
			continue
		}
		path := m.cachePath(f.Name)
		if err := replace(path, f.Data); err != nil {
			return paths, fmt.Errorf("keep report %s: %w", path, err)
		}
		paths = append(paths, path)
	}
	return paths, nil
}
