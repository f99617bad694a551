package planted

// batcherBugs are in front of the sequencer.
var batcherBugs = []bug{
	{"an issuer counts as stored although its write failed", readable, in("internal/daemon/issuers.go", `	if w.err == nil {
		for old`, `	if w.err != nil || w.err == nil {
		for old`)},
	{"errors of storing issuers are logged and forgotten", readable, in("frontend/add.go", `			return fmt.Errorf("store issuer: %w: %w", entry.ErrUnavailable, err)
`, `			return nil
`)},
	{"issuers are stored behind the submission", readable, in("frontend/add.go", `	if err := f.storeIssuers(ctx, candidate.Issuers()); err != nil {
		return entry.SCT{}, err
	}
`, `	go func() { _ = f.storeIssuers(context.WithoutCancel(ctx), candidate.Issuers()) }()
`)},
	{"a hit of the cache is not confirmed by the tree", noLoss, in("internal/daemon/log.go", `	return hash == tlog.Hash(p.LeafHash(pl)), nil
`, `	return hash != tlog.Hash{}, nil
`)},
	{"a cache that fails is a hit at index 0", noLoss, in("batcher/longterm.go", `	case err != nil:
		return recalled{miss: missError}
`, `	case err != nil:
		return recalled{placement: pl}
`)},
	{"a batch is sorted when it is tried again", noLoss, []edit{
		{"batcher/carry.go", `		b.metrics.retries.WithLabelValues(reason).Inc()
`, `		b.metrics.retries.WithLabelValues(reason).Inc()
		slices.SortFunc(batch, func(x, y *entry.Pending) int {
			k, l := x.Key(), y.Key()
			return bytes.Compare(k[:], l[:])
		})
`},
		{"batcher/carry.go", `import (
	"context"
`, `import (
	"bytes"
	"context"
	"slices"
`},
	}},
}
