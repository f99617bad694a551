package storage_test

import (
	"testing"

	"kiln/storage"
)

func TestMaxAt(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]int64{
		"checkpoint": 1 << 20, "log.v3.json": 1 << 20,
		"tile/0/000": 64 << 10, "tile/1/x001/234.p/5": 64 << 10,
		"tile/data/000": 264 << 20, "tile/names/x001/000.p/9": 264 << 20,
		"issuer/ab": 1<<24 - 1, "staging/ab": storage.MaxObject, "other": storage.MaxObject,
	} {
		if got := storage.MaxAt(path); got != want {
			t.Errorf("%s: %d bytes, want %d", path, got, want)
		}
	}
}
