package attacks_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"time"
)

// fill logs entries before the clock starts, n at a time.
func (a *arena) fill(ctx context.Context, n, parallel int, o leafOptions) {
	endpoint := "add-pre-chain"
	if o.final {
		endpoint = "add-chain"
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	left := n
	for w := range parallel {
		all.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				left--
				done := left < 0
				mu.Unlock()
				if done {
					return
				}
				for b := a.evil.fresh(o); ctx.Err() == nil; pause(ctx, 200*ms) {
					if a.post(ctx, w, endpoint, b) == http.StatusOK {
						break
					}
				}
			}
		})
	}
	all.Wait()
	a.mu.Lock()
	clear(a.seen)
	a.mu.Unlock()
}

// size is the size of the log.
func (a *arena) size(ctx context.Context) int64 {
	c, err := a.auditor.Observe(ctx)
	if err != nil {
		a.t.Error(err)
	}
	return c.N
}

func fillSmall(ctx context.Context, a *arena) { a.fill(ctx, 3000, 128, leafOptions{}) }
func fillLarge(ctx context.Context, a *arena) {
	a.fill(ctx, 300, 32, leafOptions{final: true, ballast: 250 << 10})
}

// readFlood scans at speed, asks for partial tiles of every width, for what is
// not there, and for ranges.
func readFlood(ctx context.Context, a *arena) {
	n := a.size(ctx)
	workers(ctx, 128, func(ctx context.Context, i int) {
		tile := rand.Int64N(n/256 + 1)
		kind := []string{"tile/data/", "tile/0/", "tile/1/", "issuer/"}[i%4]
		switch i % 7 {
		case 0:
			a.get(ctx, i, kind+tilePath(tile, 1+rand.IntN(255)))
		case 1:
			a.get(ctx, i, kind+tilePath(rand.Int64N(1<<40), 256))
		case 2:
			a.get(ctx, i, kind+tilePath(tile, 256), "Range", "bytes=0-0,2-3,5-6,9-100,1-1,0-,-1")
		case 3:
			a.get(ctx, i, kind+tilePath(tile, 256), "Accept-Encoding", "identity")
		case 4:
			a.get(ctx, i, fmt.Sprintf("issuer/%064x", rand.Uint64()))
		default:
			a.get(ctx, i, kind+tilePath(tile, 256))
		}
	})
}

// slowReaders asks for the largest tiles and takes the answers slowly.
func slowReaders(ctx context.Context, a *arena) {
	n := a.size(ctx)
	workers(ctx, 1500, func(ctx context.Context, i int) {
		raw := a.connect(ctx, i)
		if raw == nil {
			return
		}
		c := raw.(*net.TCPConn)
		defer c.Close()
		_ = c.SetReadBuffer(4 << 10)
		encoding := []string{"gzip", "identity"}[i%2]
		_, _ = io.WriteString(c, a.head("GET", "tile/data/"+tilePath(rand.Int64N(max(1, n/256)), 256), "Accept-Encoding", encoding))
		head := make([]byte, 12)
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, head); err != nil {
			a.note(cut)
			pause(ctx, 100*ms)
			return
		}
		a.note(string(head[9:]))
		_ = c.SetReadDeadline(time.Time{})
		for pause(ctx, time.Second) {
			if _, err := c.Read(head[:1]); err != nil {
				a.note(cut)
				return
			}
		}
	})
}

// largeReads takes the largest tiles as fast as it can, decoded by the server.
func largeReads(ctx context.Context, a *arena) {
	n := a.size(ctx)
	workers(ctx, 64, func(ctx context.Context, i int) {
		a.get(ctx, i, "tile/data/"+tilePath(rand.Int64N(max(1, n/256)), 256), "Accept-Encoding", []string{"identity", "gzip"}[i%2])
	})
}

func checkpointFlood(ctx context.Context, a *arena) {
	workers(ctx, 128, func(ctx context.Context, i int) { a.get(ctx, i, "checkpoint") })
}

func rootsFlood(ctx context.Context, a *arena) {
	workers(ctx, 128, func(ctx context.Context, i int) {
		a.get(ctx, i, "ct/v1/get-roots", "Accept-Encoding", []string{"gzip", "identity"}[i%2])
	})
}
