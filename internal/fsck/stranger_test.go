package fsck_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/internal/chain"
	"kiln/internal/fsck"
	"kiln/internal/logkey"
	"kiln/storage"
	"kiln/storage/mem"
	"kiln/tiles"
)

const testdata = "../../testdata/"

// navigliRoot is the root of the first 1024 entries of navigli2025h2.
const navigliRoot = "EMfGG85uIddeOXt5/wdQGP3IQd0COCqoLg9Q6CsPLJA="

// navigli writes the tiles of a real log into a folder as they are, not
// compressed, with the issuers of its entries. Checkpoint and level 1 are made
// here, since nobody has kept them.
func navigli(t *testing.T) (dir string, l *log) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(testdata+"navigli2025h2")); err != nil {
		t.Fatal(err)
	}
	l = &log{objects: objects{}, key: must(logkey.Generate()), notes: map[int64]string{}}
	var level1 []byte
	tree := tlog.Tree{N: 1024}
	var roots []tlog.Hash
	for n := range 4 {
		level := []tlog.Hash{}
		for b := must(os.ReadFile(fmt.Sprintf("%s/tile/0/00%d", dir, n))); len(b) > 0; b = b[32:] {
			level = append(level, tlog.Hash(b))
		}
		for len(level) > 1 {
			for i := range len(level) / 2 {
				level[i] = tlog.NodeHash(level[2*i], level[2*i+1])
			}
			level = level[:len(level)/2]
		}
		level1 = append(level1, level[0][:]...)
		roots = append(roots, level[0])
	}
	tree.Hash = tlog.NodeHash(tlog.NodeHash(roots[0], roots[1]), tlog.NodeHash(roots[2], roots[3]))
	if got := base64.StdEncoding.EncodeToString(tree.Hash[:]); got != navigliRoot {
		t.Fatalf("root is %s, want %s", got, navigliRoot)
	}
	l.sign(tree, now.UnixMilli()-1000)
	write(t, dir, "tile/1/000.p/4", level1)
	write(t, dir, "checkpoint", l.objects["checkpoint"])
	for _, der := range realCertificates(t) {
		o := tiles.IssuerObject(der)
		write(t, dir, o.Path, o.Body)
	}
	return dir, l
}

func write(t *testing.T, dir, path string, body []byte) {
	t.Helper()
	name := filepath.Join(dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, body, 0o644); err != nil {
		t.Fatal(err)
	}
}

// realCertificates returns every issuer in the real chains.
func realCertificates(t *testing.T) (ders [][]byte) {
	t.Helper()
	z := must(gzip.NewReader(bytes.NewReader(must(os.ReadFile(testdata + "real-chains.jsonl.gz")))))
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, 1<<20)
	seen := map[string]bool{}
	for lines.Scan() {
		var c struct{ Chain [][]byte }
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		for _, der := range c.Chain[1:] {
			if !seen[string(der)] {
				seen[string(der)] = true
				ders = append(ders, der)
			}
		}
	}
	return ders
}

func open(t *testing.T, dir string) *fsck.Directory {
	t.Helper()
	d, err := fsck.OpenDirectory(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// The tiles of a real log, with data and names tiles that are not compressed.
func TestRealTiles(t *testing.T) {
	t.Parallel()
	dir, l := navigli(t)
	opts := l.options()
	opts.Signatures = true
	r, err := check(t, open(t, dir), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", r)
	if r.Entries != 1024 || r.NamesTiles != 4 || r.Partials != 3 || r.Issuers == 0 || len(r.Notes) != 0 {
		t.Errorf("report is %+v", r)
	}
	// And broken a little.
	data := must(os.ReadFile(dir + "/tile/data/002"))
	write(t, dir, "tile/data/002", flip(9000)(data))
	if f := fault(t, second(check(t, open(t, dir), opts))); f.Path != "tile/data/002" || f.Index < 512 || f.Index > 520 {
		t.Errorf("fault is %v", f)
	}
}

// No single bit of what a log serves can be changed without it being found, but
// for the names tiles, which nothing vouches for, and gzip's own framing.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	l := small()
	opts := l.options()
	opts.Signatures = true
	var paths []string
	for path := range l.objects {
		if path != "checkpoint" && !strings.HasPrefix(path, "tile/names/") {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	noted := 0
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 150 {
		path := paths[random.IntN(len(paths))]
		bit := random.IntN(1 << 30)
		broken := edit(path, func(b []byte) []byte {
			b[bit/8%len(b)] ^= 1 << (bit % 8)
			return b
		})(l.clone())
		r, err := check(t, broken.objects, opts)
		switch {
		case err == nil && len(r.Notes) == 0:
			t.Errorf("%d: bit %d of %s was not missed", i, bit, path)
		case err == nil: // a precertificate became one that kiln cannot read
			noted++
		default:
			fault(t, err)
		}
	}
	if noted > 15 {
		t.Errorf("%d of 150 were only noted", noted)
	}
}

// Nor can an object be removed, but for older partial tiles.
func TestEveryObjectCounts(t *testing.T) {
	t.Parallel()
	l := small().at(300)
	for path := range l.objects {
		older := strings.Contains(path, "000.p/100") || strings.Contains(path, "tile/1/000.p/")
		if strings.HasPrefix(path, "tile/names/") || older || strings.Contains(path, "/002") || path == "tile/0/001" || path == "tile/data/001" {
			continue
		}
		broken := l.clone()
		delete(broken.objects, path)
		delete(broken.objects, "tile/0/001")
		delete(broken.objects, "tile/data/001")
		f := fault(t, second(check(t, broken.objects, broken.options())))
		if f.Path != path || !strings.HasPrefix(f.Detail, "is missing") {
			t.Errorf("without %s: fault is %v", path, f)
		}
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	l := small()
	for name, c := range map[string]struct {
		do   func(*log) *log
		note string
	}{
		"names tile missing": {remove("tile/names/001"), "names tile is missing though others are there"},
		"names left out": {lines("tile/names/002.p/44", func(b [][]byte) [][]byte {
			b[3] = append(bytes.SplitAfter(b[3], []byte(","))[0], '}', '\n')
			b[3] = bytes.Replace(b[3], []byte(",}"), []byte("}"), 1)
			return b
		}), "has no names though the certificate has"},
		"stray object":  {stored("tile/0/x", func([]byte) []byte { return nil }), "has the path of no tile"},
		"clock behind":  {func(l *log) *log { l.sign(l.tree, now.UnixMilli()+100_000); return l }, "after the time of this machine"},
		"precert alone": {forged(func(e [][]byte) { e[1] = append(e[1][:len(e[1])-66], 0, 0) }), "precertificate entry has no issuers"},
		"signer alone": {forged(func(e [][]byte) {
			e[2] = append(append(bytes.Clone(e[2][:len(e[2])-98]), 0, 32), e[2][len(e[2])-96:len(e[2])-64]...)
		}), "issuer of the final certificate is not there"},
		"not a certificate":  {forged(func(e [][]byte) { _, _, s := precert(e[1]); s[0] = 0 }), "cannot be read by this program, so its chain"},
		"encoded otherwise":  {forged(unsplice), "encoded otherwise"},
		"nothing in the log": {func(l *log) *log { l.sign(tlog.Tree{Hash: must(tlog.TreeHash(0, nil))}, l.millis); return l }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := c.do(l.clone())
			r, err := check(t, b.objects, b.options())
			if err != nil {
				t.Fatal(err)
			}
			if c.note == "" && len(r.Notes) == 0 {
				return
			}
			if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].What, c.note) || r.Notes[0].Count < 1 || r.Notes[0].First == "" {
				t.Errorf("notes are %+v, want %q", r.Notes, c.note)
			}
		})
	}
}

// unsplice logs the TBSCertificate of entry 2 as it was signed by the
// Precertificate Signing Certificate.
func unsplice(e [][]byte) {
	_, tbs, submitted := precert(e[2])
	e[2] = splice(e[2], tbs, must(chain.PrecertTBS(must(chain.ReadLogged(submitted)), nil)))
}

// A directory is what it is: nothing in it is followed or waited for.
func TestDirectory(t *testing.T) {
	t.Parallel()
	l := small()
	make := func(t *testing.T) string {
		dir := t.TempDir()
		for path, body := range l.objects {
			write(t, dir, path, body)
		}
		return dir
	}
	t.Run("sound, and untouched", func(t *testing.T) {
		t.Parallel()
		dir := make(t)
		count := func() (n int) {
			_ = filepath.WalkDir(dir, func(string, fs.DirEntry, error) error { n++; return nil })
			return n
		}
		before := count()
		if _, err := check(t, open(t, dir), l.options()); err != nil {
			t.Fatal(err)
		}
		if after := count(); after != before {
			t.Errorf("%d files became %d", before, after)
		}
	})
	t.Run("a pipe", func(t *testing.T) {
		t.Parallel()
		dir := make(t)
		name := dir + "/tile/data/000"
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(name, 0o600); err != nil {
			t.Fatal(err)
		}
		if f := fault(t, second(check(t, open(t, dir), l.options()))); f.Path != "tile/data/000" {
			t.Errorf("fault is %v", f)
		}
	})
	t.Run("a folder", func(t *testing.T) {
		t.Parallel()
		dir := make(t)
		if err := os.Remove(dir + "/checkpoint"); err != nil {
			t.Fatal(err)
		}
		write(t, dir, "checkpoint/x", nil)
		if f := fault(t, second(check(t, open(t, dir), l.options()))); f.Path != "checkpoint" {
			t.Errorf("fault is %v", f)
		}
	})
	t.Run("a link out of it", func(t *testing.T) {
		t.Parallel()
		dir, outside := make(t), t.TempDir()
		write(t, outside, "checkpoint", l.objects["checkpoint"])
		if err := os.Remove(dir + "/checkpoint"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside+"/checkpoint", dir+"/checkpoint"); err != nil {
			t.Fatal(err)
		}
		unknown(t, second(check(t, open(t, dir), l.options())))
	})
	t.Run("that is not there", func(t *testing.T) {
		t.Parallel()
		if _, err := fsck.OpenDirectory(t.TempDir() + "/no"); err == nil {
			t.Error("it was opened")
		}
	})
}

func TestBucket(t *testing.T) {
	t.Parallel()
	l, b := small(), mem.New()
	for path, body := range l.objects {
		if err := b.Create(t.Context(), storage.Object{Path: path, Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	r, err := check(t, fsck.Bucket(b, "a bucket"), l.options())
	if err != nil {
		t.Fatal(err)
	}
	if r.Source != "a bucket" || r.Entries != 556 || r.Partials == 0 {
		t.Errorf("report is %+v", r)
	}
}

// odd cannot read the first data tile, and says so when the second was read for
// good.
type odd struct {
	objects
	looks *atomic.Int64
	ready chan struct{}
}

func (o odd) Open(ctx context.Context, path string) (*fsck.Object, error) {
	switch path {
	case "tile/data/000":
		select {
		case <-o.ready:
		case <-ctx.Done():
		}
		return nil, &fsck.UnknownError{Path: path, Err: errors.New("out of order")}
	case "tile/data/001":
		if o.looks.Add(1) == 2 { // a fault is looked at twice
			close(o.ready)
		}
	}
	return o.objects.Open(ctx, path)
}

// A fault that was found says more than that something else could not be read.
func TestFaultBeforeUnknown(t *testing.T) {
	t.Parallel()
	l := edit("tile/data/001", flip(100))(small().clone())
	_, err := check(t, odd{l.objects, new(atomic.Int64), make(chan struct{})}, l.options())
	if f := fault(t, err); f.Path != "tile/data/001" {
		t.Errorf("fault is %v", f)
	}
	l = small()
	o := odd{l.objects, new(atomic.Int64), make(chan struct{})}
	close(o.ready)
	o.looks.Store(2)
	if u := unknown(t, second(check(t, o, l.options()))); u.Path != "tile/data/000" {
		t.Errorf("error is %v", u)
	}
}
