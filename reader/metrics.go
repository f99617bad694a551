package reader

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	requests         *prometheus.CounterVec
	duration         *prometheus.HistogramVec
	bytes            *prometheus.CounterVec
	inFlight         prometheus.Gauge
	staleCheckpoints prometheus.Counter
	panics           prometheus.Counter
	held             prometheus.Gauge
	cut              prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	with := promauto.With(reg)
	return &metrics{
		requests: with.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_reader_requests_total",
			Help: "Requests to the monitoring API by endpoint and HTTP status; canceled: the client went away before its answer.",
		}, []string{"endpoint", "code"}),
		duration: with.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kiln_reader_request_duration_seconds",
			Help:    "Time from the header of a request until its answer is ready to be sent.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 20},
		}, []string{"endpoint"}),
		bytes: with.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_reader_response_bytes_total",
			Help: "Bytes of response bodies by endpoint, as encoded.",
		}, []string{"endpoint"}),
		inFlight: with.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_reader_in_flight_requests",
			Help: "Tiles and issuers that are being read from storage.",
		}),
		held: with.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_reader_held_bytes",
			Help: "Memory of tiles and issuers that are being read or sent.",
		}),
		cut: with.NewCounter(prometheus.CounterOpts{
			Name: "kiln_reader_cut_answers_total",
			Help: "Answers that were cut off because they were taken slowly while there was no memory for others.",
		}),
		staleCheckpoints: with.NewCounter(prometheus.CounterOpts{
			Name: "kiln_reader_stale_checkpoints_total",
			Help: "Times that storage returned an older checkpoint than one already served, which was served again instead.",
		}),
		panics: with.NewCounter(prometheus.CounterOpts{
			Name: "kiln_reader_panics_total",
			Help: "Handlers that panicked; each is a bug.",
		}),
	}
}

func (m *metrics) observe(endpoint, code string, elapsed time.Duration, sent int) {
	m.requests.WithLabelValues(endpoint, code).Inc()
	m.duration.WithLabelValues(endpoint).Observe(elapsed.Seconds())
	m.bytes.WithLabelValues(endpoint).Add(float64(sent))
}
