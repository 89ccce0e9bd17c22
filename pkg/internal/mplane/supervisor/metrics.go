package supervisor

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tstatrepo/tstatrepo/pkg/internal/peer"
)

// metrics holds the metrics that the supervisor serves under /metrics.
type metrics struct {
	registry       *prometheus.Registry
	specifications prometheus.Counter
	refused        prometheus.Counter
	replies        *prometheus.CounterVec
	noRoom         prometheus.Counter
}

func newMetrics(s *Supervisor) *metrics {
	const prefix = "tstatrepo_supervisor_"
	m := &metrics{
		registry:       prometheus.NewRegistry(),
		specifications: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "specifications_total", Help: "Specifications relayed to components."}),
		refused:        prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "refused_total", Help: "Specifications that were refused."}),
		replies:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "replies_total", Help: "Replies of components by kind; unknown ones belong to no job."}, []string{"kind"}),
		noRoom:         prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "results_left_out_total", Help: "Results dropped for lack of room; their clients got an exception."}),
	}
	m.registry.MustRegister(m.specifications, m.refused, m.replies, m.noRoom, peer.Refusals,
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: prefix + "capabilities_refused_total", Help: "Capabilities of components that were refused."},
			func() float64 { return float64(s.registrar.Refused()) }))
	gauge := func(name, help string, value func() int) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, func() float64 { return float64(value()) }))
	}
	gauge("components", "Components that are registered.", func() int { n, _, _ := s.registrar.Counts(); return n })
	gauge("capabilities", "Capabilities that are offered.", func() int { _, n, _ := s.registrar.Counts(); return n })
	gauge("queued_messages", "Messages queued for components.", func() int { _, _, n := s.registrar.Counts(); return n })
	gauge("kept_bytes", "Approximate memory used by the capabilities, specifications and results of all peers.", s.registrar.Room().Bytes)
	gauge("jobs", "Specifications without a result yet.", func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for _, jobs := range s.running {
			n += jobs
		}
		return n
	})
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}
