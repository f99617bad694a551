package kiln

import (
	"go/ast"
	"go/parser"
	"regexp"
	"strings"
	"testing"
)

// TestReliabilityNamesTests holds docs/reliability.md to the tests that there are:
// a promise whose test is gone is none.
func TestReliabilityNamesTests(t *testing.T) {
	t.Parallel()
	inSource := map[string]bool{}
	sources(t, true, parser.SkipObjectResolution, func(_, path string, file *ast.File) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, decl := range file.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil {
				inSource[d.Name.Name] = true
			}
		}
	})
	named := regexp.MustCompile(`\bTest[A-Z]\w*`).FindAllString(readFile(t, "docs/reliability.md"), -1)
	for _, name := range named {
		if !inSource[name] {
			t.Errorf("docs/reliability.md names %s, and there is no such test", name)
		}
	}
	if len(named) < 40 {
		t.Errorf("docs/reliability.md names %d tests only", len(named))
	}
}
