package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFile is the largest configuration file that is read, in bytes.
const maxFile = 1 << 20

// Load reads a configuration file and checks it and every file it names; of a
// shard of a series, which may be yet to be created, those that are there. The
// shards follow the calendar: now says which half-year it is. If anything is
// wrong it returns no Config and [Faults] with all of it; if the file itself
// cannot be read, that error.
func Load(path string, now time.Time) (*Config, error) {
	data, dir, err := readFile(path)
	if err != nil {
		return nil, err
	}
	r, c := parse(path, data, dir, now)
	r.checkFiles(c)
	if err := r.faults.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// Read is Load without the files that the configuration names: for commands that
// look after those, or bring them back.
func Read(path string, now time.Time) (*Config, error) {
	data, dir, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data, dir, now)
}

// Parse checks the content of a configuration file, but touches no file that it
// names. Faults call it name; relative paths in it start from dir, which has to
// be absolute for the paths to come out so. Series have shards by now, as in Load.
func Parse(name string, data []byte, dir string, now time.Time) (*Config, error) {
	r, c := parse(name, data, dir, now)
	if err := r.faults.err(); err != nil {
		return nil, err
	}
	return c, nil
}

func readFile(path string) (data []byte, dir string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("read configuration: %w (-c names another file; kiln init makes one, kiln help config shows what it may hold)", err)
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, "", fmt.Errorf("read configuration %s: %w", path, err)
	}
	if len(data) > maxFile {
		return nil, "", fmt.Errorf("read configuration %s: file is larger than %d bytes", path, maxFile)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, "", fmt.Errorf("read configuration %s: %w", path, err)
	}
	return data, filepath.Dir(abs), nil
}

// parse returns what could be read, with faults in the reader for the rest.
func parse(name string, data []byte, dir string, now time.Time) (*reader, *Config) {
	r := &reader{faults: faultList{file: name}, lines: make(map[string]int), told: make(map[string]bool)}
	c := &Config{
		Path: name, Dir: dir,
		Listen: DefaultListen, Admin: DefaultAdmin,
		Logging:        Logging{Format: "text"},
		MaxConnections: DefaultMaxConnections,
		Roots:          Roots{Refresh: DefaultRefresh},
	}
	root := r.document(data)
	if root == nil {
		return r, c
	}
	s := r.section(root, "")
	if s == nil {
		return r, c
	}
	read(s, "listen", &c.Listen, parseAddr, isText...)
	read(s, "admin", &c.Admin, parseAddr, isText...)
	read(s, "insecure_http", &c.InsecureHTTP, parseBool, isBool...)
	read(s, "max_connections", &c.MaxConnections, between(MinMaxConnections, MaxMaxConnections), isInt...)
	if n := s.take("tls"); n != nil {
		c.TLS = r.tls(n, dir)
	}
	if n := s.take("logging"); n != nil {
		r.logging(n, &c.Logging)
	}
	r.allLogs(s, c, now)
	if n := s.take("s3"); n != nil {
		c.S3 = r.s3(n, dir)
	}
	if n := s.take("etcd"); n != nil {
		c.Etcd = r.etcd(n, dir)
	}
	if n := s.take("roots"); n != nil {
		r.roots(n, dir, &c.Roots)
	}
	s.done()

	r.checkListeners(c)
	r.checkPlainHTTP(c)
	r.checkNames(c.Logs)
	r.checkPrefixes(c.Logs)
	r.checkPaths(c)
	r.checkSeries(c.Logs)
	r.checkRemote(c)
	r.checkServices(c)
	return r, c
}

var (
	syntaxError  = regexp.MustCompile(`^yaml: line ([0-9]+): (.*)$`)
	unknownAlias = regexp.MustCompile(`^yaml: unknown anchor '([^']*)' referenced$`)
)

// document parses the YAML of the one document in data.
func (r *reader) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, more yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		r.faults.add(0, "", "the file is empty", "want at least logs: with one log; kiln help config shows all keys")
		return nil
	case err != nil:
		r.syntax(err, data)
		return nil
	}
	switch err := dec.Decode(&more); {
	case err == nil:
		r.faults.add(more.Line, "", "a second YAML document begins here", "want one")
	case !errors.Is(err, io.EOF):
		r.syntax(err, data)
	}
	if len(doc.Content) != 1 {
		r.faults.add(doc.Line, "", "the document is empty", "want at least logs: with one log")
		return nil
	}
	return doc.Content[0]
}

// syntax reports an error of the YAML parser, which has the line in its text,
// except when that is the first, or when an alias is at fault.
func (r *reader) syntax(err error, data []byte) {
	line, what := 1, err.Error()
	if m := syntaxError.FindStringSubmatch(what); m != nil {
		line, _ = strconv.Atoi(m[1])
		what = "yaml: " + m[2]
	} else if m := unknownAlias.FindStringSubmatch(what); m != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+m[1]))
		line += bytes.Count(before, []byte("\n"))
	}
	r.faults.add(line, "", shorten(what), "nothing after this was read")
}

func (r *reader) tls(n *yaml.Node, dir string) *TLS {
	t := new(TLS)
	s := r.section(n, "tls")
	if s == nil {
		return nil
	}
	cert := s.file("cert_file", dir, &t.CertFile, "")
	key := s.file("key_file", dir, &t.KeyFile, "")
	acme := s.take("acme")
	if acme != nil {
		t.ACME = r.acme(acme, dir)
	}
	s.done()
	switch {
	case acme != nil && (cert || key):
		s.fault("acme", &problem{"stands beside cert_file or key_file", "want either acme, or cert_file and key_file"})
	case acme == nil && !cert && !key:
		r.faults.add(s.line, "tls", "names no certificate", "want cert_file and key_file, or acme")
	case cert && !key:
		s.missing("key_file", "want the private key of cert_file")
	case key && !cert:
		s.missing("cert_file", "want the certificate of key_file")
	}
	return t
}

func (r *reader) acme(n *yaml.Node, dir string) *ACME {
	s := r.section(n, "tls.acme")
	if s == nil {
		return nil
	}
	a := new(ACME)
	a.Hosts = s.strings("hosts", parseACMEHost)
	if n := s.values["hosts"]; n == nil || n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		s.missing("hosts", "want the DNS names to obtain certificates for, such as [log.example.org]")
	}
	read(s, "email", &a.Email, parseEmail, isText...)
	s.file("cache_dir", dir, &a.CacheDir, "want a directory that keeps account key and certificates")
	read(s, "directory_url", &a.DirectoryURL, parseDirectoryURL, isText...)
	s.done()
	return a
}

func (r *reader) logging(n *yaml.Node, l *Logging) {
	if s := r.section(n, "logging"); s != nil {
		read(s, "level", &l.Level, parseLevel, isText...)
		read(s, "format", &l.Format, parseFormat, isText...)
		s.done()
	}
}

// file reads a path and makes it absolute. A want that is not empty makes the
// key required. It reports whether the key is there.
func (s *section) file(key, dir string, dst *string, want string) bool {
	if want != "" {
		need(s, key, want, dst, fileAt(dir), isText...)
	} else {
		read(s, key, dst, fileAt(dir), isText...)
	}
	_, there := s.values[key]
	return there
}
