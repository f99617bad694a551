package watch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kiln/checkpoint"
	"kiln/internal/fsck"
)

// ErrFault says that a log must not sign, for a fault that was proved.
var ErrFault = errors.New("the log contradicts what its watcher has verified")

// ErrUntold says that a proved fault may have been repaired or not: the storage
// cannot be read.
var ErrUntold = errors.New("whether that was repaired cannot be told")

// Inspect is called before the log signs anything: it says whether the fault that
// an earlier watcher proved is still there, and whether the log's own storage and
// its committed checkpoint, if that is known, go on from what was verified. The
// error wraps [ErrFault] if not; it names what differs and says what to do. A fault
// that was repaired is forgotten. That the storage cannot be read is no error,
// unless there was a fault: then the error wraps [ErrUntold] too.
func (w *Watcher) Inspect(ctx context.Context, committed *checkpoint.Checkpoint) error {
	seen, ok, err := w.follower.Seen()
	if err != nil {
		return fmt.Errorf("open the checkpoint in the watcher's state %s: %w", w.cfg.State, err)
	}
	if w.note != nil {
		if err := w.inspectFault(ctx); err != nil {
			return err
		}
	}
	if !ok {
		return nil
	}
	if c := committed; c != nil && (c.Tree.N < seen.Tree.N || c.TimestampMillis < seen.TimestampMillis || c.Tree.N == seen.Tree.N && c.Tree.Hash != seen.Tree.Hash) {
		return fmt.Errorf("%w: the lock has %d entries with root %v of %s, but %d entries with root %v of %s were public: the log was set back, or has forked; "+
			"bring back the newest lock and storage, nothing was signed", ErrFault,
			c.Tree.N, c.Tree.Hash, stamp(c.TimestampMillis), seen.Tree.N, seen.Tree.Hash, stamp(seen.TimestampMillis))
	}
	err = w.follower.With(w.cfg.Storage).Extends(ctx)
	var fault *fsck.Fault
	if !errors.As(err, &fault) {
		return ctx.Err()
	}
	w.keep(checkNote{Kind: checkPass}, fault)
	return w.refusal()
}

func stamp(millis int64) string { return time.UnixMilli(millis).UTC().Format(time.RFC3339Nano) }

// inspectFault looks at the fault in the state again, in the log's own storage.
func (w *Watcher) inspectFault(ctx context.Context) error {
	if w.note.fault().Ground == fsck.GroundSigned && w.note.Check.Kind == checkPass {
		return fmt.Errorf("%w: %s: %s; both are signed, which nothing repairs: keep everything, make it public, and do not start the log again "+
			"(its watcher's state is %s)", ErrFault, w.note.Path, w.note.Detail, w.cfg.State)
	}
	own := w.follower.With(w.cfg.Storage)
	err := checkNote{Kind: checkPass}.run(ctx, own) // the head that the others need
	if err == nil && w.note.Check.needsHead() {
		err = w.note.Check.run(ctx, own)
	}
	var fault *fsck.Fault
	switch {
	case err == nil:
		w.log.Warn("the fault that the watcher had proved was repaired", "path", w.note.Path, "err", errors.New(w.note.Detail))
		w.note = nil
		w.saveIfDue(true)
		return nil
	case errors.As(err, &fault):
		w.keep(w.note.Check, fault)
		return w.refusal()
	}
	return fmt.Errorf("%w: %s: %s; %w: %w; nothing was signed, start again when the storage can be read",
		ErrFault, w.note.Path, w.note.Detail, ErrUntold, err)
}

// keep puts a fault into the state.
func (w *Watcher) keep(c checkNote, f *fsck.Fault) {
	w.note = &faultNote{
		Check: c, Path: f.Path, Index: f.Index, Ground: int(f.Ground), Got: f.Got, Want: f.Want,
		Detail: f.Detail, At: w.cfg.Now().UTC().Format(time.RFC3339),
	}
	w.saveIfDue(true)
}

func (w *Watcher) refusal() error {
	return fmt.Errorf("%w: %s: %s; nothing was signed: bring the object back from a copy, then start again", ErrFault, w.note.Path, w.note.Detail)
}
