package restore

import (
	"context"

	"kiln/internal/daemon"
)

// Compare judges the log that has these parts, in one look.
func Compare(ctx context.Context, parts *daemon.Parts) (done bool, err error) {
	l := &Log{State: Ready, parts: parts}
	return l.compare(ctx)
}
