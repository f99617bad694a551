package shards

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"kiln/internal/daemon"
	"kiln/reader"
	"kiln/storage"
	"kiln/tiles"
)

// Kind is what an object of a log is.
type Kind string

// The kinds, in the order in which they are told.
const (
	KindData       Kind = "data tiles"
	KindHashes     Kind = "hash tiles"
	KindNames      Kind = "names tiles"
	KindPartial    Kind = "partial tiles"
	KindIssuer     Kind = "issuers"
	KindBundle     Kind = "staging bundles"
	KindRoots      Kind = "copies of accepted roots"
	KindCheckpoint Kind = "checkpoint"
	KindInfo       Kind = "log.v3.json"
)

// Kinds returns all kinds in their order.
func Kinds() []Kind {
	return []Kind{KindData, KindHashes, KindNames, KindPartial, KindIssuer, KindBundle, KindRoots, KindCheckpoint, KindInfo}
}

// kindOf returns what an object is by its path; empty is nothing that a log
// makes. Who keeps something else below the prefix of a log keeps it.
func kindOf(path string) Kind {
	if t, err := tiles.ParsePath(path); err == nil {
		switch {
		case t.W < tiles.Width:
			return KindPartial
		case t.L == tiles.LevelData:
			return KindData
		case t.L == tiles.LevelNames:
			return KindNames
		default:
			return KindHashes
		}
	}
	folder, name, _ := strings.Cut(path, "/")
	switch {
	case path == checkpointPath:
		return KindCheckpoint
	case path == reader.InfoPath:
		return KindInfo
	case folder == "issuer" && isHash(name):
		return KindIssuer
	case folder == "staging" && name != "" && !strings.Contains(name, "/"):
		return KindBundle
	case folder == "roots" && name != "" && !strings.Contains(name, "/"):
		return KindRoots
	}
	return ""
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && strings.ToLower(s) == s
}

// Amount is a number of objects and what they weigh together, as stored.
type Amount struct {
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (a *Amount) add(size int64) { a.Objects, a.Bytes = a.Objects+1, a.Bytes+size }

// Inventory is what lies in the storage of a log.
type Inventory struct {
	Kinds map[Kind]Amount
	Total Amount
	Other Amount // what no log makes, and retire leaves
}

// takeInventory lists all objects of a log. step may be nil.
func takeInventory(ctx context.Context, p *daemon.Parts, step func(done, total int64)) (Inventory, error) {
	inv := Inventory{Kinds: make(map[Kind]Amount)}
	n := int64(0)
	err := p.Bucket.List(ctx, "", func(i storage.Info) error {
		if n++; step != nil {
			step(n, 0)
		}
		kind := kindOf(i.Path)
		if kind == "" {
			inv.Other.add(i.Size)
			return nil
		}
		a := inv.Kinds[kind]
		a.add(i.Size)
		inv.Kinds[kind] = a
		inv.Total.add(i.Size)
		return nil
	})
	if err != nil {
		return inv, fmt.Errorf("list the objects of the log: %w", err)
	}
	return inv, nil
}

const (
	deleteParallel = 32
	deletePasses   = 4 // over a bucket that may miss, in a listing, what is there
)

// removal deletes the objects of a log.
type removal struct {
	p       *daemon.Parts
	total   int64 // to be expected
	step    func(done, total int64)
	objects atomic.Int64
	bytes   atomic.Int64
}

// run deletes the checkpoint first, so that no reader begins what it cannot end,
// and log.v3.json, which says what the log was, last.
func (r *removal) run(ctx context.Context) error {
	first := func(k Kind) bool { return k == KindCheckpoint }
	most := func(k Kind) bool { return k != KindInfo }
	last := func(k Kind) bool { return k == KindInfo }
	for _, s := range []struct {
		prefix string
		which  func(Kind) bool
	}{{checkpointPath, first}, {"", most}, {reader.InfoPath, last}} {
		if err := r.sweep(ctx, s.prefix, s.which); err != nil {
			return err
		}
	}
	return nil
}

// sweep deletes all objects of some kinds below a prefix, until a listing has
// none.
func (r *removal) sweep(ctx context.Context, prefix string, which func(Kind) bool) error {
	for range deletePasses {
		n, err := r.pass(ctx, prefix, which)
		if err != nil {
			return fmt.Errorf("delete the objects of the log: %w; repeat the command to go on", err)
		}
		if n == 0 {
			return nil
		}
	}
	return fmt.Errorf("objects are there again after they were deleted %d times: look who writes them, then repeat the command", deletePasses)
}

// pass deletes what one listing has, and returns how many it had.
func (r *removal) pass(ctx context.Context, prefix string, which func(Kind) bool) (n int64, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(deleteParallel)
	listErr := r.p.Bucket.List(ctx, prefix, func(i storage.Info) error {
		kind := kindOf(i.Path)
		if kind == "" || !which(kind) {
			return nil
		}
		n++
		g.Go(func() error {
			if err := r.p.Bucket.Delete(ctx, i.Path); err != nil {
				return err
			}
			r.bytes.Add(i.Size)
			r.tell(r.objects.Add(1))
			return nil
		})
		return ctx.Err()
	})
	if err := g.Wait(); err != nil { // the listing ended because of it
		return n, err
	}
	return n, listErr
}

func (r *removal) tell(done int64) {
	if r.step != nil {
		r.step(min(done, r.total), r.total)
	}
}
