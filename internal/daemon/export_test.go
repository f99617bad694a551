package daemon

import "kiln/internal/watch"

// Helpers of the inner tests that the outer ones use too.
var WriteCertificate = writeCertificate

// Watcher returns the watcher of log i.
func (d *Daemon) Watcher(i int) *watch.Watcher { return d.logs()[i].watcher }
