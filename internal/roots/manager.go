package roots

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kiln/storage"
)

// retryAfter is the pause after a refresh that failed, if that is not longer
// than the usual one.
const retryAfter = 15 * time.Minute

// Log is what accepts roots.
type Log interface {
	// SetRoots replaces the accepted roots, or fails and leaves them.
	SetRoots(ders [][]byte) error
}

// Config says where roots come from and where they go.
type Config struct {
	// File is the roots file that logs accept from. Several logs may share it.
	File string

	// Reports are read from https URLs, http URLs on loopback, or files.
	// ExtraFile is PEM with further roots, RefusedFile has those that are never
	// to be accepted, by fingerprint or as PEM. If all are empty, File is the
	// operator's alone: it is read again, copied to the buckets, and never written
	// but when it is lost.
	Reports                []string
	ExtraFile, RefusedFile string

	// Buckets get copies of File, and give the newest back when File is lost.
	Buckets []storage.Bucket

	// Logs are told of the roots, once File holds them.
	Logs []Log

	// Refresh is the time between two looks at the reports by Run; 0 is none.
	Refresh time.Duration

	// FetchTimeout bounds the reading of one report; 0 is DefaultFetchTimeout.
	FetchTimeout time.Duration

	// Cached reads the reports as KeepReports left them beside File.
	Cached bool

	// AcceptShrunk follows reports that list far fewer roots than before.
	AcceptShrunk bool

	// Progress is called with the number of bytes of a report that came over the
	// network just now; nil is none.
	Progress func(n int)

	Client     *http.Client          // nil is http.DefaultClient
	Logger     *slog.Logger          // nil is silence
	Now        func() time.Time      // nil is time.Now
	Registerer prometheus.Registerer // nil is none; metrics get the label roots_file
}

// managed reports whether the roots file is written by kiln.
func (c *Config) managed() bool {
	return len(c.Reports) > 0 || c.ExtraFile != "" || c.RefusedFile != ""
}

// Manager keeps one roots file. Its methods are safe for concurrent use.
type Manager struct {
	cfg     Config
	names   []string // of cfg.Reports
	builtIn Listing
	metrics *metrics
	reload  chan struct{} // of one place

	applying sync.Mutex       // one Apply at a time
	mu       sync.Mutex       // guards what follows
	told     *Set             // what the logs accept, nil before the first time
	late     []storage.Bucket // beside cfg.Buckets
}

// NewManager makes a Manager. It reads nothing yet.
func NewManager(cfg Config) (*Manager, error) {
	if cfg.File == "" {
		return nil, errors.New("roots: no roots file is named")
	}
	for _, r := range cfg.Reports {
		if err := CheckSource(r); err != nil {
			return nil, fmt.Errorf("roots: %w", err)
		}
	}
	all, err := names(cfg.Reports)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	if cfg.FetchTimeout == 0 {
		cfg.FetchTimeout = DefaultFetchTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	own, err := builtIn()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registerer, cfg.File)
	if err != nil {
		return nil, fmt.Errorf("roots: %w", err)
	}
	return &Manager{cfg: cfg, names: all, builtIn: own, metrics: m, reload: make(chan struct{}, 1)}, nil
}

// AddBucket has one more bucket get copies of the roots file, from the next change
// or Reload on: that of a log that was opened late.
func (m *Manager) AddBucket(b storage.Bucket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.late = append(m.late, b)
}

func (m *Manager) buckets() []storage.Bucket {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Concat(m.cfg.Buckets, m.late)
}

// State is what was found on disk, or in a bucket in its place.
type State struct {
	Set *Set
	// From is the path it was read from: the roots file, its last good copy, or
	// that of an object in a bucket; empty if there is nothing anywhere.
	From string
	// Restored are roots that the logs accept and the file has lost.
	Restored []Root

	data []byte // of the roots file, nil if there is none
}

// Load reads the roots file. If it is not there, or says that nothing is
// accepted as yet, and kiln writes it, then the newest copy in a bucket stands
// for it, or else the last good one beside it: a machine may have lost its disk.
// A file that is damaged is an error: it may be that an operator is at work on it.
func (m *Manager) Load(ctx context.Context) (*State, error) {
	s, err := m.load(ctx)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	told := m.told
	m.mu.Unlock()
	if told == nil || !m.cfg.managed() {
		return s, nil
	}
	for _, r := range told.roots {
		if _, ok := s.Set.Get(r.Fingerprint); !ok {
			s.Restored = append(s.Restored, r)
		}
	}
	s.Set = NewSet(append(s.Set.All(), s.Restored...)...)
	return s, nil
}

func (m *Manager) load(ctx context.Context) (*State, error) {
	s := &State{Set: NewSet()}
	data, err := readFile(m.cfg.File, maxFile)
	switch {
	case err == nil:
		if s.Set, err = ParseFile(data); err != nil {
			return nil, fmt.Errorf("roots file %s: %w; mend it, or put %s in its place", m.cfg.File, err, filepath.Base(m.cfg.File)+LastGoodSuffix)
		}
		s.From, s.data = m.cfg.File, data
	case !errors.Is(err, fs.ErrNotExist) || !m.cfg.managed():
		return nil, fmt.Errorf("read roots file: %w", err)
	}
	if s.Set.Len() > 0 || !m.cfg.managed() {
		return s, nil
	}
	from, copied, err := m.copied(ctx)
	if err != nil {
		return nil, fmt.Errorf("roots file %s is lost, and its copy cannot be had: %w", m.cfg.File, err)
	}
	if copied != nil && copied.Len() > 0 {
		s.From, s.Set = from, copied
	}
	return s, nil
}

// copied returns what the copies of the roots file hold, nil if there are none,
// and where one of them is. The buckets need not agree, as a copy may have failed;
// one that cannot be read is an error: it may be the one that holds most.
func (m *Manager) copied(ctx context.Context) (from string, set *Set, err error) {
	for _, b := range m.buckets() {
		data, err := Recover(ctx, b)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		var one *Set
		if err == nil {
			one, err = ParseFile(data)
		}
		if err != nil {
			return "", nil, err
		}
		if set == nil {
			from, set = CopyPath(data), one
		} else {
			set = NewSet(append(set.All(), one.All()...)...)
		}
	}
	if set != nil {
		return from, set, nil
	}
	beside := m.cfg.File + LastGoodSuffix
	data, err := readFile(beside, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err == nil {
		set, err = ParseFile(data)
	}
	if err != nil {
		return "", nil, fmt.Errorf("%s: %w", beside, err)
	}
	return beside, set, nil
}

// Lost reports whether the roots file is not there, or, where kiln writes it, holds
// no root though a copy does; and where Recreate takes it from: the path of an
// object or of the last good file, "" if it is nowhere.
func (m *Manager) Lost(ctx context.Context) (lost bool, from string, err error) {
	s, err := m.lost(ctx)
	if err != nil || s == nil {
		return false, "", err
	}
	return true, s.From, nil
}

// lost returns what is to take the place of the roots file, nil if that is not
// lost.
func (m *Manager) lost(ctx context.Context) (*State, error) {
	if m.cfg.managed() {
		s, err := m.load(ctx)
		if err != nil || s.From == m.cfg.File {
			return nil, err
		}
		return s, nil
	}
	if _, err := os.Lstat(m.cfg.File); !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	from, set, err := m.copied(ctx)
	if err != nil {
		return nil, fmt.Errorf("roots file %s is lost, and its copy cannot be had: %w", m.cfg.File, err)
	}
	return &State{Set: set, From: from}, nil
}

// Restore writes the roots file again from its copy if it is lost and kiln writes
// it. It is for the start, before logs read the file. It says where the copy was,
// if it did.
func (m *Manager) Restore(ctx context.Context) (from string, err error) {
	if !m.cfg.managed() {
		return "", nil
	}
	return m.Recreate(ctx)
}

// Recreate is Restore for a file that is the operator's alone as well: for a
// machine that is known to have lost it.
func (m *Manager) Recreate(ctx context.Context) (from string, err error) {
	s, err := m.lost(ctx)
	if err != nil || s == nil || s.From == "" {
		return "", err
	}
	data := s.Set.plain()
	if m.cfg.managed() {
		if data, err = s.Set.rendered(); err != nil {
			return "", err
		}
	}
	return s.From, swap(m.cfg.File, s.data, data)
}

// Plan says what is to be done about the reports, the extra and the refused
// roots. Files of the operator that cannot be read are an error: without them
// nothing is known of what is wanted.
func (m *Manager) Plan(s *State, fetched []Fetched) (*Plan, error) {
	var listings []Listing
	for _, f := range fetched {
		l := Listing{Source: f.Name, Err: f.Err, Report: f.Report}
		if f.Err == nil {
			l.Roots = f.Report.Roots
		}
		listings = append(listings, l)
	}
	if len(fetched) > 0 {
		listings = append(listings, m.builtIn)
	}
	if m.cfg.ExtraFile != "" {
		data, err := readFile(m.cfg.ExtraFile, maxFile)
		if err != nil {
			return nil, fmt.Errorf("read extra roots: %w", err)
		}
		extra, err := parsePEM(data, SourceExtra)
		if err != nil {
			return nil, fmt.Errorf("extra roots %s: %w", m.cfg.ExtraFile, err)
		}
		listings = append(listings, Listing{Source: SourceExtra, Roots: extra})
	}
	var refused map[Fingerprint]bool
	if m.cfg.RefusedFile != "" {
		data, err := readFile(m.cfg.RefusedFile, maxFile)
		if err != nil {
			return nil, fmt.Errorf("read refused roots: %w", err)
		}
		if refused, err = parseRefused(data); err != nil {
			return nil, fmt.Errorf("refused roots %s: %w", m.cfg.RefusedFile, err)
		}
	}
	p := Merge(s.Set, listings, refused)
	p.basis, p.next = s.data, s.data
	m.mu.Lock()
	none := m.told == nil && s.Set.Len() == 0
	m.mu.Unlock()
	switch {
	case p.Set.Len() > 0 && m.cfg.managed():
		var err error
		p.next, err = p.Set.rendered()
		return p, err
	case p.Set.Len() == 0 && !none:
		return nil, errors.New("no root would be accepted any more: nothing is changed")
	}
	return p, nil
}
