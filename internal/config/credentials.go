package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Credentials are what requests to S3 are signed with. Printing or logging them
// shows nothing of them.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string // may be empty
}

// Format hides the credentials, whatever the verb.
func (Credentials) Format(w fmt.State, _ rune) { io.WriteString(w, "(credentials)") }

// LogValue hides the credentials.
func (Credentials) LogValue() slog.Value { return slog.StringValue("(credentials)") }

// LoadCredentials reads a credentials_file: strict YAML, closed to other users.
// No error of it says anything of what the values are.
func LoadCredentials(path string) (Credentials, error) {
	c, p := loadCredentials(path)
	return c, p.err()
}

// LoadPassword reads a password_file, closed to other users. Line ends at its
// end are taken off.
func LoadPassword(path string) (string, error) {
	s, p := loadPassword(path)
	return s, p.err()
}

// err returns the problem as an error, or nil if there is none.
func (p *problem) err() error {
	if p == nil {
		return nil
	}
	if p.want == "" {
		return errors.New(p.what)
	}
	return errors.New(p.what + "; " + p.want)
}

// plainKey is a key that may be shown: one that is no secret put in the wrong
// place.
var plainKey = regexp.MustCompile(`^[a-z][a-z_-]{1,31}$`)

const wantCredentials = "want YAML with access_key_id and secret_access_key, and session_token if there is one"

func loadCredentials(path string) (c Credentials, p *problem) {
	data, p := readPEM(path, wantCredentials)
	if p == nil {
		p = private(path)
	}
	if p != nil {
		return c, p
	}
	return parseCredentials(path, data)
}

// parseCredentials reads the content of a credentials file.
func parseCredentials(path string, data []byte) (c Credentials, p *problem) {
	const want = wantCredentials
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return c, &problem{path + " is no YAML with keys and values", want}
	}
	quiet := &reader{faults: faultList{file: path}, lines: make(map[string]int)}
	s := quiet.section(doc.Content[0], "")
	bad := func(format string, args ...any) (Credentials, *problem) {
		return Credentials{}, &problem{path + ": " + fmt.Sprintf(format, args...), want}
	}
	if s == nil || quiet.faults.err() != nil {
		return bad("has a key that stands twice, or is no word")
	}
	for _, v := range []struct {
		key  string
		node *yaml.Node
		dst  *string
		need bool
	}{
		{"access_key_id", s.take("access_key_id"), &c.AccessKeyID, true},
		{"secret_access_key", s.take("secret_access_key"), &c.SecretAccessKey, true},
		{"session_token", s.take("session_token"), &c.SessionToken, false},
	} {
		switch {
		case v.node == nil && v.need:
			return bad("%s is missing", v.key)
		case v.node == nil:
			continue
		case v.node.Kind != yaml.ScalarNode || v.node.Value == "" || strings.ContainsAny(v.node.Value, " \t\r\n"):
			return bad("%s is no text without spaces", v.key)
		case v.node.Tag != "!!str":
			return bad("%s is no text: put it in quotes", v.key)
		}
		*v.dst = v.node.Value
	}
	for _, k := range s.order {
		if _, known := s.values[k.Value]; known && !slices.Contains(s.known, k.Value) {
			if plainKey.MatchString(k.Value) {
				return bad("line %d: unknown key %s", k.Line, k.Value)
			}
			return bad("line %d: unknown key", k.Line)
		}
	}
	return c, nil
}

func loadPassword(path string) (string, *problem) {
	const want = "want a file with the password in its one line"
	data, p := readPEM(path, want)
	if p == nil {
		p = private(path)
	}
	if p != nil {
		return "", p
	}
	s := strings.TrimRight(string(data), "\r\n")
	if s == "" || len(s) > 1024 || strings.ContainsAny(s, "\r\n\x00") {
		return "", &problem{path + " is empty, or has more than a line", want}
	}
	return s, nil
}

// checkCA reports a file that holds no certificates of authorities.
func checkCA(path string) *problem {
	const want = "want the PEM of the authorities to trust"
	data, p := readPEM(path, want)
	if p == nil && !x509.NewCertPool().AppendCertsFromPEM(data) {
		p = &problem{path + " holds no certificate", want}
	}
	return p
}

// checkServiceFiles reports files of the sections s3, etcd and roots that cannot
// be used.
func (r *reader) checkServiceFiles(c *Config) {
	report := func(key, path string, check func(string) *problem) bool {
		if path == "" {
			return false
		}
		p := check(path)
		if p != nil {
			r.faults.add(r.lines[key], key, p.what, p.want)
		}
		return p == nil
	}
	if c.S3 != nil {
		report("s3.ca_file", c.S3.CAFile, checkCA)
		report("s3.credentials_file", c.S3.CredentialsFile, func(path string) *problem { _, p := loadCredentials(path); return p })
	}
	if e := c.Etcd; e != nil {
		report("etcd.ca_file", e.CAFile, checkCA)
		report("etcd.password_file", e.PasswordFile, func(path string) *problem { _, p := loadPassword(path); return p })
		if report("etcd.key_file", e.KeyFile, private) && e.CertFile != "" {
			report("etcd.cert_file", e.CertFile, func(path string) *problem {
				if _, err := tls.LoadX509KeyPair(path, e.KeyFile); err != nil {
					return &problem{fmt.Sprintf("%s and %s cannot be used: %v", path, e.KeyFile, err), "want a PEM certificate and its private key"}
				}
				return nil
			})
		}
	}
	report("roots.extra_file", c.Roots.ExtraFile, checkRoots)
	report("roots.refused_file", c.Roots.RefusedFile, func(path string) *problem {
		_, p := readPEM(path, "want the roots never to accept")
		return p
	})
}
