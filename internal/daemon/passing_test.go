package daemon

import (
	"errors"
	"fmt"
	"testing"

	"kiln/internal/config"
	"kiln/internal/watch"
)

// TestWatcherRefusalMayPass has a watcher refuse a log at its start.
func TestWatcherRefusalMayPass(t *testing.T) {
	t.Parallel()
	onS3 := config.Log{Storage: "s3://kiln-ct/one", Lock: "/lock.db"}
	onDisk := config.Log{Storage: "/logs/one", Lock: "/lock.db"}
	noAnswer := errors.New("no answer")
	for _, c := range []struct {
		name string
		conf config.Log
		err  error
		want bool
	}{
		{"a fault that is there", onS3, watch.ErrFault, false},
		{"a fault, and storage that does not answer", onS3, fmt.Errorf("%w: %w: %w", watch.ErrFault, watch.ErrUntold, noAnswer), true},
		{"a fault, and a disk that cannot be read", onDisk, fmt.Errorf("%w: %w: %w", watch.ErrFault, watch.ErrUntold, noAnswer), false},
		{"a state that is not its own", onS3, noAnswer, false},
	} {
		if got := mayPass(c.conf, refused(c.err)); got != c.want {
			t.Errorf("%s: may pass is %v, want %v", c.name, got, c.want)
		}
	}
}
