package kiln

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path of this module, as go.mod has it.
const module = "kiln"

// floors is policy: a package may import, of this module, only the packages on
// its line; "*" is all of them. A package without a line fails the test. A build
// that does not pass is no reason to edit a line: a new wish about the layers is.
var floors = map[string]string{
	// Floor 0: contracts and plain values.
	".": "", "entry": "", "storage": "", "lock": "",
	"internal/logkey": "", "internal/config": "", "internal/ring": "",
	"internal/servers": "", "internal/s3client": "", "internal/fuzztest": "", "internal/contain": "",
	// Floor 1: what a contract, or one protocol document, needs.
	"checkpoint": "internal/logkey", "tiles": "entry storage internal/contain", "dedup": "entry", "internal/chain": "entry",
	"storage/dir": "storage", "storage/mem": "storage", "storage/s3": "storage internal/contain internal/s3client", "storage/storagetest": "storage",
	"internal/lifecycle": "lock",
	"lock/sqlite":        "lock", "lock/mem": "lock", "lock/locktest": "lock",
	"internal/cell": "lock", "lock/etcd": "lock internal/cell", "lock/s3": "lock internal/cell internal/s3client",
	"internal/roots": "storage internal/chain",
	// Floor 2: the roles, which never import each other.
	"sequencer": "entry tiles checkpoint storage lock internal/contain internal/logkey internal/lifecycle",
	"batcher":   "entry internal/contain internal/ring",
	"frontend":  "entry internal/chain",
	"reader":    "storage tiles checkpoint",
	// What looks after a log, beside the roles.
	"internal/catchup": "entry storage tiles internal/contain",
	"internal/gc":      "storage tiles checkpoint",
	// Floor 3 and the roof.
	"internal/keycheck": "internal/config internal/logkey",
	"internal/daemon":   "*",
	"internal/restore":  "checkpoint lock storage tiles internal/catchup internal/config internal/daemon internal/roots",
	"internal/fsck":     "entry storage tiles checkpoint internal/chain",
	"internal/watch":    "entry storage tiles checkpoint internal/fsck",
	"testlogs":          "*",
	"internal/shards":   "internal/daemon internal/config internal/logkey internal/lifecycle checkpoint lock reader storage tiles",
	"cmd/kiln": "internal/config internal/daemon internal/fsck internal/gc internal/keycheck internal/lifecycle internal/logkey internal/restore internal/roots internal/servers " +
		"internal/shards internal/watch storage storage/s3 internal/s3client testlogs",
	// The judge of simulated logs believes nothing of ours.
	"internal/sim/auditor": "", "internal/sim": "", "internal/sim/planted": "",
}

// walls keeps things from outside behind the packages on their line. A key is an
// import path and stands for everything below it too.
var walls = map[string]string{
	"github.com/mattn/go-sqlite3":                   "dedup lock/sqlite",
	"database/sql":                                  "dedup lock/sqlite",
	"go.etcd.io/etcd":                               "lock/etcd",
	"google.golang.org/grpc":                        "lock/etcd",
	"go.uber.org/zap":                               "lock/etcd",
	"github.com/google/certificate-transparency-go": "internal/chain",
	"filippo.io/sunlight":                           "entry tiles checkpoint testlogs",
	"github.com/prometheus/client_golang":           "batcher dedup frontend reader sequencer storage/s3 internal/s3client internal/daemon internal/roots internal/watch",
	"github.com/aws":                                "internal/s3client",
	"go.yaml.in/yaml":                               "internal/config",
	"net/http":                                      "frontend reader internal/s3client internal/daemon internal/fsck internal/roots internal/servers internal/watch testlogs",
	"golang.org/x/crypto/acme":                      "internal/daemon",
	"testing":                                       "storage/storagetest lock/locktest internal/fuzztest",
}

// sources calls f for each Go file of this module, tests included or not, with
// its package as a path from the root. It reads the tree itself: a test that
// asked "go list" would pass from the cache after a violation.
func sources(t *testing.T, tests bool, mode parser.Mode, f func(pkg, path string, file *ast.File)) {
	t.Helper()
	files := token.NewFileSet()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || path == "tools" || path == "bin" || path == "kiln-dev"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || !tests && strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, mode)
		if err == nil {
			f(filepath.ToSlash(filepath.Dir(path)), filepath.ToSlash(path), file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLayering(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	sources(t, false, parser.ImportsOnly, func(pkg, path string, file *ast.File) {
		seen[pkg] = true
		allowed, ok := floors[pkg]
		if !ok {
			t.Errorf("%s: package %q has no line in floors", path, pkg)
			return
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			dep, ours := strings.CutPrefix(imported, module+"/")
			if ours && allowed != "*" && !slices.Contains(strings.Fields(allowed), dep) {
				t.Errorf("%s imports %s; %s may import only %q", path, dep, pkg, allowed)
			}
			for wall, inside := range walls {
				if (imported == wall || strings.HasPrefix(imported, wall+"/")) && !slices.Contains(strings.Fields(inside), pkg) {
					t.Errorf("%s imports %s; only %q may", path, imported, inside)
				}
			}
		}
	})
	for pkg := range floors {
		if !seen[pkg] {
			t.Errorf("floors has a line for %q, and there is no such package", pkg)
		}
	}
}
