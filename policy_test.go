package kiln

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// Limits of what one reader can hold in the head.
const (
	maxFileLines = 500
	maxFuncLines = 80
)

func TestPackageDocs(t *testing.T) {
	t.Parallel()
	docs := map[string]int{}
	sources(t, false, parser.ParseComments|parser.PackageClauseOnly, func(pkg, path string, file *ast.File) {
		docs[pkg] += 0
		if file.Doc == nil {
			return
		}
		docs[pkg]++
		text, first := file.Doc.Text(), "Package "+file.Name.Name+" "
		switch {
		case file.Name.Name == "main":
			first = "Kiln "
		case pkg == ".":
		case !strings.Contains(text, "never know"):
			t.Errorf("%s: the package doc does not say what the package never knows", path)
		case !strings.Contains(text, "Invariant") && !strings.HasSuffix(pkg, "test"): // a suite has none
			t.Errorf("%s: the package doc does not state the invariants", path)
		}
		if !strings.HasPrefix(text, first) {
			t.Errorf("%s: the package doc does not begin with %q", path, first)
		}
	})
	for pkg, n := range docs {
		if n != 1 {
			t.Errorf("package %s has %d package docs, want one", pkg, n)
		}
	}
}

func TestExportedDocs(t *testing.T) {
	t.Parallel()
	sources(t, false, parser.ParseComments|parser.SkipObjectResolution, func(_, path string, file *ast.File) {
		if file.Name.Name == "main" {
			return
		}
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
					t.Errorf("%s: %s has no comment", path, d.Name)
				}
			case *ast.GenDecl:
				for _, name := range undocumented(d) {
					t.Errorf("%s: %s has no comment", path, name)
				}
			}
		}
	})
}

// exportedReceiver reports whether a function is no method, or one that callers
// outside of the package see.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	if generic, ok := typ.(*ast.IndexExpr); ok {
		typ = generic.X
	}
	name, ok := typ.(*ast.Ident)
	return ok && name.IsExported()
}

func undocumented(d *ast.GenDecl) (names []string) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
				names = append(names, s.Name.Name)
			}
		case *ast.ValueSpec: // the comment of a group covers the group
			for _, n := range s.Names {
				if n.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
					names = append(names, n.Name)
				}
			}
		}
	}
	return names
}

func TestSize(t *testing.T) {
	t.Parallel()
	sources(t, false, parser.SkipObjectResolution, func(_, path string, file *ast.File) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(data), "\n"); n > maxFileLines {
			t.Errorf("%s has %d lines, at most %d are wanted", path, n, maxFileLines)
		}
		for _, decl := range file.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok || d.Body == nil {
				continue
			}
			if n := strings.Count(string(data[d.Pos()-file.FileStart:d.End()-file.FileStart]), "\n") + 1; n > maxFuncLines {
				t.Errorf("%s: %s has %d lines, at most %d are wanted", path, d.Name, n, maxFuncLines)
			}
		}
	})
}

func TestNoInit(t *testing.T) {
	t.Parallel()
	sources(t, false, parser.SkipObjectResolution, func(_, path string, file *ast.File) {
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
				t.Errorf("%s has an init function: nothing happens by import", path)
			}
		}
	})
}

// stringLiterals calls f for each string constant of a file.
func stringLiterals(t *testing.T, file *ast.File, f func(string)) {
	t.Helper()
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			s, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			f(s)
		}
		return true
	})
}

// TestMetrics holds docs/metrics.md, which has one table row for each metric,
// to the metrics in the source.
func TestMetrics(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^kiln_([a-z0-9]+)_[a-z0-9_]+$`)
	inSource := map[string]bool{}
	sources(t, false, parser.SkipObjectResolution, func(pkg, path string, file *ast.File) {
		stringLiterals(t, file, func(s string) {
			m := form.FindStringSubmatch(s)
			if m == nil {
				return
			}
			inSource[s] = true
			if filepath.Base(pkg) != m[1] && !strings.HasPrefix(s, "kiln_"+strings.ReplaceAll(pkg, "/", "_")+"_") || filepath.Base(path) != "metrics.go" {
				t.Errorf("%s: metric %s belongs into metrics.go of package %s", path, s, m[1])
			}
		})
	})
	inDocs := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(kiln_[a-z0-9_]+)`").FindAllStringSubmatch(readFile(t, "docs/metrics.md"), -1) {
		inDocs[m[1]] = true
	}
	compare(t, "metric", inSource, inDocs, "docs/metrics.md")
	if len(inSource) < 10 {
		t.Errorf("only %d metrics were found in the source", len(inSource))
	}
}

// TestOptions holds docs/configuration.md to the keys that internal/config reads.
func TestOptions(t *testing.T) {
	t.Parallel()
	inSource := map[string]bool{}
	sources(t, false, parser.SkipObjectResolution, func(pkg, _ string, file *ast.File) {
		if pkg != "internal/config" {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			var name string
			switch f := call.Fun.(type) {
			case *ast.Ident: // read(s, "key", ...), need(s, "key", ...)
				name = f.Name
			case *ast.SelectorExpr: // s.file("key", ...), s.take("key"), s.strings("key", ...)
				name = f.Sel.Name
			}
			at := map[string]int{"read": 1, "need": 1, "file": 0, "take": 0, "strings": 0}
			if i, ok := at[name]; ok && len(call.Args) > i {
				if lit, ok := call.Args[i].(*ast.BasicLit); ok && lit.Kind == token.STRING {
					inSource[strings.Trim(lit.Value, `"`)] = true
				}
			}
			return true
		})
	})
	inDocs := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)`").FindAllStringSubmatch(readFile(t, "docs/configuration.md"), -1) {
		inDocs[m[1]] = true
	}
	compare(t, "option", inSource, inDocs, "docs/configuration.md")
	if len(inSource) < 20 {
		t.Errorf("only %d options were found in the source", len(inSource))
	}
}

func compare(t *testing.T, what string, source, docs map[string]bool, path string) {
	t.Helper()
	for name := range source {
		if !docs[name] {
			t.Errorf("%s %s has no row in %s", what, name, path)
		}
	}
	for name := range docs {
		if !source[name] {
			t.Errorf("%s has a row for %s %s, which the source does not know", path, what, name)
		}
	}
}

// TestCommandsInDocs checks that what the documents tell people to type is there.
func TestCommandsInDocs(t *testing.T) {
	t.Parallel()
	targets := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z]+):`).FindAllStringSubmatch(readFile(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	subcommands := map[string]bool{}
	sources(t, false, parser.SkipObjectResolution, func(pkg, _ string, file *ast.File) {
		if pkg == "cmd/kiln" {
			stringLiterals(t, file, func(s string) { subcommands[s] = true })
		}
	})
	// Commands stand in code: after a backtick, on an indented line, or on a line
	// of a block fenced as sh, which is indented here.
	command := regexp.MustCompile("(?m)(?:`|^    (?:\\$ )?)(make|kiln|go run \\./cmd/kiln) ([a-z]+)")
	fenced := regexp.MustCompile("(?ms)^```sh\n.*?^```$")
	documents(t, func(path, text string) {
		text = fenced.ReplaceAllStringFunc(text, func(block string) string { return strings.ReplaceAll(block, "\n", "\n    ") })
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			if m[1] == "make" && !targets[m[2]] {
				t.Errorf("%s: there is no %q in the Makefile", path, "make "+m[2])
			}
			if m[1] != "make" && !subcommands[m[2]] {
				t.Errorf("%s: there is no subcommand %q", path, m[1]+" "+m[2])
			}
		}
	})
	for _, want := range []string{"go run ./cmd/kiln dev", "make test"} {
		if !strings.Contains(readFile(t, "README.md"), want) {
			t.Errorf("README.md does not name %q", want)
		}
	}
}

// TestRefusalsInDocs checks that what docs/refusals.md quotes from errors, in
// italics in the first column of its table, is what the source says.
func TestRefusalsInDocs(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	sources(t, false, parser.SkipObjectResolution, func(_, _ string, file *ast.File) {
		stringLiterals(t, file, func(s string) { source.WriteString(s + "\n") })
	})
	quotes := 0
	for line := range strings.Lines(readFile(t, "docs/refusals.md")) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		cell, _, _ := strings.Cut(line[2:], " | ")
		for _, m := range regexp.MustCompile(`\*([^*]+)\*`).FindAllStringSubmatch(cell, -1) {
			quotes++
			if !strings.Contains(source.String(), m[1]) {
				t.Errorf("docs/refusals.md quotes %q, which no error says", m[1])
			}
		}
	}
	if quotes < 10 {
		t.Errorf("only %d quotes were found", quotes)
	}
}

// TestPackagesInReadme checks that the package maps of README.md have every
// package, but the suites of the contracts.
func TestPackagesInReadme(t *testing.T) {
	t.Parallel()
	readme := readFile(t, "README.md")
	sources(t, false, parser.PackageClauseOnly, func(pkg, path string, _ *ast.File) {
		if pkg != "." && !strings.HasSuffix(pkg, "test") && !strings.Contains(readme, "`"+pkg+"`") {
			t.Errorf("%s: README.md has no row for package %s", path, pkg)
		}
	})
}

// TestLinks checks that relative links between the documents lead somewhere.
func TestLinks(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	documents(t, func(path, text string) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), m[1])); err != nil {
				t.Errorf("%s: link to %s: %v", path, m[1], err)
			}
		}
	})
}

// documents calls f for each Markdown file of the project.
func documents(t *testing.T, f func(path, text string)) {
	t.Helper()
	files(t, func(path string) {
		if strings.HasSuffix(path, ".md") && !strings.HasPrefix(path, "testdata/") {
			f(path, readFile(t, path))
		}
	})
}

// files calls f for each file of the project.
func files(t *testing.T, f func(path string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || path == "bin" || path == "kiln-dev"):
			return fs.SkipDir
		case d.Type().IsRegular() && d.Name() != ".git": // a file in a second work tree
			f(filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestNoPathsOfOneMachine checks that the project speaks of no folder that only
// some machine has, and leaves no place unfinished.
func TestNoPathsOfOneMachine(t *testing.T) {
	t.Parallel()
	path := regexp.MustCompile(`(^|[^A-Za-z0-9_.-])/(?:work|tmp|root|home|Users)/`)
	unfinished := regexp.MustCompile(`TO` + `DO|FIX` + `ME|t\.Sk` + `ip\(`)
	files(t, func(name string) {
		text := readFile(t, name)
		if !utf8.ValidString(text) || strings.Contains(text, "\x00") {
			return
		}
		for i, line := range strings.Split(text, "\n") {
			if path.MatchString(line) {
				t.Errorf("%s:%d: a path of one machine: %s", name, i+1, line)
			}
			if strings.HasSuffix(name, ".go") && unfinished.MatchString(line) {
				t.Errorf("%s:%d: unfinished: %s", name, i+1, line)
			}
		}
	})
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
