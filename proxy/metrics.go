package proxy

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/trustgate/trustgate/policy"
)

// Metrics counts requests and pulls. A nil *Metrics counts nothing.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	pulls    *prometheus.CounterVec
}

// NewMetrics registers the proxy's metrics.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trustgate_requests_total", Help: "Registry API requests, by operation and HTTP status.",
		}, []string{"operation", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "trustgate_request_seconds", Help: "Time to answer a registry API request, body included.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"operation"}),
		pulls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trustgate_pulls_total", Help: "Manifest pulls, by route and by what became of them.",
		}, []string{"route", "action"}),
	}
	registerer.MustRegister(m.requests, m.duration, m.pulls)
	return m
}

func (m *Metrics) observe(op operation, status int, took time.Duration) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(string(op), strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(string(op)).Observe(took.Seconds())
}

func (m *Metrics) pulled(route string, action policy.Action) {
	if m != nil {
		m.pulls.WithLabelValues(route, string(action)).Inc()
	}
}
