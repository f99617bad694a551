package etcd

import (
	"net/url"
	"strings"
	"testing"

	"kiln/internal/fuzztest"
)

// FuzzEndpoints takes any text as an address of etcd: what is taken names a host,
// and one kind of connection for all.
func FuzzEndpoints(f *testing.F) {
	for _, s := range []string{"https://10.0.0.1:2379", "http://a", "a:1", "", "https://a/x", "https://a?x", "https:///", "ftp://a", "unix:///x", "https://a:x"} {
		f.Add(s, "https://b:1", "kiln/")
	}
	f.Add("http://a:1", "http://b:1", "")
	f.Add("http://a:1", "http://b:1", "///")
	f.Fuzz(func(t *testing.T, a, b, prefix string) {
		c := Config{Endpoints: []string{a, b}, Prefix: prefix}
		if err := c.check(); err != nil {
			fuzztest.Sentence(t, err)
			return
		}
		if c.Prefix == "" || strings.HasSuffix(c.Prefix, "/") || c.Timeout <= 0 || c.Logger == nil {
			t.Fatalf("%+v", c)
		}
		x, errX := url.Parse(a)
		y, errY := url.Parse(b)
		if errX != nil || errY != nil || x.Host == "" || y.Host == "" || x.Scheme != y.Scheme || x.RawQuery+y.RawQuery != "" {
			t.Fatalf("%q and %q were taken", a, b)
		}
	})
}
