package fsck_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/chain"
	"kiln/internal/fsck"
	"kiln/internal/logkey"
	"kiln/storage"
	"kiln/testlogs"
	"kiln/tiles"
)

const origin = "ct.example.net/2026h2"

// objects are the files of a log, and the source of it.
type objects map[string][]byte

var _ fsck.Lister = objects{}

func (o objects) String() string { return "objects in memory" }

func (o objects) Open(_ context.Context, path string) (*fsck.Object, error) {
	body, ok := o[path]
	if !ok {
		return nil, storage.ErrNotFound
	}
	return &fsck.Object{Body: io.NopCloser(bytes.NewReader(body)), Encoding: fsck.EncodingUnknown}, nil
}

func (o objects) List(_ context.Context, prefix string, each func(string) error) error {
	for _, path := range slices.Sorted(maps.Keys(o)) {
		if strings.HasPrefix(path, prefix) {
			if err := each(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// log is a sound log in memory.
type log struct {
	objects objects
	key     *logkey.Key
	notes   map[int64]string // checkpoints by tree size
	tree    tlog.Tree
	millis  int64 // of the newest checkpoint
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// now is when the logs are checked, and a second later than their checkpoints.
var now = time.Date(2026, 10, 3, 12, 0, 0, 0, time.UTC)

func (l *log) sign(tree tlog.Tree, millis int64) []byte {
	signer := must(checkpoint.NewSigner(origin, l.key, true))
	raw := must(signer.Sign(tree, millis))
	l.objects["checkpoint"] = raw
	l.notes[tree.N] = string(raw)
	l.tree, l.millis = tree, millis
	return raw
}

func (l *log) options() fsck.Options {
	return fsck.Options{SPKI: l.key.SPKI(), Origin: origin, Parallel: 4, Now: func() time.Time { return now }}
}

// clone returns a log that can be broken.
func (l *log) clone() *log {
	c := *l
	c.objects, c.notes = maps.Clone(l.objects), maps.Clone(l.notes)
	return &c
}

// grow adds entries in rounds that end at the given sizes.
func grow(key *logkey.Key, next func(i int64) *entry.Pending, names bool, sizes ...int64) *log {
	l := &log{objects: objects{}, key: key, notes: map[int64]string{}}
	edge := tiles.NewEdge(names)
	for i, size := range sizes {
		var batch []*entry.Pending
		for n := edge.Size(); n < size; n++ {
			batch = append(batch, next(n))
		}
		millis := now.UnixMilli() - 1000 - int64(len(sizes)-i)*10
		e, made, err := edge.Append(batch, millis)
		if err != nil {
			panic(err)
		}
		for _, o := range made {
			l.objects[o.Path] = o.Body
		}
		edge = e
		l.sign(edge.Tree(), millis+1)
	}
	return l
}

// pki issues the chains that the small log repeats.
var pki = sync.OnceValue(func() (p struct {
	ca      *testlogs.CA
	pending []*entry.Pending
	issuers objects
},
) {
	p.ca = must(testlogs.NewCA(testlogs.CAOptions{}))
	p.issuers = objects{}
	v := must(chain.New(chain.Config{}))
	if err := v.SetRoots([][]byte{p.ca.Root()}); err != nil {
		panic(err)
	}
	issue := []func(testlogs.LeafOptions) (testlogs.Chain, error){p.ca.Leaf, p.ca.Precert, p.ca.PrecertBySigner}
	for i := range 21 {
		c := must(issue[i%3](testlogs.LeafOptions{DNS: []string{fmt.Sprintf("%d.example.org", i), "example.org"}}))
		typ := entry.X509
		if c.Precert {
			typ = entry.Precert
		}
		candidate := must(v.Prepare(c.Certificates, typ))
		p.pending = append(p.pending, candidate.Pending())
		for _, der := range candidate.Issuers() {
			o := tiles.IssuerObject(der)
			p.issuers[o.Path] = o.Body
		}
	}
	return p
})

// repeat returns entry i of a log that repeats the chains of pki.
func repeat(i int64) *entry.Pending {
	p := pki()
	return p.pending[i%int64(len(p.pending))]
}

// small is a log of real certificates with names tiles and older partial tiles.
var small = sync.OnceValue(func() *log {
	p := pki()
	l := grow(must(logkey.Generate()), repeat, true, 100, 300, 556)
	maps.Copy(l.objects, p.issuers)
	return l
})

// bigSize has a full tile and more at level 1.
const bigSize = 1<<16 + 300

// big is a log whose certificates are none.
var big = sync.OnceValue(func() *log {
	p := pki()
	var fingerprints [][32]byte
	for path := range p.issuers {
		fingerprints = append(fingerprints, sha256.Sum256(p.issuers[path]))
	}
	l := grow(must(logkey.Generate()), func(i int64) *entry.Pending {
		return must(entry.NewX509(fmt.Appendf(nil, "certificate %d", i), fingerprints, false))
	}, false, 30000, 60000, bigSize)
	maps.Copy(l.objects, p.issuers)
	return l
})

func gunzip(body []byte) []byte { return must(tiles.Gunzip(body)) }

func zip(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	must(w.Write(body))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// edit changes a copy of an object; of a data or names tile what it decodes to.
func (o objects) edit(path string, change func([]byte) []byte) {
	body, ok := o[path]
	if !ok {
		panic("no " + path)
	}
	if strings.HasPrefix(path, "tile/data/") || strings.HasPrefix(path, "tile/names/") {
		o[path] = zip(change(gunzip(body)))
		return
	}
	o[path] = change(bytes.Clone(body))
}

// check runs fsck and returns its fault.
func check(t *testing.T, source fsck.Source, opts fsck.Options) (*fsck.Report, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	return fsck.Run(ctx, source, opts)
}

// leaves cuts the entries of a log into TileLeafs.
func (l *log) leaves() (leaves [][]byte) {
	for n := int64(0); n*256 < l.tree.N; n++ {
		w := int(min(l.tree.N-n*256, 256))
		rest := gunzip(l.objects[tiles.Path(tlog.Tile{H: 8, L: -1, N: n, W: w})])
		for range w {
			_, after, err := sunlight.ReadTileLeaf(rest)
			if err != nil {
				panic(err)
			}
			leaves = append(leaves, rest[:len(rest)-len(after)])
			rest = after
		}
	}
	return leaves
}

// forge makes a log that signs these TileLeafs, whatever they say, at the given
// sizes. It has no names tiles.
func (l *log) forge(leaves [][]byte, sizes ...int64) *log {
	f := &log{objects: objects{}, key: l.key, notes: map[int64]string{}}
	for path, body := range l.objects {
		if strings.HasPrefix(path, "issuer/") {
			f.objects[path] = body
		}
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (list []tlog.Hash, err error) {
		for _, i := range indexes {
			list = append(list, stored[i])
		}
		return list, nil
	})
	for i, leaf := range leaves {
		stored = append(stored, must(tlog.StoredHashesForRecordHash(int64(i), tlog.RecordHash(merkleTreeLeaf(leaf)), reader))...)
	}
	for i, size := range sizes {
		for _, t := range tlog.NewTiles(8, 0, size) {
			f.objects[tiles.Path(t)] = must(tlog.ReadTileData(t, reader))
			if t.L == 0 {
				t.L = -1
				f.objects[tiles.Path(t)] = zip(bytes.Join(leaves[t.N*256:t.N*256+int64(t.W)], nil))
			}
		}
		f.sign(tlog.Tree{N: size, Hash: must(tlog.TreeHash(size, reader))}, l.millis+int64(i))
	}
	return f
}

// merkleTreeLeaf cuts a MerkleTreeLeaf out of a TileLeaf by the lengths in it.
func merkleTreeLeaf(leaf []byte) []byte {
	at := 10
	if leaf[9] == 1 {
		at += 32
	}
	at += 3 + int(leaf[at])<<16 + int(leaf[at+1])<<8 + int(leaf[at+2])
	at += 2 + int(leaf[at])<<8 + int(leaf[at+1])
	return append([]byte{0, 0}, leaf[:at]...)
}
