package batcher

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// The closed sets of label values.
const (
	tierLookup = "lookup" // Lookup, before the leaf's signature is verified
	tierFlight = "flight" // joined a submission on its way
	tierShort  = "short"
	tierLong   = "long"

	missAbsent       = "absent"
	missError        = "error"
	missTimeout      = "timeout"
	missNoSlot       = "no_slot"
	missInvalid      = "invalid"
	missConfirmError = "confirm_error"
	missUnconfirmed  = "unconfirmed"

	closedEntries = "entries"
	closedBytes   = "bytes"
	closedAge     = "age"
	closedDrain   = "drain"

	retryUnavailable = "unavailable"
	retryOverloaded  = "overloaded"
	retryDamaged     = "damaged"
	retryOther       = "other"

	refusedWaiters = "waiters"
	refusedPool    = "pool"
	refusedAge     = "age"

	priorityNormal = "normal"
	priorityLow    = "low"

	dropFull   = "queue_full"
	dropError  = "error"
	dropClosed = "closed"
)

type metrics struct {
	hits     *prometheus.CounterVec // tier
	misses   *prometheus.CounterVec // tier, reason
	closed   *prometheus.CounterVec // reason
	retries  *prometheus.CounterVec // reason
	refusals *prometheus.CounterVec // reason, priority

	badAnswers, damaged, signFailures prometheus.Counter
	written                           prometheus.Counter
	writeDrops                        *prometheus.CounterVec // reason

	waiters, flights, poolEntries, poolBytes, batches, writeQueue prometheus.Gauge

	batchEntries, batchSeconds prometheus.Histogram
}

// newMetrics makes the metrics and registers them with reg, if it is not nil.
// Batchers under one registerer share them: gauges move by differences, and so
// show the sum.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	r := &registry{reg: reg}
	m := &metrics{
		hits:     r.counters("kiln_batcher_dedup_hits_total", "Submissions answered with the SCT of an entry known already, by where it was found.", "tier"),
		misses:   r.counters("kiln_batcher_dedup_misses_total", "Submissions not found in a cache, by cache and reason. Alarm on reason unconfirmed or invalid.", "tier", "reason"),
		closed:   r.counters("kiln_batcher_batches_total", "Pools closed and sent to the sequencer, by what closed them.", "reason"),
		retries:  r.counters("kiln_batcher_retries_total", "Batches given to the sequencer again, by its error.", "reason"),
		refusals: r.counters("kiln_batcher_refusals_total", "Entries refused because a bounded queue was full, by queue and priority.", "reason", "priority"),

		badAnswers:   r.counter("kiln_batcher_bad_answers_total", "Answers of the sequencer that cannot be. Alarm if it grows."),
		damaged:      r.counter("kiln_batcher_damaged_entries_total", "Entries whose bytes changed in memory after admission. Alarm if it grows."),
		signFailures: r.counter("kiln_batcher_sign_failures_total", "SCTs that were not signed or did not verify. Alarm if it grows."),
		written:      r.counter("kiln_batcher_dedup_writes_total", "Placements written to the long-term cache."),
		writeDrops:   r.counters("kiln_batcher_dedup_drops_total", "Placements not written to the long-term cache, by reason.", "reason"),

		waiters:     r.gauge("kiln_batcher_waiters_count", "Submissions that wait for their SCT."),
		flights:     r.gauge("kiln_batcher_flights_count", "Entries on their way, each with any number of submissions."),
		poolEntries: r.gauge("kiln_batcher_pool_entries", "Entries in the open pool."),
		poolBytes:   r.gauge("kiln_batcher_pool_bytes", "Bytes in the open pool."),
		batches:     r.gauge("kiln_batcher_batches_in_flight_count", "Batches at the sequencer."),
		writeQueue:  r.gauge("kiln_batcher_dedup_queue_entries", "Placements that wait to be written to the long-term cache."),

		batchEntries: r.histogram("kiln_batcher_batch_entries", "Entries of a batch.", prometheus.ExponentialBuckets(1, 4, 7)),
		batchSeconds: r.histogram("kiln_batcher_batch_seconds", "Time from closing a pool to the sequencer's last word, retries included.",
			[]float64{.01, .025, .05, .1, .2, .4, .8, 1.6, 3.2, 6.4, 12.8}),
	}
	m.fill()
	return m, r.err
}

// fill makes every series exist from the start, so that a first event is a step
// and not a new line.
func (m *metrics) fill() {
	for _, tier := range []string{tierLookup, tierFlight, tierShort, tierLong} {
		m.hits.WithLabelValues(tier)
	}
	m.misses.WithLabelValues(tierShort, missAbsent)
	for _, reason := range []string{missAbsent, missError, missTimeout, missNoSlot, missInvalid, missConfirmError, missUnconfirmed} {
		m.misses.WithLabelValues(tierLong, reason)
	}
	for _, reason := range []string{closedEntries, closedBytes, closedAge, closedDrain} {
		m.closed.WithLabelValues(reason)
	}
	for _, reason := range []string{retryUnavailable, retryOverloaded, retryDamaged, retryOther} {
		m.retries.WithLabelValues(reason)
	}
	for _, reason := range []string{refusedWaiters, refusedPool, refusedAge} {
		for _, priority := range []string{priorityNormal, priorityLow} {
			m.refusals.WithLabelValues(reason, priority)
		}
	}
	for _, reason := range []string{dropFull, dropError, dropClosed} {
		m.writeDrops.WithLabelValues(reason)
	}
}

// registry registers what it makes.
type registry struct {
	reg prometheus.Registerer
	err error
}

func (r *registry) counter(name, help string) prometheus.Counter {
	return register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
}

func (r *registry) counters(name, help string, labels ...string) *prometheus.CounterVec {
	return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
}

func (r *registry) gauge(name, help string) prometheus.Gauge {
	return register(r, prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help}))
}

func (r *registry) histogram(name, help string, buckets []float64) prometheus.Histogram {
	return register(r, prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}))
}

// register registers c, or returns the collector that already has its name.
func register[C prometheus.Collector](r *registry, c C) C {
	if r.reg == nil {
		return c
	}
	err := r.reg.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	r.err = errors.Join(r.err, err)
	return c
}
