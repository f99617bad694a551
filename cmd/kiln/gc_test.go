package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"

	"kiln/internal/daemon"
	"kiln/testlogs"
)

// scriptTB is a script as testlogs wants it.
type scriptTB struct {
	*testscript.TestScript
	dir string
}

func (scriptTB) Helper()            {}
func (t scriptTB) TempDir() string  { return t.dir }
func (t scriptTB) Cleanup(f func()) { t.Defer(f) }

// agedLog is "agedlog FOLDER ENTRIES AGE PARALLEL [s3]": makes a log with as many
// entries, so many of them submitted at a time (1: each in a round of its own),
// that was last served that long ago. With s3 a server runs beside the script,
// and keeps its objects below FOLDER too.
func agedLog(ts *testscript.TestScript, _ bool, args []string) {
	folder := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(folder, 0o755))
	age, err := time.ParseDuration(args[2])
	ts.Check(err)
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	parallel, err := strconv.Atoi(args[3])
	ts.Check(err)
	backend, objects := testlogs.Embedded, "log"
	if len(args) > 4 {
		backend, objects = testlogs.S3, "s3"
	}
	log := testlogs.Start(scriptTB{ts, folder}, testlogs.Options{
		Backend: backend,
		Daemon:  daemon.Options{Now: func() time.Time { return time.Now().Add(-age) }},
	})
	client := log.Client()
	var g errgroup.Group
	g.SetLimit(parallel)
	for range n {
		g.Go(func() error {
			chain, err := log.CA.Precert(testlogs.LeafOptions{DNS: []string{"www.example.org"}})
			if err != nil {
				return err
			}
			_, err = client.Submit(context.Background(), chain)
			return err
		})
	}
	ts.Check(g.Wait())
	log.Stop()
	old := time.Now().Add(-age)
	ts.Check(filepath.WalkDir(filepath.Join(folder, objects), func(path string, d fs.DirEntry, err error) error {
		return errors.Join(err, os.Chtimes(path, old, old))
	}))
}

// countFiles is "countfiles FOLDER PATTERN COUNT": so many files below a folder
// have paths that contain the pattern.
func countFiles(ts *testscript.TestScript, _ bool, args []string) {
	want, n := args[2], 0
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(path, args[1]) {
			n++
		}
		return err
	}))
	if got := count(n, "file"); got != want+" file" && got != want+" files" {
		ts.Fatalf("%s has %s with %s, want %s", args[0], got, args[1], want)
	}
}
