package s3

import (
	"testing"

	"kiln/internal/s3client"
	"kiln/storage"
	"kiln/storage/storagetest"
)

func TestSuite(t *testing.T) {
	t.Parallel()
	client := newClient(t)
	storagetest.Test(t, func(t *testing.T) storage.Bucket {
		return openBucket(t, Config{Client: client, Prefix: prefix(t)})
	})
}

// TestRace is between buckets that share nothing but the server, as processes
// on several machines would.
func TestRace(t *testing.T) {
	t.Parallel()
	handles := make([]storage.Bucket, 20)
	for i := range handles {
		client := newClient(t, func(c *s3client.Config) { c.Parallel = 4 })
		handles[i] = openBucket(t, Config{Client: client, Prefix: prefix(t)})
	}
	storagetest.Race(t, handles...)
}
