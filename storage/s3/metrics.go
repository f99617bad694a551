package s3

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	duration *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	hedges   *prometheus.CounterVec
	existing *prometheus.CounterVec
}

func newMetrics() *metrics {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	return &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kiln_storage_s3_operation_duration_seconds", Help: "Time of operations, all attempts included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
		}, []string{"operation"}),
		retries:  counter("kiln_storage_s3_retries_total", "Attempts after the first, by operation.", "operation"),
		hedges:   counter("kiln_storage_s3_hedges_total", "Second requests for objects whose answer was late: made, won.", "result"),
		existing: counter("kiln_storage_s3_existing_objects_total", "Objects to be created that were there already: same, different.", "result"),
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.duration, m.retries, m.hedges, m.existing}
}

// register exports the metrics, unless reg is nil.
func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	for i, c := range m.all() {
		if err := reg.Register(c); err != nil {
			for _, done := range m.all()[:i] {
				reg.Unregister(done)
			}
			return fmt.Errorf("register S3 storage metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.all() {
		reg.Unregister(c)
	}
}
