package daemon

import (
	"context"
	"fmt"

	"kiln/internal/contain"
	"kiln/internal/roots"
)

// openRoots makes a manager for each roots file of the logs, and brings a file
// that was lost back from its copy, before any log reads it.
func (d *Daemon) openRoots(ctx context.Context) error {
	d.roots = make(map[string]*roots.Manager)
	files := make(map[string]*roots.Config)
	for _, s := range d.slots {
		v, err := newValidator(s.conf, d.opts)
		if err != nil {
			return fmt.Errorf("log %s: %w", s.conf.Name, err)
		}
		s.validator = v
		conf, ok := files[s.conf.RootsFile]
		if !ok {
			conf = d.rootsConfig(s.conf.RootsFile)
			files[s.conf.RootsFile] = conf
		}
		conf.Logs = append(conf.Logs, v)
		if s.broken() == nil {
			conf.Buckets = append(conf.Buckets, s.parts.Bucket)
		}
	}
	for file, conf := range files {
		m, err := roots.NewManager(*conf)
		if err != nil {
			return err
		}
		from, err := m.Restore(ctx)
		if err != nil {
			return fmt.Errorf("roots_file %s: %w", file, err)
		}
		if from != "" {
			d.log.Warn("roots file was lost and is brought back from its copy", "path", file)
		}
		d.roots[file] = m
	}
	return nil
}

func (d *Daemon) rootsConfig(file string) *roots.Config {
	return &roots.Config{
		File: file, Reports: d.cfg.Roots.Reports, ExtraFile: d.cfg.Roots.ExtraFile, RefusedFile: d.cfg.Roots.RefusedFile,
		Refresh: d.cfg.Roots.Refresh, Logger: d.log, Now: d.opts.Now, Registerer: d.reg,
	}
}

// followRoots keeps the roots of all logs up to date until Close.
func (d *Daemon) followRoots() {
	ctx, cancel := context.WithCancel(context.Background())
	for file, m := range d.roots {
		d.watchers.Go(func() {
			// That roots are not followed harms no log, so that none is stopped.
			if err := contain.Do(func() { m.Run(ctx) }); err != nil {
				d.log.Error("the accepted roots stay as they are until a restart", "path", file, "err", err)
			}
		})
	}
	d.watchers.Go(func() {
		<-d.stopping
		cancel()
	})
}

// Reload reads the roots files of all logs again, and the reports they follow.
// It does not wait: what came of it is logged. TLS certificates are read again
// when their files change, without it.
func (d *Daemon) Reload() {
	for _, m := range d.roots {
		m.Reload()
	}
}
