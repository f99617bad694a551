package daemon

import (
	"time"

	"kiln/internal/watch"
)

// Helpers of the inner tests that the outer ones use too.
var WriteCertificate = writeCertificate

// SetPatience sets how long a start waits for the other logs once one is open.
func (o *Options) SetPatience(d time.Duration) { o.patience = d }

// Watcher returns the watcher of log i.
func (d *Daemon) Watcher(i int) *watch.Watcher { return d.logs()[i].watcher }
