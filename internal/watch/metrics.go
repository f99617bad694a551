package watch

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are those of one log; the registerer carries the label log.
type metrics struct {
	size     prometheus.Gauge
	entries  prometheus.Counter
	polls    *prometheus.CounterVec // result
	faults   *prometheus.CounterVec // where, check
	unknown  *prometheus.CounterVec // reason
	alarm    *prometheus.GaugeVec   // kind
	receipts prometheus.Counter
	swept    prometheus.Counter
	rounds   prometheus.Counter
}

// newMetrics registers them. age is that of the newest verified checkpoint, lag
// the time since the log was last seen to be well, both in seconds.
func newMetrics(reg prometheus.Registerer, age, lag func() float64) *metrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kiln_watch_checkpoint_age_seconds",
		Help: "Age of the newest checkpoint that was verified at the public URL.",
	}, age)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kiln_watch_lag_seconds",
		Help: "Time since all that a poll looks at was well.",
	}, lag)
	m := &metrics{
		size: f.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_watch_verified_entries",
			Help: "Size of the newest tree that was verified at the public URL.",
		}),
		entries: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_watch_entries_total",
			Help: "Entries hashed anew.",
		}),
		polls: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_watch_polls_total",
			Help: "Polls of the public URL, by result.",
		}, []string{"result"}),
		faults: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_watch_faults_total",
			Help: "Polls that confirmed a fault, by where it is and by what found it.",
		}, []string{"where", "kind"}),
		unknown: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_watch_unknown_total",
			Help: "Polls that could not tell, by reason.",
		}, []string{"reason"}),
		alarm: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kiln_watch_alarm",
			Help: "1 while there is reason for alarm, by kind.",
		}, []string{"kind"}),
		receipts: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_watch_scts_checked_total",
			Help: "SCTs of the log's own that were looked for in the public tree.",
		}),
		swept: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_watch_swept_tiles_total",
			Help: "Older data tiles that were checked again.",
		}),
		rounds: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_watch_sweeps_total",
			Help: "Times that all older data tiles were checked again.",
		}),
	}
	for _, r := range []string{"fine", "unknown", "fault"} {
		m.polls.WithLabelValues(r)
	}
	for _, at := range []where{inLog, inCDN, inUnsettled} {
		for _, kind := range []checkKind{checkPass, checkEdge, checkTile, checkReceipt} {
			m.faults.WithLabelValues(string(at), string(kind))
		}
	}
	for _, r := range reasons {
		m.unknown.WithLabelValues(r)
	}
	for _, kind := range alarms {
		m.alarm.WithLabelValues(kind)
	}
	return m
}
