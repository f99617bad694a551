package dedup

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of a Get, the closed set of the label "result".
const (
	resultHit   = "hit"
	resultMiss  = "miss"
	resultBad   = "bad_row"
	resultError = "error"
)

type metrics struct {
	gets      *prometheus.CounterVec // result
	rows      prometheus.Counter
	putErrors prometheus.Counter
	badRows   prometheus.Counter
	badFiles  prometheus.Counter
	covered   prometheus.Gauge
	spans     prometheus.Gauge
}

// newMetrics makes the metrics and registers them with reg, if it is not nil.
// A cache that is opened again under the same registerer goes on with the
// metrics of the first.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	r := registry{reg: reg}
	m := &metrics{
		gets: register(&r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_dedup_gets_total",
			Help: "Lookups in the long-term cache, by result.",
		}, []string{"result"})),
		rows: register(&r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kiln_dedup_put_rows_total",
			Help: "Rows given to the long-term cache and committed.",
		})),
		putErrors: register(&r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kiln_dedup_put_errors_total",
			Help: "Writes to the long-term cache that failed; nothing of them was kept.",
		})),
		badRows: register(&r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kiln_dedup_bad_rows_total",
			Help: "Rows whose MAC does not hold. Each was treated as a miss. Alarm if it grows.",
		})),
		badFiles: register(&r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kiln_dedup_bad_files_total",
			Help: "Cache files found damaged or foreign and moved aside. Alarm if it grows.",
		})),
		covered: register(&r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_dedup_covered_entries",
			Help: "Every leaf index below this is held by the long-term cache.",
		})),
		spans: register(&r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_dedup_spans_count",
			Help: "Ranges of indices held above the first gap.",
		})),
	}
	for _, result := range []string{resultHit, resultMiss, resultBad, resultError} {
		m.gets.WithLabelValues(result)
	}
	return m, r.err
}

type registry struct {
	reg prometheus.Registerer
	err error
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
