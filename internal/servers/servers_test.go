package servers_test

import (
	"net/http"
	"testing"

	"kiln/internal/servers"
)

// answers reports whether a URL is answered at all.
func answers(t *testing.T, url string) bool {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

// cycle kills a running server, starts it again and stops it.
func cycle(t *testing.T, s *servers.Server, url string) {
	t.Helper()
	if !answers(t, url) {
		t.Fatal("it does not answer after Start")
	}
	if err := s.Start(t.Context()); err == nil {
		t.Error("it was started twice")
	}
	exited := s.Exited()
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	<-exited
	if answers(t, url) {
		t.Error("it answers after Kill")
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !answers(t, url) {
		t.Error("it does not answer after the second Start")
	}
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if answers(t, url) {
		t.Error("it answers after Stop")
	}
}

func build(t *testing.T, name string) string {
	t.Helper()
	path, err := servers.BuildTool(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestS3(t *testing.T) {
	t.Parallel()
	s, err := servers.StartS3(t.Context(), servers.S3Config{Binary: build(t, "versitygw"), Dir: t.TempDir(), Buckets: []string{"logs"}})
	if err != nil {
		t.Fatal(err)
	}
	cycle(t, s.Server, s.Endpoint+"/healthz")
}

func TestEtcd(t *testing.T) {
	t.Parallel()
	s, err := servers.StartEtcd(t.Context(), servers.EtcdConfig{Binary: build(t, "etcd"), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	cycle(t, s.Server, s.Endpoint+"/health")
}

// TestNotAServer shows that a program that ends at once is told, with what it
// said, rather than waited for.
func TestNotAServer(t *testing.T) {
	t.Parallel()
	if _, err := servers.StartS3(t.Context(), servers.S3Config{Binary: "/bin/false", Dir: t.TempDir()}); err == nil {
		t.Error("false is a server")
	}
	if _, err := servers.BuildTool(t.Context(), "false"); err == nil {
		t.Error("false was built")
	}
}
