package testlogs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const fakeOrigin = "log.example/fake"

// fakeLog is a log made of nothing but sunlight's codec and tlog, so that the
// auditor can be shown to see each kind of fault.
type fakeLog struct {
	t       *testing.T
	key     *ecdsa.PrivateKey
	spki    []byte
	url     string
	entries []*sunlight.LogEntry
	last    int64 // timestamp of the last checkpoint

	mu      sync.Mutex
	objects map[string][]byte
}

func newFakeLog(t *testing.T) *fakeLog {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	l := &fakeLog{t: t, key: key, spki: spki, objects: map[string][]byte{}, last: time.Now().Add(-time.Hour).UnixMilli()}
	s := httptest.NewServer(l)
	t.Cleanup(s.Close)
	l.url = s.URL
	return l
}

func (l *fakeLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/")
	l.mu.Lock()
	body, ok := l.objects[path]
	l.mu.Unlock()
	switch {
	case !ok:
		http.NotFound(w, r)
		return
	case path == "checkpoint":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	case strings.HasPrefix(path, "issuer/"):
		w.Header().Set("Content-Type", typeIssuer)
	case strings.HasPrefix(path, "tile/names/"):
		w.Header().Set("Content-Type", typeNames)
	default:
		w.Header().Set("Content-Type", typeTile)
	}
	_, _ = w.Write(body)
}

// change replaces the object at a path by f of it; nil removes it.
func (l *fakeLog) change(path string, f func([]byte) []byte) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	old, ok := l.objects[path]
	if !ok {
		l.t.Fatalf("the fake log has no %s", path)
	}
	if body := f(append([]byte(nil), old...)); body != nil {
		l.objects[path] = body
	} else {
		delete(l.objects, path)
	}
}

// add logs a chain and returns its SCT, without a signature.
func (l *fakeLog) add(chain Chain) *SCT {
	l.t.Helper()
	signed, err := newSignedEntry(chain.Certificates, chain.Precert)
	if err != nil {
		l.t.Fatal(err)
	}
	l.last++
	e := &sunlight.LogEntry{
		Certificate: chain.Certificates[0], LeafIndex: int64(len(l.entries)), Timestamp: l.last,
	}
	if chain.Precert {
		e.IsPrecert, e.PreCertificate, e.Certificate = true, chain.Certificates[0], signed[37:]
		copy(e.IssuerKeyHash[:], signed[2:])
	}
	for _, der := range chain.Certificates[1:] {
		fp := sha256.Sum256(der)
		e.ChainFingerprints = append(e.ChainFingerprints, fp)
		l.objects[fmt.Sprintf("issuer/%x", fp)] = der
	}
	l.entries = append(l.entries, e)
	return &SCT{Index: e.LeafIndex, TimestampMillis: e.Timestamp, LeafHash: tlog.RecordHash(e.MerkleTreeLeaf())}
}

// publish writes the tiles and the checkpoint of the entries so far.
func (l *fakeLog) publish() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) (hashes []tlog.Hash, err error) {
		for _, i := range indexes {
			hashes = append(hashes, stored[i])
		}
		return hashes, nil
	})
	data, names := map[int64][]byte{}, map[int64][]byte{}
	for i, e := range l.entries {
		hashes, err := tlog.StoredHashes(int64(i), e.MerkleTreeLeaf(), reader)
		if err != nil {
			l.t.Fatal(err)
		}
		stored = append(stored, hashes...)
		data[int64(i/256)] = sunlight.AppendTileLeaf(data[int64(i/256)], e)
		names[int64(i/256)] = fmt.Appendf(names[int64(i/256)], "{\"Timestamp\":%d}\n", e.Timestamp)
	}
	size := int64(len(l.entries))
	for _, tile := range tilesOf(size) {
		if tile.L < 0 {
			l.objects[sunlight.TilePath(tile)] = data[tile.N]
			l.objects[sunlight.TilePath(tlog.Tile{H: 8, L: -2, N: tile.N, W: tile.W})] = names[tile.N]
			continue
		}
		body, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			l.t.Fatal(err)
		}
		l.objects[sunlight.TilePath(tile)] = body
	}
	root, err := tlog.TreeHash(size, reader)
	if err != nil {
		l.t.Fatal(err)
	}
	l.last++
	l.objects["checkpoint"] = l.sign(tlog.Tree{N: size, Hash: root}, l.last)
}

func (l *fakeLog) sign(tree tlog.Tree, millis int64) []byte {
	l.t.Helper()
	input := binary.BigEndian.AppendUint64([]byte{0, 1}, uint64(millis))
	input = binary.BigEndian.AppendUint64(input, uint64(tree.N))
	digest := sha256.Sum256(append(input, tree.Hash[:]...))
	der, err := ecdsa.SignASN1(rand.Reader, l.key, digest[:])
	if err != nil {
		l.t.Fatal(err)
	}
	sig := binary.BigEndian.AppendUint16([]byte{4, 3}, uint16(len(der)))
	signer, err := sunlight.NewRFC6962InjectedSigner(fakeOrigin, &l.key.PublicKey, append(sig, der...), millis)
	if err != nil {
		l.t.Fatal(err)
	}
	raw, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", fakeOrigin, tree.N, tree.Hash)}, signer)
	if err != nil {
		l.t.Fatal(err)
	}
	return raw
}

func flip(b []byte) []byte { b[len(b)/2] ^= 1; return b }

func gone([]byte) []byte { return nil }

// TestAuditor audits an honest log as it grows, and then one log for each fault.
func TestAuditor(t *testing.T) {
	t.Parallel()
	ca, err := NewCA(CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	fill := func(t *testing.T, l *fakeLog, n int) (scts []*SCT) {
		t.Helper()
		for i := range n {
			issue := []func(LeafOptions) (Chain, error){ca.Leaf, ca.Precert, ca.PrecertBySigner}[i%3]
			chain, err := issue(LeafOptions{})
			if err != nil {
				t.Fatal(err)
			}
			scts = append(scts, l.add(chain))
		}
		l.publish()
		return scts
	}
	issuer := fmt.Sprintf("issuer/%x", sha256.Sum256(ca.Root()))
	for name, c := range map[string]struct {
		fault func(*fakeLog, *SCT)
		want  string // in the error; empty: none
	}{
		"honest":               {func(*fakeLog, *SCT) {}, ""},
		"partial tile gone":    {func(l *fakeLog, _ *SCT) { l.change("tile/0/000.p/250", gone) }, ""},
		"needed partial gone":  {func(l *fakeLog, _ *SCT) { l.change("tile/0/001.p/4", gone) }, "status 404"},
		"hash tile damaged":    {func(l *fakeLog, _ *SCT) { l.change("tile/0/001.p/4", flip) }, "does not hold the hashes"},
		"upper tile damaged":   {func(l *fakeLog, _ *SCT) { l.change("tile/1/000.p/1", flip) }, "does not hold the hashes"},
		"seen object changed":  {func(l *fakeLog, _ *SCT) { l.change("tile/data/000.p/250", flip) }, "changed since"},
		"unseen entry damaged": {func(l *fakeLog, _ *SCT) { l.change("tile/data/001.p/4", flip) }, "size 260: "},
		"issuer gone":          {func(l *fakeLog, _ *SCT) { l.change(issuer, gone) }, "status 404"},
		"names line missing":   {func(l *fakeLog, _ *SCT) { l.change("tile/names/001.p/4", func(b []byte) []byte { return b[30:] }) }, "names tiles"},
		"SCT of another entry": {func(_ *fakeLog, s *SCT) { s.Index-- }, "not the one its SCT promises"},
		"SCT of another time":  {func(_ *fakeLog, s *SCT) { s.TimestampMillis++ }, "not the one its SCT promises"},
		"SCT beyond the tree":  {func(_ *fakeLog, s *SCT) { s.Index += 1000 }, "has no entry"},
		"TBS not of its cert":  {func(l *fakeLog, _ *SCT) { flip(l.entries[257].PreCertificate[:120]); l.publish() }, "entry 257"},
		"root of another tree": {func(l *fakeLog, _ *SCT) {
			l.change("checkpoint", func([]byte) []byte { return l.sign(tlog.Tree{N: 260}, l.last) })
		}, "its entries have"},
		"history rewritten": {func(l *fakeLog, _ *SCT) { l.entries[3].Timestamp++; l.objects["tile/data/000"] = nil; l.publish() }, "root"},
		"tree shrank":       {func(l *fakeLog, _ *SCT) { l.entries = l.entries[:249]; l.publish() }, "shrank"},
		"checkpoint back in time": {func(l *fakeLog, _ *SCT) {
			l.change("checkpoint", func([]byte) []byte { return l.sign(tlog.Tree{N: 260}, l.last-1000) })
		}, "timestamp went"},
		"checkpoint of another log": {func(l *fakeLog, _ *SCT) {
			other := newFakeLog(l.t)
			l.change("checkpoint", func([]byte) []byte { return other.sign(tlog.Tree{N: 260}, l.last) })
		}, "verif"},
		"entry out of time": {func(l *fakeLog, _ *SCT) { l.entries[258].Timestamp += 1e6; l.publish() }, "is not between"},
		"entry twice": {func(l *fakeLog, _ *SCT) {
			e := *l.entries[4]
			e.LeafIndex, e.Timestamp = 260, l.last
			l.entries = append(l.entries, &e)
			l.publish()
		}, "repeated [260]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newFakeLog(t)
			a, err := NewAuditor(AuditorConfig{URL: l.url + "/", Origin: fakeOrigin, SPKI: l.spki, Names: true})
			if err != nil {
				t.Fatal(err)
			}
			l.publish()
			mustAudit(t, a, "")
			scts := fill(t, l, 250)
			for _, s := range scts[:3] {
				if err := a.Holds(context.Background(), s); err != nil {
					t.Fatal(err)
				}
			}
			a.Remember(scts...)
			mustAudit(t, a, "")
			scts = fill(t, l, 10)
			a.Remember(scts...)
			c.fault(l, scts[5])
			mustAudit(t, a, c.want)
		})
	}
}

func mustAudit(t *testing.T, a *Auditor, want string) {
	t.Helper()
	report, err := a.Audit(context.Background())
	if err == nil && len(report.Repeated) > 0 {
		err = fmt.Errorf("repeated %v", report.Repeated)
	}
	switch {
	case want == "" && err != nil:
		t.Fatal(err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Fatalf("audit says %v, want %q", err, want)
	}
}

func TestHoldsSeesALie(t *testing.T) {
	t.Parallel()
	ca, err := NewCA(CAOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l := newFakeLog(t)
	a, err := NewAuditor(AuditorConfig{URL: l.url, Origin: fakeOrigin, SPKI: l.spki})
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.Leaf(LeafOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l.publish()
	sct := l.add(chain)
	if err := a.Holds(context.Background(), sct); err == nil || !strings.Contains(err.Error(), "not covered") {
		t.Errorf("an SCT before its checkpoint: %v", err)
	}
	l.publish()
	if err := a.Holds(context.Background(), sct); err != nil {
		t.Error(err)
	}
	sct.LeafHash[0] ^= 1
	if err := a.Holds(context.Background(), sct); err == nil {
		t.Error("an SCT of another leaf was believed")
	}
}
