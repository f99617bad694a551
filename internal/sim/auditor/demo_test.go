package auditor

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"kiln/checkpoint"
	"kiln/entry"
	"kiln/internal/chain"
	"kiln/internal/logkey"
	"kiln/storage"
	"kiln/testlogs"
	"kiln/tiles"
)

// demo is a log made by hand, which tells an auditor what it does.
type demo struct {
	t         testing.TB
	a         *Auditor
	key       *logkey.Key
	signer    *checkpoint.Signer
	validator *chain.Validator
	edge      *tiles.Edge
	now       int64
	entries   []*entry.Pending
	scts      []entry.Placement
	chains    []testlogs.Chain
	bodies    map[string][]byte
}

// step is a round before anything of it is visible.
type step struct {
	edge    *tiles.Edge
	bundle  string
	objects []storage.Object
	raw     []byte
	issuers []storage.Object
	entries []*entry.Pending
	chains  []testlogs.Chain
}

// pki is shared by all tests: keys take their time.
type pki struct {
	ca  *testlogs.CA
	key *logkey.Key
}

var sharedPKI = sync.OnceValue(func() pki {
	ca, err := testlogs.NewCA(testlogs.CAOptions{})
	if err != nil {
		panic(err)
	}
	key, err := logkey.Generate()
	if err != nil {
		panic(err)
	}
	return pki{ca, key}
})

const origin = "log.example/2026h2"

func newDemo(t testing.TB) *demo {
	t.Helper()
	p := sharedPKI()
	d := &demo{t: t, key: p.key, now: 1_780_000_000_000, edge: tiles.NewEdge(false), bodies: map[string][]byte{}}
	d.a = d.auditor()
	d.signer = must(checkpoint.NewSigner(origin, d.key, true))(t)
	d.validator = must(chain.New(chain.Config{}))(t)
	if err := d.validator.SetRoots([][]byte{p.ca.Root()}); err != nil {
		t.Fatal(err)
	}
	raw := d.sign(d.edge, d.now)
	d.honest(d.a.Committed(raw))
	d.honest(d.show("checkpoint", raw))
	return d
}

func (d *demo) auditor() *Auditor {
	d.t.Helper()
	return must(New(Config{Origin: origin, SPKI: d.key.SPKI()}))(d.t)
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// honest fails the test if the auditor complains about something true.
func (d *demo) honest(errs ...error) {
	d.t.Helper()
	for _, err := range errs {
		if err != nil {
			d.t.Fatal("an honest log was accused:", err)
		}
	}
}

func (d *demo) sign(e *tiles.Edge, millis int64) []byte {
	d.t.Helper()
	return must(d.signer.Sign(e.Tree(), millis))(d.t)
}

func (d *demo) show(path string, body []byte) error {
	if body == nil {
		delete(d.bodies, path)
	} else {
		d.bodies[path] = bytes.Clone(body)
	}
	return d.a.Changed(path, body)
}

// chain issues a new certificate: final, pre-, and by a signer for that, in turn.
func (d *demo) chain(i int) testlogs.Chain {
	d.t.Helper()
	ca := sharedPKI().ca
	issue := []func(testlogs.LeafOptions) (testlogs.Chain, error){ca.Leaf, ca.Precert, ca.PrecertBySigner}[i%3]
	c := must(issue(testlogs.LeafOptions{}))(d.t)
	c.OmitRoot = i%2 == 0
	return c
}

func (d *demo) someChains(n int) (chains []testlogs.Chain) {
	for i := range n {
		chains = append(chains, d.chain(i))
	}
	return chains
}

// admit makes of chains what a frontend would.
func (d *demo) admit(chains []testlogs.Chain) (entries []*entry.Pending, issuers []storage.Object) {
	d.t.Helper()
	for _, c := range chains {
		typ := entry.X509
		if c.Precert {
			typ = entry.Precert
		}
		candidate := must(d.validator.Prepare(c.Submitted(), typ))(d.t)
		entries = append(entries, candidate.Pending())
		for _, der := range candidate.Issuers() {
			issuers = append(issuers, tiles.IssuerObject(der))
		}
	}
	return entries, issuers
}

// plan makes a round of chains, a second later.
func (d *demo) plan(chains []testlogs.Chain) step {
	d.t.Helper()
	entries, issuers := d.admit(chains)
	return d.planEntries(entries, issuers, chains)
}

func (d *demo) planEntries(entries []*entry.Pending, issuers []storage.Object, chains []testlogs.Chain) step {
	d.t.Helper()
	d.now += 1000
	edge, objects, err := d.edge.Append(entries, d.now)
	if err != nil {
		d.t.Fatal(err)
	}
	return step{
		edge: edge, bundle: tiles.BundlePath(edge.Tree()), objects: objects, raw: d.sign(edge, d.now),
		issuers: issuers, entries: entries, chains: chains,
	}
}

// commit is a round up to the point of no return.
func (d *demo) commit(s step) {
	d.t.Helper()
	for _, o := range s.issuers {
		d.honest(d.show(o.Path, o.Body))
	}
	d.honest(d.show(s.bundle, []byte("the bundle")), d.a.Committed(s.raw))
}

// tiles is the part after that, without the checkpoint.
func (d *demo) tiles(s step) {
	d.t.Helper()
	for _, o := range s.objects {
		d.honest(d.show(o.Path, o.Body))
	}
}

// finish makes a round that is public the state.
func (d *demo) finish(s step) {
	d.edge = s.edge
	for i := range s.entries {
		d.scts = append(d.scts, entry.Placement{Index: s.edge.Size() - int64(len(s.entries)-i), TimestampMillis: d.now})
	}
	d.entries, d.chains = append(d.entries, s.entries...), append(d.chains, s.chains...)
}

// grow is an honest round of n new entries, all of which are answered.
func (d *demo) grow(n int) {
	d.t.Helper()
	d.growBy(d.someChains(n))
}

func (d *demo) growBy(chains []testlogs.Chain) {
	d.t.Helper()
	s := d.plan(chains)
	d.commit(s)
	d.tiles(s)
	d.honest(d.show("checkpoint", s.raw))
	d.finish(s)
	for i := range s.entries {
		at := len(d.entries) - len(s.entries) + i
		d.honest(d.a.Returned(d.submission(at), d.answer(d.entries[at], d.scts[at])))
	}
	d.honest(d.a.Check())
}

func (d *demo) submission(i int) Submission {
	return Submission{Chain: d.chains[i].Submitted(), Precert: d.chains[i].Precert}
}

// answer is the body of the 200 for an entry at a place.
func (d *demo) answer(p *entry.Pending, pl entry.Placement) []byte {
	d.t.Helper()
	return d.answerWith(p, pl, func(map[string]any) {})
}

func (d *demo) answerWith(p *entry.Pending, pl entry.Placement, change func(map[string]any)) []byte {
	d.t.Helper()
	signature := must(d.key.Sign(p.AppendMerkleTreeLeaf(nil, pl)))(d.t)
	id := d.key.LogID()
	answer := map[string]any{
		"sct_version": 0, "id": id[:], "timestamp": pl.TimestampMillis,
		"extensions": must(entry.Extensions(pl.Index))(d.t), "signature": signature,
	}
	change(answer)
	return must(json.Marshal(answer))(d.t)
}

// paths of the visible objects, in order.
func (d *demo) paths(prefix string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(d.bodies)), func(p string) bool { return !strings.HasPrefix(p, prefix) })
}

func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 4
	return b
}

// resigned is a checkpoint with other text under the signatures of another.
func resigned(raw []byte, line int, text string) []byte {
	lines := strings.Split(string(raw), "\n")
	lines[line] = text
	return []byte(strings.Join(lines, "\n"))
}

func root64(b byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{b}, 32))
}
