package attacks_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"kiln/testlogs"
)

const (
	hostSize     = 304 // entries: one full tile, and 48 in the next
	metadataPath = "log.v3.json"
	monitoring   = "/monitoring/"
	gigabytes    = 3 << 30 // what bombs decode to
)

// raid is one hostile answer, for all objects whose path begins like this.
type raid struct {
	name, path string
	answer     func(w http.ResponseWriter, r *http.Request)
	file       func() (head []byte, size int64) // what a folder has instead: the head, then a hole
	not        []string                         // commands that do not read it
	short      bool                             // part of the ordinary tests
}

func (r *raid) reaches(command string) bool {
	return !slices.Contains(r.not, command) && (r.file != nil || command != "fsck folder")
}

// title names the raid on one command, for the attack flag.
func (r *raid) title(command string) string { return "foreign storage: " + r.name + ": " + command }

// raids are those that there are.
var raids = []raid{
	packed("data tile of 16 MiB certificates", "tile/data/000", dataBomb, true),
	packed("data tile of zeros", "tile/data/000", zeroBomb, false),
	packed("partial data tile", "tile/data/001.p/48", dataBomb, true),
	packed("names tile of one line", "tile/names/000", lineBomb, false, "restore"),
	packed("names tile of empty lines", "tile/names/000", newlineBomb, false, "restore"),
	packed("partial names tile", "tile/names/001.p/48", lineBomb, false, "restore"),
	huge("huge checkpoint", "checkpoint"),
	huge("huge hash tile", "tile/0/000"),
	huge("huge data tile, plain", "tile/data/000"),
	huge("huge partial data tile, plain", "tile/data/001.p/48"),
	huge("huge issuer", "issuer/"),
	huge("huge log.v3.json", metadataPath, "watch", "restore"),
	{name: "endless checkpoint", path: "checkpoint", answer: forever, short: true},
	{name: "endless hash tile", path: "tile/0/000", answer: forever},
	{name: "endless data tile", path: "tile/data/000", answer: forever},
	{name: "endless issuer", path: "issuer/", answer: forever},
	{name: "endless log.v3.json", path: metadataPath, answer: forever, not: []string{"restore"}},
	{name: "endless redirects", path: "checkpoint", answer: redirects},
	{name: "endless redirects of tiles", path: "tile/data/000", answer: redirects},
	{name: "a TiB announced", path: "tile/data/000", answer: announced(1 << 40)},
	{name: "900 MiB announced", path: "tile/data/000", answer: announced(900 << 20)},
	{name: "endless headers", path: "checkpoint", answer: headers},
}

// packed is an object that gzip makes small.
func packed(name, path string, bomb func() []byte, short bool, not ...string) raid {
	return raid{
		name: "bomb: " + name, path: path, short: short, not: not,
		answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Length", strconv.Itoa(len(bomb())))
			_, _ = w.Write(bomb())
		},
		file: func() ([]byte, int64) { return bomb(), int64(len(bomb())) },
	}
}

// huge is an object of gigabytes, of an announced length.
func huge(name, path string, not ...string) raid {
	return raid{
		name: name, path: path, not: not, answer: announced(gigabytes),
		file: func() ([]byte, int64) { return nil, gigabytes },
	}
}

func announced(size int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		forever(w, r)
	}
}

func forever(w http.ResponseWriter, r *http.Request) {
	chunk := make([]byte, 64<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func redirects(w http.ResponseWriter, r *http.Request) {
	n, _ := strconv.Atoi(r.URL.Query().Get("n"))
	http.Redirect(w, r, fmt.Sprintf("%s?n=%d", r.URL.Path, n+1), http.StatusTemporaryRedirect)
}

// headers answers with a head without end.
func headers(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
	for line := []byte(strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 64)); err == nil; {
		_, err = conn.Write(line)
	}
}

// The bombs, each made once.
var (
	dataBomb = sync.OnceValue(func() []byte {
		// One leaf after the other, each as large as its certificate can be.
		leaf := append(make([]byte, 10), 0xff, 0xff, 0xff)
		leaf = append(leaf, make([]byte, 1<<24-1+2+2)...)
		return bomb(leaf)
	})
	zeroBomb    = sync.OnceValue(func() []byte { return bomb(make([]byte, 16<<20)) })
	lineBomb    = sync.OnceValue(func() []byte { return bomb(bytes.Repeat([]byte{' '}, 16<<20)) })
	newlineBomb = sync.OnceValue(func() []byte { return bomb(bytes.Repeat([]byte("{}\n"), 5<<20)) })
)

// bomb is a gzip member that is right in every way and decodes to a piece again
// and again.
func bomb(piece []byte) []byte {
	var deflated bytes.Buffer
	w, err := flate.NewWriter(&deflated, flate.BestCompression)
	if err == nil {
		_, err = w.Write(piece)
	}
	if err == nil {
		err = w.Flush() // ends on a byte, so it can be repeated
	}
	if err != nil {
		panic(err)
	}
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	sum, size := uint32(0), 0
	for size+len(piece) < gigabytes {
		out = append(out, deflated.Bytes()...)
		sum = crc32.Update(sum, crc32.IEEETable, piece)
		size += len(piece)
	}
	out = append(out, 3, 0) // an empty last block
	out = binary.LittleEndian.AppendUint32(out, sum)
	return binary.LittleEndian.AppendUint32(out, uint32(size))
}

// host has a log's storage and serves it, but for what a raid puts in place of it.
type host struct {
	log    *testlogs.Log
	folder string // where the storage is
	url    string // of S3, and below monitoring of the monitoring API
	key    string // file of the log's public key
	s3     http.Handler
	raid   atomic.Pointer[raid] // nil: honest; set between commands, read by the server
}

// serve starts the host in front of an S3 server and returns its URL.
func (h *host) serve(t *testing.T, endpoint string) string {
	t.Helper()
	target, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	h.s3 = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	h.url = s.URL
	return s.URL
}

// ServeHTTP implements [http.Handler].
func (h *host) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, monitor := strings.CutPrefix(r.URL.Path, monitoring)
	bucket := false
	if !monitor {
		path, bucket = strings.CutPrefix(r.URL.Path, "/kiln-test/"+"test/")
	}
	raid := h.raid.Load()
	hostile := raid != nil && r.Method == http.MethodGet && (monitor || bucket) && strings.HasPrefix(path, raid.path)
	if !monitor {
		if hostile {
			raid.answer(w, r)
		} else {
			h.s3.ServeHTTP(w, r)
		}
		return
	}
	switch {
	case path == "checkpoint":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	case path == metadataPath:
		w.Header().Set("Content-Type", "application/json")
	case strings.HasPrefix(path, "issuer/"):
		w.Header().Set("Content-Type", "application/pkix-cert")
	case strings.HasPrefix(path, "tile/names/"):
		w.Header().Set("Content-Type", "application/jsonl; charset=utf-8")
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
	}
	if hostile {
		raid.answer(w, r)
		return
	}
	body, err := os.ReadFile(filepath.Join(h.folder, filepath.FromSlash(path)))
	if err != nil {
		http.NotFound(w, r)
		return
	}
	if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		w.Header().Set("Content-Encoding", "gzip")
	}
	_, _ = w.Write(body)
}

// copy makes a folder of the storage, with what the raid puts in.
func (h *host) copy(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "log")
	if err := os.CopyFS(to, os.DirFS(h.folder)); err != nil {
		t.Fatal(err)
	}
	raid := h.raid.Load()
	if raid == nil {
		return to
	}
	path := filepath.Join(to, filepath.FromSlash(raid.path))
	if raid.path == "issuer/" {
		all, err := os.ReadDir(path)
		if err != nil || len(all) == 0 {
			t.Fatalf("no issuers: %v", err)
		}
		path = filepath.Join(path, all[0].Name())
	}
	head, size := raid.file()
	if err := os.WriteFile(path, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return to
}
