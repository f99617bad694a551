// Package fsck checks a whole static-ct log, ours or a stranger's, from what it
// serves: the checkpoint's signature, every entry, every hash tile, the issuers,
// names and partial tiles, the headers of a URL, and consistency with a
// checkpoint that was remembered (Static CT API v1.1.0; MON-02 to MON-24, CKP-01
// to CKP-10).
//
// Invariants: a [*Fault] is proved by bytes of the log, and the first in the
// order of entries is the one reported; whatever could not be read is an
// [*UnknownError] and no fault. Hashes are computed from the entries upwards, by
// code that makes no tiles. Memory does not grow with the log, and nothing that a
// log serves makes a run last forever. What the state file says to be checked
// already goes into the root that is compared with the checkpoint.
//
// The package never knows how a log is written, and never writes to one.
package fsck

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"kiln/checkpoint"
)

// Defaults of [Options].
const (
	DefaultParallel = 16
	DefaultTimeout  = 30 * time.Second
	DefaultStall    = 5 * time.Minute
)

// day is the maximum merge delay that is assumed of a log that declares none.
const day = 24 * time.Hour

// Options says what to check. The zero value checks everything, by what the log
// says of itself.
type Options struct {
	SPKI   []byte // the log's key, DER; from log.v3.json if empty
	Origin string // as the checkpoint has it; from log.v3.json if empty

	// State is the file that remembers the newest checkpoint and how far an
	// interrupted run has come; empty for none. After a run that ended well the
	// next checks all entries again, but with OnlyNew only those added since.
	State   string
	OnlyNew bool

	// Hasty asks for an object once more at most, for those who come back soon.
	Hasty bool

	// Signatures also has the signature of every certificate verified by its
	// issuer's key. The tree does not cover precertificates and fingerprints.
	Signatures bool

	Parallel int           // tiles checked at a time
	Timeout  time.Duration // for an answer, and for each piece of it
	Stall    time.Duration // a run in which nothing was read for so long ends

	// Progress is called now and then by one goroutine at a time; total is 0 if
	// it is not known.
	Progress func(what string, done, total int64)
	Now      func() time.Time
}

func (o Options) complete() Options {
	if o.Parallel < 1 {
		o.Parallel = DefaultParallel
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Stall <= 0 {
		o.Stall = DefaultStall
	}
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// checker is one run.
type checker struct {
	*access
	opts   Options
	counts *tally
	report Report

	verifier   *checkpoint.Verifier
	raw        []byte // the checkpoint as served
	checkpoint checkpoint.Checkpoint
	tree       tlog.Tree // the checkpoint's
	edge       spine     // partial tiles of the checkpoint, proved
	names      bool      // the log has names tiles
	issuers    *issuers
	mmd        time.Duration // that the log declares

	following bool  // a Follower's: what it remembers is in state only
	from      int64 // of a Follower that remembers nothing: where it begins
	state     state
	unproved  bool  // the remembered checkpoint could not be compared yet
	spine     spine // of the entries checked so far; for the collector
}

// Run checks a log. The error is a *[Fault], an *[UnknownError], one of the
// context, or one about the state file. The report says what was checked even if
// there is an error.
func Run(ctx context.Context, source Source, opts Options) (*Report, error) {
	c := newChecker(source, opts.complete())
	err := c.guarded(ctx, c.run)
	return &c.report, err
}

func newChecker(source Source, opts Options) *checker {
	counts := new(tally)
	return &checker{
		access: &access{source: source, timeout: opts.Timeout, hasty: opts.Hasty, counts: counts},
		opts:   opts, counts: counts, report: Report{Source: source.String()},
		issuers: new(issuers), mmd: day,
	}
}

// guarded calls f, ends it when nothing gets done, and fills the report.
func (c *checker) guarded(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := c.watch(ctx, c.opts.Stall)
	defer stop()
	err := f(ctx)
	if err != nil && errors.Is(err, context.Canceled) {
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			err = &UnknownError{Path: c.source.String(), Err: cause}
		}
	}
	c.counts.fill(&c.report)
	return err
}

func (c *checker) run(ctx context.Context) error {
	if err := c.identify(ctx); err != nil {
		return err
	}
	id := sha256.Sum256(c.opts.SPKI)
	c.report.Origin, c.report.LogID = c.opts.Origin, id[:]
	var err error
	if c.verifier, err = checkpoint.NewVerifier(c.opts.Origin, c.opts.SPKI); err != nil {
		return err
	}
	if err := c.remember(); err != nil {
		return err
	}
	steps := []func(context.Context) error{c.readCheckpoint, c.checkSigned, c.readEdge, c.checkConsistency, c.resume}
	if !c.following {
		steps = append(steps, c.findNames)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return c.entries(ctx)
}

// entries checks what the checkpoint covers.
func (c *checker) entries(ctx context.Context) error {
	if err := c.save(false); err != nil {
		return err
	}
	if err := c.walk(ctx); err != nil {
		return errors.Join(err, c.saveUnless(err))
	}
	if err := c.finish(ctx); err != nil {
		return err
	}
	if c.unproved { // then the walk has found why; but tiles may have changed since
		return &UnknownError{Path: "tile/", Err: errUnproved}
	}
	// Only now, as the wider tiles that partial ones are compared with are right.
	steps := []func(context.Context) error{c.checkRemembered, c.checkPartials}
	if c.following {
		steps = steps[:1] // the others it has seen when they were new
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return errors.Join(err, c.saveUnless(err))
		}
	}
	return c.save(true)
}

// saveUnless saves how far a run has come that was cut off. One that has found a
// fault is to find it again.
func (c *checker) saveUnless(err error) error {
	if found(err) {
		return nil
	}
	return c.save(false)
}

// readCheckpoint reads and verifies the checkpoint.
func (c *checker) readCheckpoint(ctx context.Context) error {
	raw, err := c.small(ctx, "checkpoint", maxSmall)
	if err != nil {
		return missing("checkpoint", -1, err)
	}
	if c.checkpoint, err = c.verifier.Open(raw); err != nil {
		return faultf("checkpoint", "does not open: %v", err).on(GroundAbsent)
	}
	c.raw, c.tree = raw, c.checkpoint.Tree
	at := time.UnixMilli(c.checkpoint.TimestampMillis).UTC()
	c.report.TreeSize, c.report.RootHash, c.report.Timestamp = c.tree.N, hexOf(c.tree.Hash), at
	if now := c.opts.Now(); at.After(now.Add(time.Minute)) {
		c.counts.note("checkpoint", "timestamp is after the time of this machine")
	} else if _, ok := c.source.(*URL); ok && now.Sub(at) > c.mmd {
		c.counts.note("checkpoint", "timestamp is older than the maximum merge delay, %v", c.mmd)
	}
	return nil
}

// checkSigned compares what the checkpoint says with what the remembered one says
// (CKP-07, CKP-09, CKP-10).
func (c *checker) checkSigned(ctx context.Context) error {
	old, ok, err := c.remembered()
	if err != nil || !ok {
		return err
	}
	c.report.SinceSize = old.Tree.N
	return c.keptAsEvidence(c.contradicts(ctx, old))
}

func (c *checker) contradicts(ctx context.Context, old checkpoint.Checkpoint) error {
	was, is := old.TimestampMillis, c.checkpoint.TimestampMillis
	switch {
	case old.Tree.N > c.tree.N:
		return c.shrunk(ctx, old)
	case old.Tree.N == c.tree.N && old.Tree.Hash != c.tree.Hash:
		return mismatch("checkpoint", -1, hexOf(c.tree.Hash), hexOf(old.Tree.Hash),
			"the log has forked: two trees of size %d were signed", c.tree.N).on(GroundSigned)
	case is < was:
		f := mismatch("checkpoint", -1, fmt.Sprint(is), fmt.Sprintf("at least %d", was), "timestamp is before that of one that was seen before")
		if old.Tree.N == c.tree.N {
			return f.on(GroundAbsent)
		}
		return f.on(GroundSigned)
	case is == was && old.Tree != c.tree:
		return mismatch("checkpoint", -1, fmt.Sprintf("size %d", c.tree.N), fmt.Sprintf("size %d", old.Tree.N),
			"two trees were signed with timestamp %d", is).on(GroundSigned)
	}
	return nil
}

// checkConsistency compares the tree with the remembered one.
func (c *checker) checkConsistency(ctx context.Context) error {
	old, ok, err := c.remembered()
	if err != nil || !ok || old.Tree.N == c.tree.N {
		return err
	}
	root, err := c.rootAt(ctx, old.Tree.N)
	if errors.Is(err, errUnproved) {
		c.unproved = true
		return nil
	}
	if err == nil && root != old.Tree.Hash {
		err = mismatch("checkpoint", -1, hexOf(root), hexOf(old.Tree.Hash),
			"the log has forked: the tree of size %d has another root at size %d than the one that was signed before", c.tree.N, old.Tree.N).on(GroundSigned)
	}
	return c.keptAsEvidence(err)
}

// keptAsEvidence keeps a checkpoint that is at fault.
func (c *checker) keptAsEvidence(err error) error {
	var f *Fault
	if errors.As(err, &f) && f.Path == "checkpoint" {
		return errors.Join(err, c.keepConflict())
	}
	return err
}

// shrunk makes the fault of a checkpoint that is smaller than the remembered one.
// If it is older too, and the beginning of the remembered tree, it may only be
// late.
func (c *checker) shrunk(ctx context.Context, old checkpoint.Checkpoint) error {
	f := mismatch("checkpoint", c.tree.N, fmt.Sprintf("size %d with root %s", c.tree.N, hexOf(c.tree.Hash)),
		fmt.Sprintf("at least size %d with root %s", old.Tree.N, hexOf(old.Tree.Hash)), "is smaller than one that was seen before")
	if c.checkpoint.TimestampMillis >= old.TimestampMillis {
		f.Detail += "; it was signed later"
		return f.on(GroundSigned)
	}
	hashes, p := c.hashesOf(ctx, old.Tree)
	root, err := rootOf(hashes, p, c.tree.N)
	if err == nil && root != c.tree.Hash {
		f.Detail += "; it is not of the same tree: the log has forked"
		return f.on(GroundSigned)
	}
	return f.on(GroundAbsent)
}

// resume takes up an earlier pass over this source, if its entries still are
// those of the checkpoint.
func (c *checker) resume(ctx context.Context) error {
	p := c.state.Pass
	if c.following && c.state.Checkpoint == "" {
		return c.begin(ctx)
	}
	if !c.following && c.state.Source != c.source.String() || p.Done && !c.opts.OnlyNew || p.Entries == 0 || p.Entries > c.tree.N {
		return nil
	}
	s, err := p.spine()
	if err != nil {
		return err // cannot be: it was read before
	}
	want, err := c.rootAt(ctx, p.Entries)
	switch {
	case errors.Is(err, errUnproved) && !c.following:
		return nil // from the first entry on, to find out which tile it is
	case errors.Is(err, errUnproved):
		// It is a tile that the spine has no full one of: the walk comes to it.
	case err != nil:
		return err
	default:
		if got := s.root(); got != want {
			return mismatch("tile/", p.Entries-1, hexOf(want), hexOf(got),
				"the first %d entries are not those that were checked on %s: the root over them differs", p.Entries, c.state.Saved.Format(time.RFC3339))
		}
	}
	c.spine = s
	c.report.ResumedAt = p.Entries
	return nil
}

// progress tells how far the run has come.
func (c *checker) progress(what string, done, total int64) { c.opts.Progress(what, done, total) }

var _ tlog.TileReader = (*proven)(nil)
