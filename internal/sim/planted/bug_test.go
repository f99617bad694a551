package planted

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// bug is one mistake, as a change of texts.
type bug struct {
	name   string // what was done wrong
	breaks string // the promise that it breaks
	edits  []edit
}

// edit replaces a text that occurs exactly once in a file.
type edit struct {
	file string // from the root of the module
	old  string
	new  string
}

// in makes an edit of a bug that needs only one.
func in(file, old, new string) []edit { return []edit{{file, old, new}} }

// all is the whole table.
func all() []bug {
	var bugs []bug
	for _, part := range [][]bug{commitBugs, lockBugs, loadBugs, placeBugs, lifeBugs, batcherBugs} {
		bugs = append(bugs, part...)
	}
	return bugs
}

// root is the directory of the module.
const root = "../../.."

// patched returns the files of a bug as they are with it, by path.
func (b bug) patched() (map[string]string, error) {
	files := make(map[string]string)
	for _, e := range b.edits {
		text, ok := files[e.file]
		if !ok {
			data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(e.file)))
			if err != nil {
				return nil, err
			}
			text = string(data)
		}
		if n := strings.Count(text, e.old); n != 1 {
			return nil, fmt.Errorf("%s has this text %d times, want once:\n%s", e.file, n, e.old)
		}
		files[e.file] = strings.Replace(text, e.old, e.new, 1)
	}
	return files, nil
}

// The promises.
const (
	noLoss   = "every SCT is in the tree"
	noFork   = "one history"
	readable = "what a checkpoint covers is readable"
	honestly = "only what was submitted is logged and signed"
	onwards  = "it goes on when the faults are over"
	forwards = "checkpoints only go forward"
	once     = "an index and a timestamp for one entry"
)
