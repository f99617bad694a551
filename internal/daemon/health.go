package daemon

import (
	"fmt"
	"time"
)

// maxCheckpointAge is how old the newest published checkpoint may be while a
// log counts as ready: three periods, and the 5 s within which even an idle log
// signs a fresh one.
func maxCheckpointAge(period time.Duration) time.Duration { return 3*period + 5*time.Second }

// phase is what the daemon as a whole is doing.
type phase int32

const (
	starting phase = iota
	serving
	draining
)

// ready says whether all logs do what they should, with a line for each. It is
// what /readyz answers.
func (d *Daemon) ready() (ok bool, report []string) {
	switch phase(d.phase.Load()) {
	case starting:
		return false, []string{"not ready: starting"}
	case draining:
		return false, []string{"not ready: draining"}
	}
	ok = true
	for _, s := range d.slots {
		l := s.log.Load()
		if l == nil {
			ok = false
			report = append(report, fmt.Sprintf("not ready: log %s could not be started: %v", s.conf.Name, s.broken()))
			continue
		}
		if err := l.health(d.opts.Now()); err != nil {
			ok = false
			report = append(report, fmt.Sprintf("not ready: log %s: %v", l.conf.Name, err))
			continue
		}
		report = append(report, fmt.Sprintf("ok: log %s", l.conf.Name))
	}
	return ok, report
}

// health returns what is wrong with the log, or nil.
func (l *runningLog) health(now time.Time) error {
	if err := l.sequencer.Err(); err != nil {
		return fmt.Errorf("stopped for good: %w", err)
	}
	if l.retired.Load() {
		return nil // as it should be
	}
	if l.watcher != nil {
		if err := l.watcher.Health(); err != nil {
			return err
		}
	}
	age, limit := l.age(now), maxCheckpointAge(l.conf.Period)
	if age > limit {
		return fmt.Errorf("the newest checkpoint is %v old, want at most %v", age.Round(time.Millisecond), limit)
	}
	return nil
}

// age is the age of the newest published checkpoint.
func (l *runningLog) age(now time.Time) time.Duration {
	return now.Sub(time.UnixMilli(l.sequencer.Latest().TimestampMillis))
}
