package sequencer

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	rounds    *prometheus.CounterVec
	entries   prometheus.Counter
	repeated  prometheus.Counter
	duration  *prometheus.HistogramVec
	queued    prometheus.Gauge
	treeSize  prometheus.Gauge
	timestamp prometheus.Gauge
	loads     prometheus.Counter
	unloads   prometheus.Counter
	refused   prometheus.Counter
	looks     *prometheus.CounterVec
	stopped   prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	return &metrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_sequencer_rounds_total", Help: "Rounds by result: grown, idle, failed.",
		}, []string{"result"}),
		entries:  counter("kiln_sequencer_entries_total", "Entries that were given a place."),
		repeated: counter("kiln_sequencer_repeated_entries_total", "Entries that had a place already when they came."),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kiln_sequencer_step_duration_seconds", Help: "Time of the steps of a round.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}, []string{"step"}),
		queued:    gauge("kiln_sequencer_queued_entries", "Entries that wait for the next round."),
		treeSize:  gauge("kiln_sequencer_tree_size_entries", "Size of the published tree."),
		timestamp: gauge("kiln_sequencer_checkpoint_timestamp_seconds", "Time of the published checkpoint, since 1970 UTC."),
		loads:     counter("kiln_sequencer_loads_total", "Times the log's state was read and proved from storage."),
		unloads:   counter("kiln_sequencer_unloads_total", "Times the state in memory was dropped after a failure."),
		refused:   counter("kiln_sequencer_second_opinion_failures_total", "Rounds that were stopped before signing because their bytes did not verify."),
		looks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_sequencer_looks_total", Help: "Times that what is published was read back before signing, by result: same, changed, unknown.",
		}, []string{"result"}),
		stopped: gauge("kiln_sequencer_stopped", "1 when the log has stopped for good."),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.rounds, m.entries, m.repeated, m.duration, m.queued, m.treeSize,
		m.timestamp, m.loads, m.unloads, m.refused, m.looks, m.stopped,
	}
}

// register exports the metrics, unless reg is nil.
func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	for _, c := range m.all() {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register sequencer metrics: %w", err)
		}
	}
	return nil
}

// unregister makes room for another sequencer of the log in the process.
func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.all() {
		reg.Unregister(c)
	}
}
