package peer

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/tstatrepo/tstatrepo/pkg/internal/hint"
)

// logEvery is the minimum time between a listener's log lines about the same cause,
// so that a port scan does not fill the log.
const logEvery = time.Minute

// Refusals counts the connections and requests that the listeners of this process
// refused, by listener address and reason.
var Refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
	Name: "tstatrepo_connections_refused_total", Help: "Connections and requests refused, by listener and reason.",
}, []string{"listen", "reason"})

// refuser counts the refusals of a listener and logs each cause at most once per
// logEvery.
type refuser struct {
	listen net.Addr
	log    *slog.Logger
	n      atomic.Int64

	mu     sync.Mutex
	logged map[string]*rate.Sometimes // by cause
}

// Refused returns the number of refused connections and requests.
func (r *refuser) Refused() int64 { return r.n.Load() }

// Refuse counts and logs a refused connection or request. It does not close the
// connection. The error's message becomes a metric label, so cause must be one of a
// few constant errors; data from the peer belongs in attrs. Refuse also logs the
// error's hint.
func (r *refuser) Refuse(from net.Addr, cause error, attrs ...any) {
	listen, text := r.listen.String(), cause.Error()
	Refusals.WithLabelValues(listen, text).Inc()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n.Add(1)
	if r.logged == nil {
		r.logged = map[string]*rate.Sometimes{}
	}
	if r.logged[text] == nil {
		r.logged[text] = &rate.Sometimes{First: 1, Interval: logEvery}
	}
	r.logged[text].Do(func() {
		attrs = append([]any{"peer", from, "address", listen, "reason", text, "refused", n}, attrs...)
		r.log.Warn("connection refused", append(attrs, hint.Attrs(cause)...)...)
	})
}
