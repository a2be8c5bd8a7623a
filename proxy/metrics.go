package proxy

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/trustgate/trustgate/policy"
)

// Metrics counts requests and pulls. A nil *Metrics counts nothing.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	pulls    *prometheus.CounterVec

	// Looking a metric up by its labels costs as much as all else of a warm pull.
	observed, counted sync.Map
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
	known, ok := m.observed.Load(observed{op, status})
	if !ok {
		known, _ = m.observed.LoadOrStore(observed{op, status}, observers{
			m.requests.WithLabelValues(string(op), strconv.Itoa(status)), m.duration.WithLabelValues(string(op)),
		})
	}
	o := known.(observers)
	o.requests.Inc()
	o.duration.Observe(took.Seconds())
}

func (m *Metrics) pulled(route string, action policy.Action) {
	if m == nil {
		return
	}
	known, ok := m.counted.Load(counted{route, action})
	if !ok {
		known, _ = m.counted.LoadOrStore(counted{route, action}, m.pulls.WithLabelValues(route, string(action)))
	}
	known.(prometheus.Counter).Inc()
}

type observed struct {
	operation operation
	status    int
}

type observers struct {
	requests prometheus.Counter
	duration prometheus.Observer
}

type counted struct {
	route  string
	action policy.Action
}
