// Package kiln is a Static CT API Certificate Transparency log. This page is a
// tour of the rooms, in the order a submission walks through them; the package
// exports nothing.
//
//   - [kiln/frontend] speaks the submission API. It bounds and parses a request,
//     has internal/chain validate the chain against the accepted roots, stores
//     the issuers and makes an entry.
//   - internal/ring names the batcher that owns the entry's key.
//   - [kiln/batcher] joins identical submissions in flight, looks in its
//     short-term cache and in [kiln/dedup], and pools what is new. When a pool
//     is placed it signs the SCTs.
//   - [kiln/sequencer] is the single writer: a round gives each entry its index
//     and timestamp, builds tiles with [kiln/tiles], a checkpoint with
//     [kiln/checkpoint], commits it in the [kiln/lock] and publishes it to
//     [kiln/storage].
//   - [kiln/reader] serves what is in storage.
//
// [kiln/entry] holds the values they hand to each other, internal/logkey the
// private key, internal/config the operator's wishes. internal/daemon starts the
// rooms in order and stops them in reverse; cmd/kiln is the command line. Whole
// logs for a test come from [kiln/testlogs].
//
// Packages import only from lower floors and never a sibling; the tests of this
// package hold the tree to that and to its other house rules. Read on in
// docs/architecture.md.
package kiln
