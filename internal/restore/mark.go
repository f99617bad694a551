package restore

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/mod/sumdb/tlog"
)

// markSuffix ends the name of the file beside the deduplication cache that says
// how far a run has come. What the cache covers is not enough: a log that was
// served has filled it without reading its storage back.
const markSuffix = ".restoring"

// mark says what an earlier run of restore, which was cut off, has verified.
type mark struct {
	Origin   string    `json:"origin"`
	Storage  string    `json:"storage"`
	TreeSize int64     `json:"tree_size"` // of the tree that it was proved against
	RootHash tlog.Hash `json:"root_hash"`
	Verified int64     `json:"verified"` // all entries below
}

func (l *Log) markPath() string { return l.parts.Conf.Dedup + markSuffix }

// readMark returns the mark of an earlier run on this log, the zero mark if there
// is none that counts.
func (l *Log) readMark() mark {
	var m mark
	data, err := os.ReadFile(l.markPath())
	if err != nil || json.Unmarshal(data, &m) != nil {
		return mark{}
	}
	conf := l.parts.Conf
	if m.Origin != conf.Origin || m.Storage != conf.Storage || m.TreeSize > l.head.Tree.N || m.Verified < 0 || m.Verified > m.TreeSize {
		return mark{}
	}
	return m
}

// writeMark puts the mark in its place, whole or not at all. After a power cut an
// older one may be there: then some entries are verified twice.
func (l *Log) writeMark(verified int64) error {
	conf := l.parts.Conf
	data, err := json.Marshal(mark{conf.Origin, conf.Storage, l.head.Tree.N, l.head.Tree.Hash, verified})
	if err != nil {
		return err
	}
	path := l.markPath()
	temp := filepath.Join(filepath.Dir(path), ".new-"+rand.Text())
	if err := os.WriteFile(temp, data, 0o644); err != nil {
		return fmt.Errorf("remember how far the restore is: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(fmt.Errorf("remember how far the restore is: %w", err), os.Remove(temp))
	}
	return nil
}

func (l *Log) removeMark() error {
	if err := os.Remove(l.markPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
