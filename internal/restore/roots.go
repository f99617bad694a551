package restore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"kiln/internal/roots"
)

// problem says what to do about a file that is nowhere.
func (r *Roots) problem() string {
	return fmt.Sprintf("roots file %s is not there, and no copy of it is in the storage of %s: put the accepted roots there "+
		"before the log is served (kiln roots apply makes it from the reports), or restore with --no-serve",
		r.File, strings.Join(r.Logs, ", "))
}

// lookForRoots finds out which roots files are lost, and where their copies are.
func (p *Plan) lookForRoots(ctx context.Context) error {
	for _, l := range p.Logs {
		if l.State != Ready {
			continue
		}
		file := l.parts.Conf.RootsFile
		r := p.rootsOf(file)
		r.Logs = append(r.Logs, l.Name)
	}
	for _, r := range p.Roots {
		m, err := p.manager(r)
		if err != nil {
			return err
		}
		lost, from, err := m.Lost(ctx)
		if err != nil {
			return fmt.Errorf("roots_file: %w", err)
		}
		r.From, r.Missing = from, lost && from == ""
	}
	return nil
}

// rootsOf returns the entry of a file in the plan, a new one if there is none.
func (p *Plan) rootsOf(file string) *Roots {
	for _, r := range p.Roots {
		if r.File == file {
			return r
		}
	}
	r := &Roots{File: file}
	p.Roots = append(p.Roots, r)
	return r
}

func (p *Plan) manager(r *Roots) (*roots.Manager, error) {
	conf := roots.Config{
		File: r.File, Reports: p.cfg.Roots.Reports, ExtraFile: p.cfg.Roots.ExtraFile, RefusedFile: p.cfg.Roots.RefusedFile,
		Logger: p.opts.Logger, Now: p.opts.Now,
	}
	for _, l := range p.Logs {
		if l.State == Ready && l.parts.Conf.RootsFile == r.File {
			conf.Buckets = append(conf.Buckets, l.parts.Bucket)
		}
	}
	return roots.NewManager(conf)
}

// restoreRoots writes the files that are lost.
func (p *Plan) restoreRoots(ctx context.Context) error {
	for _, r := range p.Roots {
		if r.From == "" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(r.File), 0o755); err != nil {
			return fmt.Errorf("restore roots file: %w", err)
		}
		m, err := p.manager(r)
		if err != nil {
			return err
		}
		if r.From, err = m.Recreate(ctx); err != nil {
			return fmt.Errorf("restore roots file %s: %w", r.File, err)
		}
	}
	return nil
}
