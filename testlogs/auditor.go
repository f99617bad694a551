package testlogs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/tlog"
)

// Content types of the monitoring API (B2).
const (
	typeTile   = "application/octet-stream"
	typeIssuer = "application/pkix-cert"
	typeNames  = "application/jsonl; charset=utf-8"
)

// Report says what an [Auditor.Audit] has found in a sound log.
type Report struct {
	Checkpoint Checkpoint // the newest, which everything was checked against
	Issuers    int        // certificates below issuer/
	SCTs       int        // remembered SCTs that were found in their places
	Repeated   []int64    // indexes of entries that stand at a lower index too
}

// audit is one run over a whole log.
type audit struct {
	*Auditor
	tree   Checkpoint
	tiles  map[int64][]byte    // data tiles of the tree by number
	stored []tlog.Hash         // as tlog.StoredHashes lays them out
	leaves []leaf              // by index
	certs  map[[32]byte][]byte // issuers by fingerprint
	first  map[[32]byte]int64  // lowest index by SHA-256 of the signed entry
	done   map[string]bool     // paths fetched in this run
	report *Report
}

type leaf struct {
	hash            tlog.Hash
	timestampMillis int64
}

// Audit reads the whole log and checks all there is to check: the checkpoint,
// every data tile against every hash tile and the root, every issuer, each
// precertificate entry against its precertificate, consistency with every
// checkpoint seen before and the partial tiles of their sizes, every remembered
// SCT, and that no object has changed since it was last seen.
func (a *Auditor) Audit(ctx context.Context) (*Report, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, err := a.observeLocked(ctx)
	if err != nil {
		return nil, err
	}
	run := &audit{
		Auditor: a, tree: c, tiles: make(map[int64][]byte), certs: make(map[[32]byte][]byte),
		first: make(map[[32]byte]int64), done: make(map[string]bool), report: &Report{Checkpoint: c},
	}
	for _, step := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"data tiles", run.readDataTiles},
		{"root", run.checkRoots},
		{"hash tiles", run.checkHashTiles},
		{"partial tiles of earlier checkpoints", run.checkPartials},
		{"names tiles", run.checkNames},
		{"SCTs", run.checkSCTs},
		{"objects seen before", run.checkUnchanged},
	} {
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("audit %s at size %d: %s: %w", a.verifier.Name(), c.N, step.name, err)
		}
	}
	run.report.Issuers = len(run.certs)
	return run.report, nil
}

// get fetches a path and returns the body, decoded if it was compressed.
func (a *Auditor) get(ctx context.Context, path, contentType string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/"+path, nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	return fetch(a.http, req, contentType)
}

// fetch is get for objects that never change.
func (a *Auditor) fetch(ctx context.Context, path, contentType string) ([]byte, error) {
	body, err := a.get(ctx, path, contentType)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	if before, ok := a.seen[path]; ok && before != sum {
		return nil, fmt.Errorf("%s has changed since it was last seen", path)
	}
	a.seen[path] = sum
	return body, nil
}

// fetch notes what this run has seen.
func (r *audit) fetch(ctx context.Context, path, contentType string) ([]byte, error) {
	r.done[path] = true
	return r.Auditor.fetch(ctx, path, contentType)
}

// tilesOf returns the hash tiles of a tree and then its data tiles.
func tilesOf(size int64) []tlog.Tile {
	tiles := tlog.NewTiles(8, 0, size)
	for _, t := range tiles {
		if t.L == 0 {
			tiles = append(tiles, tlog.Tile{H: 8, L: -1, N: t.N, W: t.W})
		}
	}
	return tiles
}

func parseDataTile(t tlog.Tile, body []byte) ([]*sunlight.LogEntry, error) {
	var entries []*sunlight.LogEntry
	for len(body) > 0 {
		e, rest, err := sunlight.ReadTileLeaf(body)
		if err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", sunlight.TilePath(t), len(entries), err)
		}
		if want := t.N*256 + int64(len(entries)); e.LeafIndex != want {
			return nil, fmt.Errorf("%s: leaf index is %d, want %d", sunlight.TilePath(t), e.LeafIndex, want)
		}
		entries, body = append(entries, e), rest
	}
	if len(entries) != t.W {
		return nil, fmt.Errorf("%s: %d entries, want %d", sunlight.TilePath(t), len(entries), t.W)
	}
	return entries, nil
}

func (r *audit) readDataTiles(ctx context.Context) error {
	for _, t := range tilesOf(r.tree.N) {
		if t.L != -1 {
			continue
		}
		body, err := r.fetch(ctx, sunlight.TilePath(t), typeTile)
		if err != nil {
			return err
		}
		entries, err := parseDataTile(t, body)
		if err != nil {
			return err
		}
		r.tiles[t.N] = body
		for _, e := range entries {
			if err := r.addEntry(ctx, e); err != nil {
				return fmt.Errorf("entry %d: %w", e.LeafIndex, err)
			}
		}
	}
	return nil
}

func (r *audit) addEntry(ctx context.Context, e *sunlight.LogEntry) error {
	merkleTreeLeaf := e.MerkleTreeLeaf()
	hash := tlog.RecordHash(merkleTreeLeaf)
	stored, err := tlog.StoredHashesForRecordHash(e.LeafIndex, hash, r.hashes())
	if err != nil {
		return err
	}
	r.stored = append(r.stored, stored...)

	last := int64(0)
	if n := len(r.leaves); n > 0 {
		last = r.leaves[n-1].timestampMillis
	}
	if e.Timestamp < last || e.Timestamp > r.tree.TimestampMillis {
		return fmt.Errorf("timestamp %d is not between the last entry's %d and the checkpoint's %d", e.Timestamp, last, r.tree.TimestampMillis)
	}
	r.leaves = append(r.leaves, leaf{hash, e.Timestamp})

	// Between timestamp and extensions stands what identifies the entry.
	id := sha256.Sum256(merkleTreeLeaf[10 : len(merkleTreeLeaf)-10])
	if _, ok := r.first[id]; ok {
		r.report.Repeated = append(r.report.Repeated, e.LeafIndex)
	} else {
		r.first[id] = e.LeafIndex
	}
	return r.checkChain(ctx, e)
}

// checkChain fetches what is new of an entry's issuers and checks that a
// precertificate entry is what follows from the precertificate.
func (r *audit) checkChain(ctx context.Context, e *sunlight.LogEntry) error {
	chain := [][]byte{e.Certificate}
	if e.IsPrecert {
		chain[0] = e.PreCertificate
	}
	for _, fp := range e.ChainFingerprints {
		if r.certs[fp] == nil {
			der, err := r.fetch(ctx, fmt.Sprintf("issuer/%x", fp), typeIssuer)
			if err != nil {
				return err
			}
			if sha256.Sum256(der) != fp {
				return fmt.Errorf("issuer/%x holds another certificate", fp)
			}
			r.certs[fp] = der
		}
		chain = append(chain, r.certs[fp])
	}
	want, err := newSignedEntry(chain, e.IsPrecert)
	if err != nil {
		return err
	}
	if got := e.MerkleTreeLeaf(); !bytes.Equal(got[10:len(got)-10], want) {
		return errors.New("logged bytes do not follow from the precertificate and its chain")
	}
	return nil
}

// hashes reads from the hashes of the entries so far.
func (r *audit) hashes() tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		hashes := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			if x < 0 || x >= int64(len(r.stored)) {
				return nil, fmt.Errorf("stored hash %d of %d", x, len(r.stored))
			}
			hashes[i] = r.stored[x]
		}
		return hashes, nil
	})
}

// checkRoots compares the root, and those of all checkpoints seen, with the
// entries, and proves each pair of neighbours consistent.
func (r *audit) checkRoots(context.Context) error {
	for i, c := range r.checkpoints {
		root, err := tlog.TreeHash(c.N, r.hashes())
		if err != nil {
			return err
		}
		if root != c.Hash {
			return fmt.Errorf("checkpoint of size %d has root %v, its entries have %v", c.N, c.Hash, root)
		}
		if i == 0 || r.checkpoints[i-1].N == 0 {
			continue
		}
		old := r.checkpoints[i-1]
		proof, err := tlog.ProveTree(c.N, old.N, r.hashes())
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, c.N, c.Hash, old.N, old.Hash); err != nil {
			return fmt.Errorf("checkpoints of sizes %d and %d: %w", old.N, c.N, err)
		}
	}
	return nil
}

func (r *audit) checkHashTiles(ctx context.Context) error {
	for _, t := range tilesOf(r.tree.N) {
		if t.L < 0 {
			continue
		}
		if err := r.checkHashTile(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (r *audit) checkHashTile(ctx context.Context, t tlog.Tile) error {
	got, err := r.fetch(ctx, sunlight.TilePath(t), typeTile)
	if err != nil {
		return err
	}
	want, err := tlog.ReadTileData(t, r.hashes())
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s does not hold the hashes of its entries", sunlight.TilePath(t))
	}
	return nil
}

// checkPartials fetches the partial tiles of every size that a checkpoint was
// seen for. They may be gone only once the full tile is there (MON-09).
func (r *audit) checkPartials(ctx context.Context) error {
	done := map[tlog.Tile]bool{}
	for _, c := range r.checkpoints {
		for _, t := range tilesOf(c.N) {
			if t.W == 256 || done[t] {
				continue
			}
			done[t] = true
			if err := r.checkPartial(ctx, t); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *audit) checkPartial(ctx context.Context, t tlog.Tile) error {
	body, err := r.fetch(ctx, sunlight.TilePath(t), typeTile)
	switch {
	case isNotFound(err):
		return r.fullTileExists(ctx, sunlight.TilePath(t))
	case err != nil:
		return err
	case t.L >= 0:
		return r.checkHashTile(ctx, t)
	}
	if _, err := parseDataTile(t, body); err != nil {
		return err
	}
	if !bytes.HasPrefix(r.tiles[t.N], body) {
		return fmt.Errorf("%s is no prefix of the tile as it is now", sunlight.TilePath(t))
	}
	return nil
}

func isNotFound(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

func (r *audit) fullTileExists(ctx context.Context, partial string) error {
	full, _, ok := strings.Cut(partial, ".p/")
	if !ok {
		return fmt.Errorf("%s is gone", partial)
	}
	contentType := typeTile
	if strings.HasPrefix(partial, "tile/names/") {
		contentType = typeNames
	}
	if _, err := r.get(ctx, full, contentType); err != nil {
		return fmt.Errorf("%s is gone, and there is no full tile: %w", partial, err)
	}
	return nil
}

func (r *audit) checkNames(ctx context.Context) error {
	if !r.names {
		return nil
	}
	for _, t := range tilesOf(r.tree.N) {
		if t.L != -1 {
			continue
		}
		path := sunlight.TilePath(tlog.Tile{H: 8, L: -2, N: t.N, W: t.W})
		body, err := r.fetch(ctx, path, typeNames)
		if err != nil {
			return err
		}
		lines := slices.Collect(bytes.Lines(body))
		if len(lines) != t.W {
			return fmt.Errorf("%s has %d lines, want %d", path, len(lines), t.W)
		}
		for i, line := range lines {
			var name struct{ Timestamp int64 }
			if err := json.Unmarshal(line, &name); err != nil {
				return fmt.Errorf("%s: line %d: %w", path, i+1, err)
			}
			if want := r.leaves[t.N*256+int64(i)].timestampMillis; name.Timestamp != want {
				return fmt.Errorf("%s: line %d has timestamp %d, the entry %d", path, i+1, name.Timestamp, want)
			}
		}
	}
	return nil
}

func (r *audit) checkSCTs(context.Context) error {
	for _, sct := range r.scts {
		if sct.Index >= int64(len(r.leaves)) {
			return fmt.Errorf("SCT %d of %v has no entry", sct.Index, time.UnixMilli(sct.TimestampMillis))
		}
		l := r.leaves[sct.Index]
		if l.hash != tlog.Hash(sct.LeafHash) || l.timestampMillis != sct.TimestampMillis {
			return fmt.Errorf("entry %d is not the one its SCT promises", sct.Index)
		}
	}
	r.report.SCTs = len(r.scts)
	return nil
}

// checkUnchanged fetches again what earlier audits saw and this one has not.
func (r *audit) checkUnchanged(ctx context.Context) error {
	for path := range r.seen {
		if r.done[path] {
			continue
		}
		contentType := typeTile
		switch {
		case strings.HasPrefix(path, "issuer/"):
			contentType = typeIssuer
		case strings.HasPrefix(path, "tile/names/"):
			contentType = typeNames
		}
		_, err := r.fetch(ctx, path, contentType)
		if isNotFound(err) {
			err = r.fullTileExists(ctx, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
