package roots

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// attempts bounds how often a refresh starts again because another process has
// changed the roots file meanwhile.
const attempts = 3

// ErrCopy says that the roots are accepted, but not copied to every bucket. The
// next Apply tries again, whether there is something new or not.
var ErrCopy = errors.New("the roots are applied, but not copied to the bucket")

// Apply writes the roots file, tells the logs, and copies the file to the
// buckets. It fails with ErrChanged, having done nothing, if the file is not the
// one the plan was made for. It may be repeated.
func (m *Manager) Apply(ctx context.Context, p *Plan) error {
	m.applying.Lock()
	defer m.applying.Unlock()
	if p.Changed() {
		if err := swap(m.cfg.File, p.basis, p.next); err != nil {
			return err
		}
	}
	if err := m.tell(p.Set); err != nil {
		return err
	}
	copied := p.next
	if !m.cfg.managed() && p.Set.Len() > 0 {
		copied = p.Set.plain() // comments are the operator's, and a bucket is public
	}
	if p.Set.Len() == 0 || copied == nil {
		return nil
	}
	var errs []error
	for _, b := range m.buckets() {
		errs = append(errs, Copy(ctx, b, copied))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w: %w", ErrCopy, err)
	}
	return nil
}

// tell gives the roots to the logs, unless they have them.
func (m *Manager) tell(set *Set) error {
	m.mu.Lock()
	told := m.told
	m.mu.Unlock()
	m.metrics.accepted.Set(float64(set.Len()))
	if told != nil && told.same(set) || set.Len() == 0 { // none is what a new log accepts
		return nil
	}
	for _, l := range m.cfg.Logs {
		if err := l.SetRoots(set.DERs()); err != nil {
			return fmt.Errorf("set the roots of a log: %w", err)
		}
	}
	m.mu.Lock()
	m.told = set
	m.mu.Unlock()
	m.cfg.Logger.Info("logs accept the roots of the roots file", "path", m.cfg.File, "entries", set.Len())
	return nil
}

// Refresh does all there is to do: it reads the reports and the file, and
// applies what is new. What failed is in the error, is counted and logged; what
// could be done was done, and no root was lost.
func (m *Manager) Refresh(ctx context.Context) error {
	p, err := m.refresh(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx) // the end of the process is no failure
	}
	if err != nil {
		part := partApply
		if errors.Is(err, ErrCopy) {
			part = partBucket
		}
		m.metrics.failures.WithLabelValues(part).Inc()
		m.cfg.Logger.Error("the accepted roots were not brought up to date", "path", m.cfg.File, "err", err)
	}
	if p == nil {
		return err
	}
	for _, l := range p.Listings {
		if l.Err != nil {
			m.metrics.failures.WithLabelValues(partReport).Inc()
			m.cfg.Logger.Error("a report of roots is not followed; accepted roots stay", "path", m.cfg.File, "err", l.Err)
			err = errors.Join(err, l.Err)
		}
	}
	if err == nil {
		m.metrics.lastSuccess.Set(float64(m.cfg.Now().UnixMilli()) / 1000)
	}
	return err
}

// refresh reads the reports once, and applies them to the roots file, again if
// another process changes that at the same time. It returns the plan if there
// was one.
func (m *Manager) refresh(ctx context.Context) (p *Plan, err error) {
	s, err := m.Load(ctx)
	if err != nil {
		return nil, err
	}
	fetched := m.Fetch(ctx, s)
	if err := ctx.Err(); err != nil { // what failed, failed for that
		return nil, err
	}
	for range attempts {
		if p, err = m.Plan(s, fetched); err != nil {
			return nil, err
		}
		if err = m.Apply(ctx, p); !errors.Is(err, ErrChanged) {
			break
		}
		if s, err = m.Load(ctx); err != nil {
			return p, err
		}
	}
	if err == nil || errors.Is(err, ErrCopy) {
		m.logChanges(s, p)
	}
	return p, err
}

// logChanges names each root that came or went: there are few, and somebody will
// ask one day.
func (m *Manager) logChanges(s *State, p *Plan) {
	log := m.cfg.Logger.With("path", m.cfg.File)
	for _, r := range s.Restored {
		log.Warn("a root was missing in the roots file and is written again: only the file of refused roots takes a root out", "root", r.String())
	}
	for _, r := range p.Add {
		log.Info("a root is accepted from now on", "root", r.String())
	}
	for _, r := range p.Remove {
		log.Warn("a root is refused from now on", "root", r.String())
	}
}

// Run refreshes at once, at each Reload, and every Config.Refresh, sooner after
// a failure, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	for {
		wait := m.cfg.Refresh
		if err := m.Refresh(ctx); err != nil {
			wait = min(wait, retryAfter)
		}
		if !m.wait(ctx, wait) {
			return
		}
	}
}

// wait returns true when it is time to refresh, false when ctx ended.
func (m *Manager) wait(ctx context.Context, d time.Duration) bool {
	var tick <-chan time.Time // never, if there is no period
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		tick = timer.C
	}
	select {
	case <-ctx.Done():
	case <-m.reload:
	case <-tick:
	}
	return ctx.Err() == nil
}

// Reload makes Run refresh now, or once more after the refresh it is at. It does
// not wait.
func (m *Manager) Reload() {
	select {
	case m.reload <- struct{}{}:
	default:
	}
}

// makeFolder makes a folder in a folder that is there.
func makeFolder(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil {
		if info, statErr := os.Stat(path); errors.Is(err, fs.ErrExist) && statErr == nil && info.IsDir() {
			return nil
		}
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
