package kiln

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// keyed are the packages that an entry's deduplication key passes through, from
// admission to the leaf.
var keyed = []string{
	"batcher", "dedup", "entry", "frontend", "internal/catchup", "internal/chain", "internal/daemon", "internal/watch", "sequencer", "tiles",
}

// listed is what the go command says of a package.
type listed struct {
	ImportPath, Dir, Export string
	GoFiles                 []string
}

// TestKeysAreWhole: 128-bit collisions of deduplication keys cannot arise, since
// nothing takes a part of a key. It is 32 bytes wide, no index has a narrower one
// of bytes, and between admission and leaf it is only copied, compared and hashed
// whole. That the ring, which gets all 32 bytes, uses each is its own test. No
// test could submit entries with chosen keys: a key is the SHA-256 of the entry's
// bytes.
func TestKeysAreWhole(t *testing.T) {
	t.Parallel()
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Dir,Export,GoFiles"}
	for _, pkg := range keyed {
		args = append(args, "./"+pkg)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]listed)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg listed
		if err := d.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[pkg.ImportPath] = pkg
	}
	keys := 0
	for _, pkg := range keyed {
		keys += checkKeys(t, all, all[module+"/"+pkg])
	}
	if keys < 50 { // or the check sees none of them
		t.Errorf("%d expressions are keys", keys)
	}
}

// checkKeys looks at all expressions of a package, and returns how many are keys.
func checkKeys(t *testing.T, all map[string]listed, pkg listed) (keys int) {
	t.Helper()
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range pkg.GoFiles {
		file, err := parser.ParseFile(fset, filepath.Join(pkg.Dir, name), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(all[path].Export) }
	info := &types.Info{Types: make(map[ast.Expr]types.TypeAndValue)}
	conf := types.Config{Importer: importer.ForCompiler(fset, "gc", lookup)}
	if _, err := conf.Check(pkg.ImportPath, fset, files, info); err != nil {
		t.Fatal(err)
	}
	isKey := func(e ast.Expr) bool { return isKeyType(info.TypeOf(e)) }
	bad := func(n ast.Node, what string) { t.Errorf("%s: %s", fset.Position(n.Pos()), what) }
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.SliceExpr:
				if isKey(n.X) && (n.Low != nil || n.High != nil || n.Max != nil) {
					bad(n, "takes a part of a key")
				}
			case *ast.IndexExpr:
				if isKey(n.X) {
					bad(n, "takes one byte of a key")
				}
			case *ast.CallExpr:
				if s, ok := oneSlice(n); ok && isKey(s.X) && narrow(info.TypeOf(n)) {
					bad(n, "cuts a key short")
				}
			}
			if e, ok := n.(ast.Expr); ok && info.Types[e].IsValue() && isKey(e) {
				keys++
			}
			return true
		})
	}
	for e, tv := range info.Types {
		if m, ok := tv.Type.Underlying().(*types.Map); ok && narrow(m.Key()) {
			bad(e, "is an index by less than a whole key")
		}
	}
	return keys
}

// isKeyType reports whether a type is entry.Key, or a pointer to one.
func isKeyType(t types.Type) bool {
	if t == nil {
		return false
	}
	if p, ok := t.Underlying().(*types.Pointer); ok {
		t = p.Elem()
	}
	named, ok := types.Unalias(t).(*types.Named)
	if !ok || named.Obj().Name() != "Key" || named.Obj().Pkg().Path() != module+"/entry" {
		return false
	}
	array, ok := named.Underlying().(*types.Array)
	return ok && array.Len() == 32
}

// narrow reports whether a type is an array of fewer than 32 bytes.
func narrow(t types.Type) bool {
	array, ok := t.Underlying().(*types.Array)
	return ok && array.Len() < 32 && types.Identical(array.Elem().Underlying(), types.Typ[types.Byte])
}

// oneSlice returns the argument of a call or conversion if it is one slice of
// something.
func oneSlice(c *ast.CallExpr) (*ast.SliceExpr, bool) {
	if len(c.Args) != 1 {
		return nil, false
	}
	s, ok := c.Args[0].(*ast.SliceExpr)
	return s, ok
}
