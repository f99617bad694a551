package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestWriteSecret wants a file that is its owner's alone, that is never put over
// another, and nothing beside it.
func TestWriteSecret(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if err := writeSecret(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := writeSecret(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error is %v, want one that the file exists", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "first" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if err := writeSecret(filepath.Join(dir, "none", "secret"), nil); err == nil {
		t.Error("a file was written into no folder")
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
}
