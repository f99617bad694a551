package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"kiln/internal/logkey"
)

// status is "status N COMMAND ARGS...": the command ends with that status.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command args...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit := (*exec.ExitError)(nil)
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("status is %d, want %d", got, want)
	}
}

// fileMode is "filemode FILE OCTAL": the file has these permissions.
func fileMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

// replace is "replace FILE OLD NEW": all OLD become NEW; there has to be one.
func replace(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s lacks %q:\n%s", args[0], args[1], text)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600))
}

// damage is "damage FILE": flips a bit in its middle.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.Remove(path)) // it may be read-only
	ts.Check(os.WriteFile(path, data, 0o600))
}

// newKey is "newkey FILE": writes another log key, as init makes them.
func newKey(ts *testscript.TestScript, _ bool, args []string) {
	key, err := logkey.Generate()
	ts.Check(err)
	pem, err := key.PEM()
	ts.Check(err)
	path := ts.MkAbs(args[0])
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		ts.Check(err)
	}
	ts.Check(os.WriteFile(path, pem, 0o600))
}

// tree is "tree FOLDER FILE": writes the path and hash of each file in a
// folder, so that two states of it can be compared. Locks are left out.
func tree(ts *testscript.TestScript, _ bool, args []string) {
	var b strings.Builder
	root := ts.MkAbs(args[0])
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".lock") {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%x %s\n", sha256.Sum256(data), strings.TrimPrefix(path, root))
		return err
	}))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(b.String()), 0o600))
}

// checkLogs is "checklogs FILE": what "kiln logs --json" wrote has the
// members it should, in that order, and log IDs that are hashes of keys.
func checkLogs(ts *testscript.TestScript, _ bool, args []string) {
	want := []string{
		"name", "origin", "log_id", "key", "submission_url", "monitoring_url", "not_after_start", "not_after_limit",
		"roots_file", "storage", "lock",
	}
	data := []byte(ts.ReadFile(args[0]))
	var logs []json.RawMessage
	ts.Check(json.Unmarshal(data, &logs))
	if len(logs) == 0 {
		ts.Fatalf("no logs")
	}
	for _, raw := range logs {
		names, err := members(raw)
		ts.Check(err)
		if !slices.Equal(names, want) {
			ts.Fatalf("members are %q, want %q", names, want)
		}
		var l struct {
			LogID []byte `json:"log_id"`
			Key   []byte `json:"key"`
		}
		ts.Check(json.Unmarshal(raw, &l))
		if _, err := x509.ParsePKIXPublicKey(l.Key); err != nil {
			ts.Fatalf("key: %v", err)
		}
		if sum := sha256.Sum256(l.Key); !bytes.Equal(sum[:], l.LogID) {
			ts.Fatalf("log_id %x is not the SHA-256 of key, %x", l.LogID, sum)
		}
	}
}

// members returns the names of the members of a JSON object in their order.
func members(object []byte) (names []string, err error) {
	dec := json.NewDecoder(bytes.NewReader(object))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		names = append(names, fmt.Sprint(name))
	}
	return names, nil
}

// The command that judges others is judged first.
func TestMembers(t *testing.T) {
	t.Parallel()
	got, err := members([]byte(`{"b": {"x": 1}, "a": [1, 2]}`))
	if err != nil || !slices.Equal(got, []string{"b", "a"}) {
		t.Fatalf("members are %q, %v", got, err)
	}
}

// shard is "shard NAME FOLDER": sets a variable to the first log in a folder.
func shard(ts *testscript.TestScript, _ bool, args []string) {
	entries, err := os.ReadDir(ts.MkAbs(args[1]))
	ts.Check(err)
	if len(entries) == 0 {
		ts.Fatalf("%s is empty", args[1])
	}
	ts.Setenv(args[0], entries[0].Name())
}
