package storagetest

import (
	"errors"
	"sync"
	"testing"

	"kiln/storage"
)

// testSizes: a Get tells the size of an object before it has it, and ends if that
// is refused.
func testSizes(t *testing.T, b storage.Bucket) {
	mustCreate(t, b, "tile/sized", "seven b")
	var mu sync.Mutex
	var sizes []int64
	told := func(bytes int64) error {
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, bytes)
		return nil
	}
	body, err := b.Get(storage.WithSize(t.Context(), told), "tile/sized")
	if err != nil || string(body) != "seven b" {
		t.Fatalf("Get with a size: %q, %v", body, err)
	}
	mu.Lock()
	if len(sizes) == 0 || sizes[len(sizes)-1] != 7 {
		t.Errorf("sizes %v were announced, want 7", sizes)
	}
	sizes = nil
	mu.Unlock()
	_, err = b.Get(storage.WithSize(t.Context(), told), "tile/none")
	wantError(t, "Get of nothing with a size", err, storage.ErrNotFound, "tile/none")
	mu.Lock()
	if len(sizes) != 0 {
		t.Errorf("sizes %v were announced of nothing", sizes)
	}
	mu.Unlock()
	full := errors.New("no room")
	_, err = b.Get(storage.WithSize(t.Context(), func(int64) error { return full }), "tile/sized")
	wantError(t, "Get that is refused by its size", err, full, "tile/sized")
}
