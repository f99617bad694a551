package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics are those of the process.
type metrics struct {
	connections       prometheus.Gauge
	connectionsClosed *prometheus.CounterVec
	requestsRefused   prometheus.Counter
	panics            prometheus.Counter
	certificateExpiry prometheus.Gauge
	broken            *prometheus.GaugeVec   // log
	shareRefused      *prometheus.CounterVec // log
}

func newMetrics(reg prometheus.Registerer, version string) *metrics {
	f := promauto.With(reg)
	if reg != nil {
		reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kiln_daemon_build_info",
		Help: "Always 1; the labels name the build.",
	}, []string{"version", "go_version"}).WithLabelValues(version, runtime.Version()).Set(1)
	m := &metrics{
		connections: f.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_daemon_connections",
			Help: "Open connections on the public listener.",
		}),
		connectionsClosed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_daemon_connections_closed_total",
			Help: "Connections closed at a bound: waiting and slow ones that made room, and refused ones.",
		}, []string{"kind"}),
		requestsRefused: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_daemon_requests_refused_total",
			Help: "HTTP/2 requests refused because as many as may be run already, in all or for one client.",
		}),
		broken: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "kiln_daemon_log_broken",
			Help: "1 for each log that could not be started and is left out, 0 once it could.",
		}, []string{"log"}),
		shareRefused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_daemon_share_refused_total",
			Help: "Requests of a log answered 503 since it had its share of the connections, which were short.",
		}, []string{"log"}),
		panics: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_daemon_handler_panics_total",
			Help: "Requests that ended in a panic, which is a bug.",
		}),
		certificateExpiry: f.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_daemon_tls_certificate_not_after_seconds",
			Help: "NotAfter of the TLS certificate in files, in seconds since 1970; 0 without one.",
		}),
	}
	for _, kind := range []string{"waiting", "slow", "refused"} {
		m.connectionsClosed.WithLabelValues(kind)
	}
	return m
}

// logMetrics are those of one log; the registerer carries the label log.
type logMetrics struct {
	up              prometheus.Gauge
	dedupUp         prometheus.Gauge
	catchUpEntries  prometheus.Counter
	catchUpFailures prometheus.Counter
	issuersStored   prometheus.Counter
}

// newLogMetrics registers the metrics of a log. age returns the seconds since
// the newest published checkpoint.
func newLogMetrics(reg prometheus.Registerer, age func() float64) *logMetrics {
	f := promauto.With(reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kiln_daemon_checkpoint_age_seconds",
		Help: "Age of the newest published checkpoint.",
	}, age)
	return &logMetrics{
		up: f.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_daemon_log_up",
			Help: "1 while the log sequences, 0 once it has stopped for good.",
		}),
		dedupUp: f.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_daemon_dedup_up",
			Help: "1 while the log has a long-term deduplication cache that is caught up or being so, 0 without.",
		}),
		catchUpEntries: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_daemon_dedup_catchup_entries_total",
			Help: "Entries put into the long-term deduplication cache from the tiles.",
		}),
		catchUpFailures: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_daemon_dedup_catchup_failures_total",
			Help: "Passes that could not bring the long-term deduplication cache up to the tree.",
		}),
		issuersStored: f.NewCounter(prometheus.CounterOpts{
			Name: "kiln_daemon_issuers_stored_total",
			Help: "Issuer objects made sure of in storage, old or new.",
		}),
	}
}
