package roots

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Parts of a refresh that can fail, the closed set of the label "part".
const (
	partReport = "report"
	partApply  = "apply"
	partBucket = "bucket"
)

type metrics struct {
	accepted    prometheus.Gauge
	lastSuccess prometheus.Gauge
	failures    *prometheus.CounterVec // part
}

// newMetrics makes the metrics of one roots file and registers them with reg, if
// it is not nil.
func newMetrics(reg prometheus.Registerer, file string) (*metrics, error) {
	m := &metrics{
		accepted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_roots_accepted_count",
			Help: "Accepted roots.",
		}),
		lastSuccess: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_roots_last_success_timestamp_seconds",
			Help: "When all reports were last read and what was new in them was applied; 0 if not since the start.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_roots_failures_total",
			Help: "Refreshes of the roots that failed, by part; accepted roots stayed.",
		}, []string{"part"}),
	}
	for _, part := range []string{partReport, partApply, partBucket} {
		m.failures.WithLabelValues(part)
	}
	if reg == nil {
		return m, nil
	}
	reg = prometheus.WrapRegistererWith(prometheus.Labels{"roots_file": file}, reg)
	return m, errors.Join(reg.Register(m.accepted), reg.Register(m.lastSuccess), reg.Register(m.failures))
}
