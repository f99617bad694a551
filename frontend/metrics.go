package frontend

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"kiln/internal/chain"
)

type metrics struct {
	requests   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	rejections *prometheus.CounterVec
	inFlight   prometheus.Gauge
	bodyBytes  prometheus.Histogram
	panics     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	with := promauto.With(reg)
	m := &metrics{
		requests: with.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_frontend_requests_total",
			Help: "Requests to the submission API by endpoint and HTTP status; canceled: the client went away before its answer.",
		}, []string{"endpoint", "code"}),
		duration: with.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kiln_frontend_request_duration_seconds",
			Help:    "Time from the header of a request to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .15, .2, .3, .5, .75, 1, 1.5, 2.5, 5, 10, 30},
		}, []string{"endpoint"}),
		rejections: with.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_frontend_rejections_total",
			Help: "Submissions refused for what they are, by reason.",
		}, []string{"reason"}),
		inFlight: with.NewGauge(prometheus.GaugeOpts{
			Name: "kiln_frontend_in_flight_requests",
			Help: "Submissions that are being read or worked on.",
		}),
		bodyBytes: with.NewHistogram(prometheus.HistogramOpts{
			Name:    "kiln_frontend_body_bytes",
			Help:    "Size of submission bodies that were read whole.",
			Buckets: prometheus.ExponentialBuckets(1<<10, 2, 10),
		}),
		panics: with.NewCounter(prometheus.CounterOpts{
			Name: "kiln_frontend_panics_total",
			Help: "Handlers that panicked; each is a bug.",
		}),
	}
	for _, reason := range rejectionReasons() {
		m.rejections.WithLabelValues(reason) // shown as 0 from the start
	}
	return m
}

// rejectionReasons is the closed set of the label "reason".
func rejectionReasons() []string {
	reasons := []string{reasonTooLarge, reasonSlow, reasonBroken, reasonJSON, reasonBase64, reasonChain}
	for _, reason := range chain.Reasons() {
		reasons = append(reasons, string(reason))
	}
	return reasons
}

func (m *metrics) observe(endpoint, code string, elapsed time.Duration) {
	m.requests.WithLabelValues(endpoint, code).Inc()
	m.duration.WithLabelValues(endpoint).Observe(elapsed.Seconds())
}
