package watch

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"kiln/internal/fsck"
	"kiln/tiles"
)

// checkKind names what was looked at.
type checkKind string

const (
	checkPass    checkKind = "pass" // the checkpoint, the right edge, and what is new
	checkEdge    checkKind = "edge" // the right edge alone
	checkTile    checkKind = "tile" // an older data tile with all above and its issuers
	checkReceipt checkKind = "sct"  // an SCT of the log's own
)

// run makes a check by a follower. The error is a *fsck.Fault, or says that the
// outcome is not known.
func (c checkNote) run(ctx context.Context, f *fsck.Follower) error {
	switch c.Kind {
	case checkEdge:
		return f.Edge(ctx)
	case checkTile:
		return f.Tile(ctx, c.Tile)
	case checkReceipt:
		return findReceipt(ctx, f, c.Receipt)
	default:
		_, err := f.Pass(ctx)
		return err
	}
}

// needsHead reports whether a check is of the tree of an earlier pass.
func (c checkNote) needsHead() bool { return c.Kind != checkPass }

// findReceipt looks for the entry of an SCT at its index. That it is not covered
// is a fault of the checkpoint, once that one was signed no earlier: SCTs leave
// when their entry can be read.
func findReceipt(ctx context.Context, f *fsck.Follower, r *Receipt) error {
	head := f.Head()
	at := func(t int64) string { return time.UnixMilli(t).UTC().Format(time.RFC3339Nano) }
	if r.Index >= head.Tree.N {
		if head.TimestampMillis < r.TimestampMillis {
			return &fsck.UnknownError{Path: "checkpoint", Err: errors.New("it is older than the SCT that is looked for")}
		}
		return &fsck.Fault{
			Path: "checkpoint", Index: r.Index, Ground: fsck.GroundSigned,
			Got: fmt.Sprintf("size %d", head.Tree.N), Want: fmt.Sprintf("at least size %d", r.Index+1),
			Detail: fmt.Sprintf("the log answered an SCT for index %d with timestamp %d (%s), but its checkpoint of %s has %d entries",
				r.Index, r.TimestampMillis, at(r.TimestampMillis), at(head.TimestampMillis), head.Tree.N),
		}
	}
	got, err := f.Leaf(ctx, r.Index)
	if err != nil {
		return err
	}
	if want := [32]byte(r.LeafHash); got == want {
		return nil
	}
	path := tiles.Path(dataTile(head.Tree.N, r.Index))
	fault := &fsck.Fault{
		Path: path, Index: r.Index, Ground: fsck.GroundSigned, Got: hex.EncodeToString(got[:]), Want: hex.EncodeToString(r.LeafHash),
		Detail: fmt.Sprintf("the log answered an SCT for index %d with timestamp %d and leaf hash %x, but the tree has leaf hash %x there",
			r.Index, r.TimestampMillis, r.LeafHash, got),
	}
	if logged, err := f.Timestamp(ctx, r.Index); err == nil && logged != r.TimestampMillis {
		fault.Detail += fmt.Sprintf(", of an entry with timestamp %d", logged)
	}
	return fault
}

// where says whose bytes a fault is in.
type where string

const (
	inLog       where = "log"       // in the log itself: its storage, or what it signed
	inCDN       where = "cdn"       // in what stands between the log and its readers
	inUnsettled where = "unsettled" // in one of the two, which is not known
)

// finding is a fault that was confirmed.
type finding struct {
	check checkNote
	fault *fsck.Fault
	where where
	how   string // a sentence on what confirmed it
}

func (f *finding) String() string {
	return fmt.Sprintf("%s: %s (%s)", f.fault.Path, f.fault.Detail, f.how)
}

// confirm looks at a fault again: past all caches, and in the log's own storage if
// that can be read. A nil finding comes with an error that says that nothing is
// proved.
func (w *Watcher) confirm(ctx context.Context, c checkNote, first *fsck.Fault) (*finding, error) {
	fresh := c.run(ctx, w.follower.With(w.fresh))
	var fault *fsck.Fault
	switch {
	case fresh == nil:
		return &finding{c, first, inCDN, "asked with Cache-Control: no-cache it is right: a cache before the log keeps wrong bytes"}, nil
	case !errors.As(fresh, &fault):
		return nil, fresh
	}
	if w.cfg.Storage == nil {
		return &finding{c, fault, inLog, "asked again with Cache-Control: no-cache it is the same"}, nil
	}
	own := c.run(ctx, w.follower.With(w.cfg.Storage))
	var ownFault *fsck.Fault
	switch {
	case errors.As(own, &ownFault):
		return &finding{c, ownFault, inLog, "the log's own storage has the same fault"}, nil
	case fault.Ground == fsck.GroundSigned:
		return &finding{c, fault, inLog, "it is signed by the log's key, whoever serves it"}, nil
	case own == nil:
		return &finding{c, fault, inCDN, "the log's own storage has the right bytes: what stands between it and " + w.web.String() + " has not"}, nil
	}
	return &finding{c, fault, inUnsettled, fmt.Sprintf("whether the log's own storage has the right bytes is not known: %v", own)}, nil
}
