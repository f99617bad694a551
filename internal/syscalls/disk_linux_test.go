package syscalls_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// disk is a folder as a power cut would leave it if the file system did no more
// than it must: of a file there is what was synced, in a folder there are the names
// that a sync of the folder made durable. A sync that failed has lost what it was
// to make durable, although the running machine goes on seeing it: that is what
// Linux does when writing back fails.
type disk struct {
	root string
	top  *node
}

// node is a file or a folder.
type node struct {
	mode fs.FileMode

	data    []byte  // of a file: durable
	pending []write // of a file: what the next sync makes durable, in order

	names   map[string]*node // of a folder: as the running machine sees it
	durable map[string]*node // of a folder
	changed map[string]bool  // of a folder: names that the next sync makes durable
}

// write is a range of bytes that was written, or a new size.
type write struct {
	off, size int64
	truncate  bool
}

func newFolder(mode fs.FileMode) *node {
	return &node{mode: mode | fs.ModeDir, names: map[string]*node{}, durable: map[string]*node{}, changed: map[string]bool{}}
}

// readDisk takes all that is in a folder for durable.
func readDisk(root string) (*disk, error) {
	top, err := readNode(root)
	if err != nil {
		return nil, fmt.Errorf("read disk: %w", err)
	}
	return &disk{root: root, top: top}, nil
}

func readNode(path string) (*node, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		data, err := os.ReadFile(path)
		return &node{mode: info.Mode(), data: data}, err
	}
	n := newFolder(info.Mode())
	list, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		child, err := readNode(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		n.names[e.Name()], n.durable[e.Name()] = child, child
	}
	return n, nil
}

// store makes the folder what is durable.
func (d *disk) store() error {
	if err := os.RemoveAll(d.root); err != nil {
		return err
	}
	return d.top.store(d.root)
}

func (n *node) store(path string) error {
	if n.names == nil {
		return os.WriteFile(path, n.data, n.mode.Perm())
	}
	if err := os.Mkdir(path, n.mode.Perm()); err != nil {
		return err
	}
	for name, child := range n.durable {
		if err := child.store(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// find returns the node at a path, nil if there is none: the file has no name any
// more, or was made by a call that is not supervised.
func (d *disk) find(path string) *node {
	n := d.top
	rel, err := filepath.Rel(d.root, path)
	if err != nil {
		return nil
	}
	for part := range strings.SplitSeq(rel, "/") {
		if part == "." {
			continue
		}
		if n == nil || n.names == nil {
			return nil
		}
		n = n.names[part]
	}
	return n
}

// change puts a node at a path, or removes what is there if it is nil.
func (d *disk) change(path string, n *node) {
	folder := d.find(filepath.Dir(path))
	if folder == nil || folder.names == nil {
		return
	}
	name := filepath.Base(path)
	folder.changed[name] = true
	if n == nil {
		delete(folder.names, name)
		return
	}
	folder.names[name] = n
}

// apply notes a call that is about to be made, or that fails without having been.
func (d *disk) apply(c *sysCall, failed bool) error {
	switch c.name {
	case "fsync", "fdatasync":
		n := d.find(c.path)
		switch {
		case n == nil:
			return nil
		case n.names != nil:
			return n.syncFolder(c.path, failed)
		}
		return n.syncFile(c.path, failed)
	}
	if failed {
		return nil
	}
	switch c.name {
	case "write", "pwrite64", "ftruncate":
		if n := d.find(c.path); n != nil {
			n.pending = append(n.pending, write{off: c.off, size: c.size, truncate: c.name == "ftruncate"})
		}
	case "openat":
		const truncates = 0o1000 // O_TRUNC
		n := d.find(c.path)
		switch {
		case n == nil:
			d.change(c.path, &node{mode: fs.FileMode(c.note.args[3])})
		case n.names == nil && c.note.args[2]&truncates != 0:
			n.pending = append(n.pending, write{truncate: true})
		}
	case "mkdirat", "mkdir":
		if d.find(c.path) == nil {
			d.change(c.path, newFolder(0o755))
		}
	case "unlinkat", "unlink":
		d.change(c.path, nil)
	case "renameat", "renameat2", "rename":
		if c.name == "renameat2" && d.find(c.path) != nil {
			return nil // not over what is there
		}
		d.change(c.path, d.find(c.from))
		d.change(c.from, nil)
	case "linkat", "link":
		if d.find(c.path) == nil {
			d.change(c.path, d.find(c.from))
		}
	}
	return nil
}

func (n *node) syncFile(path string, failed bool) error {
	pending := n.pending
	n.pending = nil
	if failed || len(pending) == 0 {
		return nil
	}
	now, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has lost its name meanwhile
	}
	if err != nil {
		return err
	}
	for _, w := range pending {
		end := w.off
		if !w.truncate {
			end = min(w.off+w.size, int64(len(now)))
		}
		switch {
		case w.truncate && end < int64(len(n.data)):
			n.data = n.data[:end]
		case end > int64(len(n.data)):
			n.data = append(n.data, make([]byte, end-int64(len(n.data)))...)
		}
		if !w.truncate && w.off < end {
			copy(n.data[w.off:end], now[w.off:end])
		}
	}
	return nil
}

func (n *node) syncFolder(path string, failed bool) error {
	changed := n.changed
	n.changed = map[string]bool{}
	if failed {
		return nil
	}
	for name := range changed {
		_, err := os.Lstat(filepath.Join(path, name))
		switch {
		case err == nil && n.names[name] != nil:
			n.durable[name] = n.names[name]
		case errors.Is(err, fs.ErrNotExist) && n.names[name] == nil:
			delete(n.durable, name)
		case errors.Is(err, fs.ErrNotExist):
			n.changed[name] = true // it is just being made, and not sure to be synced
		case err != nil:
			return err
		}
	}
	return nil
}
