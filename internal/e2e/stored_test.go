package e2e_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"kiln/testlogs"
)

// keeper is a test whose folders stay when it fails.
type keeper struct{ *testing.T }

// TempDir implements [testlogs.TB].
func (k keeper) TempDir() string {
	k.Helper()
	dir, err := os.MkdirTemp("", "kiln-failed-")
	if err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() {
		if k.Failed() {
			k.Logf("what the processes wrote and printed is in %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			k.Error(err)
		}
	})
	return dir
}

// stored serves the objects of a log as they lie in its storage, as a CDN before
// that would, also while no process of the log runs. The S3 server is one that
// keeps objects as files.
type stored struct {
	root string
	http.Handler
}

func newStored(log *testlogs.Log) *stored {
	s := &stored{root: log.Conf.Storage}
	if log.S3 != nil {
		s.root = filepath.Join(filepath.Dir(log.ConfigPath), "s3", strings.TrimPrefix(log.Conf.Storage, "s3://"))
	}
	return s
}

// serve returns its URL, which is good until the test ends.
func (s *stored) serve(t *testing.T) string {
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL
}

// ServeHTTP implements http.Handler.
func (s *stored) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	body, err := os.ReadFile(filepath.Join(s.root, filepath.FromSlash(path)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		http.NotFound(w, r)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	contentType := "application/octet-stream"
	switch {
	case path == "checkpoint":
		contentType = "text/plain; charset=utf-8"
	case strings.HasPrefix(path, "issuer/"):
		contentType = "application/pkix-cert"
	case strings.HasPrefix(path, "tile/data/"):
		w.Header().Set("Content-Encoding", "gzip")
	}
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(body)
}

// sizes returns the size of the public tree, and the largest one that a bundle
// was staged for; -1 for none.
func (s *stored) sizes(t *testing.T) (public, staged int64) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(s.root, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(string(raw), "\n"); len(lines) > 1 {
		public, err = strconv.ParseInt(lines[1], 10, 64)
	}
	if err != nil {
		t.Fatal(err)
	}
	list, err := os.ReadDir(filepath.Join(s.root, "staging"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	staged = -1
	for _, e := range list {
		size, _, _ := strings.Cut(e.Name(), "-")
		if n, err := strconv.ParseInt(size, 10, 64); err == nil {
			staged = max(staged, n)
		}
	}
	return public, staged
}
