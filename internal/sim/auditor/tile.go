package auditor

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Levels of tiles that hold no hashes.
const (
	levelData  = -1
	levelNames = -2
)

// tile names a tile.
type tile struct {
	level    int
	n, width int64
}

// path writes <L>/<N>[.p/<W>] with N in groups of three digits.
func (t tile) path() string {
	p := "tile/" + strconv.Itoa(t.level) + "/"
	switch t.level {
	case levelData:
		p = "tile/data/"
	case levelNames:
		p = "tile/names/"
	}
	var groups string
	for n, mark := t.n, ""; ; n, mark = n/1000, "x" {
		groups = fmt.Sprintf("%s%03d/", mark, n%1000) + groups
		if n < 1000 {
			break
		}
	}
	p += strings.TrimSuffix(groups, "/")
	if t.width < 256 {
		p += ".p/" + strconv.FormatInt(t.width, 10)
	}
	return p
}

// parseTile is the inverse of path.
func parseTile(path string) (t tile, ok bool) {
	rest, ok := strings.CutPrefix(path, "tile/")
	if !ok {
		return t, false
	}
	level, rest, _ := strings.Cut(rest, "/")
	switch level {
	case "data":
		t.level = levelData
	case "names":
		t.level = levelNames
	default:
		l, err := strconv.Atoi(level)
		if err != nil || l < 0 || l > 5 {
			return t, false
		}
		t.level = l
	}
	rest, width, partial := strings.Cut(rest, ".p/")
	t.width = 256
	if partial {
		w, err := strconv.ParseInt(width, 10, 64)
		if err != nil || w < 1 || w > 255 {
			return t, false
		}
		t.width = w
	}
	for group := range strings.SplitSeq(rest, "/") {
		d, err := strconv.ParseUint(strings.TrimPrefix(group, "x"), 10, 10)
		if err != nil || d > 999 || t.n > maxSize {
			return t, false
		}
		t.n = t.n*1000 + int64(d)
	}
	return t, t.path() == path // canonical, or no path of a tile
}

// full is the tile that takes the place of a partial one.
func (t tile) full() tile { return tile{t.level, t.n, 256} }

// end is the size of the smallest tree that has the tile.
func (t tile) end() int64 { return (t.n*256 + t.width) << (8 * max(0, t.level)) }

// tilesOf calls f for the tiles that a tree has and an older one has not: hash
// tiles, and data tiles beside those of level 0.
func tilesOf(oldSize, size int64, f func(tile) error) error {
	for level := range 6 {
		from, to := oldSize>>(8*level), size>>(8*level)
		if from == to {
			continue
		}
		for n := from / 256; n*256 < to; n++ {
			t := tile{level, n, min(256, to-n*256)}
			if err := f(t); err != nil {
				return err
			}
			if level > 0 {
				continue
			}
			t.level = levelData
			if err := f(t); err != nil {
				return err
			}
		}
	}
	return nil
}

// bundlePath is where the bundle of the round that leads to a tree is staged.
func bundlePath(h head) string {
	return "staging/" + strconv.FormatInt(h.size, 10) + "-" + hex.EncodeToString(h.root[:])
}

func issuerPath(fingerprint hash) string { return "issuer/" + hex.EncodeToString(fingerprint[:]) }

// gunzipper decodes gzip; its parts are used again.
type gunzipper struct {
	in  *bufio.Reader
	zip gzip.Reader
	out bytes.Buffer
}

// maxTile bounds what a data tile decodes to.
const maxTile = 64 << 20

// decode returns what exactly one gzip member holds. The result is overwritten
// by the next call.
func (g *gunzipper) decode(body []byte) ([]byte, error) {
	if g.in == nil {
		g.in = bufio.NewReader(nil)
	}
	g.in.Reset(bytes.NewReader(body))
	if err := g.zip.Reset(g.in); err != nil {
		return nil, fmt.Errorf("no gzip: %w", err)
	}
	g.zip.Multistream(false)
	g.out.Reset()
	if _, err := g.out.ReadFrom(io.LimitReader(&g.zip, maxTile+1)); err != nil {
		return nil, fmt.Errorf("torn gzip: %w", err)
	}
	if _, err := g.in.ReadByte(); !errors.Is(err, io.EOF) || g.out.Len() > maxTile {
		return nil, errors.New("bytes after the gzip member, or too many in it")
	}
	return g.out.Bytes(), nil
}

// logged is one entry of a data tile; its slices alias the tile.
type logged struct {
	timestamp uint64
	precert   bool
	signed    []byte // entry_type || signed_entry
	issuerKey []byte // its hash, of a precertificate
	cert      []byte // the certificate, or the TBSCertificate
	leaf      []byte // the TimestampedEntry: what stands between 00 00 and the end of a MerkleTreeLeaf
	index     int64
	submitted []byte // the precertificate
	chain     []hash
}

// id is the identity of the entry, wherever and whenever it is logged.
func (e *logged) id() hash { return sha256.Sum256(e.signed) }

// extra is what the tree does not cover.
func (e *logged) extra() extra {
	x := extra{chain: e.chain}
	if e.precert {
		x.precert = sha256.Sum256(e.submitted)
	}
	return x
}

// reader takes bytes from the front; it is spent once it has failed.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || n > len(r.b) {
		r.failed = true
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) number(n int) (v uint64) {
	for _, c := range r.take(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

// vector takes a length of n bytes and then as many.
func (r *reader) vector(n int) []byte { return r.take(int(r.number(n))) }

// parseEntry takes one TileLeaf (MON-12) from the front of a data tile.
func parseEntry(tile []byte) (e logged, rest []byte, err error) {
	r := &reader{b: tile}
	e.timestamp = r.number(8)
	switch r.number(2) {
	case 0:
		e.cert = r.vector(3)
	case 1:
		e.precert = true
		e.issuerKey = r.take(32)
		e.cert = r.vector(3)
	default:
		return e, nil, errors.New("its entry type is unknown")
	}
	signedEnd := len(tile) - len(r.b)
	extensions := r.vector(2)
	leafEnd := len(tile) - len(r.b)
	if e.precert {
		e.submitted = r.vector(3)
	}
	chain := r.vector(2)
	if r.failed {
		return e, nil, errors.New("it is cut off")
	}
	if len(extensions) != 8 || [3]byte(extensions) != [3]byte{0, 0, 5} {
		return e, nil, fmt.Errorf("its extensions are %x, want one leaf_index", extensions)
	}
	x := &reader{b: extensions[3:]}
	e.index = int64(x.number(5))
	if len(chain)%32 != 0 {
		return e, nil, fmt.Errorf("its chain has %d bytes", len(chain))
	}
	e.chain = make([]hash, len(chain)/32)
	for i := range e.chain {
		e.chain[i] = hash(chain[32*i:])
	}
	e.signed, e.leaf = tile[8:signedEnd], tile[:leafEnd]
	return e, r.b, nil
}
