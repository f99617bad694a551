package testlogs

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"filippo.io/sunlight"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Checkpoint is one that an [Auditor] has seen and whose signature it verified.
type Checkpoint struct {
	tlog.Tree
	TimestampMillis int64
	Raw             string // the signed note
}

// AuditorConfig says which log an [Auditor] watches.
type AuditorConfig struct {
	URL    string       // monitoring prefix, with or without a slash at its end
	Origin string       // the name that checkpoints must carry
	SPKI   []byte       // DER SubjectPublicKeyInfo of the log's key
	Names  bool         // the log serves names tiles
	HTTP   *http.Client // may be nil
}

// Auditor is a monitor of one log over HTTP. What it has seen once it holds
// against the log forever: every checkpoint, every SCT, every object. It is safe
// for concurrent use.
type Auditor struct {
	url      string
	names    bool
	verifier note.Verifier
	http     *http.Client

	mu          sync.Mutex
	checkpoints []Checkpoint        // in the order seen; never empty after the first Observe
	scts        []*SCT              // remembered
	seen        map[string][32]byte // SHA-256 of the decoded body by path
}

// NewAuditor makes an auditor that has seen nothing yet.
func NewAuditor(cfg AuditorConfig) (*Auditor, error) {
	key, err := x509.ParsePKIXPublicKey(cfg.SPKI)
	if err != nil {
		return nil, fmt.Errorf("parse key of %s: %w", cfg.Origin, err)
	}
	verifier, err := sunlight.NewRFC6962Verifier(cfg.Origin, key)
	if err != nil {
		return nil, fmt.Errorf("make verifier of %s: %w", cfg.Origin, err)
	}
	if cfg.HTTP == nil {
		cfg.HTTP = &http.Client{Timeout: time.Minute}
	}
	return &Auditor{
		url: strings.TrimRight(cfg.URL, "/"), names: cfg.Names, verifier: verifier, http: cfg.HTTP,
		seen: make(map[string][32]byte),
	}, nil
}

// SetURL tells where the log is to be found from now on.
func (a *Auditor) SetURL(prefix string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.url = strings.TrimRight(prefix, "/")
}

// Remember holds SCTs against the log at every later [Auditor.Audit].
func (a *Auditor) Remember(scts ...*SCT) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scts = append(a.scts, scts...)
}

// Observe fetches the checkpoint and remembers it. It fails if the note does
// not verify, or if the log went back in size or time since the last Observe.
// Whether two checkpoints are consistent is for [Auditor.Audit] to prove.
func (a *Auditor) Observe(ctx context.Context) (Checkpoint, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.observeLocked(ctx)
}

func (a *Auditor) observeLocked(ctx context.Context) (Checkpoint, error) {
	raw, err := a.get(ctx, "checkpoint", "text/plain; charset=utf-8")
	if err != nil {
		return Checkpoint{}, err
	}
	c, err := a.open(raw)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint %q: %w", raw, err)
	}
	if len(a.checkpoints) > 0 {
		last := a.checkpoints[len(a.checkpoints)-1]
		switch {
		case c.Raw == last.Raw:
			return c, nil
		case c.N < last.N:
			return c, fmt.Errorf("tree shrank from %d to %d", last.N, c.N)
		case c.N == last.N && c.Hash != last.Hash:
			return c, fmt.Errorf("two roots for size %d: %v and %v", c.N, last.Hash, c.Hash)
		case c.TimestampMillis <= last.TimestampMillis:
			return c, fmt.Errorf("another checkpoint, but its timestamp went from %d to %d", last.TimestampMillis, c.TimestampMillis)
		}
	}
	a.checkpoints = append(a.checkpoints, c)
	return c, nil
}

func (a *Auditor) open(raw []byte) (Checkpoint, error) {
	n, err := note.Open(raw, note.VerifierList(a.verifier))
	if err != nil {
		return Checkpoint{}, err
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) != 4 || lines[0] != a.verifier.Name() {
		return Checkpoint{}, fmt.Errorf("want three lines, the first %q", a.verifier.Name())
	}
	c := Checkpoint{Raw: string(raw)}
	if c.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return Checkpoint{}, fmt.Errorf("size: %w", err)
	}
	if c.Hash, err = tlog.ParseHash(lines[2]); err != nil {
		return Checkpoint{}, fmt.Errorf("root: %w", err)
	}
	if c.TimestampMillis, err = sunlight.RFC6962SignatureTimestamp(n.Sigs[0]); err != nil {
		return Checkpoint{}, fmt.Errorf("timestamp: %w", err)
	}
	if ahead := time.Until(time.UnixMilli(c.TimestampMillis)); ahead > time.Second {
		return Checkpoint{}, fmt.Errorf("timestamp is %v in the future", ahead)
	}
	return c, nil
}

// Checkpoints returns every checkpoint seen, oldest first.
func (a *Auditor) Checkpoints() []Checkpoint {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]Checkpoint(nil), a.checkpoints...)
}

// Holds checks the promise of an SCT as of this moment: the checkpoint fetched
// now covers it, and the data tile at its index has its leaf. It also remembers
// the SCT.
func (a *Auditor) Holds(ctx context.Context, sct *SCT) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scts = append(a.scts, sct)
	c, err := a.observeLocked(ctx)
	if err != nil {
		return err
	}
	if sct.Index >= c.N {
		return fmt.Errorf("SCT %d is not covered by the checkpoint of size %d", sct.Index, c.N)
	}
	if sct.TimestampMillis > c.TimestampMillis {
		return fmt.Errorf("SCT %d is of %d, after the checkpoint of %d", sct.Index, sct.TimestampMillis, c.TimestampMillis)
	}
	t := tlog.Tile{H: 8, L: -1, N: sct.Index / 256, W: int(min(256, c.N-sct.Index/256*256))}
	body, err := a.fetch(ctx, sunlight.TilePath(t), typeTile)
	if err != nil {
		return err
	}
	entries, err := parseDataTile(t, body)
	if err != nil {
		return err
	}
	e := entries[sct.Index%256]
	if tlog.RecordHash(e.MerkleTreeLeaf()) != tlog.Hash(sct.LeafHash) {
		return fmt.Errorf("entry %d is not the one its SCT promises", sct.Index)
	}
	return nil
}
