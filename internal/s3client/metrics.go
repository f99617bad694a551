package s3client

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	slow     prometheus.Counter
	all      []prometheus.Collector
}

func newMetrics() *metrics {
	return &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kiln_s3client_requests_total", Help: "Requests by operation and outcome.",
		}, []string{"operation", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kiln_s3client_request_duration_seconds", Help: "Time of requests, bodies included.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"operation"}),
		slow: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kiln_s3client_slowdowns_total", Help: "Answers that asked to slow down.",
		}),
	}
}

// register exports the metrics, unless reg is nil.
func (m *metrics) register(reg prometheus.Registerer, l *limiter) error {
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
	}
	m.all = []prometheus.Collector{
		m.requests, m.duration, m.slow,
		gauge("kiln_s3client_in_flight_requests", "Requests under way.", func() int { running, _, _ := l.state(); return running }),
		gauge("kiln_s3client_waiting_requests", "Requests that wait for a place.", func() int { _, waiting, _ := l.state(); return waiting }),
		gauge("kiln_s3client_parallel_requests", "How many requests may be under way now.", func() int { _, _, bound := l.state(); return bound }),
	}
	if reg == nil {
		return nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			for _, done := range m.all[:i] {
				reg.Unregister(done)
			}
			return fmt.Errorf("register S3 client metrics: %w", err)
		}
	}
	return nil
}

func (m *metrics) unregister(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	for _, c := range m.all {
		reg.Unregister(c)
	}
}

func (m *metrics) observe(op string, err error, elapsed time.Duration) {
	outcome := "ok"
	if err != nil {
		outcome = ClassOf(err).String()
		if ClassOf(err) == Slow {
			m.slow.Inc()
		}
	}
	m.requests.WithLabelValues(op, outcome).Inc()
	m.duration.WithLabelValues(op).Observe(elapsed.Seconds())
}
