package reader

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"

	"kiln/checkpoint"
)

// checkpointPath is the object that is replaced.
const checkpointPath = "checkpoint"

// newest is the newest checkpoint that was seen. It is what makes checkpoints
// only go forward here (CKP-10), even if storage were to go back.
type newest struct {
	verifier *checkpoint.Verifier

	mu      sync.Mutex
	raw     []byte                // guarded by mu; never changed in place
	opened  checkpoint.Checkpoint // guarded by mu; what raw says
	refused []byte                // guarded by mu; told to the operator
}

// readCheckpoint returns the newest checkpoint. It has storage looked into after
// the call began, so that whoever holds an SCT finds it covered; calls at the same
// time share that look, so that any number of them is one small read at a time.
func (rd *Reader) readCheckpoint(ctx context.Context) ([]byte, checkpoint.Checkpoint, error) {
	if err := rd.checkpoints.wait(ctx); err != nil {
		return nil, checkpoint.Checkpoint{}, fmt.Errorf("read checkpoint: %w", err)
	}
	n := &rd.newest
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.raw, n.opened, nil // at least as new as what was read
}

// lookForCheckpoint looks into storage for a newer checkpoint. After it was nil
// there is one.
func (rd *Reader) lookForCheckpoint(ctx context.Context) error {
	raw, err := rd.cfg.Bucket.Get(ctx, checkpointPath)
	if err != nil {
		return err
	}
	n := &rd.newest
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.raw != nil && bytes.Equal(raw, n.raw) {
		return nil
	}
	opened, err := n.verifier.Open(raw)
	if err != nil {
		return err
	}
	switch {
	case n.raw == nil || opened.Newer(n.opened):
		n.raw, n.opened = raw, opened
	case opened.Tree.N < n.opened.Tree.N && opened.TimestampMillis > n.opened.TimestampMillis:
		if !bytes.Equal(raw, n.refused) {
			n.refused = raw
			rd.log.ErrorContext(ctx, "the checkpoint in storage is of a smaller tree than one already served",
				"path", checkpointPath, "tree_size", opened.Tree.N, "old_tree_size", n.opened.Tree.N)
		}
		rd.metrics.staleCheckpoints.Inc()
	default:
		// An older one, from a storage that is not the same for all who read it.
		rd.metrics.staleCheckpoints.Inc()
	}
	return nil
}

// checkpointPage answers with the newest checkpoint. It is never limited.
func (rd *Reader) checkpointPage(ctx context.Context) answer {
	raw, _, err := rd.readCheckpoint(ctx)
	if err != nil {
		canceled := ctx.Err() == context.Canceled
		if !canceled {
			rd.log.ErrorContext(ctx, "checkpoint cannot be served", "path", checkpointPath, "err", err)
		}
		a := text(http.StatusServiceUnavailable, "the log cannot read its checkpoint at the moment; please try again")
		a.retryAfter, a.err, a.canceled = 5, err, canceled
		return a
	}
	return answer{code: http.StatusOK, contentType: typeText, body: raw, cacheControl: "no-store"}
}
